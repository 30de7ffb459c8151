"""The rows of the benchmark that need several processes, which are real ones."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from typing import TYPE_CHECKING

from tools.bench_child import Child
from tools.bench_floors import PAYLOAD, Sizes, app_on, run_loop
from tools.bench_queue import check, check_ran, fill, percentile

if TYPE_CHECKING:
    from pathlib import Path

    from omniq import AsyncOmniQ

FEW_PENDING = 10_000
PACE = 5000  # jobs a second
PACE_STEP = 0.002  # seconds


def drain_in(folder: Path, count: int, backend: str, processes: int) -> float:
    """Return no-op jobs a second that so many processes, which have read the journal, run."""

    async def run() -> float:
        oq, tasks = app_on(folder, backend)
        async with oq:
            await fill(tasks.noop, count)
            children = [Child("drain", folder, backend) for _ in range(processes)]
            rate = await asyncio.to_thread(rate_of, children, count)
            await check(oq, "SUCCESS", count)
        return rate

    return run_loop(run())


def drain_by_one(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return what one process drains a second."""
    return drain_in(folder, sizes.many, backend, 1)


def drain_by_two(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return what two processes drain a second, together."""
    return drain_in(folder, sizes.many, backend, 2)


def rate_of(children: list[Child], count: int) -> float:
    """Let these drain; return jobs a second, from the first one's start to the last one's end."""
    for child in children:
        child.go()
    found = [child.found() for child in children]
    check_ran(sum(int(one["ran"]) for one in found), count)
    return count / (max(one["ended"] for one in found) - min(one["began"] for one in found))


def cpu_by_two(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return jobs a second of 1 ms of Python each, on two processes."""

    async def run() -> float:
        oq, tasks = app_on(folder, backend)
        async with oq:
            await tasks.burn.enqueue_many([()] * sizes.cpu)
            children = [Child("drain", folder, backend, concurrency=10) for _ in range(2)]
            rate = await asyncio.to_thread(rate_of, children, sizes.cpu)
            await check(oq, "SUCCESS", sizes.cpu)
        return rate

    return run_loop(run())


def cpu_floor(folder: Path, sizes: Sizes) -> float:
    """Return the same of two bare loops."""
    loops = [Child("loop", folder, count=sizes.cpu // 2) for _ in range(2)]
    for loop in loops:
        loop.go()
    found = [loop.found() for loop in loops]
    took = max(one["ended"] for one in found) - min(one["began"] for one in found)
    return sizes.cpu / took


def trips(folder: Path, sizes: Sizes, backend: str, durability: str = "fsync") -> list[float]:
    """Return milliseconds from one process to an idle worker in another, and back.

    Until it starts there: median and 99th percentile; until its result is here: the same.
    """

    async def run() -> list[float]:
        oq, tasks = app_on(folder, backend, durability=durability)
        started: list[float] = []
        returned: list[float] = []
        async with oq:
            worker = Child("work", folder, backend, durability=durability)
            for _ in range(sizes.trips + 20):
                called = time.monotonic()
                began = await (await tasks.stamp.enqueue(PAYLOAD)).result(timeout=30)
                returned.append(1000 * (time.monotonic() - called))
                started.append(1000 * (began - called))
            found = await asyncio.to_thread(worker.stop)
            check_ran(int(found["ran"]), sizes.trips + 20)
            await check(oq, "SUCCESS", sizes.trips + 20)
        del started[:20], returned[:20]  # the first ones warm up
        return [
            statistics.median(started),
            percentile(started, 0.99),
            statistics.median(returned),
            percentile(returned, 0.99),
        ]

    return run_loop(run())


def pickup_under_load(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return milliseconds until a job starts elsewhere, 99th percentile, at 5,000 jobs/s."""
    count = sizes.trips * 20

    async def run() -> float:
        oq, tasks = app_on(folder, backend)
        waits: list[float] = []

        async def one() -> None:
            called = time.monotonic()
            began = await (await tasks.stamp.enqueue(PAYLOAD)).result(timeout=60)
            waits.append(1000 * (began - called))

        async with oq:
            worker = Child("work", folder, backend, concurrency=100)
            await one()
            waits.clear()
            began, jobs = time.monotonic(), list[asyncio.Task[None]]()
            while len(jobs) < count:
                due = min(count, int((time.monotonic() - began) * PACE) + 1)
                jobs += [asyncio.create_task(one()) for _ in range(due - len(jobs))]
                await asyncio.sleep(PACE_STEP)
            await asyncio.gather(*jobs)
            found = await asyncio.to_thread(worker.stop)
            check_ran(int(found["ran"]), count + 1)
        return percentile(waits, 0.99)

    return run_loop(run())


def backlog(folder: Path, sizes: Sizes, backend: str) -> list[float]:
    """Return jobs a second of a long queue, of a short one, and bytes of memory a pending task."""
    rates: list[float] = []
    memory = 0.0
    few = min(FEW_PENDING, sizes.backlog // 4)
    times_few = min(5, sizes.backlog // few // 2)
    for name, pending, times in (("long", sizes.backlog, 1), ("short", few, times_few)):
        took = 0.0
        for number in range(times):
            where = folder / f"{name}{number}"
            where.mkdir()

            async def run(where: Path = where, pending: int = pending) -> None:
                oq, tasks = app_on(where, backend)
                async with oq:
                    await fill(tasks.noop, pending)

            run_loop(run())
            child = Child("drain", where, backend)
            child.go()
            found = child.found()
            check_ran(int(found["ran"]), pending)
            took += found["ended"] - found["began"]
            memory = memory or found["bytes_a_task"]  # of the long one, which comes first
        rates.append(times * pending / took)
    return [*rates, memory]


def idle_part(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return which part of a core an idle worker takes, in percent."""
    return _part(Child("idle", folder, backend, seconds=sizes.idle))


def idle_floor(folder: Path, sizes: Sizes) -> float:
    """Return which part a process takes that only wakes twice a second, in percent."""
    return _part(Child("wake", folder, seconds=sizes.idle))


def _part(child: Child) -> float:
    child.go()
    return 100 * child.found()["part"]


def rescue(folder: Path, _sizes: Sizes, backend: str) -> float:
    """Return milliseconds from the SIGKILL of a worker to its task's start in another one."""

    async def run() -> float:
        oq, tasks = app_on(folder, backend)
        async with oq:
            workers = [Child("work", folder, backend) for _ in range(2)]
            handle = await tasks.hang.enqueue()
            pid = await pid_of_runner(oq, handle.id)
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            began: float = await handle.result(timeout=60)
            for worker in workers:
                if worker.process.pid == pid:
                    await asyncio.to_thread(worker.process.communicate)
                else:
                    await asyncio.to_thread(worker.stop)
        return 1000 * (began - killed)

    return run_loop(run())


async def pid_of_runner(oq: AsyncOmniQ, task_id: str) -> int:
    """Wait until a task runs, and return the process that runs it."""
    while True:
        for worker in (await oq.stats()).workers:
            if task_id in worker.running:
                return worker.pid
        await asyncio.sleep(0.01)
