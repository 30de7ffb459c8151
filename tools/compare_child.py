"""What `compare.py` measures of one queue, in a process of its own.

python tools/compare_child.py measure SYSTEM ADDRESS SIZES     prints what was found, as JSON
python tools/compare_child.py work SYSTEM ADDRESS              works until SIGTERM
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import sys
import time
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.compare_systems import BULK, PRODUCERS, RAN, SYSTEMS, System

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WARMING_UP = 20  # round trips


async def measure(system: System, sizes: dict[str, int]) -> dict[str, float | None]:
    """Return calls and jobs a second, and milliseconds of round trips, each from empty."""
    return {
        "single": await single(system, sizes["single"]),
        "together": await together(system, sizes["many"]),
        "many": await many(system, sizes["many"]) if system.has_bulk else None,
        "drain": await drain(system, sizes["many"]),
        **(await trips(system, sizes["trips"])),
    }


@asynccontextmanager
async def emptied(system: System) -> AsyncIterator[None]:
    """Have a system open that has forgotten everything."""
    await system.reset()
    await system.open()
    yield
    await system.close()


async def single(system: System, count: int) -> float:
    """Return calls a second, one after another."""
    async with emptied(system):
        began = time.perf_counter()
        for _ in range(count):
            await system.enqueue()
        return count / (time.perf_counter() - began)


async def together(system: System, count: int) -> float:
    """Return calls a second of a hundred producers."""
    each = count // PRODUCERS

    async def produce() -> None:
        for _ in range(each):
            await system.enqueue()

    async with emptied(system):
        began = time.perf_counter()
        await asyncio.gather(*(produce() for _ in range(PRODUCERS)))
        return each * PRODUCERS / (time.perf_counter() - began)


async def many(system: System, count: int) -> float:
    """Return jobs a second, a thousand a call."""
    async with emptied(system):
        began = time.perf_counter()
        for _ in range(0, count, BULK):
            await system.enqueue_many(BULK)
        return count / (time.perf_counter() - began)


async def drain(system: System, count: int) -> float:
    """Return jobs a second that one process runs; each must run once."""
    async with emptied(system):
        if system.has_bulk:
            for _ in range(0, count, BULK):
                await system.enqueue_many(BULK)
        else:
            await asyncio.gather(*(system.enqueue() for _ in range(count)))
        RAN.clear()
        began = time.perf_counter()
        await system.drain(count)
        took = time.perf_counter() - began
    if len(RAN) != count:
        sys.exit(f"{count} jobs were to run once, and {len(RAN)} ran")
    return count / took


async def trips(system: System, count: int) -> dict[str, float | None]:
    """Return the milliseconds of round trips to a worker in another process, results back."""
    if not system.has_results:
        return {"p50": None, "p99": None}
    name = next(name for name, kind in SYSTEMS.items() if kind is type(system))
    found: list[float] = []
    async with emptied(system):
        worker = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "work", name, system.address
        )
        for _ in range(count + WARMING_UP):
            began = time.perf_counter()
            await system.result(await system.enqueue())
            found.append(1000 * (time.perf_counter() - began))
        worker.terminate()
        await worker.wait()
    found = sorted(found[WARMING_UP:])
    return {"p50": statistics.median(found), "p99": found[int(count * 0.99)]}


async def work_until_told(system: System) -> None:
    """Work until SIGTERM."""
    await system.open()
    working = asyncio.create_task(system.work())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
    await asyncio.gather(working, return_exceptions=True)
    os._exit(0)  # some of their threads would go on


def main() -> None:
    """Measure, or work."""
    role, name, address, *rest = sys.argv[1:]
    system = SYSTEMS[name](address)
    if role == "work":
        asyncio.run(work_until_told(system))
        return
    found: dict[str, Any] = dict(asyncio.run(measure(system, json.loads(rest[0]))))
    found["versions"] = {package: version(package) for package in system.packages}
    print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
