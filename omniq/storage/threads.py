"""What is done in threads: waiting for it, and the thread in which a journal is synced."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import finalize

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Answer", "LoopThread", "SyncThread", "finished", "in_thread")


class LoopThread(Executor):
    """One thread, whose answers are futures of the event loop that asks.

    Those of `ThreadPoolExecutor` have to be chained to one of the loop, which takes a turn of the
    loop and most of a hop's Python. It starts with its first work, also after a shutdown, and ends
    with its owner or the process; what it is doing then may not be finished.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work = SimpleQueue[_Work | None]()
        self._thread: Thread | None = None
        finalize(self, self._work.put, None)

    async def run[T](self, work: Callable[[], T]) -> T:
        """Do this in the thread; who is cancelled leaves when it has ended."""
        return await asyncio.get_running_loop().run_in_executor(self, work)

    # Of what `run_in_executor` is given, a future of the loop is passed on as it is.
    def submit[**P, T](  # type: ignore[override]
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Answer[T]:
        if self._thread is None:
            self._thread = Thread(
                target=_work_off, args=(self._work,), name=self._name, daemon=True
            )
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: Answer[T] = Answer(loop=loop)
        self._work.put(_Work(partial(fn, *args, **kwargs), loop, future))
        return future

    def shutdown(
        self,
        wait: bool = True,  # noqa: FBT001, FBT002 - as its base has it
        *,
        cancel_futures: bool = False,  # noqa: ARG002
    ) -> None:
        """Let the thread end behind what it has to do; nothing is called off."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            self._work.put(None)
            if wait:
                thread.join()


class Answer[T](asyncio.Future[T]):
    """What a thread answers. Nobody can call it off, so who is cancelled leaves when it is done.

    With `asyncio.shield`, whoever waits would hear of it a turn of the loop later.
    """

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002 - as its base has it
        return False

    def set_exception(self, exception: type[BaseException] | BaseException, /) -> None:
        super().set_exception(exception)
        self.exception()  # who waited may have gone, and then nobody looks at it


class _Work(NamedTuple):
    """What a thread has to do, and for whom."""

    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: Answer[Any]

    def do(self) -> None:
        result, error = None, None
        try:
            result = self.function()
        except BaseException as raised:  # noqa: BLE001 - it is told to who waits
            error = raised
        with suppress(RuntimeError):  # the loop was closed, and nobody waits any longer
            self.loop.call_soon_threadsafe(self._answer, result, error)

    def _answer(self, result: Any, error: BaseException | None) -> None:
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


def _work_off(queue: SimpleQueue[_Work | None]) -> None:
    """Do what is in the queue, until there is None."""
    while (work := queue.get()) is not None:
        work.do()
        del work  # it may be large, and the next may come late


class _Sync(NamedTuple):
    """A sync that was begun, and up to where it makes things durable."""

    seq: int
    work: asyncio.Future[None]


class SyncThread:
    """Syncs for one handle, one at a time, and says up to where everything is on the disk.

    Whoever begins a sync need not be who waits for it. So a sync that fails notes it by itself, in
    the thread: nobody may build upon it until it is told here.
    """

    def __init__(self, on_synced: Callable[[int], None]) -> None:
        self._on_synced = on_synced
        self._thread = LoopThread("omniq-sync")
        self._last: _Sync | None = None

    async def close(self) -> None:
        """Wait for what is under way, as nobody can call it off."""
        if self._last is not None:
            if not self._last.work.get_loop().is_closed():  # else the thread alone knows
                await asyncio.wait([self._last.work])
            self._last = None
        self._thread.shutdown()

    @property
    def is_busy(self) -> bool:
        """Whether a sync was begun that has not ended, or has failed and nobody knows yet."""
        return self._last is not None

    def begin(
        self, seq: int, sync: Callable[[], None], then: Callable[[], None] | None = None
    ) -> None:
        """Begin to sync everything up to `seq`, which is written; `then` follows on the loop."""
        assert not self.is_busy, "one at a time"
        work = asyncio.get_running_loop().run_in_executor(self._thread, sync)
        self._last = last = _Sync(seq, work)

        def end(_: object) -> None:
            if then is not None:
                then()
            if work.exception() is None:
                self._forget(last)
                self._on_synced(seq)

        work.add_done_callback(end)

    async def join(self) -> None:
        """Wait for the sync that was begun; raises its error."""
        last = self._last
        assert last is not None, "it is busy"
        try:
            await last.work
        finally:
            self._forget(last)
        self._on_synced(last.seq)

    def _forget(self, sync: _Sync) -> None:
        if self._last is sync:
            self._last = None


async def in_thread[T](work: Callable[[], T]) -> T:
    """Do this in one of asyncio's threads, and do not leave before it has ended."""
    return await finished(asyncio.get_running_loop().run_in_executor(None, work))


async def finished[T](work: asyncio.Future[T]) -> T:
    """Wait for what one of asyncio's threads does, and do not leave before it has ended."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        work.exception()  # whoever asked has gone
        raise cancelled
    return work.result()
