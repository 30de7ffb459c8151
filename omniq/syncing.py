"""Who waits for what to become durable, and when the disk is asked to make it so.

One sync at a time runs in the storage's thread; whoever comes while it runs waits for the next
one, together with all others that came (group commit). What nobody waits for is synced a little
later, so that it is not at the mercy of a power cut for long; where acknowledging waits for no
sync (`durability="os"`), that is about a second later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from omniq.clock import Clock, Timer
    from omniq.storage.base import BaseStorage

__all__ = ("Syncer", "Waiter", "tell")

type Waiter = tuple[asyncio.Future[Any], object]  # who waits, and for which answer

SYNC_WITHIN_SECONDS = 0.05  # when written events become durable that nobody waits for
# Where the owner chose not to wait for the disk: how much a power cut may take, more or less (as
# with Redis' appendfsync everysec).
LAZY_SECONDS = 1.0


class Syncer:
    """Resolves futures once what they are about is durable."""

    def __init__(
        self, storage: BaseStorage, clock: Clock, on_failure: Callable[[Exception], None]
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._on_failure = on_failure
        self._waiting: deque[tuple[int, list[Waiter]]] = deque()  # by sequence number
        self._task: asyncio.Task[None] | None = None  # that syncs now, or did so last
        self._later: Timer | None = None
        self._lazy: Timer | None = None
        self._is_lazy_due = False
        self._is_closed = False

    async def close(self) -> None:
        """Sync no more. What is under way is waited for, as nobody can call it off."""
        self._is_closed = True
        for timer in (self._later, self._lazy):
            if timer is not None:
                timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def acknowledge(self, seq: int, waiters: list[Waiter]) -> None:
        """Give these their answers once everything up to `seq` is durable."""
        if seq <= self._storage.durable:
            _answer(waiters)
        elif waiters:
            self._waiting.append((seq, waiters))
            self._begin()

    async def make_durable(self, seq: int) -> None:
        """Return once everything up to `seq` is durable."""
        if seq > self._storage.durable:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.acknowledge(seq, [(future, None)])
            await future

    def soon(self, seq: int) -> None:
        """See to it that everything up to `seq` becomes durable, though nobody waits for it."""
        if not self._waiting and self._later is None and seq > self._storage.durable:
            self._later = self._clock.call_later(SYNC_WITHIN_SECONDS, lambda: self._now(seq))
        elif self._lazy is None and self._storage.durable >= seq > self._storage.synced:
            self._lazy = self._clock.call_later(LAZY_SECONDS, self._lazily)

    def take_waiting(self) -> list[asyncio.Future[Any]]:
        """Return the futures of those who wait, for the owner to tell them."""
        futures = [future for _, waiters in self._waiting for future, _ in waiters]
        self._waiting.clear()
        return futures

    def _now(self, seq: int) -> None:
        self._later = None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.exception())  # the owner reports failures
        self.acknowledge(seq, [(future, None)])

    def _lazily(self) -> None:
        self._lazy, self._is_lazy_due = None, True
        self._begin()

    def _begin(self) -> None:
        """See to it that a sync is under way, which goes on until nobody waits."""
        if self._task is None or self._task.done():
            # Eager: the disk begins before anything else that the event loop has to do.
            loop = asyncio.get_running_loop()
            self._task = asyncio.Task(self._sync(), loop=loop, eager_start=True)

    async def _sync(self) -> None:
        """Sync as long as someone waits; a failed sync is told to the owner."""
        try:
            while self._waiting or self._is_lazy_due:
                if self._waiting:
                    seq = self._waiting[-1][0]
                    await self._storage.sync(seq)
                    self._resolve(max(seq, self._storage.durable))
                else:
                    self._is_lazy_due = False
                    await self._storage.sync_lazily()
        except asyncio.CancelledError:
            # Who ends an event loop cancels all its tasks; some wait for the disk even then.
            if not self._is_closed:
                asyncio.get_running_loop().call_soon(self._go_on)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, everyone is told
            self._on_failure(error)

    def _go_on(self) -> None:
        if self._waiting:
            self._begin()

    def _resolve(self, durable: int) -> None:
        later: deque[tuple[int, list[Waiter]]] = deque()
        for seq, waiters in self._waiting:
            if seq > durable:
                later.append((seq, waiters))
            else:
                _answer(waiters)
        self._waiting = later


def tell(future: asyncio.Future[Any], error: BaseException) -> None:
    """Give an error to who waits, unless it went away or was answered meanwhile."""
    if not future.done():
        future.set_exception(error)


def _answer(waiters: list[Waiter]) -> None:
    for future, answer in waiters:
        if not future.done():
            future.set_result(answer)
