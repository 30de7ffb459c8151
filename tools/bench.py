"""What OmniQ costs, beside floors that are measured in the same run.

    python tools/bench.py                    all rows, five repetitions
    python tools/bench.py --quick            fewer and shorter repetitions, within a minute
    python tools/bench.py --only drain       rows with this word in their name

A floor is a small program without queue logic. F1 makes and encodes the same events in the same
batches, and writes each with a checksum and a sync, in a thread. F2 is F1 for three events a job,
and awaits the no-op of each job in a task of its own. S1 inserts the same rows into SQLite, one
transaction a batch, in a thread. That of a round trip has its writes, wakes and syncs; that of an
idle worker wakes twice a second. All rows take turns, so that what else the machine does meets all
of them, and medians are shown with their spread. Every job that counts is checked to have run
once, and to have left its result. A row that misses its budget says so.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
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
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import bench_processes as processes
from tools import bench_queue as queue
from tools import bench_reading as reading
from tools.bench_floors import (
    FULL,
    QUICK,
    RAN,
    UVLOOP,
    Sizes,
    bare_loop,
    floor_f1,
    floor_f2,
    floor_s1,
)
from tools.bench_hops import hops

if TYPE_CHECKING:
    from collections.abc import Callable

    type Measure = Callable[[Path, Sizes], float | list[float]]


class Row(NamedTuple):
    """A line of the table: a value, its floor, and which share of that it should reach."""

    name: str
    unit: str
    value: str  # which of the things that are measured
    floor: str = ""
    share: float = 0.0
    limit: float | None = None  # in place of a share of the floor
    less_is_better: bool = False
    needs_size: bool = False  # its budget is about the full size, which `--quick` has not


def measures_of(backend: str) -> dict[str, Measure]:
    """Return what is measured with a backend, by name."""
    measures: dict[str, Callable[[Path, Sizes, str], float | list[float]]] = {
        "single": queue.enqueue_single,
        "together": queue.enqueue_together,
        "by app": queue.enqueue_by_app,
        "many": queue.enqueue_many,
        "drain": queue.drain,
        "lag": queue.loop_lag,
        "disk": queue.disk_bytes,
        "by one": processes.drain_by_one,
        "by two": processes.drain_by_two,
        "cpu": processes.cpu_by_two,
        "trips": processes.trips,
        "load": processes.pickup_under_load,
        "backlog": processes.backlog,
        "idle": processes.idle_part,
        "rescue": processes.rescue,
        "open": reading.open_with_snapshot,
        "first": reading.first_call,
        "verify": reading.verify,
    }
    return {
        f"{name} {backend}": partial(_on_backend, measure, backend)
        for name, measure in measures.items()
    }


def _on_backend(
    measure: Callable[[Path, Sizes, str], float | list[float]],
    backend: str,
    folder: Path,
    sizes: Sizes,
) -> float | list[float]:
    return measure(folder, sizes, backend)


# By name; "trips.2 file" is the second of the values that "trips file" gives.
MEASURES: dict[str, Measure] = {
    "f1, 1": lambda f, s: floor_f1(f, 1, s.single),
    "f1, 100": lambda f, s: floor_f1(f, 100, s.many),
    "f1, 1000": lambda f, s: floor_f1(f, 1000, s.many),
    "f2": lambda f, s: floor_f2(f, s.many),
    "s1, 1": lambda f, s: floor_s1(f, 1, s.single),
    "s1, 100": lambda f, s: floor_s1(f, 100, s.many),
    "s1, 1000": lambda f, s: floor_s1(f, 1000, s.many),
    "cpu floor": processes.cpu_floor,
    "hops floor": hops,
    "idle floor": processes.idle_floor,
    "trips os": lambda f, s: processes.trips(f, s, "file", "os"),
    "drain memory": lambda f, s: queue.drain(f, s, "memory"),
    "fold": reading.fold,
    "import": queue.import_time,
    "bare loop": bare_loop,
    **measures_of("file"),
    **measures_of("sqlite"),
}


def rows_of(backend: str) -> list[Row]:
    """Return the rows that there are for each backend; the budgets are those of docs/."""
    is_file = backend == "file"
    floor, most = ("f1", 1.6) if is_file else ("s1", 1.8)
    at_most: dict[str, Any] = {"less_is_better": True}
    rows = [
        Row("enqueue, one after another", "/s", "single", f"{floor}, 1", 1 / most),
        Row("enqueue, 100 producers", "/s", "together", f"{floor}, 100", 0.5),
        Row("the same, by oq.enqueue(function)", "/s", "by app"),
        Row("enqueue_many, 1,000 a call", "/s", "many", f"{floor}, 1000", 0.6 if is_file else 0),
        Row("drain no-op tasks, one process", "/s", "drain", "f2", 0.4 if is_file else 0),
        Row("the same, journal read before, one process", "/s", "by one"),
        Row("the same, two processes", "/s", "by two", f"by one {backend}", 1.0),
        Row("1 ms of Python a task, two processes", "/s", "cpu", "cpu floor", 0.9),
        Row(
            "pickup p50",
            "ms",
            "trips.1",
            "hops.1 floor",
            limit=0.6 if is_file else None,
            **at_most,
        ),
        Row("pickup p99", "ms", "trips.2", limit=3.0 if is_file else None, **at_most),
        Row("pickup p99 while 5,000 jobs/s flow", "ms", "load", **at_most),
        Row(
            "round trip p50",
            "ms",
            "trips.3",
            "hops.2 floor",
            limit=0.9 if is_file else None,
            **at_most,
        ),
        Row("round trip p99", "ms", "trips.4", limit=3.0 if is_file else None, **at_most),
        Row("lag p99 of a host's loop while its worker drains", "ms", "lag", limit=10.0, **at_most),
        Row(
            "drain a long backlog", "/s", "backlog.1", f"backlog.2 {backend}", 0.9, needs_size=True
        ),
        Row("memory, a pending task", "bytes", "backlog.3", limit=400, needs_size=True, **at_most),
        Row("open and load with a snapshot", "ms", "open", limit=150, **at_most),
        Row("open and enqueue", "ms", "first", limit=30, **at_most),
        Row("verify", "/s", "verify.1", limit=300_000),
        Row("verify, memory for ten times the history", "times", "verify.2", limit=1.2, **at_most),
        Row(
            "disk, all events of a no-op task",
            "bytes",
            "disk",
            limit=500 if is_file else None,
            **at_most,
        ),
        Row(
            "idle worker, of a core",
            "%",
            "idle",
            "idle floor",
            limit=0.1,
            needs_size=True,
            **at_most,
        ),
        Row("SIGKILL of a worker to its task's next start", "ms", "rescue", limit=1000, **at_most),
    ]
    return [
        row._replace(name=f"{row.name}, {backend}", value=f"{row.value} {backend}") for row in rows
    ]


ROWS = [
    *rows_of("file"),
    Row(
        "round trip p50, file, durability os",
        "ms",
        "trips.3 os",
        "hops.3 floor",
        limit=0.45,
        less_is_better=True,
    ),
    *rows_of("sqlite"),
    Row("drain no-op tasks, one process, memory", "/s", "drain memory"),
    Row("fold, decoding included", "/s", "fold", limit=600_000),
    Row("import omniq", "ms", "import", limit=120, less_is_better=True),
    Row("no OmniQ: additions in a loop of Python", "/s", "bare loop"),
]


# Measuring.


def measure_of(value: str) -> str:
    """Return the name of the measure that gives a value: "trips.2 file" is of "trips file"."""
    first, _, rest = value.partition(".")
    return value if not rest else f"{first}{rest[1:]}"


def measured(rows: list[Row], where: Path, sizes: Sizes) -> dict[str, list[float]]:
    """Measure all that these rows are about, in turns, and return the values by name."""
    wanted = dict.fromkeys(
        measure_of(name) for row in rows for name in (row.value, row.floor) if name
    )
    values: dict[str, list[float]] = {}
    began = time.monotonic()
    for repetition in range(sizes.repetitions):
        took = time.monotonic() - began
        if repetition and took + took / repetition > sizes.seconds:
            break
        for name in wanted:
            if sys.stderr.isatty():
                print(f"\r{repetition + 1}/{sizes.repetitions} {name:30}", end="", file=sys.stderr)
            folder = Path(tempfile.mkdtemp(dir=where))
            RAN.clear()
            gc.collect()  # what the one before left is not the next one's to clear away
            found = MEASURES[name](folder, sizes)
            shutil.rmtree(folder)
            if isinstance(found, list):
                first, _, rest = name.partition(" ")
                for number, value in enumerate(found, 1):
                    values.setdefault(f"{first}.{number} {rest}", []).append(value)
            else:
                values.setdefault(name, []).append(found)
    if sys.stderr.isatty():
        print(f"\r{' ':40}\r", end="", file=sys.stderr)
    return values


def result_of(row: Row, values: dict[str, list[float]], *, full: bool) -> dict[str, Any]:
    """Return what a line of the table says."""
    found = values[row.value]
    value = statistics.median(found)
    floor = statistics.median(values[row.floor]) if row.floor else None
    wanted = row.limit if row.limit is not None or floor is None else floor * row.share or None
    met = None
    if row.needs_size and not full:
        wanted = None
    if wanted is not None:
        met = value <= wanted if row.less_is_better else value >= wanted
    return {
        "name": row.name,
        "value": value,
        "unit": row.unit,
        "spread": (max(found) - min(found)) / value if value else 0.0,
        "floor": floor,
        "wanted": wanted,
        "met": met,
    }


# The table.


def shown(value: float | None, unit: str = "") -> str:
    """Return a number for people."""
    if value is None:
        return ""
    number = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"  # noqa: PLR2004 - thousands
    return f"{number} {unit}".rstrip()


def line_of(result: dict[str, Any]) -> str:
    """Return a line of the table."""
    unit, verdict = result["unit"], {None: "", True: "met", False: "MISSED"}[result["met"]]
    return (
        f"| {result['name']} | {shown(result['value'], unit)} | {result['spread']:.0%} "
        f"| {shown(result['floor'])} | {shown(result['wanted'])} | {verdict} |"
    )


def about(where: Path, sizes: Sizes, *, uses_uvloop: bool) -> dict[str, str]:
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
        "event loop": f"uvloop {version('uvloop')}" if uses_uvloop else "asyncio",
        "history": f"{sizes.history:,} events",
        "long backlog": f"{sizes.backlog:,} tasks",
    }


def main() -> int:
    """Measure the rows that are asked for, and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repetitions")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--only", default="", help="rows with this word in their name")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on which disk (here)")
    parser.add_argument("--uvloop", action="store_true", help="in this process, floors as well")
    options = parser.parse_args()
    if options.uvloop:
        if importlib.util.find_spec("uvloop") is None:
            parser.error("uvloop is not installed. Next: pip install uvloop")
        os.environ[UVLOOP] = "1"
    sizes = QUICK if options.quick else FULL
    rows = [row for row in ROWS if options.only in row.name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.folder) as name:
        where = Path(name)
        facts = about(where, sizes, uses_uvloop=options.uvloop)
        if facts["file system"] == "tmpfs":
            print("tmpfs has no disk to sync to: name another --folder", file=sys.stderr)
        values = measured(rows, where, sizes)
    results = [result_of(row, values, full=not options.quick) for row in rows]
    facts["repetitions"] = str(max(map(len, values.values())))
    facts["took"] = f"{time.monotonic() - began:.0f} s"
    if options.json:
        print(json.dumps({"about": facts, "rows": results}))
        return 0
    print("  ".join(f"{key} {value}" for key, value in facts.items()) + "\n")
    print("| what | median | spread | floor | budget | |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(map(line_of, results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
