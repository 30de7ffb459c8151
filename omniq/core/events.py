"""The vocabulary of the journal: everything that can ever have happened, as immutable facts.

Each event is one fact in the past tense. Its wire tag is written out, so renaming a class never
changes a journal. Fields are stored by position: a new field goes to the end and has a default,
and no field ever changes its meaning or type; a new meaning is a new event. Times are integer
microseconds since 1970 UTC, durations integer microseconds, and 0 stands for "none".

The sequence number, the time and the actor of an event are those of the commit that carries it
(`Commit`): events that were decided together were written together, by one process, at one time.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from omniq.core.retry import RetryRule

__all__ = (
    "Codec",
    "Commit",
    "ErrorRecord",
    "Event",
    "JournalEvent",
    "QueuePaused",
    "QueueResumed",
    "ResultExpired",
    "TaskCancelRequested",
    "TaskCancelled",
    "TaskEnqueued",
    "TaskEvent",
    "TaskFailed",
    "TaskLate",
    "TaskProgressed",
    "TaskReleased",
    "TaskRequeued",
    "TaskRetried",
    "TaskStarted",
    "TaskSucceeded",
    "WorkerJoined",
    "WorkerLeft",
    "WorkerLost",
    "WorkerRenewed",
    "kind_of",
)

Codec = Literal["msgpack", "cloudpickle"]


class ErrorRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Why an attempt failed. `traceback` is text without local variables."""

    error_type: str
    message: str
    traceback: str = ""
    retryable: bool = True


class JournalEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The base of all events. They repeat its options because type checkers do not inherit them."""


class TaskEnqueued(JournalEvent, frozen=True, tag="task.enqueued"):
    """A task was accepted: what to call, with what, and under which rules."""

    task_id: str
    name: str
    queue: str
    payload: bytes
    codec: Codec = "msgpack"
    priority: int = 0
    due_at: int = 0
    timeout_us: int = 0
    retry: RetryRule | None = None  # None: `retry.DEFAULT_RULE`, which therefore never changes
    interval_us: int = 0
    series_id: str = ""
    result_ttl_us: int = 0


class TaskStarted(JournalEvent, frozen=True, tag="task.started"):
    """A worker claimed the task; its callable runs only once this is written."""

    task_id: str
    attempt: int
    worker: str


class TaskSucceeded(JournalEvent, frozen=True, tag="task.succeeded"):
    """The attempt returned; `result` is the encoded value."""

    task_id: str
    attempt: int
    worker: str
    result: bytes
    codec: Codec = "msgpack"


class TaskRetried(JournalEvent, frozen=True, tag="task.retried"):
    """The attempt failed, and the task runs again at `retry_at`."""

    task_id: str
    attempt: int
    worker: str
    error: ErrorRecord
    retry_at: int


class TaskFailed(JournalEvent, frozen=True, tag="task.failed"):
    """The attempt failed, and it was the last one."""

    task_id: str
    attempt: int
    worker: str
    error: ErrorRecord


class TaskCancelled(JournalEvent, frozen=True, tag="task.cancelled"):
    """The task will not run, or its attempt was ended. `attempt` is 0 if none was running."""

    task_id: str
    reason: str = ""
    attempt: int = 0
    worker: str = ""


class TaskCancelRequested(JournalEvent, frozen=True, tag="task.cancel_requested"):
    """Someone asked to cancel a task that is running; its worker was not yet heard."""

    task_id: str
    reason: str = ""


class TaskReleased(JournalEvent, frozen=True, tag="task.released"):
    """The attempt was given back and does not count; the task is due again at `due_at`."""

    task_id: str
    attempt: int
    worker: str
    reason: str = ""
    due_at: int = 0


class TaskRequeued(JournalEvent, frozen=True, tag="task.requeued"):
    """An operator runs a finished task again: same id, attempts counted anew."""

    task_id: str
    reason: str = ""


class TaskLate(JournalEvent, frozen=True, tag="task.late"):
    """An attempt that had lost its claim reported `outcome`; recorded, and changes nothing."""

    task_id: str
    attempt: int
    worker: str
    outcome: str


class TaskProgressed(JournalEvent, frozen=True, tag="task.progressed"):
    """A running attempt said how far it is: `fraction` between 0 and 1, and a message."""

    task_id: str
    attempt: int
    worker: str
    fraction: float
    message: str = ""


class ResultExpired(JournalEvent, frozen=True, tag="result.expired"):
    """The retention of these finished tasks ended: they are known only from their history."""

    task_ids: tuple[str, ...]


class WorkerJoined(JournalEvent, frozen=True, tag="worker.joined"):
    """A worker began: it claims tasks, and gives a sign of life every `lease_us` while it does.

    `boot` names the run of the kernel that holds the worker's liveness lock; whoever shares that
    kernel can see the worker die, and everybody else waits for the lease.
    """

    worker: str
    host: str
    pid: int
    boot: str
    lease_us: int
    queues: tuple[str, ...] = ()
    concurrency: int = 1


class WorkerRenewed(JournalEvent, frozen=True, tag="worker.renewed"):
    """A worker is alive and will renew again before `lease_until`."""

    worker: str
    lease_until: int


class WorkerLeft(JournalEvent, frozen=True, tag="worker.left"):
    """A worker ended in order; it holds no task."""

    worker: str


class WorkerLost(JournalEvent, frozen=True, tag="worker.lost"):
    """A worker was found dead; the same commit says what became of each of its tasks."""

    worker: str
    reason: str


class QueuePaused(JournalEvent, frozen=True, tag="queue.paused"):
    """No task of the queue is claimed until it is resumed; what runs goes on."""

    queue: str


class QueueResumed(JournalEvent, frozen=True, tag="queue.resumed"):
    """Tasks of the queue are claimed again."""

    queue: str


type TaskEvent = (
    TaskEnqueued
    | TaskStarted
    | TaskSucceeded
    | TaskRetried
    | TaskFailed
    | TaskCancelled
    | TaskCancelRequested
    | TaskReleased
    | TaskRequeued
    | TaskLate
    | TaskProgressed
)
type Event = (
    TaskEvent
    | ResultExpired
    | WorkerJoined
    | WorkerRenewed
    | WorkerLeft
    | WorkerLost
    | QueuePaused
    | QueueResumed
)


class Commit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Events that were appended together, all or none: the unit of writing and of reading.

    The events have the sequence numbers `first_seq`, `first_seq + 1`, … `last_seq`. The msgpack
    encoding of this struct is what the hash chain covers, so the chain is the same in every
    backend.
    """

    first_seq: int
    at: int
    actor: str
    events: list[Event]

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.events) - 1


def kind_of(event: JournalEvent) -> str:
    """Return the wire tag of an event, such as `"task.started"`."""
    tag = event.__struct_config__.tag
    assert isinstance(tag, str)
    return tag
