"""`OmniQ`: the same queue for code that does not await.

Everything runs on one event loop in one background thread, whichever thread asks, so it works
from scripts, from threads, and beside a loop that is already running. Nothing is implemented here
a second time: each method hands its call to that loop and waits.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
import weakref
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Concatenate, Self, Unpack, overload

import anyio
from anyio.from_thread import BlockingPortal

from omniq.errors import ConfigError
from omniq.facade import AsyncOmniQ, BoundOptions, TaskDecorator, WorkerOptions
from omniq.task import CallOptions, TaskFunction, TaskHandle, TaskOptions
from omniq.worker.pool import AsyncWorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
    from concurrent.futures import Future
    from types import FrameType

    from omniq.clock import Clock, Entropy
    from omniq.config import Settings, SettingsOverrides
    from omniq.models import Duration
    from omniq.registry import Executor
    from omniq.storage.base import BaseStorage

__all__ = (
    "BlockingBoundOptions",
    "BlockingTaskDecorator",
    "BlockingTaskFunction",
    "BlockingTaskHandle",
    "OmniQ",
    "WorkerPool",
)

LOOK_UP_SECONDS = 1.0  # how late Ctrl-C may be seen, if it comes at the wrong moment


class _Runner:
    """One event loop in one daemon thread, started when it is first needed."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._portal: BlockingPortal | None = None
        self._pid = self._thread = 0
        self._open: weakref.WeakSet[OmniQ] = weakref.WeakSet()
        # An ordinary atexit function would come too late: thread pools, in which storages sync,
        # are shut down by then, by this same hook of concurrent.futures. The last to register is
        # the first to be called, so its module is imported before.
        import_module("concurrent.futures.thread")
        threading._register_atexit(self._close_all)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

    def run[T](self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function on the loop and return its result.

        If the waiting thread is interrupted, the coroutine is cancelled.
        """
        if threading.get_ident() == self._thread:
            raise ConfigError(
                "a method of OmniQ was called on OmniQ's own event loop, which it would block for "
                "ever. Next: in an async task use AsyncOmniQ, or await asyncio.to_thread(…)"
            )
        future: Future[T] = self._started().start_task_soon(function)
        try:
            return _result(future)
        except BaseException:
            future.cancel()
            raise

    def remember(self, app: OmniQ) -> None:
        """Close this app when the interpreter exits, unless it is gone by then."""
        self._open.add(app)

    def _started(self) -> BlockingPortal:
        with self._starting:
            if self._portal is None or self._pid != os.getpid():  # a forked child has no thread
                ready = threading.Event()
                threading.Thread(
                    target=anyio.run, args=(self._serve, ready), name="omniq", daemon=True
                ).start()
                ready.wait()
                self._pid = os.getpid()
            assert self._portal is not None
            return self._portal

    async def _serve(self, ready: threading.Event) -> None:
        async with BlockingPortal() as portal:
            self._portal, self._thread = portal, threading.get_ident()
            ready.set()
            await portal.sleep_until_stopped()

    def _close_all(self) -> None:
        if self._pid == os.getpid():
            for app in tuple(self._open):
                app.close()


_runner = _Runner()


class _Blocking[**P, T]:
    """A method that runs the async method of the wrapped object on the runner's loop."""

    def __init__(self, method: Callable[Concatenate[Any, P], Coroutine[Any, Any, Any]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, instance: _Wrapper | None, owner: type[_Wrapper]) -> Callable[P, T]:
        method = self._method

        @functools.wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            assert instance is not None, "called on an object, not on its class"
            wrapped = instance.wrapped
            answer: T = _for_blocking(_runner.run(lambda: method(wrapped, *args, **kwargs)))
            return answer

        return call


class _Wrapper:
    wrapped: Any


@overload
def _blocking[**P, R](
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, TaskHandle[R]]],
) -> _Blocking[P, BlockingTaskHandle[R]]: ...
@overload
def _blocking[**P, R](
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, list[TaskHandle[R]]]],
) -> _Blocking[P, list[BlockingTaskHandle[R]]]: ...
@overload
def _blocking[**P, T](
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> _Blocking[P, T]: ...
def _blocking(method: Callable[..., Coroutine[Any, Any, Any]]) -> _Blocking[..., Any]:
    """Return the blocking twin of an async method."""
    return _Blocking(method)


def _for_blocking(answer: Any) -> Any:
    """Return what an async method answered, with blocking handles in place of async ones."""
    if answer.__class__ is TaskHandle:
        return BlockingTaskHandle[Any](answer)
    return [_for_blocking(item) for item in answer] if answer.__class__ is list else answer


class BlockingTaskHandle[R](_Wrapper):
    """A `TaskHandle` whose methods block."""

    def __init__(self, handle: TaskHandle[R]) -> None:
        self.wrapped: TaskHandle[R] = handle
        self.id = handle.id

    def __repr__(self) -> str:
        return repr(self.wrapped)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlockingTaskHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def result(self, timeout: Duration | None = None) -> R:
        """Wait for the task and return what its function returned; see `TaskHandle.result`."""
        return _runner.run(lambda: self.wrapped.result(timeout))

    status = _blocking(TaskHandle[Any].status)
    cancel = _blocking(TaskHandle[Any].cancel)
    requeue = _blocking(TaskHandle[Any].requeue)
    history = _blocking(TaskHandle[Any].history)


class BlockingTaskFunction[**P, R, C](_Wrapper):
    """A `TaskFunction` whose methods block. Calling it is a plain call."""

    def __init__(self, function: TaskFunction[P, R, C]) -> None:
        functools.update_wrapper(self, function, updated=())
        self.wrapped: TaskFunction[P, R, C] = function
        self.registration = function.registration
        self.name = function.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call the function here and now."""
        return self.wrapped(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self.wrapped)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> BlockingTaskHandle[R]:
        """Enqueue a call; see `TaskFunction.enqueue`."""
        return BlockingTaskHandle(_runner.run(lambda: self.wrapped.enqueue(*args, **kwargs)))

    def enqueue_many(
        self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[BlockingTaskHandle[R]]:
        """Enqueue several calls, all or none; see `TaskFunction.enqueue_many`."""
        handles = _runner.run(lambda: self.wrapped.enqueue_many(calls))
        return [BlockingTaskHandle(handle) for handle in handles]

    def options(self, **changes: Unpack[CallOptions]) -> BlockingTaskFunction[P, R, C]:
        """Return this task with other options; see `TaskFunction.options`."""
        return BlockingTaskFunction(self.wrapped.options(**changes))


class BlockingTaskDecorator:
    """What `@oq.task(…)` returns, to be applied to a function."""

    def __init__(self, decorator: TaskDecorator) -> None:
        self._decorator = decorator

    @overload
    def __call__[**P, R](
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> BlockingTaskFunction[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__[**P, R](self, function: Callable[P, R], /) -> BlockingTaskFunction[P, R, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> BlockingTaskFunction[..., Any, Any]:
        """Register the function with the app."""
        return BlockingTaskFunction(self._decorator(function))


class BlockingBoundOptions(_Wrapper):
    """Options for one or more calls of `enqueue`. Made by `OmniQ.options`."""

    def __init__(self, options: BoundOptions) -> None:
        self.wrapped = options

    @overload
    def enqueue[**P, R](
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> BlockingTaskHandle[R]: ...
    @overload
    def enqueue[**P, R](
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> BlockingTaskHandle[R]: ...
    @overload
    def enqueue(self, function: str, /, *args: Any, **kwargs: Any) -> BlockingTaskHandle[Any]: ...
    def enqueue(
        self, function: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> BlockingTaskHandle[Any]:
        """Enqueue a call with these options; see `AsyncOmniQ.enqueue`."""
        enqueue: Callable[..., Any] = self.wrapped.enqueue
        return BlockingTaskHandle(_runner.run(lambda: enqueue(function, *args, **kwargs)))


class WorkerPool(_Wrapper):
    """An `AsyncWorkerPool` for code that does not await. Made by `OmniQ.worker`, used once."""

    def __init__(self, pool: AsyncWorkerPool) -> None:
        self.wrapped = pool

    start = _blocking(AsyncWorkerPool.start)
    stop = _blocking(AsyncWorkerPool.stop)
    drain = _blocking(AsyncWorkerPool.drain)

    def run(self) -> None:
        """Work until `stop()` from another thread, or until SIGTERM or Ctrl-C.

        Running tasks then have `shutdown_timeout` to finish; what is left is given back.
        """
        self.start()
        with _terminated():
            try:
                _runner.run(self.wrapped.stopped)
            except (KeyboardInterrupt, _Terminated):
                self.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _result[T](future: Future[T]) -> T:
    """Wait for a result, and look up now and then.

    Python sees a signal that arrives just before a thread begins to wait only when that has ended.
    """
    while True:
        try:
            return future.result(timeout=LOOK_UP_SECONDS)
        except TimeoutError:
            if future.done():
                return future.result()


class _Terminated(BaseException):
    """SIGTERM arrived."""


@contextmanager
def _terminated() -> Generator[None]:
    """Raise `_Terminated` in the main thread when SIGTERM arrives, as Ctrl-C raises."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class OmniQ(_Wrapper):
    """`AsyncOmniQ` for code that does not await: the same arguments, the same methods.

    May be used from any thread. What is still open when the interpreter exits is closed.
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
        self.wrapped = AsyncOmniQ(
            location, settings=settings, clock=clock, entropy=entropy, **overrides
        )
        self.settings = self.wrapped.settings
        self.storage = self.wrapped.storage
        _runner.remember(self)

    def __repr__(self) -> str:
        return f"<OmniQ on {self.storage.location}>"

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    open = _blocking(AsyncOmniQ.open)
    close = _blocking(AsyncOmniQ.close)
    get_result = _blocking(AsyncOmniQ.get_result)
    get_task = _blocking(AsyncOmniQ.get_task)
    list_tasks = _blocking(AsyncOmniQ.list_tasks)
    stats = _blocking(AsyncOmniQ.stats)
    pause = _blocking(AsyncOmniQ.pause)
    resume = _blocking(AsyncOmniQ.resume)

    @overload
    def task[**P, R](
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> BlockingTaskFunction[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def task[**P, R](self, function: Callable[P, R], /) -> BlockingTaskFunction[P, R, R]: ...
    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        executor: Executor | None = None,
        **options: Unpack[TaskOptions],
    ) -> BlockingTaskDecorator: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        **options: Any,
    ) -> Any:
        """Make a function a task of this app; see `AsyncOmniQ.task`."""
        inner = self.wrapped.task(**options)
        decorate = BlockingTaskDecorator(inner)
        return decorate if function is None else decorate(function)

    @overload
    def enqueue[**P, R](
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> BlockingTaskHandle[R]: ...
    @overload
    def enqueue[**P, R](
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> BlockingTaskHandle[R]: ...
    @overload
    def enqueue(self, function: str, /, *args: Any, **kwargs: Any) -> BlockingTaskHandle[Any]: ...
    def enqueue(
        self, function: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> BlockingTaskHandle[Any]:
        """Enqueue a call of any importable function; see `AsyncOmniQ.enqueue`."""
        return self.options().enqueue(function, *args, **kwargs)

    def options(self, **options: Unpack[CallOptions]) -> BlockingBoundOptions:
        """Return something to enqueue with; see `AsyncOmniQ.options`."""
        return BlockingBoundOptions(self.wrapped.options(**options))

    def handle(self, task_id: str) -> BlockingTaskHandle[Any]:
        """Return the handle of a task by its id."""
        return BlockingTaskHandle(self.wrapped.handle(task_id))

    def worker(self, **options: Unpack[WorkerOptions]) -> WorkerPool:
        """Return a worker in this process; see `AsyncOmniQ.worker`."""
        return WorkerPool(self.wrapped.worker(**options))
