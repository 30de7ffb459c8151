"""What each command of the replay tool does: ask the journal, and show the answer.

A command gets its options and an `Output`, and returns the exit status.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from omniq.clock import SystemClock
from omniq.core import events as ev
from omniq.errors import ConfigError
from omniq.storage.base import Head
from omniq.tools.comparing import compare
from omniq.tools.explaining import explain
from omniq.tools.exporting import export
from omniq.tools.printing import Output, event_lines, view_event
from omniq.tools.reading import Journal, Progress, opened, printable
from omniq.tools.recovering import Recovery
from omniq.tools.reports import VerifyReport, state_at, summarize, view_head
from omniq.tools.showing import (
    difference_lines,
    explanation_lines,
    state_lines,
    story_lines,
    summary_lines,
)
from omniq.tools.sources import behind_archive, find_source
from omniq.tools.story import story_of
from omniq.tools.targets import new_journal
from omniq.tools.verdicts import problem_lines, recovery_lines, verdict_lines
from omniq.tools.verifying import Verification

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable, Coroutine

    from omniq.core.events import Commit, Event
    from omniq.tools.points import Point
    from omniq.tools.scanning import Problem

__all__ = ("COMMANDS", "OK", "PROBLEMS")

OK = 0
PROBLEMS = 1


async def _summary(options: argparse.Namespace, output: Output) -> int:
    async with opened(options.journal) as journal:
        report = await summarize(journal)
    output.show(report, summary_lines)
    return OK


async def _events(options: argparse.Namespace, output: Output) -> int:
    kinds: frozenset[str] = frozenset(options.kind or ())
    left = options.limit
    async with opened(options.journal) as journal:
        journal.is_seen = output.is_terminal
        async for seq, commit, event in _candidates(journal, options):
            if left == 0 or output.is_closed:
                break
            if seq <= options.after or (kinds and ev.kind_of(event) not in kinds):
                continue
            if options.worker is not None and options.worker != getattr(event, "worker", None):
                continue
            if options.task is not None and not _is_about(event, options.task):
                continue
            output.show(view_event(seq, commit, event), event_lines)
            if options.follow:
                output.flush()
            left = None if left is None else left - 1
    return OK


def _is_about(event: Event, task_id: str) -> bool:
    return getattr(event, "task_id", None) == task_id or task_id in getattr(event, "task_ids", ())


async def _candidates(
    journal: Journal, options: argparse.Namespace
) -> AsyncIterator[tuple[int, Commit, Event]]:
    """Yield the events of the time that was asked for; those of one task are found at once."""
    if options.task is not None and not options.follow:
        for entry in await journal.storage.read_task(options.task):
            if _is_within(entry[1], options):
                yield entry
        return
    batches = journal.followed(options.after) if options.follow else journal.commits(options.after)
    async for batch in batches:
        for commit in batch:
            if options.until is not None and commit.at > options.until:
                return  # times never decrease
            if _is_within(commit, options):
                for seq, event in enumerate(commit.events, commit.first_seq):
                    yield seq, commit, event


def _is_within(commit: Commit, options: argparse.Namespace) -> bool:
    since, until = options.since, options.until
    return (since is None or commit.at >= since) and (until is None or commit.at <= until)


async def _task(options: argparse.Namespace, output: Output) -> int:
    async with opened(options.journal) as journal:
        story = await story_of(journal, options.id)
    output.show(story, story_lines)
    return PROBLEMS if story.illegal else OK


async def _state(options: argparse.Namespace, output: Output) -> int:
    async with opened(options.journal) as journal:
        _check_point(options.at, journal, "--at")
        report = await state_at(journal, options.at.seq, options.at.at, options.limit)
    output.show(report, state_lines)
    return OK


def _check_point(point: Point, journal: Journal, option: str) -> None:
    if point.seq is not None and point.seq > journal.head.seq:
        raise ConfigError(f"{option} {point.seq}: the journal ends at {journal.head.seq}")


def _diff(options: argparse.Namespace, output: Output) -> int:
    a = find_source(options.journal)
    b = a if options.other is None else find_source(options.other)
    report = compare(a, b, options.at, options.to, options.limit)
    output.show(report, difference_lines)
    return OK if report.same else PROBLEMS


async def _explain(options: argparse.Namespace, output: Output) -> int:
    async with opened(options.journal) as journal:
        _check_point(options.at, journal, "--at")
        report = await explain(journal, options.id, options.at, SystemClock().now_us())
    output.show(report, explanation_lines)
    return OK


def _verify(options: argparse.Namespace, output: Output) -> int:
    began = time.monotonic()
    source = find_source(options.journal)
    scan = source.make_scan()
    verification = Verification(scan, options.head)
    problems: list[Problem] = []
    with Progress() as progress:
        for problem in verification.problems(progress.at):
            problems.append(problem)
            if not output.as_json:
                progress.done()
                output.lines(problem_lines(problem))
    report = VerifyReport(
        journal=source.location,
        backend=source.backend,
        events=verification.events,
        commits=verification.commits,
        head=view_head(Head(scan.seq, digest=scan.digest)),
        torn=scan.torn,
        unchecked_events=verification.unchecked,
        snapshots=len(scan.snapshots),
        problems=problems,
        read_seconds=round(time.monotonic() - began, 6),
    )
    output.show(report, verdict_lines)
    return PROBLEMS if problems else OK


def _recover(options: argparse.Namespace, output: Output) -> int:
    began = time.monotonic()
    source = find_source(options.journal)
    if options.archive is not None:
        source = behind_archive(options.archive, source)
    with (
        Progress() as progress,
        new_journal(options.target, apart_from=source.path) as target,
    ):
        recovery = Recovery(source.make_scan, target, options.until)
        recovery.run(progress.at)
        _check_until(options.until, recovery)
    took = round(time.monotonic() - began, 6)
    report = recovery.report(source.location, printable(options.target), took)
    output.show(report, recovery_lines)
    return OK if recovery.is_whole else PROBLEMS


def _check_until(point: Point, recovery: Recovery) -> None:
    if point.seq is not None and point.seq > recovery.scan.seq:
        raise ConfigError(f"--until {point.seq}: the journal ends at {recovery.scan.seq}")


def _export(options: argparse.Namespace, output: Output) -> int:
    source = find_source(options.journal)
    is_seen = options.output is None and output.is_terminal
    with Progress(seen=is_seen) as progress, output.to_file(options.output):
        for event in export(source):
            output.json(event)
            progress.at(event.seq)
            if output.is_closed:
                break
    return OK


type _Command = Callable[[argparse.Namespace, Output], int | Coroutine[None, None, int]]

# Those that walk over a journal themselves are no coroutines: Ctrl-C would wait for their end.
COMMANDS: dict[str, _Command] = {
    "summary": _summary,
    "events": _events,
    "task": _task,
    "state": _state,
    "diff": _diff,
    "explain": _explain,
    "verify": _verify,
    "recover": _recover,
    "export": _export,
}
