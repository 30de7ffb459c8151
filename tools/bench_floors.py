"""What the rows of the benchmark share, and its floors: the unavoidable work, without a queue."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import msgspec

from omniq import AsyncOmniQ
from omniq.core import events as ev
from omniq.storage.rows import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from pathlib import Path

PAYLOAD = b"x" * 90


BACKENDS = {"file": "jobs", "sqlite": "jobs.db", "memory": "memory://"}


class Sizes(NamedTuple):
    """How much is done in a repetition, and how many there are."""

    repetitions: int
    single: int
    many: int
    drained: int
    trips: int
    history: int


FULL = Sizes(5, 1500, 50_000, 50_000, 400, 1_000_000)
QUICK = Sizes(3, 300, 10_000, 10_000, 100, 100_000)


def app_on(folder: Path, backend: str, **options: Any) -> tuple[AsyncOmniQ, Any]:
    """Return a new app with its no-op task."""
    location = BACKENDS[backend] if backend == "memory" else str(folder / BACKENDS[backend])
    oq = AsyncOmniQ(location, **options)

    @oq.task(name="noop")
    async def noop(payload: bytes) -> None:
        del payload

    return oq, noop


def enqueued(number: int) -> ev.TaskEnqueued:
    """Return an event like that of a benchmark's task."""
    task_id = f"019e7044-8800-7000-8000-{number:012d}"
    return ev.TaskEnqueued(task_id, "bench:noop", "default", PAYLOAD, result_ttl_us=86_400_000_000)


def lives(numbers: range) -> list[ev.Event]:
    """Return all events of some no-op tasks."""
    tasks = [enqueued(number) for number in numbers]
    return [
        *tasks,
        *[ev.TaskStarted(task.task_id, 1, "worker0001") for task in tasks],
        *[ev.TaskSucceeded(task.task_id, 1, "worker0001", b"\xc0") for task in tasks],
    ]


async def write_synced(
    folder: Path, batches: Iterable[list[ev.Event]], work: Callable[[], Awaitable[None]]
) -> None:
    """Encode, sum, write and sync these batches, each in a thread, and await work for each."""
    loop = asyncio.get_running_loop()
    descriptor = os.open(folder / "floor", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def write(data: bytes) -> None:
        os.write(descriptor, crc32(data).to_bytes(4, "little") + data)
        os.fdatasync(descriptor)

    for number, batch in enumerate(batches):
        data = msgspec.msgpack.encode(ev.Commit(number + 1, 1, "bench", batch))
        await loop.run_in_executor(None, write, data)
        await work()
    os.close(descriptor)


async def nothing() -> None:
    """Do nothing, as the benchmark's jobs do."""


def floor_f1(folder: Path, batch: int, count: int) -> float:
    """F1: events a second, in batches of this size."""
    batches: Iterator[list[ev.Event]] = (
        [enqueued(n) for n in range(first, first + batch)] for first in range(0, count, batch)
    )
    began = time.perf_counter()
    asyncio.run(write_synced(folder, batches, nothing))
    return count / (time.perf_counter() - began)


def floor_f2(folder: Path, count: int) -> float:
    """F2: jobs a second, three events each, and the no-op of each in a task."""
    batches = (lives(range(first, first + 1000)) for first in range(0, count, 1000))

    async def work() -> None:
        await asyncio.gather(*(asyncio.create_task(nothing()) for _ in range(1000)))

    began = time.perf_counter()
    asyncio.run(write_synced(folder, batches, work))
    return count / (time.perf_counter() - began)


def row_of(number: int) -> tuple[object, ...]:
    """Return a row of a journal in SQLite, with what every column but the last two has."""
    event = enqueued(number)
    data = msgspec.msgpack.encode(event)
    kind, task_id, queue = "task.enqueued", event.task_id, event.queue
    return number + 1, 1, kind, task_id, queue, None, "bench", data, None, None


def floor_s1(folder: Path, batch: int, count: int) -> float:
    """S1: rows a second, in transactions of this many rows, each in a thread."""
    database = sqlite3.connect(folder / "floor.db", isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.executescript(SCHEMA)
    places = ", ".join("?" * 10)

    def insert(rows: list[tuple[object, ...]]) -> None:
        database.execute("BEGIN IMMEDIATE")
        database.executemany(f"INSERT INTO events VALUES ({places})", rows)  # noqa: S608 - ours
        database.execute("COMMIT")

    async def run() -> None:
        loop = asyncio.get_running_loop()
        for first in range(0, count, batch):
            rows = [row_of(number) for number in range(first, first + batch)]
            await loop.run_in_executor(None, insert, rows)

    began = time.perf_counter()
    asyncio.run(run())
    took = time.perf_counter() - began
    database.close()
    return count / took
