"""What is done for a journal beside the work on it: snapshots, and dropping old history.

When a snapshot is due follows from the journal alone: whoever appends the commit that crosses a
multiple of the interval takes it, so that of many processes one does. The interval grows with the
number of tasks, so that writing snapshots costs a bounded share of the work on events. Should
that process not keep the state, or die, the others notice when two intervals have passed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from omniq.clock import wait_at_most
from omniq.core.projection import Projection
from omniq.core.snapshot import Capture, restore
from omniq.errors import ConfigError, StorageError, UnsupportedFormat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from omniq.clock import Clock
    from omniq.core.events import Commit, Event
    from omniq.storage.base import BaseStorage, Bookmark

    type _Captured = tuple[Bookmark, Capture]

__all__ = ("Upkeep", "restored")

EVENTS_A_SNAPSHOT = 1 << 16  # folding so many takes about 0.1 s
EVENTS_A_TASK = 4  # and at least so many for each task in the state, which takes 1 µs to save
TICKS_A_RETENTION = 8
SHORTEST_TICK, LONGEST_TICK = 1.0, 3600.0  # seconds

_log = logging.getLogger(__name__)


class Upkeep:
    """The upkeep of one engine's journal. `run` is a task of the engine.

    `capture` returns the engine's state, unless the storage keeps no snapshots. With `retention`,
    in microseconds, history that is older is dropped; 0 keeps it for ever. With an archive, whole
    segments go there, and only what is there is dropped.
    """

    def __init__(
        self,
        storage: BaseStorage,
        clock: Clock,
        *,
        retention_us: int,
        archive_url: str | None,
        capture: Callable[[], Awaitable[_Captured | None]],
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._retention_us = retention_us
        self._archive_url = archive_url
        self._capture = capture
        self._newest = 0  # the sequence number of the newest snapshot, as far as this one knows
        self._due = asyncio.Event()
        self.is_idle = False  # whether there is nothing to do before the next tick

    def loaded(self, state: Projection, snapshot: int) -> None:
        """Take note of what there was to read: a snapshot, and what came after it."""
        self._newest = snapshot
        self._look(state, patience=1)

    def appended(self, commit: Commit, state: Projection) -> None:
        """Take note of a commit of this process."""
        interval = _interval(state)
        if (commit.first_seq - 1) // interval != commit.last_seq // interval:
            self._due.set()
        else:
            self._look(state, patience=2)

    def _look(self, state: Projection, *, patience: int) -> None:
        if state.seq - self._newest >= patience * _interval(state):
            self._due.set()

    async def run(self) -> None:
        """Take snapshots when they are due, and now and then see to the old history."""
        while True:
            self.is_idle = not self._due.is_set()
            is_due = await wait_at_most(self._clock, self._due, self._tick())
            self.is_idle = False
            self._due.clear()
            try:
                await self._take_snapshot()
                if not is_due:
                    await self._see_to_history()
            except (StorageError, ConfigError, OSError) as error:
                _log.warning(
                    "the upkeep of the journal %s has to wait: %s",
                    self._storage.location,
                    error,
                    extra={"action": "upkeep_failed"},
                )

    def _tick(self) -> float | None:
        """Return after how many seconds history is looked at again; None for never."""
        if not self._retention_us:
            return LONGEST_TICK / TICKS_A_RETENTION if self._archive_url else None
        tick = self._retention_us / 1_000_000 / TICKS_A_RETENTION
        return min(max(tick, SHORTEST_TICK), LONGEST_TICK)

    async def history(self, task_id: str) -> list[tuple[int, Commit, Event]]:
        """Return the events of one task, those that only the archive has included."""
        kept = await self._storage.read_task(task_id)
        dropped = (await self._storage.beginning()).seq
        if not dropped or not self._archive_url:
            return kept
        from omniq.storage.archive import Archive, find_archived  # noqa: PLC0415 - as below

        archive = await asyncio.to_thread(Archive, self._archive_url)
        return [*await find_archived(archive, task_id, dropped), *kept]

    async def _take_snapshot(self) -> None:
        newest = await self._storage.snapshot_seq()
        if newest > self._newest:  # somebody else has seen to it
            self._newest = newest
            return
        captured = await self._capture()
        if captured is None:
            return
        bookmark, capture = captured
        # Also if this fails, the next one is due when as much has happened again.
        self._newest = max(newest, bookmark.seq)
        if bookmark.seq > newest:
            await self._storage.save_snapshot(bookmark, _slices(capture))

    async def _see_to_history(self) -> None:
        before = self._clock.now_us() - self._retention_us if self._retention_us else 0
        until = self._newest
        if self._archive_url:
            until = min(until, await self._ship(before))
        if before:
            await self._storage.drop_history(before=before, until=until)

    async def _ship(self, before: int) -> int:
        """Bring what is whole to the archive; return up to where it is there."""
        from omniq.storage.archive import Archive, ship  # noqa: PLC0415 - only who has one

        assert self._archive_url is not None, "there is an archive"
        archive = await asyncio.to_thread(Archive, self._archive_url)
        storage = self._storage.sibling()  # so that reading it all holds nobody up
        await storage.open()
        try:
            return await ship(archive, storage, before=before)
        finally:
            await storage.close()


def _interval(state: Projection) -> int:
    """Return after how many events a snapshot is worth its cost: a power of two."""
    return max(EVENTS_A_SNAPSHOT, 1 << (EVENTS_A_TASK * len(state.tasks)).bit_length())


async def _slices(capture: Capture) -> AsyncIterator[bytes]:
    for part in capture.parts():
        yield part
        await asyncio.sleep(0)  # whatever else wants to run comes between two parts


async def restored(storage: BaseStorage) -> Projection:
    """Return the state of the newest snapshot, from which `storage` can read on; empty without."""
    before: int | None = None
    while (snapshot := await storage.load_snapshot(before)) is not None:
        before = snapshot.bookmark.seq
        try:
            return await _restored(snapshot.parts)
        except UnsupportedFormat as error:
            _log.warning(
                "the snapshot %d of %s was ignored: %s",
                before,
                storage.location,
                error,
                extra={"action": "snapshot_ignored"},
            )
    return Projection()


async def _restored(parts: list[bytes]) -> Projection:
    state = Projection()
    parts.reverse()
    for grown in restore(parts.pop() for _ in range(len(parts))):  # no part is kept for long
        state = grown
        await asyncio.sleep(0)
    return state
