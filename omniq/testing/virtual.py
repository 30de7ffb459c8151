"""Time and chance that a test decides about."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
from typing import TYPE_CHECKING

from omniq.clock import Clock, Entropy, Timer
from omniq.core.ids import ENTROPY_BYTES, uuid7

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("SeededEntropy", "VirtualClock", "settle")

_ROUNDS_TO_SETTLE = 50


class VirtualClock(Clock):
    """A clock that moves only when the test says so.

    Give it to `AsyncOmniQ(clock=...)`. Threads and processes that a task runs in are real: the
    clock does not wait for them.
    """

    def __init__(self, start_us: int = 1_800_000_000_000_000) -> None:
        self._start_us = start_us
        self._elapsed_us = 0
        self._timers: list[_VirtualTimer] = []
        self._count = 0

    def now_us(self) -> int:
        """Return the wall-clock time in microseconds since 1970 UTC."""
        return self._start_us + self._elapsed_us

    def monotonic(self) -> float:
        """Return the seconds by which the clock was advanced; a step does not count."""
        return self._elapsed_us / 1_000_000

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` once the clock was advanced by this much."""
        self._count += 1
        due_us = self._elapsed_us + max(0, round(seconds * 1_000_000))
        timer = _VirtualTimer(due_us, self._count, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or, with a negative number, back; no timer notices."""
        self._start_us += round(seconds * 1_000_000)

    async def advance(self, seconds: float) -> None:
        """Let this much time pass.

        Timers are called in order, each at its own time, and what they set going on the event loop
        goes on before the next one; timers that are set meanwhile are called too if they fall due.
        """
        end_us = self._elapsed_us + round(seconds * 1_000_000)
        await settle()
        while True:
            timer = self._take_due(end_us)
            if timer is None:
                if self._elapsed_us == end_us:
                    return
                self._elapsed_us = end_us
            else:
                self._elapsed_us = timer.due_us
                timer.callback()
            await settle()

    def _take_due(self, end_us: int) -> _VirtualTimer | None:
        while self._timers and self._timers[0].due_us <= end_us:
            timer = heapq.heappop(self._timers)
            if not timer.is_cancelled:
                return timer
        return None


class _VirtualTimer:
    def __init__(self, due_us: int, number: int, callback: Callable[[], object]) -> None:
        self.due_us = due_us
        self.number = number
        self.callback = callback
        self.is_cancelled = False

    def __lt__(self, other: _VirtualTimer) -> bool:
        return (self.due_us, self.number) < (other.due_us, other.number)

    def cancel(self) -> None:
        self.is_cancelled = True


async def settle() -> None:
    """Let the event loop go on until, as far as can be told from here, everyone waits."""
    for _ in range(_ROUNDS_TO_SETTLE):
        await asyncio.sleep(0)


class SeededEntropy(Entropy):
    """Ids, names and jitter that look random and are the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._count = 0

    def task_ids(self, at_us: int) -> Iterator[str]:
        """Yield new UUIDv7s of one time as text, without end."""
        while True:
            yield uuid7(at_us, self._draw(ENTROPY_BYTES))

    def name(self) -> str:
        """Return a new name of ten letters and digits."""
        return self._draw(5).hex()

    def fraction(self) -> float:
        """Return a number from 0 up to, but not including, 1."""
        return int.from_bytes(self._draw(6)) / 2**48

    def _draw(self, length: int) -> bytes:
        self._count += 1
        return hashlib.blake2b(b"%d:%d" % (self._seed, self._count), digest_size=length).digest()
