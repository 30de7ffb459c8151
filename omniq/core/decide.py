"""What follows from a command: `decide(state, command, now) -> events`, or a refusal.

Pure but for one thing: claiming takes the claimed ids out of the projection's index of waiting
tasks, whose entries are hints. Each function below is the whole rule for one command.

Fencing: an outcome names task, attempt and worker. If that claim is gone (the worker was declared
lost, perhaps while it was only stopped), the outcome becomes `task.late` and cannot win.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.core import commands as cmd
from omniq.core import events as ev
from omniq.core.ids import next_run_id
from omniq.core.retry import backoff_us, is_retryable
from omniq.errors import TaskNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from omniq.core.projection import Projection
    from omniq.core.task import TaskRecord

__all__ = ("WORKER_LOST", "decide")

WORKER_LOST = "WorkerLost"


def decide(state: Projection, command: cmd.Command, now: int) -> list[ev.Event]:
    """Return the events that answer `command`; none if it changes nothing.

    Raises `TaskNotFound` if it names a task that the journal does not know.
    """
    return _RULES[type(command)](state, command, now)


def _enqueue(_state: Projection, command: cmd.Enqueue, _now: int) -> list[ev.Event]:
    return list(command.tasks)


def _claim(state: Projection, command: cmd.Claim, now: int) -> list[ev.Event]:
    if command.worker not in state.workers:
        return []  # it was declared lost, and will find out
    names, codecs = command.names, command.codecs

    def may_run(task: TaskRecord) -> bool:
        return task.spec.name in names and task.spec.codec in codecs

    taken = state.waiting.take(command.queues, state.paused, command.limit, now, may_run)
    return [ev.TaskStarted(task.id, task.attempt + 1, command.worker) for task in taken]


def _succeed(state: Projection, command: cmd.Succeed, now: int) -> list[ev.Event]:
    task = state.tasks.get(command.task_id)
    if task is None or not task.is_claimed_by(command.worker, command.attempt):
        return _late(command, "task.succeeded")
    succeeded = ev.TaskSucceeded(
        command.task_id, command.attempt, command.worker, command.result, command.codec
    )
    if not task.spec.interval_us:
        return [succeeded]
    return [succeeded, *_next_run(state, task, now)]


def _fail(state: Projection, command: cmd.Fail, now: int) -> list[ev.Event]:
    task = state.tasks.get(command.task_id)
    if task is None or not task.is_claimed_by(command.worker, command.attempt):
        return _late(command, "task.failed")
    rule = task.spec.retry
    again = command.error.retryable and is_retryable(rule, command.class_names)
    delay = backoff_us(rule, task.attempt, command.drawn)
    return _ended_badly(state, task, command.error, now, again=again, retry_at=now + delay)


def _release(state: Projection, command: cmd.Release, now: int) -> list[ev.Event]:
    task = state.tasks.get(command.task_id)
    if task is None or not task.is_claimed_by(command.worker, command.attempt):
        return _late(command, "task.released")
    if task.run.cancel_requested:
        return [_cancelled(task, command.reason)]
    return [
        ev.TaskReleased(
            task.id, task.attempt, command.worker, command.reason, now + command.delay_us
        )
    ]


def _acknowledge_cancel(
    state: Projection, command: cmd.AcknowledgeCancel, _now: int
) -> list[ev.Event]:
    task = state.tasks.get(command.task_id)
    if task is None or not task.is_claimed_by(command.worker, command.attempt):
        return _late(command, "task.cancelled")
    return [_cancelled(task, command.reason)]


def _report_progress(state: Projection, command: cmd.ReportProgress, _now: int) -> list[ev.Event]:
    task = state.tasks.get(command.task_id)
    if task is None or not task.is_claimed_by(command.worker, command.attempt):
        return []  # only outcomes are worth a trace when they come too late
    return [
        ev.TaskProgressed(task.id, task.attempt, command.worker, command.fraction, command.message)
    ]


def _cancel(state: Projection, command: cmd.CancelTask, _now: int) -> list[ev.Event]:
    task = _known(state, command.task_id)
    leader = state.live_run(task)  # another task, if this is an old run of an interval
    events: list[ev.Event] = []
    for run in (task,) if leader is task else (task, leader):
        if run.is_waiting:
            events.append(ev.TaskCancelled(run.id, command.reason))
        elif not run.is_finished and not run.run.cancel_requested:
            events.append(ev.TaskCancelRequested(run.id, command.reason))
    return events


def _requeue(state: Projection, command: cmd.RequeueTask, _now: int) -> list[ev.Event]:
    task = _known(state, command.task_id)
    return [ev.TaskRequeued(task.id, command.reason)] if task.is_finished else []


def _join(_state: Projection, command: cmd.Join, _now: int) -> list[ev.Event]:
    return [command.joined]


def _leave(state: Projection, command: cmd.Leave, now: int) -> list[ev.Event]:
    if command.worker not in state.workers:
        return []
    released: list[ev.Event] = []
    for task_id in state.running.get(command.worker, ()):
        task = state.tasks[task_id]
        if task.run.cancel_requested:
            released.append(_cancelled(task, "its worker stopped"))
        else:
            released.append(
                ev.TaskReleased(task_id, task.attempt, command.worker, "its worker stopped", now)
            )
    return [*released, ev.WorkerLeft(command.worker)]


def _declare_lost(state: Projection, command: cmd.DeclareLost, now: int) -> list[ev.Event]:
    if command.worker not in state.workers:
        return []
    if command.heard is not None and command.heard != state.heard[command.worker]:
        return []
    error = ev.ErrorRecord(WORKER_LOST, f"worker {command.worker}: {command.reason}")
    events: list[ev.Event] = [ev.WorkerLost(command.worker, command.reason)]
    for task_id in state.running.get(command.worker, ()):
        task = state.tasks[task_id]
        events.extend(_ended_badly(state, task, error, now, again=True, retry_at=now))
    return events


def _expire_results(state: Projection, command: cmd.ExpireResults, now: int) -> list[ev.Event]:
    ids = state.expired(now, command.limit)
    return [ev.ResultExpired(ids)] if ids else []


def _pause(state: Projection, command: cmd.PauseQueue, _now: int) -> list[ev.Event]:
    return [] if command.queue in state.paused else [ev.QueuePaused(command.queue)]


def _resume(state: Projection, command: cmd.ResumeQueue, _now: int) -> list[ev.Event]:
    return [ev.QueueResumed(command.queue)] if command.queue in state.paused else []


def _known(state: Projection, task_id: str) -> TaskRecord:
    task = state.tasks.get(task_id)
    if task is None:
        raise TaskNotFound(
            f"no task {task_id!r} is known: it was never enqueued in this journal, "
            "or its result_ttl has ended"
        )
    return task


def _late(command: cmd.Outcome, outcome: str) -> list[ev.Event]:
    return [ev.TaskLate(command.task_id, command.attempt, command.worker, outcome)]


def _cancelled(task: TaskRecord, reason: str) -> ev.TaskCancelled:
    return ev.TaskCancelled(task.id, reason, task.attempt, task.run.worker)


def _ended_badly(
    state: Projection,
    task: TaskRecord,
    error: ev.ErrorRecord,
    now: int,
    *,
    again: bool,
    retry_at: int,
) -> list[ev.Event]:
    """Return what follows a failed attempt: a wish to cancel, a retry, or the end."""
    worker = task.run.worker
    if task.run.cancel_requested:
        return [_cancelled(task, error.message)]
    if again and task.attempt <= task.spec.retry.max_retries:
        return [ev.TaskRetried(task.id, task.attempt, worker, error, retry_at)]
    return [ev.TaskFailed(task.id, task.attempt, worker, error), *_next_run(state, task, now)]


def _next_run(state: Projection, task: TaskRecord, now: int) -> list[ev.Event]:
    """Return the next run of an interval, which is counted from start to start.

    Runs never overlap: one that took longer than the interval is followed at once. Only the run
    that leads the series has a next one, not an old run that was requeued beside it.
    """
    spec = task.spec
    if not spec.interval_us or task.run.cancel_requested:
        return []
    if state.series.get(spec.series_id) != task.id:
        return []
    return [
        ev.TaskEnqueued(
            task_id=next_run_id(task.id, now),
            name=spec.name,
            queue=spec.queue,
            payload=task.payload,
            codec=spec.codec,
            priority=spec.priority,
            due_at=max(now, task.run.started_at + spec.interval_us),
            timeout_us=spec.timeout_us,
            retry=spec.retry,
            interval_us=spec.interval_us,
            series_id=spec.series_id,
            result_ttl_us=spec.result_ttl_us,
        )
    ]


_RULES: dict[type[cmd.Command], Callable[..., list[ev.Event]]] = {
    cmd.Enqueue: _enqueue,
    cmd.Claim: _claim,
    cmd.Succeed: _succeed,
    cmd.Fail: _fail,
    cmd.Release: _release,
    cmd.AcknowledgeCancel: _acknowledge_cancel,
    cmd.ReportProgress: _report_progress,
    cmd.CancelTask: _cancel,
    cmd.RequeueTask: _requeue,
    cmd.Join: _join,
    cmd.Leave: _leave,
    cmd.DeclareLost: _declare_lost,
    cmd.ExpireResults: _expire_results,
    cmd.PauseQueue: _pause,
    cmd.ResumeQueue: _resume,
}
