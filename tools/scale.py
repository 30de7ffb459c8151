"""Whether costs stay flat where a queue becomes large: each beside the same at an ordinary size.

    python tools/scale.py                    all rows; takes minutes, and a few GiB of disk
    python tools/scale.py --quick            a tenth of the size
    python tools/scale.py --only queues      rows with this word in their name

A row has the cost of a task at an ordinary size and at a large one, which take turns, and their
ratio. Flat means that the large one costs at most a tenth more. Pauses are the longest that the
event loop was held up while the state of a large queue was saved, or its history dropped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from omniq import TaskStatus
from omniq.core import commands as cmd
from omniq.core import events as ev
from tools.bench import about, shown
from tools.bench_child import TOGETHER, Child
from tools.bench_floors import FULL, PAYLOAD, app_on
from tools.bench_processes import rate_of
from tools.bench_queue import check, fill
from tools.bench_reading import LIVE_TASKS
from tools.scale_pauses import (
    LARGE,
    MANY,
    TENTH,
    Size,
    copied,
    large_payload,
    pause_of_bulk,
    pause_of_dropping,
    pause_of_loading,
    pause_of_snapshot,
    with_snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from omniq import AsyncOmniQ

FLAT = 1.1
PAUSE_MS = 50.0
REPETITIONS = 3
WORKERS = 64
QUEUES = 200
LEASE_US = 3_000_000  # a tenth of the default, so that renewals are in what is timed


class Row(NamedTuple):
    """What a row measures: an ordinary size and a large one, or only a large one with a limit."""

    name: str
    unit: str
    measure: Callable[[Path, Size], tuple[float | None, float]]
    limit: float | None = None
    repetitions: int = REPETITIONS


def microseconds(seconds: float, count: int) -> float:
    """Return the cost of each of so many."""
    return 1e6 * seconds / count


async def timed_drain(oq: AsyncOmniQ, count: int, **options: Any) -> float:
    """Run all that is due, which is so many, and return microseconds a task."""
    before = (await oq.stats()).by_status[TaskStatus.SUCCESS]
    began = time.perf_counter()
    await oq.worker(concurrency=TOGETHER, **options).drain()
    took = time.perf_counter() - began
    after = (await oq.stats()).by_status[TaskStatus.SUCCESS]
    if after - before != count:
        sys.exit(f"{count} jobs were to be run, and {after - before} were")
    return microseconds(took, count)


# One million pending.


def enqueue_beside_pending(folder: Path, size: Size) -> tuple[float, float]:
    """Enqueue beside few pending tasks and beside many, in a process that has read all of them.

    A call here and a call there take turns: a machine changes its speed within a second.
    """
    places = [folder / "few", folder / "many"]
    costs = [0.0, 0.0]

    async def run() -> None:
        apps = []
        for where, pending in zip(places, (MANY, size.pending), strict=True):
            where.mkdir()
            oq, tasks = app_on(where, "file")
            await oq.stats()
            await fill(tasks.noop, pending - MANY)
            apps.append((oq, tasks.noop, pending))
        for _ in range(MANY // TOGETHER):
            for place, (_, noop, _) in enumerate(apps):
                began = time.perf_counter()
                await fill(noop, TOGETHER)
                costs[place] += microseconds(time.perf_counter() - began, MANY)
        for oq, _, pending in apps:
            await check(oq, "PENDING", pending)
            await oq.close()

    asyncio.run(run())
    return costs[0], costs[1]


def drain_pending(folder: Path, size: Size) -> tuple[float, float]:
    """Drain a long queue, and short ones, each in a new process."""
    costs: list[float] = []
    for name, count in (("short", MANY), ("long", size.pending)):
        where = folder / name
        where.mkdir()

        async def run(where: Path = where, count: int = count) -> None:
            oq, tasks = app_on(where, "file")
            async with oq:
                await fill(tasks.noop, count)

        asyncio.run(run())
        costs.append(1e6 / rate_of([Child("drain", where)], count))
    return costs[0], costs[1]


# Ten million events.


def beside_history(folder: Path, size: Size) -> tuple[float, float]:
    """Drain as many in a new journal and in one with a long history, each in a new process."""
    new, costs = folder / "new", list[float]()
    new.mkdir()
    for where, live in ((new, 0), (copied(folder, size.history), LIVE_TASKS)):

        async def run(where: Path = where, count: int = MANY - live) -> None:
            oq, tasks = app_on(where, "file")
            async with oq:
                await fill(tasks.noop, count)

        asyncio.run(run())
        costs.append(1e6 / rate_of([Child("drain", where)], MANY))
    return costs[0], costs[1]


def open_long(folder: Path, size: Size) -> tuple[None, float]:
    """Return milliseconds until a process has the state of a long journal, with its snapshot."""
    where = copied(folder, size.history)

    async def run() -> float:
        oq, _ = app_on(where, "file", result_ttl=None)
        began = time.perf_counter()
        await oq.stats()
        took = time.perf_counter() - began
        await oq.close()
        return 1000 * took

    return None, asyncio.run(run())


def verify_long(folder: Path, size: Size) -> tuple[float, float]:
    """Return MiB of memory that `verify` takes, for a tenth of the history and for all of it."""
    peaks: list[float] = []
    for events in (size.history // 10, size.history):
        child = Child("verify", with_snapshot(folder, events), journal="jobs")
        child.go()
        peaks.append(child.found()["peak"] / 1024 / 1024)
    return peaks[0], peaks[1]


# Scheduled tasks, workers, queues.


def beside_scheduled(folder: Path, size: Size) -> tuple[float, float]:
    """Enqueue and drain alone, and beside many tasks that are due tomorrow."""

    async def run(where: Path, scheduled: int) -> float:
        where.mkdir()  # noqa: ASYNC240 - nothing else runs yet
        oq, tasks = app_on(where, "file")
        async with oq:
            await fill(tasks.noop.options(delay=86_400), scheduled)
            began = time.perf_counter()
            await fill(tasks.noop, MANY)
            took = microseconds(time.perf_counter() - began, MANY)
            return took + await timed_drain(oq, MANY)

    none = asyncio.run(run(folder / "none", 0))
    return none, asyncio.run(run(folder / "many", size.scheduled))


def beside_workers(folder: Path, _size: Size) -> tuple[float, float]:
    """Drain alone, and while 63 workers of other hosts have leases and renew them."""

    async def run(where: Path, others: int) -> float:
        where.mkdir()  # noqa: ASYNC240 - nothing else runs yet
        oq, tasks = app_on(where, "file")
        names = [f"other{number:03}" for number in range(others)]
        async with oq:
            engine = await oq.engine()
            for name in names:
                joined = ev.WorkerJoined(name, name, 1, "elsewhere", LEASE_US)
                await engine.execute(cmd.Join(joined))
            await fill(tasks.noop, MANY)

            async def renew() -> None:
                storage = oq.storage.sibling()
                await storage.open()
                while True:
                    for name in names:
                        now = time.time_ns() // 1000
                        renewed = ev.WorkerRenewed(name, now + LEASE_US)
                        await storage.append([renewed], at=now, actor=name)
                    await asyncio.sleep(LEASE_US / 3e6)

            renewing = asyncio.create_task(renew())
            cost = await timed_drain(oq, MANY)
            renewing.cancel()
        return cost

    return asyncio.run(run(folder / "one", 0)), asyncio.run(run(folder / "all", WORKERS - 1))


def beside_processes(folder: Path, _size: Size) -> tuple[float, float]:
    """Return the part of a core that an idle worker takes alone, and among 64 processes' ones."""

    def part(children: list[Child]) -> float:
        for child in children:
            child.go()
        return statistics.median([100 * child.found()["part"] for child in children])

    alone, together = folder / "alone", folder / "together"
    alone.mkdir()
    together.mkdir()
    one = part([Child("idle", alone, seconds=5.0)])
    return one, part([Child("idle", together, seconds=5.0) for _ in range(WORKERS)])


