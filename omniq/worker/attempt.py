"""One attempt at one task: call the function, and put how it ended into a command.

An attempt can be ended from outside for four reasons. An async function is cancelled at its next
await; a thread cannot be stopped, so it is told (`should_stop`) and given up; a process is
killed. Whatever way it ends, exactly one outcome is reported, unless the claim is lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from dataclasses import dataclass
from enum import Enum
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from omniq import errors as omniq_errors
from omniq.core import commands as cmd
from omniq.core.events import ErrorRecord
from omniq.errors import SerializationError, TaskNotAllowed
from omniq.models import class_name, clean_text
from omniq.worker import context as ctx
from omniq.worker.protocol import RaisedInChild

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from omniq.clock import Clock, Entropy, Timer
    from omniq.core.task import TaskRecord
    from omniq.registry import Registration
    from omniq.serialization import Codecs
    from omniq.worker.executors import Executors

__all__ = ("Attempt", "End", "Surroundings", "describe_error")

_OUR_FOLDERS = tuple(
    f"{Path(file).parent}{os.sep}" for file in (anyio.__file__, omniq_errors.__file__)
)

START_SECONDS = 60.0  # for a child to start and import a module, if the timeout is shorter
GRACE_SECONDS = 5.0  # for a cancelled async task to end, or a killed process to be gone
MAX_MESSAGE = 4_000  # characters of an exception's message that are kept
MAX_TRACEBACK = 16_000  # characters of a traceback, of which the end is kept

_log = logging.getLogger(__name__)


class End(Enum):
    """Why an attempt is ended from outside."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    STOP = "stop"  # its worker stops: the attempt is given back
    LOST = "lost"  # its claim is gone: nothing it says counts any more


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What the attempts of a worker have in common, as long as it goes by one name."""

    worker: str
    codecs: Codecs
    executors: Executors
    entropy: Entropy
    clock: Clock
    is_stopping: Callable[[], bool]
    make_durable: Callable[[], Awaitable[None]]
    report: Callable[[Attempt, cmd.Outcome | None], None]
    order: Callable[[cmd.Outcome], None]
    report_progress: Callable[[ctx.TaskContext, float, str], None]


class Attempt:
    """A claimed task that is being run. Its outcome is reported once."""

    __slots__ = (
        "_around", "_context", "_end", "_is_called", "_reason", "_registration", "_reported",
        "_runner", "_timer", "task",
    )  # fmt: skip

    def __init__(
        self, task: TaskRecord, registration: Registration, surroundings: Surroundings
    ) -> None:
        self.task = task
        self._registration = registration
        self._around = surroundings
        self._context = ctx.TaskContext(
            task_id=task.id,
            name=task.spec.name,
            queue=task.spec.queue,
            attempt=task.attempt,
            max_retries=task.spec.retry.max_retries,
            report=surroundings.report_progress,
        )
        self._reported = False
        self._is_called = registration.executor != "process"
        self._end: End | None = None
        self._reason = ""  # of who cancelled it
        self._runner: asyncio.Task[None] | None = None
        self._timer: Timer | None = None

    def cancel(self, reason: str) -> None:
        """End the attempt because somebody wants its task cancelled, and said why."""
        self._reason = reason
        self.end(End.CANCEL)

    def end(self, reason: End) -> None:
        """End the attempt; the first reason counts, but for LOST, which trumps all.

        A task that does not heed its cancellation is given up after `GRACE_SECONDS`.
        """
        if self._end is not None and reason is not End.LOST:
            return
        first = self._end is None
        self._end = reason
        self._context.stop()
        if first and self._runner is not None:
            self._runner.cancel()
            self._set_timer(self._around.clock.call_later(GRACE_SECONDS, self._give_up))

    async def run(self) -> None:
        """Run the task once and report the outcome."""
        task, worker = self.task, self._around.worker
        self._runner = asyncio.current_task()
        if task.spec.timeout_us:
            seconds = task.spec.timeout_us / 1_000_000
            if not self._is_called:
                seconds = max(seconds, START_SECONDS)
            self._timer = self._around.clock.call_later(seconds, self._time_out)
        outcome: cmd.Outcome
        try:
            result = await self._call()
            codec = self._around.codecs.codec
            outcome = cmd.Succeed(task.id, task.attempt, worker, result, codec)
        except asyncio.CancelledError as error:
            outcome = self._ended(error)
        except ctx.RetryLater as later:
            outcome = cmd.Release(task.id, task.attempt, worker, later.reason, later.after_us)
        except ctx.Cancel as cancel:
            outcome = cmd.AcknowledgeCancel(task.id, task.attempt, worker, cancel.reason)
        except KeyboardInterrupt as error:
            self._report_once(self._failed(error))  # it must not run for ever
            raise
        except BaseException as error:  # noqa: BLE001 - whatever the task raised
            outcome = self._failed(error)
        self._report_once(outcome)

    def _report_once(self, outcome: cmd.Outcome) -> None:
        self._set_timer(None)
        if not self._reported:
            self._reported = True
            self._around.report(self, None if self._end is End.LOST else outcome)

    def _called(self) -> None:
        """Time the function from now on, which is called in a child that has started by now."""
        self._is_called = True
        if self._end is None and self._timer is not None:
            seconds = self.task.spec.timeout_us / 1_000_000
            self._set_timer(self._around.clock.call_later(seconds, self._time_out))

    def _time_out(self) -> None:
        self.end(End.TIMEOUT)

    def _give_up(self) -> None:
        _log.error(
            "task %r (%s) did not end within %g s of being cancelled, and was given up",
            self.task.id,
            self.task.spec.name,
            GRACE_SECONDS,
            extra={"action": "attempt_given_up", "task_id": self.task.id},
        )
        self._report_once(self._ended(asyncio.CancelledError()))

    def _set_timer(self, timer: Timer | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    async def _call(self) -> bytes:
        """Call the function and return its encoded result."""
        registration, task, around = self._registration, self.task, self._around
        if task.run.cancel_requested:
            raise ctx.Cancel  # the wish came between the start's commit and here
        if task.spec.retry.max_retries == 0:
            # At most once: even after power loss the journal must know that it was started.
            await around.make_durable()
        if registration.executor == "process":
            return await around.executors.run_in_process(
                registration, task, self._context, around.codecs, self._called
            )
        args, kwargs = around.codecs.decode_arguments(
            registration.signature, task.payload, task.spec.codec
        )
        ctx.enter(self._context)
        if registration.executor == "async":
            value = await registration.function(*args, **kwargs)
        else:
            value = await around.executors.run_in_thread(registration.function, args, kwargs)
            if asyncio.iscoroutine(value):  # a decorator hid that the function is async
                value = await value
        return around.codecs.encode_result(value, registration.name)

    def _ended(self, error: asyncio.CancelledError) -> cmd.Outcome:
        """Return the outcome of an attempt that was cancelled in the sense of asyncio."""
        task, worker = self.task, self._around.worker
        if self._end is End.CANCEL:
            return cmd.AcknowledgeCancel(task.id, task.attempt, worker, self._reason)
        if self._end is End.TIMEOUT:
            seconds = task.spec.timeout_us / 1_000_000
            message = f"the attempt took longer than its timeout of {seconds:g} s"
            if not self._is_called:
                seconds = max(seconds, START_SECONDS)
                message = f"its child process was not ready within {seconds:g} s"
            elif self._registration.executor == "thread":
                message += "; its thread was given up and may still be running"
            return self._failed(TimeoutError(message))
        if self._end is None and not self._around.is_stopping():
            return self._failed(error)  # the task cancelled itself, which nobody asked for
        return cmd.Release(task.id, task.attempt, worker, "its worker stopped")

    def _failed(self, error: BaseException) -> cmd.Fail:
        record, names = describe_error(error)
        task, around = self.task, self._around
        return cmd.Fail(
            task.id, task.attempt, around.worker, record, names, around.entropy.fraction()
        )


def describe_error(error: BaseException) -> tuple[ErrorRecord, tuple[str, ...]]:
    """Return an exception as events store it, and the names of its classes."""
    if isinstance(error, RaisedInChild):
        return error.raised.error, error.raised.class_names
    kind = type(error)
    names = tuple(class_name(base) for base in kind.__mro__ if issubclass(base, BaseException))
    if not issubclass(kind, Exception):
        names = (*names, class_name(Exception))
    message = _message(error)[:MAX_MESSAGE]
    retryable = not isinstance(error, SerializationError | TaskNotAllowed)
    text = clean_text(_traceback(error)[-MAX_TRACEBACK:])
    return ErrorRecord(clean_text(kind.__qualname__), message, text, retryable), names


def _traceback(error: BaseException) -> str:
    """Return the traceback as Python prints it, from the task's own frame on.

    With it come the exceptions that led to this one, and those that a group has. The values of
    variables do not.
    """
    summary = traceback.TracebackException.from_exception(error)
    frames = list(dropwhile(_is_ours, summary.stack))
    summary.stack = traceback.StackSummary.from_list(frames)
    return "".join(summary.format() if frames else summary.format_exception_only())


def _message(error: BaseException) -> str:
    try:
        return clean_text(error)
    except Exception:  # noqa: BLE001 - an exception may be broken itself
        return f"<{type(error).__qualname__} whose str() raised>"


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_OUR_FOLDERS)
