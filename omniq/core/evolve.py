"""How one event changes one task: `evolve(task, event, at) -> task`, pure and total.

An event that the table in `transitions` does not allow raises `IllegalEvent` and changes nothing;
the engine never writes one, so meeting one means that the journal was tampered with or that
OmniQ has a bug.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from omniq.core import events as ev
from omniq.core.task import NO_RUN, Run, TaskRecord, TaskSpec
from omniq.core.transitions import TRANSITIONS, TaskStatus
from omniq.errors import IllegalEvent

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("evolve",)


def evolve(task: TaskRecord | None, event: ev.TaskEvent, at: int) -> TaskRecord:
    """Return the task as it is after `event`, which was committed at time `at`."""
    if type(event) is ev.TaskEnqueued:
        if task is not None:
            raise IllegalEvent(event.task_id, ev.kind_of(event), task.status)
        return enqueued(event, TaskSpec.of(event), at)
    if task is None:
        raise IllegalEvent(event.task_id, ev.kind_of(event), "unknown")
    if type(event) is ev.TaskLate:
        return task
    following = TRANSITIONS[task.status].get(type(event))
    if following is None:
        raise IllegalEvent(event.task_id, ev.kind_of(event), task.status)
    return _CHANGES[type(event)](task, event, following, at)


def enqueued(event: ev.TaskEnqueued, spec: TaskSpec, at: int) -> TaskRecord:
    """Return the new task. `spec` is `TaskSpec.of(event)`, or an equal one that is shared."""
    return TaskRecord(event.task_id, spec, event.payload, at, event.due_at or at)


def _started(task: TaskRecord, event: ev.TaskStarted, to: TaskStatus, at: int) -> TaskRecord:
    return replace(task, status=to, attempt=event.attempt, run=Run(event.worker, at))


def _succeeded(task: TaskRecord, event: ev.TaskSucceeded, to: TaskStatus, at: int) -> TaskRecord:
    run = replace(task.run, finished_at=at, codec=event.codec)
    return replace(task, status=to, run=run, error=None, result=event.result)


def _retried(task: TaskRecord, event: ev.TaskRetried, to: TaskStatus, at: int) -> TaskRecord:
    run = replace(task.run, finished_at=at)
    return replace(task, status=to, run=run, error=event.error, due_at=event.retry_at)


def _failed(task: TaskRecord, event: ev.TaskFailed, to: TaskStatus, at: int) -> TaskRecord:
    return replace(task, status=to, run=replace(task.run, finished_at=at), error=event.error)


def _cancelled(task: TaskRecord, event: ev.TaskCancelled, to: TaskStatus, at: int) -> TaskRecord:
    error = ev.ErrorRecord("TaskCancelled", event.reason, retryable=False)
    return replace(task, status=to, run=replace(task.run, finished_at=at), error=error)


def _cancel_requested(
    task: TaskRecord, _event: ev.TaskCancelRequested, _to: TaskStatus, _at: int
) -> TaskRecord:
    return replace(task, run=replace(task.run, cancel_requested=True))


def _released(task: TaskRecord, event: ev.TaskReleased, to: TaskStatus, at: int) -> TaskRecord:
    return replace(
        task, status=to, attempt=task.attempt - 1, run=NO_RUN, due_at=event.due_at or at
    )


def _requeued(task: TaskRecord, _event: ev.TaskRequeued, to: TaskStatus, at: int) -> TaskRecord:
    return replace(
        task, status=to, attempt=0, run=NO_RUN, error=None, result=None, due_at=at
    )


def _progressed(task: TaskRecord, event: ev.TaskProgressed, _to: TaskStatus, _at: int) -> TaskRecord:
    run = replace(task.run, fraction=event.fraction, message=event.message)
    return replace(task, run=run)


type _Change = Callable[[TaskRecord, object, TaskStatus, int], TaskRecord]
_CHANGES: dict[type[ev.JournalEvent], _Change] = {
    ev.TaskStarted: _started,
    ev.TaskSucceeded: _succeeded,
    ev.TaskRetried: _retried,
    ev.TaskFailed: _failed,
    ev.TaskCancelled: _cancelled,
    ev.TaskCancelRequested: _cancel_requested,
    ev.TaskReleased: _released,
    ev.TaskRequeued: _requeued,
    ev.TaskProgressed: _progressed,
}
