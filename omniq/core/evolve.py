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

__all__ = ("ended", "enqueued", "evolve", "illegal", "started", "succeeded")

_RUNNING = TaskStatus.RUNNING
_STARTS, _SUCCEEDS = (
    {status: table[kind] for status, table in TRANSITIONS.items() if kind in table}
    for kind in (TaskStarted, TaskSucceeded)
)


def evolve(task: TaskRecord | None, event: ev.TaskEvent, at: int) -> TaskRecord:
    """Return the task as it is after `event`, which was committed at time `at`."""
    if task is None:
        if isinstance(event, ev.TaskEnqueued):
            return enqueued(event, TaskSpec.of(event), at)
        raise illegal(None, event)
    if isinstance(event, TaskStarted):
        return started(task, event, Run(event.worker, at))
    if isinstance(event, TaskSucceeded):
        return succeeded(task, event, ended(task.run, event, at))
    following = TRANSITIONS[task.status].get(type(event))
    if following is None:
        if isinstance(event, ev.TaskLate):
            return task
        raise illegal(task, event)
    # By the table, what else can happen to a running task names the claim that it is about.
    names_claim = task.status is _RUNNING and not isinstance(event, ev.TaskCancelRequested)
    if names_claim and (event.attempt, event.worker) != (task.attempt, task.run.worker):  # type: ignore[union-attr]
        raise _of_another_claim(task, event)
    return _changed(task, event, following, at)


# The common events, of which many are folded at once. What their tasks share is made once.


def enqueued(event: ev.TaskEnqueued, spec: TaskSpec, at: int) -> TaskRecord:
    """Return the new task. `spec` is `TaskSpec.of(event)`, or an equal one that is shared."""
    return TaskRecord(event.task_id, spec, event.payload, at, event.due_at or at)


def started(task: TaskRecord, event: TaskStarted, run: Run) -> TaskRecord:
    """Return the task as it runs. `run` is of the event's worker and time, and may be shared."""
    following = _STARTS.get(task.status)
    if following is None:
        raise illegal(task, event)
    if event.attempt != task.attempt + 1:
        raise illegal(task, event, f", attempt {task.attempt}")
    return replace(task, status=following, attempt=event.attempt, run=run)


def succeeded(task: TaskRecord, event: TaskSucceeded, run: Run) -> TaskRecord:
    """Return the finished task. `run` is what `ended` makes of the task's, and may be shared."""
    following = _SUCCEEDS.get(task.status)
    if following is None:
        raise illegal(task, event)
    if event.attempt != task.attempt or event.worker != task.run.worker:
        raise _of_another_claim(task, event)
    return replace(task, status=following, run=run, error=None, result=event.result)


def ended(run: Run, event: TaskSucceeded, at: int) -> Run:
    """Return the run of a task that succeeded."""
    return replace(run, finished_at=at, codec=event.codec)


def illegal(task: TaskRecord | None, event: ev.TaskEvent, claim: str = "") -> IllegalEvent:
    """Return the error that such an event cannot follow; None stands for an unknown task."""
    state = "unknown" if task is None else f"{task.status}{claim}"
    return IllegalEvent(event.task_id, ev.kind_of(event), state)


def _of_another_claim(task: TaskRecord, event: ev.TaskEvent) -> IllegalEvent:
    return illegal(task, event, f", attempt {task.attempt} of worker {task.run.worker}")


def _changed(  # noqa: PLR0911 - one for each event
    task: TaskRecord, event: ev.TaskEvent, to: TaskStatus, at: int
) -> TaskRecord:
    """Return the task with all that `event`, none of the common ones, says."""
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
