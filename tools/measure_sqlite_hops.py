"""Measure what an append to SQLite costs through aiosqlite and on a thread of our own.

    pip install aiosqlite
    python tools/measure_sqlite_hops.py [--folder FOLDER]

Both do the same on the same kind of database: begin, read the head, insert rows, commit. aiosqlite
hands each of these steps to its thread and waits for the answer; OmniQ hands over all of them at
once. The two take turns, so that whatever else the machine does falls on both. The numbers in
docs/decisions/0004-sqlite-on-its-own-thread.md come from here.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sqlite3
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS = 40
COMMITS = 50  # in a round
PAYLOAD = bytes(100)

CREATE = "CREATE TABLE events (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, data BLOB NOT NULL)"
HEAD = "SELECT max(seq) FROM events"
INSERT = "INSERT INTO events VALUES (?, ?, ?)"

type Append = Callable[[int], Awaitable[None]]


class Cost(NamedTuple):
    """Microseconds an append: until it was done, and of CPU time in all threads."""

    elapsed: float
    cpu: float


def main() -> int:
    """Measure, print a table, and return 0; 1 if aiosqlite is not there."""
    parser = argparse.ArgumentParser(description="Compare aiosqlite with one hop an append.")
    parser.add_argument("--folder", type=Path, help="on which disk (that of temporary files)")
    options = parser.parse_args()
    try:
        aiosqlite = importlib.import_module("aiosqlite")
    except ImportError:
        print("aiosqlite is not installed. Next: pip install aiosqlite", file=sys.stderr)
        return 1
    print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, {aiosqlite.__name__}")
    print(f"microseconds an append: medians of {ROUNDS} rounds of {COMMITS}")
    print(f"{'synchronous':>12} {'rows':>5} {'':>6} {'aiosqlite':>10} {'one hop':>8} {'ratio':>6}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for synchronous in ("FULL", "NORMAL"):
            for rows in (1, 100):
                path = Path(folder) / f"{synchronous}-{rows}"
                slow, fast = asyncio.run(compare(aiosqlite, path, synchronous, rows))
                for what, one, other in zip(("time", "CPU"), slow, fast, strict=True):
                    print(
                        f"{synchronous:>12} {rows:>5} {what:>6} {one:>10.0f} {other:>8.0f} "
                        f"{one / other:>6.2f}"
                    )
    return 0


async def compare(aiosqlite: Any, path: Path, synchronous: str, rows: int) -> tuple[Cost, Cost]:
    """Return what an append costs in the median: through aiosqlite, and in one hop."""
    pragmas = ("PRAGMA journal_mode = WAL", f"PRAGMA synchronous = {synchronous}", CREATE)
    through = await aiosqlite.connect(path.with_suffix(".aiosqlite"), isolation_level=None)
    for pragma in pragmas:
        await through.execute(pragma)
    own = sqlite3.connect(path.with_suffix(".own"), isolation_level=None, check_same_thread=False)
    for pragma in pragmas:
        own.execute(pragma)
    with ThreadPoolExecutor(1) as thread:
        slow, fast = append_through(through), append_on(own, thread)
        costs: dict[Append, list[Cost]] = {slow: [], fast: []}
        for number in range(ROUNDS):
            for append in (slow, fast) if number % 2 else (fast, slow):
                costs[append].append(await cost_of(append, rows))
    await through.close()
    own.close()
    return median_cost(costs[slow]), median_cost(costs[fast])


async def cost_of(append: Append, rows: int) -> Cost:
    """Return what an append costs, over a round of them."""
    began, began_cpu = time.perf_counter(), time.process_time()
    for _ in range(COMMITS):
        await append(rows)
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    return Cost(seconds / COMMITS * 1_000_000, cpu / COMMITS * 1_000_000)


def median_cost(costs: list[Cost]) -> Cost:
    """Return the medians of time and of CPU time."""
    return Cost(median(cost.elapsed for cost in costs), median(cost.cpu for cost in costs))


def append_through(connection: Any) -> Append:
    """Return an append that waits for aiosqlite's thread four times, the least that is possible."""

    async def append(rows: int) -> None:
        await connection.execute("BEGIN IMMEDIATE")
        ((last,),) = await connection.execute_fetchall(HEAD)
        await connection.executemany(INSERT, new_rows(last, rows))
        await connection.execute("COMMIT")

    return append


def append_on(connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> Append:
    """Return an append that waits for the connection's thread once."""

    def in_thread(rows: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        ((last,),) = connection.execute(HEAD).fetchall()
        connection.executemany(INSERT, new_rows(last, rows))
        connection.execute("COMMIT")

    async def append(rows: int) -> None:
        await asyncio.get_running_loop().run_in_executor(thread, in_thread, rows)

    return append


def new_rows(last: int | None, count: int) -> list[tuple[int, int, bytes]]:
    """Return the rows that follow the last sequence number."""
    first = (last or 0) + 1
    return [(seq, 0, PAYLOAD) for seq in range(first, first + count)]


if __name__ == "__main__":
    sys.exit(main())
