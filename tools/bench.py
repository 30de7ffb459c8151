"""What OmniQ costs, beside floors that are measured in the same run.

    python tools/bench.py                    all rows, five repetitions
    python tools/bench.py --quick            fewer and shorter repetitions, within a minute
    python tools/bench.py --only drain       rows with this word in their name

A floor is a small program without queue logic. F1 makes and encodes the same events in the same
batches, and writes each with a checksum and a sync, in a thread. F2 is F1 for three events a job,
and awaits the no-op of each job in a task of its own. S1 inserts the same rows into SQLite, one
transaction a batch, in a thread. Repetitions are interleaved, and medians are shown with their
spread. Every job that counts is checked to have run. A row that misses its budget says so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from tools.bench_floors import (
    BACKENDS,
    FULL,
    PAYLOAD,
    QUICK,
    Sizes,
    app_on,
    floor_f1,
    floor_f2,
    floor_s1,
)
from tools.bench_reading import fold, open_with_snapshot, verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from omniq import AsyncOmniQ

PRODUCERS = 100


class Row(NamedTuple):
    """A line of the table. `share` of the floor is needed if more is better, at most if less is."""

    name: str
    unit: str
    measure: Callable[[Path, Sizes], float]
    floor: Callable[[Path, Sizes], float] | None = None
    share: float = 0.0
    limit: float | None = None
    less_is_better: bool = False


# What is measured.


def enqueue_single(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return calls a second, one after another."""

    async def run() -> float:
        oq, noop = app_on(folder, backend)
        async with oq:
            began = time.perf_counter()
            for _ in range(sizes.single):
                await noop.enqueue(PAYLOAD)
            took = time.perf_counter() - began
            await check(oq, "PENDING", sizes.single)
        return sizes.single / took

    return asyncio.run(run())


