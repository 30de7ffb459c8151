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
    event_lines,
    show_bytes,
    show_duration,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omniq.tools.comparing import Difference, TaskDifference
    from omniq.tools.explaining import Explanation
    from omniq.tools.printing import ErrorView
    from omniq.tools.reports import (
        HeadView,
        StateReport,
        Summary,
        TaskView,
        WorkerView,
    )
    from omniq.tools.story import AttemptView, Story

__all__ = (
    "difference_lines",
    "duration_of",
    "explanation_lines",
    "show_head",
    "state_lines",
    "story_lines",
    "summary_lines",
)


def summary_lines(report: Summary) -> Iterator[str]:
    """Show a journal at a glance."""
    rate = f", {report.events / report.read_seconds:,.0f} events/s" if report.read_seconds else ""
    rows = [
        ("journal", f"{clean(report.journal)} ({report.backend})"),
        ("size", show_bytes(report.bytes)),
        ("events", f"{report.events:,} in {report.commits:,} commits{_dropped(report.dropped)}"),
        ("from", _time(report.first_at)),
        ("until", _time(report.last_at)),
        ("head", show_head(report.head)),
    ]
    if report.torn_bytes:
        rows.append(("torn end", f"{show_bytes(report.torn_bytes)} (cut short, or being written)"))
    rows.append(("read in", f"{duration_of(report.read_seconds)}{rate}"))
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
    for event in story.events:
        yield from event_lines(event)
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
            yield name, duration_of(seconds)
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
        f"{clean(attempt.worker)}{where} after {duration_of(attempt.waited_seconds)} of waiting"
    )
    if attempt.outcome is None or attempt.ran_seconds is None:
        yield "  it has not ended"
        return
    outcome = attempt.outcome.removeprefix("task.")
    again = "" if attempt.retry_at is None else f", due again {_time(attempt.retry_at)}"
    why = "" if attempt.reason is None else f": {clean(attempt.reason)}"
    ran = duration_of(attempt.ran_seconds)
    yield f"  {outcome} {_time(attempt.ended_at)} after {ran}{again}{why}"
    if attempt.error is not None:
        yield f"  {clean(attempt.error.error_type)}: {clean(attempt.error.message)}"
        yield from _error_lines(attempt.error, "    ")


def _error_lines(error: ErrorView, margin: str) -> Iterator[str]:
    for line in clean_lines(error.traceback.rstrip()) if error.traceback else ():
        yield f"{margin}{line}"


def _dropped(count: int) -> str:
    return f", behind {count:,} that were dropped" if count else ""


def show_head(head: HeadView) -> str:
    """Return a head as `verify --head` takes it."""
    return f"{head.seq}:{head.digest}"


def difference_lines(report: Difference) -> Iterator[str]:
    """Show how two journals differ."""
    yield from columns([
        (
            name,
            clean(side.journal),
            f"until sequence number {side.seq}",
            _time(side.at),
            f"{side.tasks:,} tasks",
        )
        for name, side in (("A", report.a), ("B", report.b))
    ])  # fmt: skip
    yield _difference_line(report)
    if report.common is not None:
        yield f"in common up to {show_head(report.common)}"
    for name, event in (("A", report.event_a), ("B", report.event_b)):
        if event is not None:
            yield from (f"{name}{line}" for line in event_lines(event))
    if report.differing:
        yield ""
        yield f"tasks that differ ({len(report.listed)} of {report.differing:,})"
        yield from columns([("id", "A", "B", "in", "name"), *map(_task_cells, report.listed)])


def _difference_line(report: Difference) -> str:
    match report.difference:
        case None:
            return "no difference"
        case "end":
            name, side = ("A", report.a) if report.event_b is None else ("B", report.b)
            count = side.seq - (report.parted_at or 0) + 1
            return f"{name} goes on where the other ends, with {count:,} events"
        case "event":
            return f"another event stands at sequence number {report.parted_at}"
        case "commits":
            return "the events are the same, and were committed in other groups"
        case "beginning":
            return "they differ before their common history begins"


def _task_cells(task: TaskDifference) -> tuple[str, ...]:
    return (
        clean(task.id),
        _standing(task.status_a, task.attempt_a),
        _standing(task.status_b, task.attempt_b),
        ", ".join(task.fields) or "-",
        clean(task.name),
    )


def _standing(status: TaskStatus | None, attempt: int | None) -> str:
    return "unknown" if status is None else f"{status}, attempt {attempt}"


def explanation_lines(report: Explanation) -> Iterator[str]:
    """Show why a task is where it is."""
    status = "no longer kept" if report.status is None else report.status.value
    yield f"task {clean(report.task)} ({clean(report.name)}, queue {clean(report.queue)}): {status}"
    for reason in report.reasons:
        yield clean(reason.text)


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


def duration_of(seconds: float) -> str:
    """Return seconds as a duration for people."""
    return show_duration(round(seconds * SECOND))
