"""Time and chance, in one place, so that both can be replaced in tests.

`Clock` is what the engine and the workers know of time: the wall clock for what is written in
the journal, the monotonic clock for measuring how long something took, and timers. `Entropy` is
where ids and jitter come from.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import TYPE_CHECKING, Protocol

from omniq.core.ids import COUNTS, ENTROPY_BYTES, block_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("Clock", "Entropy", "SystemClock", "SystemEntropy", "Timer", "sleep", "wait_at_most")

_NAME_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
_NAME_LENGTH = 10


class Timer(Protocol):
    """A callback that will be called later, unless it is cancelled first."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Time as the engine sees it."""

    def now_us(self) -> int:
        """Return the wall-clock time in microseconds since 1970 UTC; it may jump."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never run backwards, for durations only."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` on the running event loop after this many monotonic seconds."""
        ...


class Entropy(Protocol):
    """Chance as the engine sees it."""

    def task_ids(self, at_us: int) -> Iterator[str]:
        """Yield new UUIDv7s of one time as text, without end."""
        ...

    def name(self) -> str:
        """Return a short random name, for a worker or a client."""
        ...

    def fraction(self) -> float:
        """Return a number between 0 and 1, for jitter."""
        ...


class SystemClock:
    """The machine's clocks and the event loop's timers."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)


class SystemEntropy:
    """The operating system's randomness."""

    def task_ids(self, at_us: int) -> Iterator[str]:
        while True:
            block = block_of(at_us, os.urandom(ENTROPY_BYTES))
            for end in COUNTS:
                yield block + end

    def name(self) -> str:
        return "".join(_NAME_ALPHABET[byte & 31] for byte in os.urandom(_NAME_LENGTH))

    def fraction(self) -> float:
        return random.random()  # noqa: S311 - jitter is no secret


async def sleep(clock: Clock, seconds: float) -> None:
    """Wait for this long by the clock."""
    await _resolved(clock, asyncio.get_running_loop().create_future(), seconds)


async def wait_at_most(clock: Clock, event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until `event` is set, but at most this long; return whether it is set."""
    if seconds is None or event.is_set():
        await event.wait()
        return True
    waiter = asyncio.ensure_future(event.wait())
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiter.add_done_callback(lambda _: _resolve(future))
    try:
        await _resolved(clock, future, seconds)
    finally:
        waiter.cancel()
    return event.is_set()


async def _resolved(clock: Clock, future: asyncio.Future[None], seconds: float) -> None:
    """Wait for a future, and resolve it after so many seconds if nobody else does."""
    timer = clock.call_later(max(0.0, seconds), lambda: _resolve(future))
    try:
        await future
    finally:
        timer.cancel()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
