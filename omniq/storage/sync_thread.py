"""The thread in which the segments of a file journal are synced, one sync at a time.

A sync that an append asks for begins as soon as its bytes are written, so that the disk works
while the rest of the append is done; who waits for it comes later.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from omniq.storage.local import finished

if TYPE_CHECKING:
    from collections.abc import Callable

    from omniq.errors import StorageError
    from omniq.storage.disk import Disk
    from omniq.storage.segments import Segment

__all__ = ("SyncThread",)


class _Sync(NamedTuple):
    """A sync that was begun, and up to where it makes things durable."""

    seq: int
    work: asyncio.Future[None]


class SyncThread:
    """Syncs segments for one open handle.

    `on_synced` is called with the sequence number up to which everything is on the disk now;
    `failed`, in the thread, with an error of the system, and returns what to raise.
    """

    def __init__(
        self,
        disk: Disk,
        on_synced: Callable[[int], None],
        failed: Callable[[Segment, OSError], StorageError],
    ) -> None:
        self._disk = disk
        self._on_synced = on_synced
        self._failed = failed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="omniq-sync")
        self._last: _Sync | None = None

    async def close(self) -> None:
        """Wait for what is under way, as nobody can call it off."""
        if self._last is not None:
            await asyncio.wait([self._last.work])
        self._thread.shutdown()

    @property
    def is_busy(self) -> bool:
        """Whether a sync was begun that has not ended, or has failed and nobody knows yet."""
        return self._last is not None

    def begin(self, segment: Segment, seq: int) -> None:
        """Begin to sync everything up to `seq`, which is written, unless it is busy."""
        if self._last is not None:
            return
        # The descriptor is duplicated: the segment may be rotated away and closed meanwhile.
        descriptor = self._disk.duplicate(segment.descriptor)
        run = asyncio.get_running_loop().run_in_executor
        self._last = last = _Sync(seq, run(self._thread, self._sync_now, segment, descriptor))
        last.work.add_done_callback(lambda _: self._end(last, descriptor))

    async def join(self) -> None:
        """Wait for the sync that was begun; raises what `failed` returned."""
        last = self._last
        assert last is not None, "it is busy"
        try:
            await finished(last.work)
        finally:
            self._forget(last)
        self._on_synced(last.seq)

    def _sync_now(self, segment: Segment, descriptor: int) -> None:
        try:
            self._disk.sync(descriptor)
        except OSError as error:
            raise self._failed(segment, error) from error

    def _end(self, sync: _Sync, descriptor: int) -> None:
        self._disk.close(descriptor)  # in the thread it would wait for the interpreter again
        if sync.work.exception() is None:
            self._forget(sync)
            self._on_synced(sync.seq)

    def _forget(self, sync: _Sync) -> None:
        if self._last is sync:
            self._last = None
