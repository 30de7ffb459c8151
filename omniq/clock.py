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

from omniq.core.ids import ENTROPY_BYTES, uuid7

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Clock", "Entropy", "SystemClock", "SystemEntropy", "Timer", "sleep", "wait_at_most")

_POOL = 512  # ids per call of os.urandom, which costs as much as all the rest of making an id
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

    def task_id(self, at_us: int) -> str:
        """Return a new UUIDv7 as text."""
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
    """The operating system's randomness. A forked child draws its own."""

    def __init__(self) -> None:
        self._pool = b""
        self._used = 0
        self._pid = 0

    def task_id(self, at_us: int) -> str:
        used = self._used
        if used >= len(self._pool) or self._pid != os.getpid():
            self._pool = os.urandom(ENTROPY_BYTES * _POOL)
            self._pid = os.getpid()
            used = 0
        self._used = used + ENTROPY_BYTES
        return uuid7(at_us, self._pool[used : used + ENTROPY_BYTES])

    def name(self) -> str:
        return "".join(_NAME_ALPHABET[byte & 31] for byte in os.urandom(_NAME_LENGTH))

    def fraction(self) -> float:
        return random.random()  # noqa: S311 - jitter is no secret


async def sleep(clock: Clock, seconds: float) -> None:
    """Wait for this long by the clock."""
    await wait_at_most(clock, asyncio.Event(), seconds)


async def wait_at_most(clock: Clock, event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until `event` is set, but at most this long; return whether it is set."""
    if seconds is None or event.is_set():
        await event.wait()
        return True
    woken = asyncio.Event()
    waiter = asyncio.ensure_future(event.wait())
    waiter.add_done_callback(lambda _: woken.set())
    timer = clock.call_later(max(0.0, seconds), woken.set)
    try:
        await woken.wait()
    finally:
        timer.cancel()
        waiter.cancel()
    return event.is_set()