def enqueue_together(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return calls a second of a hundred producers in one process."""

    async def run() -> float:
        oq, noop = app_on(folder, backend)
        each = sizes.many // PRODUCERS

        async def produce() -> None:
            for _ in range(each):
                await noop.enqueue(PAYLOAD)

        async with oq:
            began = time.perf_counter()
            await asyncio.gather(*(produce() for _ in range(PRODUCERS)))
            took = time.perf_counter() - began
            await check(oq, "PENDING", each * PRODUCERS)
        return each * PRODUCERS / took

    return asyncio.run(run())


def enqueue_many(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return tasks a second, a thousand a call."""

    async def run() -> float:
        oq, noop = app_on(folder, backend)
        async with oq:
            began = time.perf_counter()
            await fill(noop, sizes.many)
            took = time.perf_counter() - began
            await check(oq, "PENDING", sizes.many)
        return sizes.many / took

    return asyncio.run(run())


async def fill(noop: Any, count: int) -> None:
    """Enqueue this many tasks."""
    for _ in range(0, count, 1000):
        await noop.enqueue_many([(PAYLOAD,)] * 1000)


async def check(oq: AsyncOmniQ, status: str, count: int) -> None:
    """See that all that is counted is there."""
    found = (await oq.stats()).by_status
    if {str(key): value for key, value in found.items() if value} != {status: count}:
        sys.exit(f"expected {count} tasks in {status}, found {found}")


def drain(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return no-op jobs a second that one process runs, results stored."""

    async def run() -> float:
        oq, noop = app_on(folder, backend)
        async with oq:
            await fill(noop, sizes.drained)
            began = time.perf_counter()
            await oq.worker(concurrency=1000).drain()
            took = time.perf_counter() - began
            await check(oq, "SUCCESS", sizes.drained)
        return sizes.drained / took

    return asyncio.run(run())


CHILD = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tools.bench import app_on
async def main():
    oq, noop = app_on(Path(sys.argv[2]), sys.argv[3], durability=sys.argv[5])
    async with oq:
        await oq.stats()
        print("ready", flush=True)
        if sys.argv[4] == "drain":
            sys.stdin.readline()
            await oq.worker(concurrency=1000).drain()
        else:
            await oq.worker(concurrency=10).run()
asyncio.run(main())
"""


def child(folder: Path, backend: str, role: str, durability: str = "fsync") -> Any:
    """Start a worker in a process of its own, and wait until it is ready."""
    root = str(Path(__file__).resolve().parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, root, str(folder), backend, role, durability],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None, "it is a pipe"
    process.stdout.readline()
    return process


def drain_by_two(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return no-op jobs a second that two processes run together."""

    async def run() -> float:
        oq, noop = app_on(folder, backend)
        async with oq:
            await fill(noop, sizes.drained)
            workers = [child(folder, backend, "drain") for _ in range(2)]
            began = time.perf_counter()
            for worker in workers:
                worker.stdin.write("go\n")
                worker.stdin.flush()
            for worker in workers:
                await asyncio.to_thread(worker.communicate)
            took = time.perf_counter() - began
            await check(oq, "SUCCESS", sizes.drained)
        return sizes.drained / took

    return asyncio.run(run())


def trips(folder: Path, sizes: Sizes, backend: str, durability: str = "fsync") -> list[float]:
    """Return seconds from enqueueing in one process to the result of another one, sorted."""

    async def run() -> list[float]:
        oq, noop = app_on(folder, backend, durability=durability)
        async with oq:
            await oq.stats()
            worker = child(folder, backend, "run", durability)
            for _ in range(20):
                await (await noop.enqueue(PAYLOAD)).result(timeout=30)
            found: list[float] = []
            for _ in range(sizes.trips):
                began = time.perf_counter()
                await (await noop.enqueue(PAYLOAD)).result(timeout=30)
                found.append(time.perf_counter() - began)
            worker.terminate()
            await asyncio.to_thread(worker.communicate)
            await check(oq, "SUCCESS", sizes.trips + 20)
        return sorted(found)

    return asyncio.run(run())


def trip_p50(folder: Path, sizes: Sizes, backend: str, durability: str = "fsync") -> float:
    """Return the median round trip, in milliseconds."""
    return 1000 * statistics.median(trips(folder, sizes, backend, durability))


def trip_p99(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return the 99th percentile of round trips, in milliseconds."""
    found = trips(folder, sizes, backend)
    return 1000 * found[int(len(found) * 0.99)]


def disk_bytes(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return bytes on the disk of all events of one no-op task."""
    drain(folder, sizes, backend)
    path = folder / BACKENDS[backend]
    files = path.glob("*.seg") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / sizes.drained


def import_time(folder: Path, sizes: Sizes) -> float:
    """Return the milliseconds of `import omniq` in a new process."""
    del folder, sizes
    code = "import time; t = time.perf_counter(); import omniq; print(time.perf_counter() - t)"
    root = str(Path(__file__).resolve().parents[1])
    return 1000 * float(subprocess.check_output([sys.executable, "-c", code], cwd=root))


def for_backends(name: str, measure: Callable[..., float], *backends: str, **row: Any) -> list[Row]:
    """Return a row for each backend."""
    return [
        Row(f"{name}, {b}", measure=lambda f, s, b=b: measure(f, s, b), **row)  # type: ignore[misc]
        for b in backends
    ]


ROWS = [
    Row("enqueue, one after another, file", "/s", lambda f, s: enqueue_single(f, s, "file"),
        lambda f, s: floor_f1(f, 1, s.single), 1 / 1.6),
    Row("enqueue, one after another, sqlite", "/s", lambda f, s: enqueue_single(f, s, "sqlite"),
        lambda f, s: floor_s1(f, 1, s.single), 1 / 1.8),
    Row("enqueue, 100 producers, file", "/s", lambda f, s: enqueue_together(f, s, "file"),
        lambda f, s: floor_f1(f, 100, s.many), 0.5),
    Row("enqueue, 100 producers, sqlite", "/s", lambda f, s: enqueue_together(f, s, "sqlite"),
        lambda f, s: floor_s1(f, 100, s.many), 0.5),
    Row("enqueue_many, 1,000 a call, file", "/s", lambda f, s: enqueue_many(f, s, "file"),
        lambda f, s: floor_f1(f, 1000, s.many), 0.6),
    Row("drain no-op tasks, one process, file", "/s", lambda f, s: drain(f, s, "file"),
        lambda f, s: floor_f2(f, s.drained), 0.4),
    *for_backends("drain no-op tasks, one process", drain, "sqlite", "memory", unit="/s"),
    Row("drain no-op tasks, two processes, file", "/s", lambda f, s: drain_by_two(f, s, "file"),
        lambda f, s: drain(f, s, "file"), 1.0),
    Row("round trip p50, file", "ms", lambda f, s: trip_p50(f, s, "file"),
        limit=0.9, less_is_better=True),
    Row("round trip p99, file", "ms", lambda f, s: trip_p99(f, s, "file"),
        limit=3.0, less_is_better=True),
    Row("round trip p50, file, durability os", "ms", lambda f, s: trip_p50(f, s, "file", "os"),
        limit=0.45, less_is_better=True),
    *for_backends("open and load with a snapshot", open_with_snapshot, "file", "sqlite",
                  unit="ms", limit=150.0, less_is_better=True),
    Row("fold, decoding included", "/s", fold, limit=600_000),
    *for_backends("verify", verify, "file", "sqlite", unit="/s", limit=300_000),
    *for_backends("disk, all events of a no-op task", disk_bytes, "file", unit="bytes",
                  limit=500.0, less_is_better=True),
    Row("import omniq", "ms", import_time, limit=120.0, less_is_better=True),
]  # fmt: skip


# The table.


def run_row(row: Row, where: Path, sizes: Sizes) -> dict[str, Any]:
    """Measure a row and its floor in turns, and return medians and spreads."""
    values: list[float] = []
    floors: list[float] = []
    for _ in range(sizes.repetitions):
        for measure, into in ((row.measure, values), (row.floor, floors)):
            if measure is not None:
                folder = Path(tempfile.mkdtemp(dir=where))
                into.append(measure(folder, sizes))
                shutil.rmtree(folder)
    value = statistics.median(values)
    floor = statistics.median(floors) if floors else None
    wanted = row.limit if floor is None else floor * row.share
    met = None
    if wanted is not None and wanted:
        met = value <= wanted if row.less_is_better else value >= wanted
    return {
        "name": row.name,
        "value": value,
        "unit": row.unit,
        "spread": (max(values) - min(values)) / value,
        "floor": floor,
        "wanted": wanted or None,
        "met": met,
    }


def shown(value: float | None) -> str:
    """Return a number for people."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"  # noqa: PLR2004 - thousands


def about(where: Path) -> dict[str, str]:
    """Return what the numbers depend on."""
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(where)], capture_output=True, text=True, check=False
    )
    return {
        "python": platform.python_version(),
        "msgspec": version("msgspec"),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release()}",
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "file system": kind.stdout.strip() or "unknown",
        "durability": "fsync, unless a row says otherwise",
        "event loop": "asyncio",
    }


def main() -> int:
    """Measure the rows that are asked for, and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repetitions")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--only", default="", help="rows with this word in their name")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on which disk (here)")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.folder) as name:
        where = Path(name)
        facts = about(where)
        if facts["file system"] == "tmpfs":
            print("tmpfs has no disk to sync to: name another --folder", file=sys.stderr)
        rows = []
        if not options.json:
            print("  ".join(f"{key} {value}" for key, value in facts.items()) + "\n")
            print("| what | median | spread | floor | budget | |")
            print("| --- | --- | --- | --- | --- | --- |")
        for row in ROWS:
            if options.only in row.name:
                rows.append(found := run_row(row, where, sizes))
                if not options.json:
                    verdict = {None: "", True: "met", False: "MISSED"}[found["met"]]
                    print(
                        f"| {found['name']} | {shown(found['value'])} {found['unit']} "
                        f"| {found['spread']:.0%} | {shown(found['floor'])} "
                        f"| {shown(found['wanted'])} | {verdict} |",
                        flush=True,
                    )
    if options.json:
        print(json.dumps({"about": facts, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
