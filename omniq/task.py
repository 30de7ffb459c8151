"""Tasks as their users hold them: the decorated function, and the handle of what was enqueued."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from omniq.core import commands as cmd
from omniq.core.events import TaskEnqueued
from omniq.core.retry import DEFAULT_RULE, RetryRule
from omniq.core.transitions import TaskStatus
from omniq.errors import ConfigError, TaskCancelled, TaskFailed, TaskNotFound
from omniq.models import (
    Duration,
    HistoryEvent,
    RetryPolicy,
    TaskError,
    clean_text,
    from_datetime,
    to_us,
    unknown_names,
)
from omniq.parts import by_parts

if TYPE_CHECKING:
    from omniq.clock import Clock
    from omniq.config import Settings
    from omniq.core.task import TaskRecord
    from omniq.queue import AsyncTaskQueue
    from omniq.registry import Registration
    from omniq.serialization import Call, Codecs, Signature

__all__ = (
    "App",
    "CallOptions",
    "Enqueuer",
    "Options",
    "TaskFunction",
    "TaskHandle",
    "TaskOptions",
    "wait_finished",
)

MAX_NAME = 200  # characters of a queue's name
MAX_PRIORITY = 1_000_000


class App(Protocol):
    """What a task needs of the app that it belongs to."""

    settings: Settings
    codecs: Codecs

    @property
    def running(self) -> AsyncTaskQueue | None: ...

    async def engine(self) -> AsyncTaskQueue: ...


class TaskOptions(TypedDict, total=False):
    """How the tasks of a function are run, unless a call says otherwise."""

    queue: str | None
    priority: int | None
    timeout: Duration | None
    max_retries: int | None
    retry: RetryPolicy | None
    result_ttl: Duration | None


class CallOptions(TaskOptions, total=False):
    """How one call is run.

    `timeout` and `result_ttl` may be None, for no limit. Anything else that is None, or not given,
    stays as it is.

    `delay` or `eta` says when it is due; `interval` that it runs again and again, counted from
    start to start.
    """

    delay: Duration | None
    eta: datetime | None
    interval: Duration | None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a task or a call, checked. What is unset or None is left to the settings.

    But a `timeout` or `result_ttl` of None says that there is no limit.
    """

    queue: str = "default"
    priority: int = 0
    timeout: Duration | UnsetType | None = UNSET
    max_retries: int | None = None
    retry: RetryPolicy | None = None
    result_ttl: Duration | UnsetType | None = UNSET
    delay: Duration | None = None
    eta: datetime | None = None
    interval: Duration | None = None

    def __post_init__(self) -> None:
        self._check_order()
        if self.retry is not None and self.max_retries is not None:
            raise ConfigError(
                "give either retry or max_retries: the policy has its own max_retries"
            )
        if self.max_retries is not None:
            RetryPolicy(max_retries=self.max_retries)
        for name in ("timeout", "interval", "result_ttl"):
            value = getattr(self, name)
            if value not in (None, UNSET) and to_us(value, name) == 0:
                raise ConfigError(f"{name} must be longer than 0")
        if self.delay is not None and self.eta is not None:
            raise ConfigError("give either delay or eta: both say when the task is due")
        self.due_at(0)

    def _check_order(self) -> None:
        if not isinstance(self.queue, str) or not 0 < len(self.queue) <= MAX_NAME:
            raise ConfigError(
                f"queue must be a name of up to {MAX_NAME} characters: {self.queue!r}"
            )
        if type(self.queue) is not str or clean_text(self.queue) != self.queue:
            raise ConfigError(f"queue must be plain text that UTF-8 can encode: {self.queue!r}")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise ConfigError(f"priority must be an integer, not {self.priority!r}")
        if abs(self.priority) > MAX_PRIORITY:
            raise ConfigError(f"priority must be within ±{MAX_PRIORITY}, not {self.priority}")

    def changed(self, **changes: Unpack[CallOptions]) -> Options:
        """Return options in which what is given is changed."""
        known = self.__struct_fields__
        if (error := unknown_names("there is no option", changes, known)) is not None:
            raise error
        given: dict[str, Any] = {
            name: value
            for name, value in changes.items()
            if value is not None or name in ("timeout", "result_ttl")
        }
        for one, other in (("retry", "max_retries"), ("delay", "eta")):
            if one in given and other not in given:
                given[other] = None
            elif other in given and one not in given:
                given[one] = None
        return replace(self, **given)

    def rule(self, settings: Settings) -> RetryRule | None:
        """Return the retry rule to write; None stands for the default one."""
        if self.retry is not None:
            rule = self.retry.to_rule()
        else:
            retries = settings.default_max_retries if self.max_retries is None else self.max_retries
            rule = RetryPolicy(max_retries=retries).to_rule()
        return None if rule == DEFAULT_RULE else rule

    def prototype(self, name: str, app: App) -> TaskEnqueued:
        """Return the event of such a task, but for what differs from call to call."""
        settings = app.settings
        timeout = settings.default_timeout if self.timeout is UNSET else self.timeout
        ttl = settings.result_ttl if self.result_ttl is UNSET else self.result_ttl
        return TaskEnqueued(
            task_id="",
            name=name,
            queue=self.queue,
            payload=b"",
            codec=app.codecs.codec,
            priority=self.priority,
            timeout_us=0 if timeout is None else to_us(timeout, "timeout"),
            retry=self.rule(settings),
            interval_us=0 if self.interval is None else to_us(self.interval, "interval"),
            result_ttl_us=0 if ttl is None else to_us(ttl, "result_ttl"),
        )

    def due_at(self, now: int) -> int:
        """Return when the task is due, in microseconds since 1970, or 0 for at once."""
        if self.eta is not None:
            return from_datetime(self.eta, "eta")
        if self.delay is not None:
            return now + to_us(self.delay, "delay")
        return 0


