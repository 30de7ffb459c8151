"""The rows of the benchmark that are about reading journals: opening, folding, verifying."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from omniq.core import events as ev
from omniq.core.projection import Projection
from omniq.storage.encoding import decode_commit, encode_commit
from tools.bench_child import Child
from tools.bench_floors import BACKENDS, Sizes, app_on, enqueued, lives, run_loop

if TYPE_CHECKING:
    from pathlib import Path

LIVE_TASKS = 10_000


def long_journal(folder: Path, events: int, backend: str) -> Path:
    """Return the folder of a journal of about so many events, of which 10,000 tasks are left.

    It is made once, and then shared by all rows and repetitions.
    """
    where = folder.parent / f"history-{backend}-{events}"
    if not where.exists():
        where.mkdir()
        run_loop(build_history(where, events, backend))
    return where


async def build_history(where: Path, events: int, backend: str, live: int = LIVE_TASKS) -> None:
    """Write a history of finished and forgotten tasks, and the live ones."""
    oq, _ = app_on(where, backend)
    await oq.storage.open()
    first = max(1000, events // 3 // 1000 * 1000)
    joined = ev.WorkerJoined("worker0001", "host", 1, "boot", 30_000_000)
    await oq.storage.append([joined], at=1, actor="bench")
    for start in range(0, first, 1000):
        tasks = range(start, start + 1000)
        gone = ev.ResultExpired(tuple(enqueued(n).task_id for n in tasks))
        await oq.storage.append([*lives(tasks), gone], at=2, actor="bench")
    for start in range(first, first + live, 1000):
        tasks = range(start, start + 1000)
        await oq.storage.append([enqueued(n) for n in tasks], at=3, actor="bench")
    await oq.storage.sync((await oq.storage.head()).seq)
    await oq.storage.close()


def open_with_snapshot(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return the milliseconds until a process has the state of a long journal with a snapshot."""
    where = long_journal(folder, sizes.history, backend)

    async def run() -> float:
        took = 0.0
        for again in (False, True):
            oq, _ = app_on(where, backend, result_ttl=None)
            began = time.perf_counter()
            stats = await oq.stats()
            took = time.perf_counter() - began
            if sum(stats.by_status.values()) < LIVE_TASKS:  # `first_call` adds one each time
                sys.exit(f"expected {LIVE_TASKS} live tasks, found {stats.by_status}")
            engine = await oq.engine()
            while not again and not await engine.storage.snapshot_seq():  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # it is written beside the work
            await oq.close()
        return 1000 * took

    return run_loop(run())


def first_call(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return milliseconds until a process that only enqueues has done so, with a long journal."""
    child = Child("first", long_journal(folder, sizes.history, backend), backend)
    child.go()
    return 1000 * child.found()["took"]


def fold(_folder: Path, sizes: Sizes) -> float:
    """Return events a second of a fold, decoding included."""
    encoded: list[bytes] = []
    seq = 1
    for first in range(0, min(sizes.many, 30_000), 100):
        events = lives(range(first, first + 100))
        encoded.append(encode_commit(ev.Commit(seq, 1, "bench", events)))
        seq += len(events)
    state, began = Projection(), time.perf_counter()
    for data in encoded:
        state.apply(decode_commit(data))
    return state.seq / (time.perf_counter() - began)


def verify(folder: Path, sizes: Sizes, backend: str) -> list[float]:
    """Return events a second of `verify`, and its memory, as a multiple of a tenth's history."""
    peaks: list[float] = []
    rate = 0.0
    for events in (sizes.history // 10, sizes.history):
        where = long_journal(folder, events, backend)
        child = Child("verify", where, backend, journal=BACKENDS[backend])
        child.go()
        found = child.found()
        rate = found["events"] / found["took"]
        peaks.append(found["peak"])
    return [rate, peaks[1] / peaks[0]]
