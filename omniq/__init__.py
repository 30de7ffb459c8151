"""OmniQ: an async-first task queue inside your Python program, with every change in a journal.

Start with `AsyncOmniQ`, or with `OmniQ`, which is the same for code that does not await.
"""

from __future__ import annotations

from omniq.config import Settings
from omniq.core.transitions import TaskStatus
from omniq.errors import (
    ConfigError,
    CorruptJournal,
    JournalConflict,
    OmniqError,
    PayloadTooLarge,
    QueueFull,
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
