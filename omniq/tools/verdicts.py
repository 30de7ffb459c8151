"""What is damaged, lost and recovered, as lines for people to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.tools.printing import clean, show_bytes
from omniq.tools.showing import duration_of, show_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from omniq.tools.recovering import LostRange, RecoverReport, TaskFate
    from omniq.tools.reports import VerifyReport
    from omniq.tools.scanning import Problem, Torn

__all__ = ("problem_lines", "recovery_lines", "verdict_lines")

LISTED = 20  # JSON has all of them


def problem_lines(problem: Problem) -> Iterator[str]:
    """Show one problem: its place and extent, then what was compared."""
    where = problem.place
    if problem.offset is not None:
        where += f", offset {problem.offset}"
        where += f", {show_bytes(problem.bytes)}" if problem.bytes else ""
    yield f"{problem.kind}: {clean(where)}, {_extent(problem.first_seq, problem.last_seq)}"
    yield f"  expected {clean(problem.expected)}"
    yield f"  found    {clean(problem.found)}"
    if problem.tasks:
        yield f"  tasks    {_some(problem.tasks)}"


def _extent(first: int, last: int) -> str:
    if last == first:
        return f"sequence number {first}"
    if last < first:
        return f"from sequence number {first}"
    return f"sequence numbers {first} to {last} ({last - first + 1:,} events)"


def verdict_lines(report: VerifyReport) -> Iterator[str]:
    """Show what verifying came to, after the problems."""
    rate = f", {report.events / report.read_seconds:,.0f} events/s" if report.read_seconds else ""
    if report.torn is not None:
        yield _torn_line(report.torn)
    if report.unchecked_events:
        yield (
            f"note: {report.unchecked_events:,} events are about tasks that the damage leaves "
            "unknown, so whether they may follow could not be checked"
        )
    count = len(report.problems)
    verdict = f"{count:,} problem{'' if count == 1 else 's'}" if count else "no problems"
    yield (
        f"{clean(report.journal)}: {verdict}; {report.events:,} events in {report.commits:,} "
        f"commits verified in {duration_of(report.read_seconds)}{rate}"
    )
    yield f"head {show_head(report.head)}"


def recovery_lines(report: RecoverReport) -> Iterator[str]:
    """Show what was recovered, and exactly what was lost."""
    for problem in report.problems:
        yield from problem_lines(problem)
    for lost in report.lost:
        yield _lost_line(lost)
    yield from _listed([_fate_line(fate) for fate in report.tasks], "tasks")
    for worker in report.workers:
        yield (
            f"worker {clean(worker.id)}: nothing is known of it any more, so it was declared lost, "
            f"and its tasks were taken from it: {_some(worker.tasks)}"
        )
    if report.torn is not None:
        yield _torn_line(report.torn)
    if report.until is not None:
        yield f"up to sequence number {report.until}, as asked for"
    yield (
        f"{clean(report.target)}: {report.events:,} events in {report.commits:,} commits from "
        f"{clean(report.journal)}; {_loss(report)}"
    )
    if report.shared != report.head:
        yield f"the same as in the source up to {show_head(report.shared)}"
    yield f"head {show_head(report.head)}"


def _lost_line(lost: LostRange) -> str:
    what = f"lost: {_extent(lost.first_seq, lost.last_seq or 0)}"
    if not lost.unfinished_tasks:
        return what
    return f"{what}; what they said about {lost.unfinished_tasks:,} unfinished tasks is not known"


def _fate_line(fate: TaskFate) -> str:
    name = "" if fate.name is None else f" ({clean(fate.name)})"
    stands = "is not in the new journal" if fate.status is None else f"is {fate.status.value} there"
    count = "1 event" if fate.left_out == 1 else f"{fate.left_out:,} events"
    return (
        f"task {clean(fate.id)}{name} {stands}: {count} of it can no longer follow, the last one "
        f"{fate.last_kind}"
    )


def _loss(report: RecoverReport) -> str:
    known = sum(lost.last_seq - lost.first_seq + 1 for lost in report.lost if lost.last_seq)
    losses: list[str] = []
    if report.lost:
        is_open = any(lost.last_seq is None for lost in report.lost)
        losses.append(f"{known:,} events {'or more ' if is_open else ''}are lost")
    if report.left_out:
        losses.append(f"{len(report.left_out):,} were left out")
    if report.is_whole:
        return "nothing was lost"
    return " and ".join(losses) or "not all of it is as it was"


def _torn_line(torn: Torn) -> str:
    return (
        f"note: {show_bytes(torn.bytes)} behind the end ({clean(torn.place)}, offset "
        f"{torn.offset}) are no whole commit: a write that was cut short, which the next "
        "writer removes, or one that is under way"
    )


def _some(names: Sequence[str]) -> str:
    text = ", ".join(clean(name) for name in names[:LISTED])
    return text if len(names) <= LISTED else f"{text} and {len(names) - LISTED:,} more"


def _listed(lines: Sequence[str], what: str) -> Iterator[str]:
    yield from lines[:LISTED]
    if (more := len(lines) - LISTED) > 0:
        yield f"and {more:,} more {what}, which --json names"
