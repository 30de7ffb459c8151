"""`AsyncOmniQ`: the one object that a program makes, and everything is reached from."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack, overload
from weakref import WeakKeyDictionary, WeakSet

import msgspec

from omniq.config import DATABASE_NAME, Settings, SettingsOverrides, open_storage
from omniq.core import commands as cmd
from omniq.core.transitions import TaskStatus
from omniq.errors import ConfigError, TaskNotFound
from omniq.models import Duration, QueueStats, Task, TaskResult, Worker, to_us, unknown_names
from omniq.queue import AsyncTaskQueue
from omniq.registry import Executor, Registry, check_not_importing
from omniq.serialization import Codecs
from omniq.storage.disk import system_errors
from omniq.task import (
    CallOptions,
    Enqueuer,
    Options,
    TaskFunction,
    TaskHandle,
    TaskOptions,
    wait_finished,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Coroutine, Sequence

    from omniq.clock import Clock, Entropy
    from omniq.core.task import TaskRecord
    from omniq.registry import Registration
    from omniq.storage.base import BaseStorage
    from omniq.worker.pool import AsyncWorkerPool

__all__ = ("AsyncOmniQ", "BoundOptions", "TaskDecorator", "WorkerOptions")

LISTED_TOGETHER = 500  # tasks, a few milliseconds; then the event loop goes on


class WorkerOptions(TypedDict, total=False):
    """How a worker works; `AsyncOmniQ.worker` says what each option means."""

    concurrency: int
    queues: Sequence[str]
    lease: Duration
    shutdown_timeout: Duration


class AsyncOmniQ:
    """A task queue on one journal.

    `location` is a path that ends in .db or .sqlite (SQLite), any other path (a directory of log
    files), a URL (`sqlite:///…`, `file:///…`, `memory://`) or a storage object; without one the
    settings say. Settings come from the environment unless they are given, and keyword arguments
    such as `durability="os"` win over both. Nothing is opened before the first use.
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | BaseStorage | None = None,
        *,
        settings: Settings | None = None,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        **overrides: Unpack[SettingsOverrides],
    ) -> None:
        base = Settings.from_env() if settings is None else settings
        if not isinstance(base, Settings):
            raise ConfigError(f"settings must be Settings, not {base!r}")
        known = [
            name for name in base.__struct_fields__ if name in SettingsOverrides.__annotations__
        ]
        if (error := unknown_names("AsyncOmniQ has no setting", overrides, known)) is not None:
            raise error
        self.settings = msgspec.structs.replace(base, **overrides)
        self.codecs = Codecs(self.settings.serializer, self.settings.max_payload_bytes)
        self.registry = Registry(self.settings.task_modules)
        self.storage = open_storage(
            self.settings.location() if location is None else location,
            durability=self.settings.durability,
        )
        self._without_options = BoundOptions(self, {})
        self._clock = clock
        self._entropy = entropy
        self._queue: AsyncTaskQueue | None = None
        self._pools: WeakSet[AsyncWorkerPool] = WeakSet()
        self._opening: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.storage.location}>"

    # Opening and closing.

    async def open(self) -> None:
        """Open the journal, creating it if there is none yet; the first use does so, too.

        Raises `StorageError` if that is not possible.
        """
        await self.engine()

    async def close(self) -> None:
        """Stop this app's workers, make everything durable and close the journal.

        It may be opened again.
        """
        await self._meet_loop()
        for pool in tuple(self._pools):
            await pool.stop()
        if self._queue is not None:
            queue, self._queue = self._queue, None
            await queue.close()
        self._loop = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def running(self) -> AsyncTaskQueue | None:
        """The engine, if it is open on the running event loop."""
        return self._queue if self._loop is asyncio.get_running_loop() else None

    async def engine(self) -> AsyncTaskQueue:
        """Return the engine of the running event loop, opening it if need be."""
        check_not_importing()
        if self._loop is not asyncio.get_running_loop():
            await self._meet_loop()
        if self._queue is None:
            assert self._opening is not None
            async with self._opening:
                if self._queue is None:
                    self._make_base_dir()
                    queue = AsyncTaskQueue(
                        self.storage,
                        clock=self._clock,
                        entropy=self._entropy,
                        retention_us=to_us(self.settings.retention or 0, "retention"),
                        archive_url=self.settings.archive_url,
                    )
                    await queue.open()
                    self._queue = queue
        return self._queue

    async def _meet_loop(self) -> None:
        """Belong to the running event loop from now on.

        What was open on one that was closed meanwhile cannot be ended in order any more.
        """
        loop, before = asyncio.get_running_loop(), self._loop
        if before is loop:
            return
        if before is not None and not before.is_closed():
            raise ConfigError(
                f"{self!r} is open on another event loop. Next: close it there first, or use "
                "one AsyncOmniQ for each loop, or OmniQ from threads"
            )
        was_open = self._queue is not None
        self._loop, self._queue, self._opening = loop, None, asyncio.Lock()
        if was_open:
            self._pools.clear()
            async with self._opening:
                await self.storage.close()

    def _make_base_dir(self) -> None:
        """Create the folder of the settings in which an SQLite journal lies by default."""
        folder = Path(self.settings.base_dir)
        if Path(self.storage.location) == folder / DATABASE_NAME:
            with system_errors(f"cannot create the folder {folder}"):
                folder.mkdir(mode=0o700, exist_ok=True)

    # Tasks.

    @overload
    def task[**P, R](
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> TaskFunction[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def task[**P, R](self, function: Callable[P, R], /) -> TaskFunction[P, R, R]: ...
    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        executor: Executor | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskDecorator: ...

    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        executor: Executor | None = None,
        **options: Any,
    ) -> Any:
        """Make a function a task of this app. Calling it stays a plain call.

        Its name in the journal is `"module:qualname"` unless `name` is given. Async functions run
        on the worker's event loop, others in a thread, or in a child process that is killed on
        timeout with `executor="process"`. Raises `ConfigError` for options that are not allowed.
        """
        decorate = TaskDecorator(self, name, executor, Options().changed(**options))
        return decorate if function is None else decorate(function)

    @overload
    async def enqueue[**P, R](
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]: ...
    @overload
    async def enqueue[**P, R](
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]: ...
    @overload
    async def enqueue(self, function: str, /, *args: Any, **kwargs: Any) -> TaskHandle[Any]: ...

    async def enqueue(
        self, function: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> TaskHandle[Any]:
        """Enqueue a call of any importable function, or of `"module:name"`.

        The function is registered with this app in this process; a worker elsewhere needs it
        registered too, or its module in `Settings.task_modules`. Durable when this returns.
        Raises `TaskNotAllowed` for a lambda, a function inside a function, or a name that is
        neither registered here nor in an allowed module; see also `TaskFunction.enqueue`.
        """
        return await self._without_options.enqueue(function, *args, **kwargs)

    def options(self, **options: Unpack[CallOptions]) -> BoundOptions:
        """Return something to enqueue with: `oq.options(delay=10).enqueue(function, …)`.

        Takes what `TaskFunction.options` takes.
        """
        return BoundOptions(self, options)

    def handle(self, task_id: str) -> TaskHandle[Any]:
        """Return the handle of a task by its id; whether it exists shows when it is used."""
        return TaskHandle(self, task_id)

    async def get_result(
        self,
        task_id: str,
        *,
        wait: bool = False,
        timeout: Duration | None = None,
    ) -> TaskResult | None:
        """Return how a task ended, durably; None if it has not, or if nobody knows it.

        With `wait` it is waited for, for `timeout` at most; then the built-in `TimeoutError`.
        """
        queue = await self.engine()
        if not wait:
            task = (await queue.refresh()).tasks.get(task_id)
            if task is None or not task.is_finished:
                return None
            await queue.make_durable(queue.projection.seq)
            return TaskResult.of(task, self._decode_result)
        try:
            return TaskResult.of(await wait_finished(queue, task_id, timeout), self._decode_result)
        except TaskNotFound:
            return None

    async def get_task(self, task_id: str) -> Task | None:
        """Return a task as it stands now, or None if nobody knows it."""
        task = (await (await self.engine()).refresh()).tasks.get(task_id)
        return None if task is None else Task.of(task)

    async def list_tasks(
        self,
        *,
        status: TaskStatus | str | None = None,
        queue: str | None = None,
        limit: int = 100,
    ) -> list[Task]:
        """Return up to `limit` tasks, the newest first, of one status and one queue if named."""
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise ConfigError(f"limit must be an integer from 0 on, not {limit!r}")
        wanted = None if status is None else _status(status)
        state = await (await self.engine()).refresh()
        there = sum(
            number
            for name, numbers in state.counts.items()
            for kind, number in numbers.items()
            if wanted in (None, kind) and queue in (None, name)
        )
        records: list[TaskRecord] = []
        for task in reversed(state.tasks.values()):
            if len(records) >= min(limit, there):  # the others, a million perhaps, are not these
                break
            if wanted in (None, task.status) and queue in (None, task.spec.queue):
                records.append(task)
        found: list[Task] = []
        for some in batched(records, LISTED_TOGETHER, strict=False):
            found.extend(map(Task.of, some))
            await asyncio.sleep(0)
        return found

    async def stats(self, *, queue: str | None = None) -> QueueStats:
        """Return how many tasks there are, of one queue or of all, and which workers live."""
        state = await (await self.engine()).refresh()
        counts = {name: counter for name, counter in state.counts.items() if queue in (None, name)}
        return QueueStats(
            by_status={
                status: sum(counter[status] for counter in counts.values()) for status in TaskStatus
            },
            by_queue={name: sum(counter.values()) for name, counter in counts.items()},
            workers=[
                Worker.of(worker, tuple(state.running.get(worker.id, ())))
                for worker in state.workers.values()
            ],
            paused=frozenset(state.paused),
        )

    async def pause(self, queue: str) -> None:
        """Have no task of this queue started, in any process, until `resume`."""
        await (await self.engine()).execute(cmd.PauseQueue(Options(queue=queue).queue))

    async def resume(self, queue: str) -> None:
        """Have tasks of this queue started again."""
        await (await self.engine()).execute(cmd.ResumeQueue(Options(queue=queue).queue))

    # Workers.

    def worker(self, **options: Unpack[WorkerOptions]) -> AsyncWorkerPool:
        """Return a worker in this process, which works once it is run.

        It serves `queues` in their order, or all queues in turn if none is named, and runs up to
        `concurrency` tasks at a time (10). `lease` is how long others wait for a sign of life
        where they cannot see whether it lives (30 s); `shutdown_timeout` how long running tasks
        may go on after it was told to stop (30 s). Raises `ConfigError` for what is not allowed.
        """
        from omniq.worker.pool import AsyncWorkerPool  # noqa: PLC0415 - clients need no worker

        known = WorkerOptions.__annotations__
        if (error := unknown_names("a worker has no option", options, known)) is not None:
            raise error
        pool = AsyncWorkerPool(self.engine, self.registry, self.codecs, **options)
        self._pools.add(pool)
        return pool

    def _decode_result(self, task: TaskRecord) -> object:
        registration = self.registry.get(task.spec.name)
        kind = Any if registration is None else registration.signature.returns
        assert task.result is not None, "a task in SUCCESS has a result"
        return self.codecs.decode_result(task.result, task.run.codec, kind, task.spec.name)


class TaskDecorator:
    """What `@oq.task(…)` returns, to be applied to a function."""

    def __init__(
        self, app: AsyncOmniQ, name: str | None, executor: Executor | None, options: Options
    ) -> None:
        self._app = app
        self._name = name
        self._executor: Executor | None = executor
        self._options = options

    @overload
    def __call__[**P, R](
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> TaskFunction[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__[**P, R](self, function: Callable[P, R], /) -> TaskFunction[P, R, R]: ...

    def __call__(self, function: Callable[..., Any], /) -> TaskFunction[..., Any, Any]:
        """Register the function with the app."""
        registration = self._app.registry.register(
            function, name=self._name, executor=self._executor
        )
        return TaskFunction(self._app, registration, function, self._options)


class BoundOptions:
    """Options for one or more calls of `enqueue`. Made by `AsyncOmniQ.options`."""

    def __init__(self, app: AsyncOmniQ, options: CallOptions) -> None:
        self._app = app
        self._changes = options
        self._options = Options().changed(**options)  # says what is not allowed
        self._enqueuers: WeakKeyDictionary[object, Enqueuer] = WeakKeyDictionary()  # by function

    @overload
    async def enqueue[**P, R](
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]: ...
    @overload
    async def enqueue[**P, R](
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]: ...
    @overload
    async def enqueue(self, function: str, /, *args: Any, **kwargs: Any) -> TaskHandle[Any]: ...

    async def enqueue(
        self, function: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> TaskHandle[Any]:
        """Enqueue a call with these options; see `AsyncOmniQ.enqueue`."""
        if isinstance(function, str):
            enqueuer = self._enqueuer(self._app.registry.require(function), self._options)
        else:
            try:
                enqueuer = self._enqueuers[function]
            except (KeyError, TypeError):  # TypeError: nothing weak can refer to it
                enqueuer = self._enqueuer_of(function)
                with suppress(TypeError):
                    self._enqueuers[function] = enqueuer
        return await enqueuer.enqueue(args, kwargs)

    def _enqueuer_of(self, function: Callable[..., Any]) -> Enqueuer:
        """Register a function, or one that is a task, of which the defaults are taken."""
        called: Any = getattr(function, "wrapped", function)  # a task of a blocking app
        defaults, options = getattr(called, "defaults", None), self._options
        if isinstance(defaults, Options):
            options = defaults.changed(**self._changes)
        return self._enqueuer(self._app.registry.register(called, importable=True), options)

    def _enqueuer(self, registration: Registration, options: Options) -> Enqueuer:
        return Enqueuer(self._app, registration.name, registration.signature, options)


def _status(status: TaskStatus | str) -> TaskStatus:
    try:
        return TaskStatus(status)
    except ValueError:
        raise ConfigError(
            f"status must be one of {', '.join(TaskStatus)}, not {status!r}"
        ) from None
