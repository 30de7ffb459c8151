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
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from omniq.core import events as ev
from omniq.errors import ConfigError, CorruptJournal, IllegalEvent, OmniqError
from omniq.models import MICROSECOND
from omniq.storage.base import Head
from omniq.storage.file import FileStorage
from omniq.storage.sqlite import SQLiteStorage
from omniq.tools.printing import Output, event_line, view_event
from omniq.tools.reading import Journal, Progress, find_storage, opened, printable
from omniq.tools.reports import VerifyReport, state_at, summarize, view_head
from omniq.tools.rows import SQLiteScan
from omniq.tools.scanning import FileScan
from omniq.tools.showing import (
    problem_lines,
    state_lines,
    story_lines,
    summary_lines,
    verdict_lines,
)
from omniq.tools.story import story_of
from omniq.tools.verifying import Verification

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from omniq.core.events import Commit, Event
    from omniq.tools.scanning import Problem, Scan

__all__ = ("build_parser", "main")

OK, PROBLEMS, USAGE, INTERRUPTED = 0, 1, 2, 130
DEFAULT_LIST = 20  # tasks that `state` lists
KINDS = sorted(str(kind.__struct_config__.tag) for kind in ev.JournalEvent.__subclasses__())


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omniq.tools.replay",
        description="Show what a journal says. Reads it only, also while it is in use.",
        epilog="`replay JOURNAL` is `replay summary JOURNAL`. Exit status: 0 all is well, "
        "1 the journal has problems, 2 wrong usage, no journal or no such task.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("journal", metavar="JOURNAL", help="a path or URL, as for a queue")
        command.add_argument("--json", action="store_true", help="print JSON, for programs")
        return command

    add("summary", "what is in the journal, at a glance")
    events = add("events", "the events, one a line, in order")
    events.add_argument("--task", metavar="ID", help="only events of this task")
    events.add_argument(
        "--kind", action="append", choices=KINDS, metavar="KIND", help="only this kind; repeatable"
    )
    events.add_argument("--worker", metavar="ID", help="only events of this worker")
    events.add_argument(
        "--after", type=_count, default=0, metavar="SEQ", help="only behind this sequence number"
    )
    events.add_argument("--limit", type=_count, metavar="N", help="at most so many")
    events.add_argument("--since", type=_moment, metavar="TIME", help="only from this time on")
    events.add_argument("--until", type=_moment, metavar="TIME", help="only up to this time")
    task = add("task", "the story of a task: its attempts, who, when, how long, errors")
    task.add_argument("id", metavar="ID", help="the task's id")
    state = add("state", "the tasks, queues and workers at a point of the journal")
    state.add_argument(
        "--at", type=_point, metavar="SEQ|TIME", help="after this event or time (the end)"
    )
    state.add_argument(
        "--limit", type=_count, default=DEFAULT_LIST, metavar="N", help="list so many tasks (20)"
    )
    add("verify", "check everything: checksums, the chain, gaps, times, what may follow what")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = build_parser()
    try:
        options = parser.parse_args(_with_command(parser, sys.argv[1:] if argv is None else argv))
    except SystemExit as stop:  # the parser has said why
        return stop.code if isinstance(stop.code, int) else USAGE
    output = Output(as_json=options.json)
    try:
        return _run(options, output)
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
    if not arguments or arguments[0] in {"-h", "--help", *_COMMANDS, "verify"}:
        return arguments
    first = arguments[0]
    words = [argument for argument in arguments if not argument.startswith("-")]
    if len(words) > 1 and "://" not in first and not Path(first).exists():
        parser.error(f"{first!r} is no command; the command comes first: replay COMMAND JOURNAL")
    return ["summary", *arguments]


def _run(options: argparse.Namespace, output: Output) -> int:
    if options.command == "verify":
        return _verify(options, output)
    command = _COMMANDS[options.command]

    async def run() -> int:
        async with opened(options.journal) as journal:
            return await command(journal, options, output)

    return asyncio.run(run())


# The commands.


async def _summary(journal: Journal, _options: argparse.Namespace, output: Output) -> int:
    report = await summarize(journal)
    if output.as_json:
        output.json(report)
    else:
        output.lines(summary_lines(report))
    return OK