class Enqueuer:
    """Turns calls of one function, under one set of options, into tasks."""

    def __init__(self, app: App, name: str, signature: Signature | None, options: Options) -> None:
        self._app = app
        self._signature = signature
        self._options = options
        self._prototype = options.prototype(name, app)
        self._is_due_at_once = options.delay is None and options.eta is None

    @functools.cached_property
    def _returns(self) -> Any:
        return Any if self._signature is None else self._signature.returns

    async def enqueue(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskHandle[Any]:
        """Enqueue a task for a call, and return its handle."""
        app = self._app
        payload = app.codecs.encode_arguments(self._signature, args, kwargs)
        queue = app.running or await app.engine()
        like = self._prototype if self._is_due_at_once else self._prototype_at(queue.clock)
        (task,) = await queue.enqueue(like, (payload,))
        return TaskHandle(app, task.task_id, self._returns)

    async def enqueue_many(self, calls: list[Call]) -> list[TaskHandle[Any]]:
        """Enqueue a task for each call, all or none, and return their handles."""
        app, kind = self._app, self._returns
        payloads = await by_parts(calls, partial(app.codecs.encode_calls, self._signature))
        queue = app.running or await app.engine()
        like = self._prototype if self._is_due_at_once else self._prototype_at(queue.clock)
        tasks = await queue.enqueue(like, payloads)
        return await by_parts(
            tasks, lambda some: [TaskHandle(app, task.task_id, kind) for task in some]
        )

    def _prototype_at(self, clock: Clock) -> TaskEnqueued:
        """Return the event of a task that is due some time from now."""
        return replace(self._prototype, due_at=self._options.due_at(clock.now_us()))


class TaskFunction[**P, R, C]:
    """A function that was made a task. A call of it is a plain call; `enqueue` is for a worker.

    `R` is what the task results in, `C` what a plain call returns (for an async function, its
    coroutine).
    """

    def __init__(
        self,
        app: App,
        registration: Registration,
        function: Callable[P, C],
        options: Options | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.registration = registration
        self.name = registration.name
        self._app = app
        self._function = function
        self.defaults = options or Options()
        self._enqueuer = Enqueuer(app, registration.name, registration.signature, self.defaults)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call the function here and now."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def enqueue(
        self, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, TaskHandle[R]]:  # one coroutine less than with `async def`
        """Enqueue a call; it is durable when awaiting this returns.

        Raises `SerializationError` for arguments that do not fit or cannot be encoded,
        `PayloadTooLarge`, `QueueFull` or `StorageError`; then nothing was written.
        """
        return self._enqueuer.enqueue(args, kwargs)

    async def enqueue_many(
        self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[TaskHandle[R]]:
        """Enqueue several calls, all or none; they are durable when this returns.

        Each call is a tuple of positional arguments, or a mapping of keyword arguments. All of
        them are one commit, of at most 64 MiB, and others who append wait until it is written.
        Where not all or none is needed, make several calls.
        """
        if not isinstance(calls, Iterable):
            raise ConfigError(f"calls must be a list of tuples or mappings, not {calls!r}")
        return await self._enqueuer.enqueue_many(list(calls))

    def options(self, **changes: Unpack[CallOptions]) -> TaskFunction[P, R, C]:
        """Return this task with other options, which never mix with the task's own arguments.

        `delay` or `eta` says when it is due, `interval` that it runs again and again, counted
        from start to start; `queue`, `priority`, `timeout`, `max_retries` or `retry`, and
        `result_ttl` are as for the decorator. Raises `ConfigError` for what is not allowed.
        """
        changed = self.defaults.changed(**changes)
        return TaskFunction(self._app, self.registration, self._function, changed)


class TaskHandle[R]:
    """A task that was enqueued, by its `id`. Handles of one task are equal."""

    def __init__(self, app: App, task_id: str, kind: Any = Any) -> None:
        self.id = task_id
        self._app = app
        self._kind = kind

    def __repr__(self) -> str:
        return f"<task {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    async def result(self, timeout: Duration | None = None) -> R:
        """Wait until the task is finished and return what its function returned.

        The outcome is durable when this returns, and never changes. Raises `TaskFailed` with the
        last attempt's error, `TaskCancelled`, the built-in `TimeoutError` if it is not finished
        within `timeout`, or `TaskNotFound` if its `result_ttl` ended.
        """
        queue = await self._app.engine()
        task = await wait_finished(queue, self.id, timeout)
        if task.status is TaskStatus.SUCCESS:
            return self._decode(task)  # type: ignore[no-any-return]
        assert task.error is not None, "FAILED and CANCELLED tasks have an error"
        if task.status is TaskStatus.FAILED:
            raise TaskFailed(task.id, TaskError.of(task, task.error))
        raise TaskCancelled(task.id, task.error.message)

    async def status(self) -> TaskStatus:
        """Return where the task stands now. Raises `TaskNotFound` if nobody knows it."""
        state = await (await self._app.engine()).refresh()
        task = state.tasks.get(self.id)
        if task is None:
            raise TaskNotFound(f"no task {self.id!r} is known, or its result_ttl has ended")
        return task.status

    async def cancel(self, reason: str = "") -> bool:
        """Cancel the task, or the whole series if it is a run of an interval.

        True if it will not run, or was asked to stop running; False if it had already ended.
        Written, perhaps not yet synced, when this returns.
        """
        return bool(
            await (await self._app.engine()).execute(cmd.CancelTask(self.id, clean_text(reason)))
        )

    async def requeue(self, reason: str = "") -> bool:
        """Run a finished task again, under the same id, with its attempts counted anew.

        True if it was finished, and so is PENDING now.
        """
        return bool(
            await (await self._app.engine()).execute(cmd.RequeueTask(self.id, clean_text(reason)))
        )

    async def history(self) -> list[HistoryEvent]:
        """Return everything that happened to the task, read from the journal and its archive.

        What `Settings.retention` has dropped is missing, unless there is an archive.
        """
        queue = await self._app.engine()
        found = await queue.upkeep.history(self.id)
        return [HistoryEvent.of(seq, commit, event) for seq, commit, event in found]

    def _decode(self, task: TaskRecord) -> Any:
        assert task.result is not None, "a task in SUCCESS has a result"
        return self._app.codecs.decode_result(
            task.result, task.run.codec, self._kind, task.spec.name
        )


async def wait_finished(
    queue: AsyncTaskQueue,
    task_id: str,
    timeout: Duration | None,
) -> TaskRecord:
    """Wait for the end of a task; raises TimeoutError that names it if it takes longer."""
    if timeout is None:
        return await queue.finished(task_id)
    seconds = to_us(timeout, "timeout") / 1_000_000
    try:
        async with asyncio.timeout(seconds):
            return await queue.finished(task_id)
    except TimeoutError:
        what = f"task {task_id} was not finished within {seconds:g} s: {_standing(queue, task_id)}"
        raise TimeoutError(what) from None


def _standing(queue: AsyncTaskQueue, task_id: str) -> str:
    """Return where a task stands, and what it may wait for."""
    state = queue.projection
    task = state.tasks.get(task_id)
    if task is None:
        return "the journal was still being read. Next: allow more time"
    where = f"it is {task.status} in queue {task.spec.queue!r}"
    if task.is_waiting and not state.workers:
        return f"{where}, and there is no worker. Next: run one"
    if task.is_waiting and task.spec.queue in state.paused:
        return f"{where}, which is paused"
    return where
