"""SIGTERM and SIGINT, for as long as a worker runs in the main thread."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ("stop_signals",)

SAME_SIGNAL_SECONDS = 0.5  # one request to stop may come from a supervisor and from the system


@contextlib.contextmanager
def stop_signals(stop: Callable[[], object], stop_at_once: Callable[[], object]) -> Generator[None]:
    """Call `stop` on the first signal, `stop_at_once` on one that comes later.

    Does nothing in other threads than the main one, where signals do not arrive.
    """
    loop = asyncio.get_running_loop()
    first_at: float | None = None

    def on_signal() -> None:
        nonlocal first_at
        if first_at is None:
            first_at = loop.time()
            stop()
        elif loop.time() - first_at > SAME_SIGNAL_SECONDS:
            stop_at_once()

    handled: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            # Where the loop cannot watch signals, they do what they do without a worker.
            with contextlib.suppress(NotImplementedError, RuntimeError):
                loop.add_signal_handler(number, on_signal)
                handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
