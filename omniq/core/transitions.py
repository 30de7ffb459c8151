"""The life of a task, as one table. Nothing else may move a task from one state to another.

`TRANSITIONS[state][event]` is the next state; an event that is missing there is illegal in that
state, and neither `decide` may produce it nor `evolve` accept it. The diagram in
docs/reference/states.md is drawn from this table by tools/state_diagram.py.

`task.late` is missing on purpose: it records an outcome that came too late, in any state, and
moves nothing. `result.expired` ends the retention of a finished task: there is no state after it.
"""

from __future__ import annotations

from enum import StrEnum

from omniq.core import events as ev

__all__ = ("INITIAL", "TERMINAL", "TRANSITIONS", "TaskStatus")


class TaskStatus(StrEnum):
    """Where a task stands.

    PENDING: accepted, waits for a worker or for its time (`eta`); also after it was given back.
    RUNNING: an attempt is under way. RETRYING: an attempt failed, the next waits for its time.
    SUCCESS, FAILED, CANCELLED: terminal; only an operator's requeue leaves them.
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


INITIAL = TaskStatus.PENDING

TRANSITIONS: dict[TaskStatus, dict[type[ev.JournalEvent], TaskStatus]] = {
    TaskStatus.PENDING: {
        ev.TaskStarted: TaskStatus.RUNNING,
        ev.TaskCancelled: TaskStatus.CANCELLED,
    },
    TaskStatus.RETRYING: {
        ev.TaskStarted: TaskStatus.RUNNING,
        ev.TaskCancelled: TaskStatus.CANCELLED,
    },
    TaskStatus.RUNNING: {
        ev.TaskSucceeded: TaskStatus.SUCCESS,
        ev.TaskRetried: TaskStatus.RETRYING,
        ev.TaskFailed: TaskStatus.FAILED,
        ev.TaskCancelled: TaskStatus.CANCELLED,
        ev.TaskReleased: TaskStatus.PENDING,
        ev.TaskCancelRequested: TaskStatus.RUNNING,
        ev.TaskProgressed: TaskStatus.RUNNING,
    },
    TaskStatus.SUCCESS: {ev.TaskRequeued: TaskStatus.PENDING},
    TaskStatus.FAILED: {ev.TaskRequeued: TaskStatus.PENDING},
    TaskStatus.CANCELLED: {ev.TaskRequeued: TaskStatus.PENDING},
}

TERMINAL = frozenset({TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.CANCELLED})
