"""Draw the life of a task from `omniq.core.transitions.TRANSITIONS` as a mermaid diagram.

    python tools/state_diagram.py            print it
    python tools/state_diagram.py --write    put it between the markers in docs/reference/states.md
    python tools/state_diagram.py --check    exit with 1 if the page shows another diagram

`make state-diagram` is the second, and a test runs the third.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from omniq.core.transitions import INITIAL, TRANSITIONS

if TYPE_CHECKING:
    from omniq.core.events import JournalEvent

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "states.md"
BEGIN = "<!-- state diagram: begin (make state-diagram) -->"
END = "<!-- state diagram: end -->"


def main() -> int:
    """Print, write or check the diagram, as the arguments say."""
    parser = argparse.ArgumentParser(description="Draw the life of a task as a mermaid diagram.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="replace the diagram in the page")
    mode.add_argument("--check", action="store_true", help="fail if the page differs")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page (%(default)s)")
    arguments = parser.parse_args()
    if not (arguments.write or arguments.check):
        print(diagram())
        return 0
    try:
        old = arguments.page.read_text(encoding="utf-8")
        new = with_diagram(old)
    except (OSError, ValueError) as error:
        print(f"{arguments.page}: {error}", file=sys.stderr)
        return 1
    if arguments.write:
        arguments.page.write_text(new, encoding="utf-8")
    elif old != new:
        print(
            f"{arguments.page} does not show the transitions of omniq/core/transitions.py. "
            "Next: make state-diagram",
            file=sys.stderr,
        )
        return 1
    return 0


def diagram() -> str:
    """Return the diagram between its markers."""
    lines = [BEGIN, "```mermaid", "stateDiagram-v2", f"    [*] --> {INITIAL}: task.enqueued"]
    for state, moves in TRANSITIONS.items():
        events_by_target = defaultdict(list)
        for event, target in moves.items():
            events_by_target[target].append(wire_tag(event))
        lines += [
            f"    {state} --> {target}: {'<br>'.join(tags)}"
            for target, tags in events_by_target.items()
        ]
    return "\n".join([*lines, "```", END])


def wire_tag(event: type[JournalEvent]) -> str:
    """Return the tag that the journal stores for an event, such as `task.started`."""
    return str(event.__struct_config__.tag)


def with_diagram(page: str) -> str:
    """Return the page with the diagram of today between its markers."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        message = f"expected one line {BEGIN!r} and, below it, one line {END!r}"
        raise ValueError(message)
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + diagram() + after


if __name__ == "__main__":
    sys.exit(main())
