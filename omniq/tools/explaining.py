"""Why a task is not running: what the journal knows, the most important first, in sentences.

A journal does not know which functions a worker has, nor whether a process that it names is still
alive; where that matters, the answer says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from omniq.core.transitions import TaskStatus
from omniq.errors import TaskNotFound
from omniq.tools.printing import SECOND, iso, show_duration, show_time
from omniq.tools.reading import fold_until
from omniq.tools.story import story_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omniq.core.projection import Projection
    from omniq.core.task import TaskRecord, WorkerRecord
    from omniq.tools.reading import Journal

__all__ = ("Explanation", "Reason", "explain")


class Reason(msgspec.Struct, frozen=True):
    """One thing that explains where a task stands: a code for programs, a sentence for people."""

    code: str
    text: str


class Explanation(msgspec.Struct, frozen=True):
    """Where a task stands at a time, and why. `status` is null once its retention has ended."""

    journal: str
    task: str
    name: str
    queue: str
    status: TaskStatus | None
    now: str | None
    reasons: list[Reason]


async def explain(journal: Journal, task_id: str, now: int) -> Explanation:
    """Explain a task as it is at the journal's end; raises `TaskNotFound` if it never was in it."""
    state = await fold_until(journal)
    task = state.tasks.get(task_id)
    if task is None:
        return await _explain_expired(journal, task_id, now)
    reasons = list(_reasons(state, task, now))
    spec = task.spec
    return Explanation(
        journal.location, task_id, spec.name, spec.queue, task.status, iso(now), reasons
    )


async def _explain_expired(journal: Journal, task_id: str, now: int) -> Explanation:
    try:
        story = await story_of(journal, task_id)
    except TaskNotFound:
        if not journal.beginning.seq:
            raise
        raise TaskNotFound(
            f"no task {task_id!r} is in the journal {journal.location}; its events up to "
            f"{journal.beginning.seq} were dropped, so it may have been there"
        ) from None
    task = story.task
    text = (
        f"it ended as {task.status} at {task.finished_at}, and its result_ttl ended at "
        f"{story.expired_at}: since then it is known only from its events"
    )
    reason = Reason("expired", text)
    return Explanation(journal.location, task_id, task.name, task.queue, None, iso(now), [reason])


def _reasons(state: Projection, task: TaskRecord, now: int) -> Iterator[Reason]:
    if task.is_finished:
        yield _ending(task)
    elif task.status is TaskStatus.RUNNING:
        yield from _running(state, task, now)
    else:
        yield from _waiting(state, task, now)


def _ending(task: TaskRecord) -> Reason:
    when, error = show_time(task.run.finished_at), task.error
    if task.status is TaskStatus.SUCCESS:
        return Reason("succeeded", f"it succeeded at {when}, at attempt {task.attempt}")
    if task.status is TaskStatus.CANCELLED:
        why = f": {error.message}" if error is not None and error.message else ""
        return Reason("cancelled", f"it was cancelled at {when}{why}")
    said = "" if error is None else f": {error.error_type}: {error.message}"
    allowed = task.spec.retry.max_retries
    more = "" if task.attempt <= allowed else f", the last of {1 + allowed}"
    return Reason("failed", f"it failed at {when}, at attempt {task.attempt}{more}{said}")


def _running(state: Projection, task: TaskRecord, now: int) -> Iterator[Reason]:
    run, worker = task.run, state.workers.get(task.run.worker)
    since = show_duration(max(0, now - run.started_at))
    yield Reason("running", f"attempt {task.attempt} runs since {since} on worker {run.worker}")
    if run.cancel_requested:
        yield Reason("cancel_requested", "it was asked to cancel, and its worker has not answered")
    if worker is None:
        yield Reason("worker_unknown", "the journal does not know its worker (any more)")
    else:
        yield _lease(worker, now)


def _lease(worker: WorkerRecord, now: int) -> Reason:
    where = f"process {worker.pid} on {worker.host}"
    left = worker.lease_until - now
    if left >= 0:
        text = (
            f"its worker is {where}, last heard of within its lease, which has {_span(left)} left"
        )
        return Reason("lease_valid", text)
    return Reason(
        "lease_over",
        f"its worker is {where}; its lease is over since {_span(-left)}. If that process is gone, "
        "the next worker that starts on its host takes the task away, and on another host one "
        f"that waits for the lease of {_span(worker.lease_us)}",
    )


def _waiting(state: Projection, task: TaskRecord, now: int) -> Iterator[Reason]:
    spec = task.spec
    if task.status is TaskStatus.RETRYING and task.error is not None:
        error = task.error
        yield Reason(
            "retrying",
            f"attempt {task.attempt} of {1 + spec.retry.max_retries} failed: "
            f"{error.error_type}: {error.message}",
        )
    if task.due_at > now:
        text = f"it is due at {show_time(task.due_at)}, in {_span(task.due_at - now)}"
        yield Reason("due_later", text)
    if spec.queue in state.paused:
        yield Reason(
            "queue_paused", f"its queue {spec.queue!r} is paused, until somebody resumes it"
        )
    yield from _served(state, task)
    ahead = _ahead(state, task, now)
    if task.due_at <= now and ahead:
        yield Reason("behind_others", f"{ahead:,} other tasks of its queue are before it in line")
    if task.due_at <= now:
        yield Reason(
            "function_unknown_here",
            f"a worker starts it only if it has a function {spec.name!r} and may read the codec "
            f"{spec.codec!r}, which a journal cannot tell; the worker's log names what it leaves",
        )


def _served(state: Projection, task: TaskRecord) -> Iterator[Reason]:
    """Say which workers serve the task's queue."""
    queue = task.spec.queue
    serving = [
        worker for worker in state.workers.values() if not worker.queues or queue in worker.queues
    ]
    if not serving:
        others = len(state.workers)
        more = f"; {others} serve other queues" if others else ""
        yield Reason(
            "no_worker", f"no worker that the journal knows serves the queue {queue!r}{more}"
        )
        return
    full = [w for w in serving if len(state.running.get(w.id, ())) >= w.concurrency]
    if len(full) == len(serving):
        text = f"every worker that serves the queue {queue!r} ({len(full)}) has its hands full"
        yield Reason("workers_busy", text)
        return
    names = ", ".join(f"{w.id} (process {w.pid} on {w.host})" for w in serving[:5])
    yield Reason(
        "served", f"{len(serving)} workers serve the queue {queue!r}, if they live: {names}"
    )


def _ahead(state: Projection, task: TaskRecord, now: int) -> int:
    """Return how many ready tasks of the same queue come before this one."""
    queue = task.spec.queue
    ready, later = state.waiting.copy()
    due = [other for due_at, _, other in sorted(later, key=_by_time) if due_at <= now]
    line = [
        other
        for other in (*ready, *due)
        if other.spec.queue == queue and state.tasks.get(other.id) is other
    ]
    line.sort(key=lambda other: -other.spec.priority)
    return line.index(task) if task in line else 0


def _by_time(entry: tuple[int, int, TaskRecord]) -> tuple[int, int]:
    return entry[:2]


def _span(us: int) -> str:
    return show_duration(max(0, us)) if us < SECOND else show_duration(us // SECOND * SECOND)
