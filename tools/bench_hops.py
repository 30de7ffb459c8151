"""Floors of the rows about two processes: the same wakes, writes and syncs, without a queue.

One process writes a record, wakes the other and syncs. The other writes two, as for a task that
starts and ends, and wakes the first, which syncs again before it takes that for a result.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import struct
import time
from typing import TYPE_CHECKING

from tools.bench_child import Child
from tools.bench_floors import encoded, enqueued, run_loop, with_sum

if TYPE_CHECKING:
    from pathlib import Path

    from tools.bench_floors import Sizes


def hops(folder: Path, sizes: Sizes) -> list[float]:
    """Return milliseconds to the other process, there and back, and the latter without syncs."""
    durable = run_loop(_trips(folder, sizes.trips, is_durable=True))
    quick = run_loop(_trips(folder, sizes.trips, is_durable=False))
    return [
        statistics.median(there for there, _ in durable),
        statistics.median(back for _, back in durable),
        statistics.median(back for _, back in quick),
    ]


async def _trips(folder: Path, trips: int, *, is_durable: bool) -> list[tuple[float, float]]:
    """Return milliseconds until the other process heard of it, and until its answer is here."""
    loop = asyncio.get_running_loop()
    descriptor = os.open(folder / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    found: list[tuple[float, float]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as answers:
        answers.setblocking(False)
        answers.bind(str(folder / "answers"))
        child = Child("answer", folder, trips=trips)
        for number in range(trips):
            called = time.monotonic()
            os.write(descriptor, with_sum(encoded([enqueued(number)], number)))
            answers.sendto(b"?", str(folder / "questions"))
            if is_durable:
                await loop.run_in_executor(None, os.fdatasync, descriptor)
            (heard,) = struct.unpack("d", await loop.sock_recv(answers, 8))
            if is_durable:
                await loop.run_in_executor(None, os.fdatasync, descriptor)
            found.append((1000 * (heard - called), 1000 * (time.monotonic() - called)))
        await asyncio.to_thread(child.found)
    os.close(descriptor)
    (folder / "answers").unlink()
    return found
