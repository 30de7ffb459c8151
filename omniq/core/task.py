"""What is known of one task: an immutable record that `evolve` replaces, event by event.

A backlog is held in memory by every process that follows the journal, so the record is slim:
what many tasks have in common lies in one shared `TaskSpec`, and what only a started task has in
a `Run`. A pending task with a payload of 100 bytes costs about 400 bytes, indexes included.
"""

from __future__ import annotations

import msgspec

from omniq.core.events import Codec, ErrorRecord, TaskEnqueued
from omniq.core.retry import DEFAULT_RULE, RetryRule
from omniq.core.transitions import TERMINAL, TaskStatus

__all__ = ("Run", "TaskRecord", "TaskSpec", "WorkerRecord")


class TaskSpec(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The rules under which a task was enqueued; equal ones are shared by all their tasks."""

    name: str
    queue: str
    codec: Codec
    priority: int
    timeout_us: int
    retry: RetryRule
    interval_us: int
    series_id: str
    result_ttl_us: int

    @classmethod
    def of(cls, event: TaskEnqueued) -> TaskSpec:
        return cls(
            event.name,
            event.queue,
            event.codec,
            event.priority,
            event.timeout_us,
            event.retry or DEFAULT_RULE,
            event.interval_us,
            event.series_id,
            event.result_ttl_us,
        )


class Run(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The latest attempt: who, when, and what was said about it."""

    worker: str = ""
    started_at: int = 0
    finished_at: int = 0
    cancel_requested: bool = False
    fraction: float = 0.0
    message: str = ""
    codec: Codec = "msgpack"


NO_RUN = Run()


class TaskRecord(msgspec.Struct, frozen=True, gc=False):
    """One task. `attempt` counts the attempts that started and count (a released one does not)."""

    id: str
    spec: TaskSpec
    payload: bytes
    created_at: int
    due_at: int
    status: TaskStatus = TaskStatus.PENDING
    attempt: int = 0
    run: Run = NO_RUN
    error: ErrorRecord | None = None
    result: bytes | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the next thing that can happen to the task is that a worker starts it."""
        return self.status is TaskStatus.PENDING or self.status is TaskStatus.RETRYING

    @property
    def is_finished(self) -> bool:
        return self.status in TERMINAL

    def is_claimed_by(self, worker: str, attempt: int) -> bool:
        """Whether this attempt of this worker still holds the task: the fence for outcomes."""
        return (
            self.status is TaskStatus.RUNNING
            and self.attempt == attempt
            and self.run.worker == worker
        )


class WorkerRecord(msgspec.Struct, frozen=True, array_like=True):
    """A worker that joined and neither left nor was lost."""

    id: str
    host: str
    pid: int
    boot: str
    lease_us: int
    lease_until: int
    queues: tuple[str, ...]
    concurrency: int
    joined_at: int
