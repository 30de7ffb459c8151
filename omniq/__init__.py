"""OmniQ: an async-first task queue inside your Python program, with every change in a journal.

Start with `AsyncOmniQ`, or with `OmniQ`, which is the same for code that does not await.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from omniq.config import Settings
from omniq.core.transitions import TaskStatus
from omniq.errors import (
    ConfigError,
    CorruptJournal,
    IllegalEvent,
    JournalConflict,
    OmniqError,
    PayloadTooLarge,
    QueueFull,
    Refused,
    SerializationError,
    StorageClosed,
    StorageError,
    StorageFull,
    TaskCancelled,
    TaskFailed,
    TaskNotAllowed,
    TaskNotFound,
    UnsupportedFormat,
)
from omniq.facade import AsyncOmniQ
from omniq.models import (
    HistoryEvent,
    QueueStats,
    RetryPolicy,
    Schedule,
    Task,
    TaskError,
    TaskResult,
    Worker,
)
from omniq.task import TaskFunction, TaskHandle
from omniq.worker.context import Cancel, RetryLater, TaskContext, current_task

if TYPE_CHECKING:
    from omniq.blocking import OmniQ, WorkerPool
    from omniq.worker.pool import AsyncWorkerPool

__all__ = (
    "AsyncOmniQ",
    "AsyncWorkerPool",
    "Cancel",
    "ConfigError",
    "CorruptJournal",
    "HistoryEvent",
    "IllegalEvent",
    "JournalConflict",
    "OmniQ",
    "OmniqError",
    "PayloadTooLarge",
    "QueueFull",
    "QueueStats",
    "Refused",
    "RetryLater",
    "RetryPolicy",
    "Schedule",
    "SerializationError",
    "Settings",
    "StorageClosed",
    "StorageError",
    "StorageFull",
    "Task",
    "TaskCancelled",
    "TaskContext",
    "TaskError",
    "TaskFailed",
    "TaskFunction",
    "TaskHandle",
    "TaskNotAllowed",
    "TaskNotFound",
    "TaskResult",
    "TaskStatus",
    "UnsupportedFormat",
    "Worker",
    "WorkerPool",
    "current_task",
)


# Imported when they are asked for: a program that only enqueues needs neither threads nor workers.
_LAZY = {
    "AsyncWorkerPool": "omniq.worker.pool",
    "OmniQ": "omniq.blocking",
    "WorkerPool": "omniq.blocking",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - reading it costs milliseconds

        return version("omniq-journal")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
