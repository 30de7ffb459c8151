"""`python -m omniq.tools.replay COMMAND JOURNAL`: what a journal says, and whether it is whole.

It reads journals of any backend, also while they are in use, and never changes them. The exit
status is 0 if all is well, 1 if the journal has problems, 2 if the question makes no sense or
cannot be answered (no journal, no such task, no permission), and 130 after Ctrl-C.
docs/reference/replay.md describes every command.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omniq.core import events as ev
from omniq.errors import CorruptJournal, IllegalEvent, OmniqError
from omniq.tools.commands import COMMANDS, PROBLEMS
from omniq.tools.points import END, count, moment, point, wanted_head
from omniq.tools.printing import Output
from omniq.tools.reading import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("build_parser", "main")

USAGE, INTERRUPTED = 2, 130  # a script that is stopped by Ctrl-C ends with 128 + SIGINT
DEFAULT_LIST = 20  # tasks that `state` and `diff` list
KINDS = sorted(str(kind.__struct_config__.tag) for kind in ev.JournalEvent.__subclasses__())


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omniq.tools.replay",
        description="Show what a journal says. Reads it only, also while it is in use.",
        epilog="`replay JOURNAL` is `replay summary JOURNAL`. Exit status: 0 all is well, "
        "1 the journal has problems, or two differ, 2 wrong usage, no journal or no such task.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument(
            "journal", metavar="JOURNAL", help="a path or URL, as for a queue, or an archive's"
        )
        command.add_argument("--json", action="store_true", help="print JSON, for programs")
        return command

    add("summary", "what is in the journal, at a glance")
    _add_events(add("events", "the events, one a line, in order"))
    task = add("task", "the story of a task: its attempts, who, when, how long, errors")
    task.add_argument("id", metavar="ID", help="the task's id")
    state = add("state", "the tasks, queues and workers at a point of the journal")
    state.add_argument(
        "--at", type=point, default=END, metavar="SEQ|TIME", help="after this event or time"
    )
    _add_limit(state)
    diff = add("diff", "how two journals differ, or one at two points")
    diff.add_argument("other", metavar="OTHER", nargs="?", help="the other journal (the same)")
    for name, which in (("--at", "the first"), ("--to", "the other")):
        text = f"{which} up to this event or time (the end)"
        diff.add_argument(name, type=point, default=END, metavar="SEQ|TIME", help=text)
    _add_limit(diff)
    explain = add("explain", "why a task is not running, or where else it stands and why")
    explain.add_argument("id", metavar="ID", help="the task's id")
    explain.add_argument(
        "--at", type=point, default=END, metavar="SEQ|TIME", help="after this event or time (now)"
    )
    verify = add("verify", "check everything: checksums, the chain, gaps, times, what may follow")
    verify.add_argument(
        "--head", type=wanted_head, metavar="HEAD", help="a head that must be in the journal"
    )
    recover = add("recover", "make a new journal of all that verifies, and report what is lost")
    recover.add_argument("target", metavar="TARGET", help="where there is nothing yet")
    recover.add_argument(
        "--until", type=point, default=END, metavar="SEQ|TIME", help="only up to this event or time"
    )
    recover.add_argument("--archive", metavar="URL", help="where history is that was dropped")
    export = add("export", "every event as a line of JSON that loses nothing")
    export.add_argument("--output", metavar="FILE", help="a new file, instead of standard output")
    return parser


def _add_events(events: argparse.ArgumentParser) -> None:
    events.add_argument("--task", metavar="ID", help="only events of this task")
    events.add_argument(
        "--kind", action="append", choices=KINDS, metavar="KIND", help="only this kind; repeatable"
    )
    events.add_argument("--worker", metavar="ID", help="only events of this worker")
    events.add_argument(
        "--after", type=count, default=0, metavar="SEQ", help="only behind this sequence number"
    )
    events.add_argument("--limit", type=count, metavar="N", help="at most so many")
    events.add_argument("--since", type=moment, metavar="TIME", help="only from this time on")
    events.add_argument("--until", type=moment, metavar="TIME", help="only up to this time")
    events.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")


def _add_limit(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--limit", type=count, default=DEFAULT_LIST, metavar="N", help="list so many tasks (20)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = build_parser()
    try:
        options = parser.parse_args(_with_command(parser, sys.argv[1:] if argv is None else argv))
    except SystemExit as stop:  # the parser has said why
        return stop.code if isinstance(stop.code, int) else USAGE
    output = Output(as_json=options.json)
    try:
        outcome = COMMANDS[options.command](options, output)
        return outcome if isinstance(outcome, int) else asyncio.run(outcome)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (OmniqError, OSError) as error:
        output.flush()
        print(f"replay: {printable(str(error))}", file=sys.stderr)
        return PROBLEMS if isinstance(error, CorruptJournal | IllegalEvent) else USAGE
    finally:
        output.flush()


def _with_command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """Return the arguments with `summary` in front if no command is named."""
    arguments = list(argv)
    if not arguments or arguments[0] in {"-h", "--help", *COMMANDS}:
        return arguments
    first = arguments[0]
    words = [argument for argument in arguments if not argument.startswith("-")]
    if len(words) > 1 and "://" not in first and not Path(first).exists():
        parser.error(f"{first!r} is no command; the command comes first: replay COMMAND JOURNAL")
    return ["summary", *arguments]


if __name__ == "__main__":
    sys.exit(main())
