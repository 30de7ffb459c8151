"""The rows of `scale` that are about pauses, and the long journals that some rows begin with."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from tools.bench_child import TOGETHER
from tools.bench_floors import PAYLOAD, app_on
from tools.bench_queue import fill
from tools.bench_reading import build_history, long_journal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

TICK_SECONDS = 0.001
MANY = 50_000  # tasks that are timed
MAX_PAYLOAD = 1024 * 1024 - 16  # bytes, with a little room for the call around it


class Size(NamedTuple):
    """How large the large ones are."""

    pending: int
    history: int
    scheduled: int


LARGE = Size(1_000_000, 10_000_000, 100_000)
TENTH = Size(100_000, 1_000_000, 10_000)


# Journals.


def copied(folder: Path, events: int) -> Path:
    """Return the folder of a copy of a long journal, which shares what is never changed again."""
    source, target = with_snapshot(folder, events) / "jobs", folder / "copy" / "jobs"
    target.mkdir(parents=True, mode=0o700)
    *sealed, last = sorted(source.glob("*.seg"))
    for file in sealed:
        os.link(file, target / file.name)
    for file in (last, *source.glob("*.snapshot")):
        shutil.copy(file, target)
    os.sync()  # else the disk is at it while something is timed
    return target.parent


def with_snapshot(folder: Path, events: int) -> Path:
    """Return the folder of a long journal that has its snapshot."""
    where = long_journal(folder, events, "file")
    if not list(where.glob("jobs/*.snapshot")):
        asyncio.run(snapshot_taken(where))
    return where


async def snapshot_taken(where: Path, loaded: Callable[[], None] = lambda: None) -> None:
    """Read a journal, and wait until the snapshot is there that is due by then."""
    oq, _ = app_on(where, "file", result_ttl=None)
    async with oq:
        await oq.stats()
        loaded()
        engine = await oq.engine()
        while not await engine.storage.snapshot_seq():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


# Pauses.


@asynccontextmanager
async def lags() -> AsyncIterator[list[float]]:
    """Collect by how many milliseconds the loop was late, a thousand times a second."""
    found = [0.0]

    async def tick() -> None:
        while True:
            due = time.perf_counter() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            found.append(1000 * (time.perf_counter() - due))

    ticking = asyncio.create_task(tick())
    try:
        yield found
    finally:
        ticking.cancel()


def pause_of_snapshot(folder: Path, size: Size) -> tuple[None, float]:
    """Return the longest pause while the state of a large queue is saved."""
    # As much must have happened since the last snapshot as is in four events for each task.
    asyncio.run(build_history(folder, 4 * size.pending, "file", live=size.pending))

    async def run() -> float:
        async with lags() as found:
            await snapshot_taken(folder, loaded=found.clear)
        return max(found)

    return None, asyncio.run(run())


def pause_of_loading(folder: Path, size: Size) -> tuple[None, float]:
    """Return the longest pause while the state of a large queue is loaded from its snapshot."""
    pause_of_snapshot(folder, size)

    async def run() -> float:
        oq, _ = app_on(folder, "file")
        async with oq, lags() as found:
            await oq.stats()
        return max(found)

    return None, asyncio.run(run())


def pause_of_dropping(folder: Path, size: Size) -> tuple[None, float]:
    """Return the longest pause while the history of a long journal is dropped."""
    where = copied(folder, size.history)
    before = disk_of(where)

    async def run() -> float:
        oq, tasks = app_on(where, "file", retention=8)  # looks each second
        async with oq, lags() as found:
            # Two snapshots are kept, and what is behind the older one may go.
            for _ in range(3):
                await fill(tasks.noop, MANY)
                await oq.worker(concurrency=TOGETHER).drain()
            while disk_of(where) > before // 2:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        return max(found)

    return None, asyncio.run(run())


def disk_of(where: Path) -> int:
    """Return the bytes of a journal's segments."""
    return sum(file.stat().st_size for file in where.glob("jobs/*.seg"))


def large_payload(folder: Path, _size: Size) -> tuple[None, float]:
    """Return milliseconds that the loop is held up by a task with the largest payload."""

    async def run() -> float:
        oq, tasks = app_on(folder, "file")
        async with oq, oq.worker(), lags() as found:
            for _ in range(5):
                await (await tasks.noop.enqueue(b"x" * MAX_PAYLOAD)).result(timeout=60)
        return max(found)

    return None, asyncio.run(run())


def pause_of_bulk(folder: Path, _size: Size, *, count: int) -> tuple[None, float]:
    """Return the longest pause while many tasks are enqueued at once, and others hear of them."""

    async def run() -> float:
        oq, tasks = app_on(folder, "file")
        follower, _ = app_on(folder, "file")
        async with oq, follower:
            for app in (oq, follower):
                await app.stats()
            async with lags() as found:
                await tasks.noop.enqueue_many([(PAYLOAD,)] * count)
                while not (await follower.stats()).by_queue:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(TICK_SECONDS)
        return max(found)

    return None, asyncio.run(run())
