"""What can be asked of the queue. A command is a wish: `decide` answers with events or refuses.

Everything that is not in the state comes in with the command: drawn jitter, encoded payloads, new
ids. The time comes from the engine, one for all commands that are decided together.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import msgspec

from omniq.core.events import Codec, ErrorRecord, TaskEnqueued, WorkerJoined

__all__ = (
    "AcknowledgeCancel",
    "CancelTask",
    "Claim",
    "Command",
    "DeclareLost",
    "Enqueue",
    "ExpireResults",
    "Fail",
    "Join",
    "Leave",
    "Outcome",
    "PauseQueue",
    "Release",
    "ReportProgress",
    "RequeueTask",
    "ResumeQueue",
    "Succeed",
)


class Enqueue(msgspec.Struct, frozen=True):
    """Accept these tasks, all or none."""

    tasks: tuple[TaskEnqueued, ...]


class Claim(msgspec.Struct, frozen=True):
    """Start up to `limit` due tasks of these queues (none named: all) on this worker.

    Only tasks are started whose name is in `names`, for which the worker has the function, and
    whose payload it may read.
    """

    worker: str
    queues: tuple[str, ...]
    names: AbstractSet[str]
    limit: int
    codecs: AbstractSet[Codec] = frozenset(("msgpack",))


class Succeed(msgspec.Struct, frozen=True):
    """The attempt returned."""

    task_id: str
    attempt: int
    worker: str
    result: bytes
    codec: Codec = "msgpack"


class Fail(msgspec.Struct, frozen=True):
    """The attempt raised. `class_names` are the exception's classes; `drawn` is for the jitter."""

    task_id: str
    attempt: int
    worker: str
    error: ErrorRecord
    class_names: tuple[str, ...] = ()
    drawn: float = 0.0


class Release(msgspec.Struct, frozen=True):
    """Give the attempt back; it does not count, and the task is due again after `delay_us`."""

    task_id: str
    attempt: int
    worker: str
    reason: str = ""
    delay_us: int = 0


class AcknowledgeCancel(msgspec.Struct, frozen=True):
    """The attempt was ended because it was cancelled, from outside or by itself."""

    task_id: str
    attempt: int
    worker: str
    reason: str = ""


type Outcome = Succeed | Fail | Release | AcknowledgeCancel


class ReportProgress(msgspec.Struct, frozen=True):
    """The attempt says how far it is."""

    task_id: str
    attempt: int
    worker: str
    fraction: float
    message: str = ""


class CancelTask(msgspec.Struct, frozen=True):
    """Do not run the task, or stop running it; for a run of an interval: end the series."""

    task_id: str
    reason: str = ""


class RequeueTask(msgspec.Struct, frozen=True):
    """Run a finished task again, with its attempts counted anew."""

    task_id: str
    reason: str = ""


class Join(msgspec.Struct, frozen=True):
    """A worker begins."""

    joined: WorkerJoined


class Leave(msgspec.Struct, frozen=True):
    """A worker ends; what it still holds is given back."""

    worker: str


class DeclareLost(msgspec.Struct, frozen=True):
    """A worker is dead: take its tasks away.

    `heard` fences the one who declares: its evidence was gathered when the worker's latest sign
    of life had this sequence number, and is void if there was another one since. None means that
    the evidence is certain, such as a lock that only a dead process gives up.
    """

    worker: str
    reason: str
    heard: int | None = None


class ExpireResults(msgspec.Struct, frozen=True):
    """Forget up to `limit` finished tasks whose retention has ended."""

    limit: int


class PauseQueue(msgspec.Struct, frozen=True):
    """Start no more tasks of this queue."""

    queue: str


class ResumeQueue(msgspec.Struct, frozen=True):
    """Start tasks of this queue again."""

    queue: str


type Command = (
    Enqueue
    | Claim
    | Outcome
    | ReportProgress
    | CancelTask
    | RequeueTask
    | Join
    | Leave
    | DeclareLost
    | ExpireResults
    | PauseQueue
    | ResumeQueue
)
