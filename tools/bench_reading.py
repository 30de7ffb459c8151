"""The rows of the benchmark that are about reading journals: opening, folding, verifying."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from omniq.core import events as ev
from omniq.core.projection import Projection
from omniq.storage.encoding import decode_commit, encode_commit
from omniq.tools.rows import SQLiteScan
from omniq.tools.scanning import FileScan
from omniq.tools.verifying import Verification
from tools.bench_floors import BACKENDS, Sizes, app_on, enqueued, lives

if TYPE_CHECKING:
    from pathlib import Path


def build_history(folder: Path, sizes: Sizes, backend: str) -> int:
    """Write a history of finished and forgotten tasks, and 10,000 live ones; return its length."""

    async def run() -> int:
        oq, _ = app_on(folder, backend)
        await oq.storage.open()
        first = sizes.history // 3 - sizes.history // 3 % 1000
        joined = ev.WorkerJoined("worker0001", "host", 1, "boot", 30_000_000)
        await oq.storage.append([joined], at=1, actor="bench")
        for start in range(0, first, 1000):
            tasks = range(start, start + 1000)
            gone = ev.ResultExpired(tuple(enqueued(n).task_id for n in tasks))
            await oq.storage.append([*lives(tasks), gone], at=2, actor="bench")
        live = [enqueued(n) for n in range(first, first + 10_000)]
        await oq.storage.append([*live], at=3, actor="bench")
        seq = (await oq.storage.head()).seq
        await oq.storage.sync(seq)
        await oq.storage.close()
        return seq

    return asyncio.run(run())


def open_with_snapshot(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return the milliseconds until a process has the state of a long journal with a snapshot."""
    build_history(folder, sizes, backend)

    async def run() -> float:
        took = 0.0
        for again in (False, True):
            oq, _ = app_on(folder, backend, result_ttl=None)
            began = time.perf_counter()
            stats = await oq.stats()
            took = time.perf_counter() - began
            if sum(stats.by_status.values()) != 10_000:  # noqa: PLR2004 - as many are live
                sys.exit(f"expected 10,000 live tasks, found {stats.by_status}")
            engine = await oq.engine()
            while not again and not await engine.storage.snapshot_seq():  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # it is written beside the work
            await oq.close()
        return 1000 * took

    return asyncio.run(run())


def fold(folder: Path, sizes: Sizes) -> float:
    """Return events a second of a fold, decoding included."""
    del folder
    count = min(sizes.drained, 30_000)
    encoded: list[bytes] = []
    seq = 1
    for first in range(0, count, 100):
        events = lives(range(first, first + 100))
        encoded.append(encode_commit(ev.Commit(seq, 1, "bench", events)))
        seq += len(events)
    state, began = Projection(), time.perf_counter()
    for data in encoded:
        state.apply(decode_commit(data))
    return state.seq / (time.perf_counter() - began)


def verify(folder: Path, sizes: Sizes, backend: str) -> float:
    """Return events a second of `verify`."""
    build_history(folder, sizes, backend)
    path = folder / BACKENDS[backend]
    verification = Verification(FileScan(path) if backend == "file" else SQLiteScan(path))
    began = time.perf_counter()
    if problems := list(verification.problems(lambda _seq: None)):
        sys.exit(f"verify finds {problems}")
    return verification.events / (time.perf_counter() - began)
