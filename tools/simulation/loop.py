"""An event loop in which time passes only when there is nothing else to do, and threads do not run.

What is given to an executor runs on the loop, a step or some later, so that everything happens in
an order that the seed decides, and a year takes as long as what happens in it.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any

from omniq.clock import Clock, Timer
from omniq.storage.threads import Answer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from concurrent.futures import Executor

__all__ = ("LoopClock", "SimulatedLoop")


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop with a time of its own. `rng` decides when the work of threads is done."""

    def __init__(self, rng: random.Random) -> None:
        self.now = 1000.0
        self._rng = rng
        super().__init__(_Patient(self))

    def time(self) -> float:
        """Return the loop's own time."""
        return self.now

    def run_in_executor[*Ts, T](
        self,
        executor: Executor | None,  # noqa: ARG002 - there is but one thread
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Run what is for a thread, after as many turns of the loop as chance says."""
        future: Answer[T] = Answer(loop=self)
        self._later(self._rng.choice((0, 0, 1, 3)), future, func, args)
        return future

    def _later(self, turns: int, future: Answer[Any], func: Callable[..., Any], args: Any) -> None:
        if turns:
            self.call_soon(self._later, turns - 1, future, func, args)
            return
        try:
            result = func(*args)
        except BaseException as error:  # noqa: BLE001 - a thread's error is its caller's
            future.set_exception(error)
        else:
            future.set_result(result)


class _Patient(selectors.DefaultSelector):
    """A selector that never waits: the loop's time jumps instead."""

    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, or let the time pass until the next timer."""
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits, and nothing is left that could happen")
        if not ready and timeout is not None and timeout > 0:
            self._loop.now += timeout
        return ready


class LoopClock(Clock):
    """The clock of one process: its wall clock may be wrong, and be set."""

    def __init__(self, loop: SimulatedLoop, wrong_by: float = 0.0) -> None:
        self._loop = loop
        self.wrong_by = wrong_by

    def now_us(self) -> int:
        """Return the wall-clock time in microseconds since 1970 UTC."""
        return 1_800_000_000_000_000 + round((self._loop.now + self.wrong_by) * 1_000_000)

    def monotonic(self) -> float:
        """Return the loop's time."""
        return self._loop.now

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` when so much of the loop's time has passed."""
        return self._loop.call_later(seconds, callback)
