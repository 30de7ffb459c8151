"""Reports as lines for people to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.core.transitions import TaskStatus
from omniq.tools.printing import (
    SECOND,
    PayloadView,
    clean,
    clean_lines,
    columns,
    event_line,
    show_bytes,
    show_duration,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omniq.tools.printing import ErrorView
    from omniq.tools.reports import StateReport, Summary, TaskView, VerifyReport, WorkerView
    from omniq.tools.scanning import Problem
    from omniq.tools.story import AttemptView, Story

__all__ = ("problem_lines", "state_lines", "story_lines", "summary_lines", "verdict_lines")


def summary_lines(report: Summary) -> Iterator[str]:
    """Show a journal at a glance."""
    rate = f", {report.events / report.read_seconds:,.0f} events/s" if report.read_seconds else ""
    rows = [
        ("journal", f"{clean(report.journal)} ({report.backend})"),
        ("size", show_bytes(report.bytes)),
        ("events", f"{report.events:,} in {report.commits:,} commits"),
        ("from", _time(report.first_at)),
        ("until", _time(report.last_at)),
        ("head", f"{report.head.seq} {report.head.digest}"),
    ]
    if report.torn_bytes:
        rows.append(("torn end", f"{show_bytes(report.torn_bytes)} (cut short, or being written)"))
    rows.append(("read in", f"{_duration(report.read_seconds)}{rate}"))
    yield from columns(rows)
    yield from _counts(report.tasks, report.queues, report.paused)
    yield from _workers(report.workers)
    if report.kinds:
        yield ""
        rows = [("events by kind", ""), *((kind, f"{n:,}") for kind, n in report.kinds.items())]
        yield from columns(rows, right=[1])


def state_lines(report: StateReport) -> Iterator[str]:
    """Show the state at a point."""
    rows = [
        ("journal", clean(report.journal)),
        ("after", f"sequence number {report.seq}"),
        ("time", _time(report.at)),
    ]
    yield from columns(rows)
    yield from _counts(report.tasks, report.queues, report.paused)
    yield from _workers(report.workers)
    total = sum(report.tasks.values())
    if not report.listed:
        return
    yield ""
    yield f"tasks, newest first ({len(report.listed)} of {total:,})"
    head = ("id", "status", "attempt", "queue", "name", "created", "worker")
    yield from columns([
        head,
        *(
            (
                clean(task.id),
                task.status.value,
                str(task.attempt),
                clean(task.queue),
                clean(task.name),
                _time(task.created_at),
                clean(task.worker or "-"),
            )
            for task in report.listed
        ),
    ])  # fmt: skip


def story_lines(story: Story) -> Iterator[str]:
    """Show the story of a task."""
    task = story.task
    yield from columns(list(_task_rows(task, story.expired_at)))
    if task.error is not None:
        yield from _error_lines(task.error, "  ")
    for attempt in story.attempts:
        yield ""
        yield from _attempt_lines(attempt)
    yield ""
    yield "events"
    yield from map(event_line, story.events)
    for text in story.illegal:
        yield f"cannot follow: {clean(text)}"


def _task_rows(task: TaskView, expired_at: str | None) -> Iterator[tuple[str, str]]:
    yield "task", clean(task.id)
    yield "name", clean(task.name)
    yield "queue", f"{clean(task.queue)}, priority {task.priority}"
    yield "status", task.status.value
    yield "attempts", f"{task.attempt} of at most {task.max_retries + 1}"
    yield "created", _time(task.created_at)
    if task.status in (TaskStatus.PENDING, TaskStatus.RETRYING):
        yield "due", _time(task.due_at)
    if task.finished_at is not None:
        yield "finished", _time(task.finished_at)
    if expired_at is not None:
        yield "expired", _time(expired_at)
    if task.cancel_requested:
        yield "cancel", "requested"
    for name, seconds in (("timeout", task.timeout_seconds), ("interval", task.interval_seconds)):
        if seconds is not None:
            yield name, _duration(seconds)
    if task.series_id is not None:
        yield "series", clean(task.series_id)
    yield "payload", _payload(task.payload)
    if task.result is not None:
        yield "result", _payload(task.result)
    if task.error is not None:
        yield "error", clean(f"{task.error.error_type}: {task.error.message}")


def _attempt_lines(attempt: AttemptView) -> Iterator[str]:
    where = "" if attempt.host is None else f" ({clean(attempt.host)}, pid {attempt.pid})"
    yield (
        f"attempt {attempt.attempt}: started {_time(attempt.started_at)} by worker "
        f"{clean(attempt.worker)}{where} after {_duration(attempt.waited_seconds)} of waiting"
    )
    if attempt.outcome is None or attempt.ran_seconds is None:
        yield "  it has not ended"
        return
    outcome = attempt.outcome.removeprefix("task.")
    again = "" if attempt.retry_at is None else f", due again {_time(attempt.retry_at)}"
    why = "" if attempt.reason is None else f": {clean(attempt.reason)}"
    ran = _duration(attempt.ran_seconds)
    yield f"  {outcome} {_time(attempt.ended_at)} after {ran}{again}{why}"
    if attempt.error is not None:
        yield f"  {clean(attempt.error.error_type)}: {clean(attempt.error.message)}"
        yield from _error_lines(attempt.error, "    ")


def _error_lines(error: ErrorView, margin: str) -> Iterator[str]:
    for line in clean_lines(error.traceback.rstrip()) if error.traceback else ():
        yield f"{margin}{line}"


def problem_lines(problem: Problem) -> Iterator[str]:
    """Show one problem: its place and extent, then what was compared."""
    where = problem.place
    if problem.offset is not None:
        where += f", offset {problem.offset}"
        where += f", {show_bytes(problem.bytes)}" if problem.bytes else ""
    yield f"{problem.kind}: {clean(where)}, {_extent(problem.first_seq, problem.last_seq)}"
    yield f"  expected {clean(problem.expected)}"
    yield f"  found    {clean(problem.found)}"


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
        torn = report.torn
        yield (
            f"note: {show_bytes(torn.bytes)} behind the end ({clean(torn.place)}, offset "
            f"{torn.offset}) are no whole commit: a write that was cut short, which the next "
            "writer removes, or one that is under way"
        )
    if report.unchecked_events:
        yield (
            f"note: {report.unchecked_events:,} events are about tasks that the damage leaves "
            "unknown, so whether they may follow could not be checked"
        )
    count = len(report.problems)
    verdict = f"{count:,} problem{'' if count == 1 else 's'}" if count else "no problems"
    yield (
        f"{clean(report.journal)}: {verdict}; {report.events:,} events in {report.commits:,} "
        f"commits verified in {_duration(report.read_seconds)}{rate}"
    )
    yield f"head {report.head.seq} {report.head.digest}"


def _counts(
    tasks: dict[str, int], queues: dict[str, dict[str, int]], paused: list[str]
) -> Iterator[str]:
    yield ""
    head = ("queue", *(status.value for status in TaskStatus), "total")
    rows = [
        (clean(queue) + (" (paused)" if queue in paused else ""), *_numbers(counts))
        for queue, counts in queues.items()
    ]
    rows.extend(
        (f"{clean(queue)} (paused)", *_numbers({})) for queue in paused if queue not in queues
    )
    yield from columns([head, *rows, ("all", *_numbers(tasks))], right=range(1, len(head)))


def _numbers(counts: dict[str, int]) -> list[str]:
    numbers = [counts.get(status.value, 0) for status in TaskStatus]
    return [f"{number:,}" for number in (*numbers, sum(numbers))]


def _workers(workers: list[WorkerView]) -> Iterator[str]:
    if not workers:
        return
    yield ""
    head = ("worker", "host", "pid", "queues", "running", "joined", "lease until")
    rows = [
        (
            clean(worker.id),
            clean(worker.host),
            str(worker.pid),
            clean(",".join(worker.queues)) or "all",
            f"{len(worker.running)}/{worker.concurrency}",
            _time(worker.joined_at),
            _time(worker.lease_until),
        )
        for worker in workers
    ]
    yield from columns([head, *rows], right=[2])


def _payload(payload: PayloadView) -> str:
    size = f"{show_bytes(payload.bytes)} of {payload.codec}"
    return f"<{size}>" if payload.text is None else f"{clean(payload.text)} ({size})"


def _time(text: str | None) -> str:
    return "-" if text is None else f"{text.replace('T', ' ').removesuffix('Z')}"


def _duration(seconds: float) -> str:
    return show_duration(round(seconds * SECOND))
