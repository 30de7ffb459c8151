"""What is done in threads: waiting for it, and the thread in which a journal is synced."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("SyncThread", "finished")


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
        self._thread = _new_thread()
        self._last: _Sync | None = None

    async def close(self) -> None:
        """Wait for what is under way, as nobody can call it off."""
        if self._last is not None:
            await asyncio.wait([self._last.work])
            self._last = None
        self._thread.shutdown()
        self._thread = _new_thread()  # a handle may be opened again

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
            await finished(last.work)
        finally:
            self._forget(last)
        self._on_synced(last.seq)

    def _forget(self, sync: _Sync) -> None:
        if self._last is sync:
            self._last = None


def _new_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="omniq-sync")


async def finished[T](work: asyncio.Future[T]) -> T:
    """Wait for what a thread does, and do not leave before it has ended, cancelled or not."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        work.exception()  # whoever asked has gone
        raise