def over_queues(folder: Path, _size: Size) -> tuple[float, float]:
    """Enqueue and drain in one queue, and over 200 of them."""

    async def run(where: Path, queues: int) -> float:
        where.mkdir()  # noqa: ASYNC240 - nothing else runs yet
        oq, tasks = app_on(where, "file")
        async with oq:
            named = [tasks.noop.options(queue=f"queue{number}") for number in range(queues)]
            await oq.stats()
            began = time.perf_counter()
            for number in range(MANY // 1000):
                await named[number % queues].enqueue_many([(PAYLOAD,)] * 1000)
            took = microseconds(time.perf_counter() - began, MANY)
            return took + await timed_drain(oq, MANY)

    return asyncio.run(run(folder / "one", 1)), asyncio.run(run(folder / "many", QUEUES))


ROWS = [
    Row("enqueue, 1,000,000 pending", "µs", enqueue_beside_pending),
    Row("drain, 1,000,000 pending", "µs", drain_pending),
    Row("drain, 10,000,000 events of history", "µs", beside_history),
    Row("open with a snapshot, 10,000,000 events of history", "ms", open_long, 150.0),
    Row("memory of verify, 10,000,000 events of history", "MiB", verify_long),
    Row("enqueue and drain, 100,000 scheduled for tomorrow", "µs", beside_scheduled),
    Row("drain, 64 workers' leases", "µs", beside_workers),
    Row("idle worker among 64 processes, of a core", "%", beside_processes, 0.1, 1),
    Row("enqueue and drain, 200 queues", "µs", over_queues),
    Row("pause, tasks with the largest payload", "ms", large_payload, PAUSE_MS),
    *(
        Row(
            f"pause, {count:,} tasks in one call",
            "ms",
            partial(pause_of_bulk, count=count),
            PAUSE_MS,
        )
        for count in (10_000, 100_000)
    ),
    Row("pause, snapshot of 1,000,000 pending", "ms", pause_of_snapshot, PAUSE_MS),
    Row("pause, 1,000,000 pending are loaded", "ms", pause_of_loading, PAUSE_MS),
    Row("pause, history of 10,000,000 events is dropped", "ms", pause_of_dropping, PAUSE_MS),
]


def result_of(row: Row, where: Path, size: Size) -> dict[str, Any]:
    """Measure a row a few times, and return medians."""
    ordinary: list[float] = []
    large: list[float] = []
    for _ in range(row.repetitions):
        folder = Path(tempfile.mkdtemp(dir=where))
        one, other = row.measure(folder, size)
        shutil.rmtree(folder)
        large.append(other)
        if one is not None:
            ordinary.append(one)
    value = statistics.median(large)
    base = statistics.median(ordinary) if ordinary else None
    wanted = row.limit if row.limit is not None else FLAT * (base or 0.0)
    return {
        "name": row.name,
        "unit": row.unit,
        "ordinary": base,
        "large": value,
        "ratio": None if base is None else value / base,
        "wanted": wanted,
        "met": value <= wanted,
    }


def line_of(result: dict[str, Any]) -> str:
    """Return a line of the table."""
    verdict, unit = "met" if result["met"] else "MISSED", result["unit"]
    ordinary = "" if result["ordinary"] is None else shown(result["ordinary"], unit)
    large, ratio = shown(result["large"], unit), shown(result["ratio"])
    wanted = shown(result["wanted"])
    return f"| {result['name']} | {ordinary} | {large} | {ratio} | {wanted} | {verdict} |"


def main() -> int:
    """Measure the rows that are asked for, and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--only", default="", help="rows with this word in their name")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on which disk (here)")
    options = parser.parse_args()
    size = TENTH if options.quick else LARGE
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix=".scale-", dir=options.folder) as name:
        where = Path(name)
        facts = about(where, FULL, uses_uvloop=False) | {"size": str(size._asdict())}
        if not options.json:
            print("  ".join(f"{key} {value}" for key, value in facts.items()) + "\n")
            print("| what | ordinary | large | ratio | budget | |")
            print("| --- | --- | --- | --- | --- | --- |")
        for row in ROWS:
            if options.only in row.name:
                results.append(result_of(row, where, size))
                if not options.json:
                    print(line_of(results[-1]), flush=True)
    if options.json:
        print(json.dumps({"about": facts, "rows": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
