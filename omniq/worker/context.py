"""What a task knows of itself while it runs, and how it says that it wants to end otherwise."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING

from omniq.models import Duration, clean_text, to_us

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Cancel", "RetryLater", "TaskContext", "current_task", "enter")

_log = logging.getLogger("omniq.task")


class RetryLater(Exception):
    """Raised by a task to give its attempt back: it runs again `after` seconds, none is spent."""

    def __init__(self, after: Duration = 0.0, reason: str = "") -> None:
        super().__init__(after, reason)
        self.after_us = to_us(after, "after")
        self.reason = clean_text(reason)


class Cancel(Exception):
    """Raised by a task to end itself as CANCELLED."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = clean_text(reason)


class TaskContext:
    """The running attempt, as its task sees it. May be used from any thread of the attempt."""

    __slots__ = ("_report", "_stop", "attempt", "id", "max_retries", "name", "queue")

    def __init__(
        self,
        *,
        task_id: str,
        name: str,
        queue: str,
        attempt: int,
        max_retries: int,
        report: Callable[[TaskContext, float, str], None],
    ) -> None:
        self.id = task_id
        self.name = name
        self.queue = queue
        self.attempt = attempt
        """1 for the first attempt."""
        self.max_retries = max_retries
        self._report = report
        self._stop = False

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that adds the task's id, name and attempt to each record."""
        extra = {"task_id": self.id, "task_name": self.name, "attempt": self.attempt}
        return logging.LoggerAdapter(_log, extra, merge_extra=True)

    def progress(self, fraction: float, message: str = "") -> None:
        """Record how far the task is, from 0 to 1; every call is an event in the journal."""
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"progress is a fraction from 0 to 1, not {fraction!r}")
        self._report(self, float(fraction), clean_text(message))

    def should_stop(self) -> bool:
        """Whether the attempt was cancelled, timed out or lost its claim.

        A thread cannot be interrupted from outside, so a long synchronous task asks now and then.
        """
        return self._stop

    def stop(self) -> None:
        """Make `should_stop` true."""
        self._stop = True


_current: ContextVar[TaskContext | None] = ContextVar("omniq_current_task", default=None)


def current_task() -> TaskContext:
    """Return the context of the task that is running here.

    Raises `RuntimeError` outside of a task: a plain call of its function has no attempt.
    """
    context = _current.get()
    if context is None:
        raise RuntimeError("current_task() is only there while a worker runs the task")
    return context


def enter(context: TaskContext) -> None:
    """Make `context` the current one for what follows in this asyncio task or process."""
    _current.set(context)