async def _events(journal: Journal, options: argparse.Namespace, output: Output) -> int:
    kinds: frozenset[str] = frozenset(options.kind or ())
    left = options.limit
    async for seq, commit, event in _candidates(journal, options):
        if left == 0 or output.is_closed:
            break
        if seq <= options.after or (kinds and ev.kind_of(event) not in kinds):
            continue
        if options.worker is not None and options.worker != getattr(event, "worker", None):
            continue
        view = view_event(seq, commit, event)
        if output.as_json:
            output.json(view)
        else:
            output.line(event_line(view))
        left = None if left is None else left - 1
    return OK


async def _candidates(
    journal: Journal, options: argparse.Namespace
) -> AsyncIterator[tuple[int, Commit, Event]]:
    """Yield the events of the task and the time that were asked for."""
    if options.task is not None:
        for entry in await journal.storage.read_task(options.task):
            if _is_within(entry[1], options):
                yield entry
        return
    async for batch in journal.commits(options.after):
        for commit in batch:
            if options.until is not None and commit.at > options.until:
                return  # times never decrease
            if _is_within(commit, options):
                for seq, event in enumerate(commit.events, commit.first_seq):
                    yield seq, commit, event


def _is_within(commit: Commit, options: argparse.Namespace) -> bool:
    since, until = options.since, options.until
    return (since is None or commit.at >= since) and (until is None or commit.at <= until)


async def _task(journal: Journal, options: argparse.Namespace, output: Output) -> int:
    story = await story_of(journal, options.id)
    if output.as_json:
        output.json(story)
    else:
        output.lines(story_lines(story))
    return PROBLEMS if story.illegal else OK


async def _state(journal: Journal, options: argparse.Namespace, output: Output) -> int:
    point = options.at or _Point(None, None)
    if point.seq is not None and point.seq > journal.head.seq:
        raise ConfigError(f"--at {point.seq}: the journal ends at {journal.head.seq}")
    report = await state_at(journal, point.seq, point.at, options.limit)
    if output.as_json:
        output.json(report)
    else:
        output.lines(state_lines(report))
    return OK


def _verify(options: argparse.Namespace, output: Output) -> int:
    began = time.monotonic()
    storage = find_storage(options.journal)
    scan: Scan
    if isinstance(storage, SQLiteStorage):
        backend, scan = "sqlite", SQLiteScan(storage.path)
    else:
        assert isinstance(storage, FileStorage)
        backend, scan = "file", FileScan(storage.path)
    verification = Verification(scan)
    problems: list[Problem] = []
    progress = Progress()
    for problem in verification.problems(progress.at):
        problems.append(problem)
        if not output.as_json:
            progress.done()
            output.lines(problem_lines(problem))
    progress.done()
    report = VerifyReport(
        journal=printable(storage.location),
        backend=backend,
        events=verification.events,
        commits=verification.commits,
        head=view_head(Head(scan.seq, digest=scan.digest)),
        torn=scan.torn,
        unchecked_events=verification.unchecked,
        problems=problems,
        read_seconds=round(time.monotonic() - began, 6),
    )
    if output.as_json:
        output.json(report)
    else:
        output.lines(verdict_lines(report))
    return PROBLEMS if problems else OK


_COMMANDS = {"summary": _summary, "events": _events, "task": _task, "state": _state}


# Arguments.


class _Point(NamedTuple):
    """A place in a journal: a sequence number or a time."""

    seq: int | None
    at: int | None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 up")
    return int(text)


def _moment(text: str) -> int:
    """Return a time in microseconds since 1970 UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no ISO 8601 time, such as 2026-01-31T12:00:00Z"
        ) from None
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} has no time zone, so it means another moment on another machine; "
            f"write {text}Z for UTC"
            if "T" in text or " " in text
            else f"{text!r} has no time zone; write {text}T00:00:00Z for UTC"
        )
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // MICROSECOND


def _point(text: str) -> _Point:
    if text.isascii() and text.isdigit():
        return _Point(int(text), None)
    return _Point(None, _moment(text))


if __name__ == "__main__":
    sys.exit(main())
