"""What the rows of the benchmark share, and its floors: the unavoidable work, without a queue."""

from __future__ import annotations

import asyncio
import importlib
import math
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import msgspec

from omniq import AsyncOmniQ, current_task
from omniq.core import events as ev
from omniq.storage.rows import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
    from pathlib import Path

UVLOOP = "OMNIQ_BENCH_UVLOOP"  # set in the environment: use it
PAYLOAD = b"x" * 90
ARGUMENTS = msgspec.msgpack.encode(([PAYLOAD], {}))  # as a task has them
BACKENDS = {"file": "jobs", "sqlite": "jobs.db", "memory": "memory://"}
RAN: list[None] = []  # an entry for each no-op that ran in this process


class Sizes(NamedTuple):
    """How much is done in a repetition, and how many there are."""

    repetitions: int
    single: int  # calls, one after another
    many: int  # tasks that are enqueued together, or drained
    trips: int  # round trips
    history: int  # events of a long journal
    backlog: int  # pending tasks of a long queue
    idle: float  # seconds
    cpu: int  # tasks of 1 ms; of a thousand, the ends of two processes are 3 % of the time
    seconds: float = math.inf  # no repetition begins that would not end within this time


FULL = Sizes(5, 1500, 50_000, 500, 1_000_000, 1_000_000, 5.0, 5000)
QUICK = Sizes(3, 200, 5_000, 60, 60_000, 10_000, 0.5, 400, seconds=55.0)


class Tasks(NamedTuple):
    """The jobs of the benchmark."""

    noop: Any
    stamp: Any
    burn: Any
    hang: Any


def app_on(folder: Path, backend: str, **options: Any) -> tuple[AsyncOmniQ, Tasks]:
    """Return a new app with its tasks."""
    location = BACKENDS[backend] if backend == "memory" else str(folder / BACKENDS[backend])
    oq = AsyncOmniQ(location, **options)

    @oq.task(name="noop")
    async def noop(payload: bytes) -> None:
        del payload
        RAN.append(None)

    @oq.task(name="stamp")
    async def stamp(payload: bytes) -> float:
        """Say when it began, by the clock that all processes of a machine share."""
        del payload
        RAN.append(None)
        return time.monotonic()

    @oq.task(name="burn")
    async def burn() -> None:
        spin(0.001)
        RAN.append(None)

    @oq.task(name="hang")
    async def hang() -> float:
        """Hang at the first attempt, and say when the second one began."""
        if current_task().attempt == 1:
            await asyncio.sleep(3600)
        return time.monotonic()

    return oq, Tasks(noop, stamp, burn, hang)


def enqueued(number: int) -> ev.TaskEnqueued:
    """Return an event like that of a benchmark's task."""
    task_id = f"019e7044-8800-7000-8000-{number:012d}"
    return ev.TaskEnqueued(task_id, "noop", "default", ARGUMENTS, result_ttl_us=86_400_000_000)


def lives(numbers: range) -> list[ev.Event]:
    """Return all events of some no-op tasks."""
    tasks = [enqueued(number) for number in numbers]
    return [
        *tasks,
        *[ev.TaskStarted(task.task_id, 1, "worker0001") for task in tasks],
        *[ev.TaskSucceeded(task.task_id, 1, "worker0001", b"\xc0") for task in tasks],
    ]


def run_loop[T](work: Coroutine[Any, Any, T]) -> T:
    """Run this on the event loop that the benchmark was asked for, in all of its processes."""
    uses_uvloop = bool(os.environ.get(UVLOOP))
    factory = importlib.import_module("uvloop").new_event_loop if uses_uvloop else None
    return asyncio.run(work, loop_factory=factory)


def encoded(batch: list[ev.Event], number: int) -> bytes:
    """Return a batch as bytes."""
    return msgspec.msgpack.encode(ev.Commit(number + 1, 1, "bench", batch))


def with_sum(data: bytes) -> bytes:
    """Return bytes behind their checksum."""
    return crc32(data).to_bytes(4, "little") + data


async def write_synced(
    folder: Path, batches: Iterable[list[ev.Event]], work: Callable[[], Awaitable[None]]
) -> None:
    """Encode, sum, write and sync these batches, each in a thread, and await work for each."""
    loop = asyncio.get_running_loop()
    descriptor = os.open(folder / "floor", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def write(data: bytes) -> None:
        os.write(descriptor, with_sum(data))
        os.fdatasync(descriptor)

    for number, batch in enumerate(batches):
        await loop.run_in_executor(None, write, encoded(batch, number))
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
    run_loop(write_synced(folder, batches, nothing))
    return count / (time.perf_counter() - began)


def floor_f2(folder: Path, count: int) -> float:
    """F2: jobs a second, three events each, and the no-op of each in a task."""
    batches = (lives(range(first, first + 1000)) for first in range(0, count, 1000))

    async def work() -> None:
        await asyncio.gather(*(asyncio.create_task(nothing()) for _ in range(1000)))

    began = time.perf_counter()
    run_loop(write_synced(folder, batches, work))
    return count / (time.perf_counter() - began)


def row_of(number: int) -> tuple[object, ...]:
    """Return a row of a journal in SQLite, as every one of a commit but its last."""
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

    def insert(rows: list[tuple[object, ...]]) -> None:
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        database.execute("COMMIT")

    async def run() -> None:
        loop = asyncio.get_running_loop()
        for first in range(0, count, batch):
            rows = [row_of(number) for number in range(first, first + batch)]
            await loop.run_in_executor(None, insert, rows)

    began = time.perf_counter()
    run_loop(run())
    took = time.perf_counter() - began
    database.close()
    return count / took


def bare_loop(_folder: Path, _sizes: Sizes) -> float:
    """Return additions a second in plain Python, by which machines can be compared."""
    count, total = 1_000_000, 0
    began = time.perf_counter()
    for number in range(count):
        total += number
    return count / (time.perf_counter() - began)


def spin(seconds: float) -> None:
    """Keep a core busy with Python for so long, of this thread's own time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(100))
