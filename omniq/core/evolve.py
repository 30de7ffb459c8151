"""How one event changes one task: `evolve(task, event, at) -> task`, pure and total.

An event that the table in `transitions` does not allow raises `IllegalEvent` and changes nothing;
the engine never writes one, so meeting one means that the journal was tampered with or that
OmniQ has a bug.
"""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import replace

from omniq.core import events as ev
from omniq.core.events import TaskStarted, TaskSucceeded
from omniq.core.task import NO_RUN, Run, TaskRecord, TaskSpec
from omniq.core.transitions import TRANSITIONS, TaskStatus
from omniq.errors import IllegalEvent

__all__ = ("enqueued", "evolve")

_RUNNING = TaskStatus.RUNNING


def evolve(task: TaskRecord | None, event: ev.TaskEvent, at: int) -> TaskRecord:
    """Return the task as it is after `event`, which was committed at time `at`."""
    if task is None:
        if isinstance(event, ev.TaskEnqueued):
            return enqueued(event, TaskSpec.of(event), at)
        raise IllegalEvent(event.task_id, ev.kind_of(event), "unknown")
    following = TRANSITIONS[task.status].get(type(event))
    if following is None:
        if isinstance(event, ev.TaskLate):
            return task
        raise IllegalEvent(event.task_id, ev.kind_of(event), task.status)
    # `type(event) is` where it counts: for a Struct, isinstance and class patterns are slow.
    if type(event) is TaskStarted:
        if event.attempt != task.attempt + 1:
            state = f"{task.status}, attempt {task.attempt}"
            raise IllegalEvent(event.task_id, ev.kind_of(event), state)
        return replace(task, status=following, attempt=event.attempt, run=Run(event.worker, at))
    run = task.run
    if task.status is _RUNNING and type(event) is not ev.TaskCancelRequested:
        # By the table, what else can happen to a running task names the claim that it is about.
        if event.attempt != task.attempt or event.worker != run.worker:  # type: ignore[union-attr]
            state = f"{task.status}, attempt {task.attempt} of worker {run.worker}"
            raise IllegalEvent(event.task_id, ev.kind_of(event), state)
        if type(event) is TaskSucceeded:
            run = replace(run, finished_at=at, codec=event.codec)
            return replace(task, status=following, run=run, error=None, result=event.result)
    return _changed(task, event, following, at)


def enqueued(event: ev.TaskEnqueued, spec: TaskSpec, at: int) -> TaskRecord:
    """Return the new task. `spec` is `TaskSpec.of(event)`, or an equal one that is shared."""
    return TaskRecord(event.task_id, spec, event.payload, at, event.due_at or at)


def _changed(  # noqa: PLR0911 - one for each event
    task: TaskRecord, event: ev.TaskEvent, to: TaskStatus, at: int
) -> TaskRecord:
    """Return the task with all that `event`, none of the two common ones, says."""
    run = task.run
    match event:
        case ev.TaskRetried():
            run = replace(run, finished_at=at)
            return replace(task, status=to, run=run, error=event.error, due_at=event.retry_at)
        case ev.TaskFailed():
            run = replace(run, finished_at=at)
            return replace(task, status=to, run=run, error=event.error)
        case ev.TaskCancelled():
            error = ev.ErrorRecord("TaskCancelled", event.reason, retryable=False)
            return replace(task, status=to, run=replace(run, finished_at=at), error=error)
        case ev.TaskCancelRequested():
            return replace(task, status=to, run=replace(run, cancel_requested=True))
        case ev.TaskReleased():
            attempt, due_at = task.attempt - 1, event.due_at or at
            return replace(task, status=to, attempt=attempt, run=NO_RUN, due_at=due_at)
        case ev.TaskRequeued():
            again = replace(task, status=to, attempt=0, run=NO_RUN, due_at=at)
            return replace(again, error=None, result=None)
        case ev.TaskProgressed():
            run = replace(run, fraction=event.fraction, message=event.message)
            return replace(task, status=to, run=run)
        case ev.TaskStarted() | ev.TaskSucceeded() | ev.TaskEnqueued() | ev.TaskLate():
            raise AssertionError(f"{ev.kind_of(event)} is handled above, or is no transition")
        case _:
            assert_never(event)
