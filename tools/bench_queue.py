"""The rows of the benchmark that one process measures: enqueueing, draining, the loop's lag."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.bench_child import ROOT, TOGETHER
from tools.bench_floors import BACKENDS, PAYLOAD, RAN, Sizes, app_on, run_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from omniq import AsyncOmniQ

PRODUCERS = 100
TICK_SECONDS = 0.001
LAG_TIMES = 4  # as many tasks as are drained elsewhere make about a hundred ticks


async def fill(noop: Any, count: int) -> None:
    """Enqueue this many tasks."""
    for start in range(0, count, 1000):
        await noop.enqueue_many([(PAYLOAD,)] * min(1000, count - start))


async def check(oq: AsyncOmniQ, status: str, count: int) -> None:
    """See that all that is counted is there, and has its result if it has ended."""
    state = await (await oq.engine()).refresh()
    found = {str(key): value for key, value in state.counts_by_status().items() if value}
    if found != {status: count}:
        sys.exit(f"expected {count} tasks in {status}, found {found}")
    if status == "SUCCESS" and any(task.result is None for task in state.tasks.values()):
        sys.exit("a task has ended and has no result")


def check_ran(count: int, expected: int) -> None:
    """See that no job ran twice, and none was only said to have run."""
    if count != expected:
        sys.exit(f"{expected} jobs were to run once, and {count} ran")


def enqueue_single(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return calls a second, one after another."""

    async def run() -> float:
        oq, tasks = app_on(folder, backend)
        async with oq:
            began = time.perf_counter()
            for _ in range(sizes.single):
                await tasks.noop.enqueue(PAYLOAD)
            took = time.perf_counter() - began
            await check(oq, "PENDING", sizes.single)
        return sizes.single / took

    return run_loop(run())


def enqueue_together(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return calls a second of a hundred producers in one process."""
    return _by_producers(folder, sizes, backend, lambda _oq, noop: noop.enqueue)


def enqueue_by_app(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return the same of producers that pass the function to the app."""
    return _by_producers(folder, sizes, backend, lambda oq, noop: partial(oq.enqueue, noop))


def _by_producers(
    folder: Path, sizes: Sizes, backend: str, how: Callable[[AsyncOmniQ, Any], Callable[..., Any]]
) -> float:
    async def run() -> float:
        oq, tasks = app_on(folder, backend)
        each, enqueue = sizes.many // PRODUCERS, how(oq, tasks.noop)

        async def produce() -> None:
            for _ in range(each):
                await enqueue(PAYLOAD)

        async with oq:
            began = time.perf_counter()
            await asyncio.gather(*(produce() for _ in range(PRODUCERS)))
            took = time.perf_counter() - began
            await check(oq, "PENDING", each * PRODUCERS)
        return each * PRODUCERS / took

    return run_loop(run())


def enqueue_many(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return tasks a second, a thousand a call."""

    async def run() -> float:
        oq, tasks = app_on(folder, backend)
        async with oq:
            began = time.perf_counter()
            await fill(tasks.noop, sizes.many)
            took = time.perf_counter() - began
            await check(oq, "PENDING", sizes.many)
        return sizes.many / took

    return run_loop(run())


def drain(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return no-op jobs a second that one process runs, results stored."""

    async def run() -> float:
        oq, tasks = app_on(folder, backend)
        async with oq:
            await fill(tasks.noop, sizes.many)
            await check(oq, "PENDING", sizes.many)
            RAN.clear()
            began = time.perf_counter()
            await oq.worker(concurrency=TOGETHER).drain()
            took = time.perf_counter() - began
            check_ran(len(RAN), sizes.many)
            await check(oq, "SUCCESS", sizes.many)
        return sizes.many / took

    return run_loop(run())


def loop_lag(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return by how many milliseconds, at the 99th percentile, an embedded worker delays its host.

    The host's loop only ticks, a thousand times a second, while the worker drains at full speed. A
    turn of the loop takes milliseconds then, so it takes many tasks for a percentile of ticks.
    """
    count = LAG_TIMES * sizes.many

    async def run() -> float:
        oq, tasks = app_on(folder, backend)
        lags: list[float] = []

        async def tick() -> None:
            while True:
                due = time.perf_counter() + TICK_SECONDS
                await asyncio.sleep(TICK_SECONDS)
                lags.append(time.perf_counter() - due)

        async with oq:
            await fill(tasks.noop, count)
            await check(oq, "PENDING", count)
            ticking = asyncio.create_task(tick())
            await oq.worker(concurrency=TOGETHER).drain()
            ticking.cancel()
            await check(oq, "SUCCESS", count)
        return 1000 * percentile(lags, 0.99)

    return run_loop(run())


def percentile(values: list[float], part: float) -> float:
    """Return the value below which this part of all values lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def disk_bytes(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return bytes on the disk of all events of one no-op task."""
    drain(folder, sizes, backend)
    path = folder / BACKENDS[backend]
    if not path.is_dir():  # what is in the log would be written over, so it counts where it goes
        database = sqlite3.connect(path)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        database.close()
    files = path.glob("*.seg") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / sizes.many


def import_time(_folder: Path, _sizes: Sizes) -> float:
    """Return the milliseconds of `import omniq` in a new process."""
    code = "import time; t = time.perf_counter(); import omniq; print(time.perf_counter() - t)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return 1000 * float(
        subprocess.check_output([sys.executable, "-c", code], cwd=Path("/"), env=environment)
    )
