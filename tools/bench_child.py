"""A process of the benchmark: `python tools/bench_child.py ROLE FOLDER BACKEND OPTIONS`.

It says "ready", begins when it is sent a line, and ends by printing what it found, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from omniq.tools.rows import SQLiteScan  # noqa: E402 - the path comes first
from omniq.tools.scanning import FileScan  # noqa: E402 - as above
from omniq.tools.verifying import Verification  # noqa: E402 - as above
from tools.bench_floors import (  # noqa: E402 - as above
    RAN,
    app_on,
    encoded,
    lives,
    run_loop,
    spin,
    with_sum,
)

TOGETHER = 1000  # tasks that a worker which drains runs at a time


class Child:
    """Another process, as the one that started it sees it."""

    def __init__(self, role: str, folder: Path, backend: str = "file", **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, role, str(folder), backend, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            sys.exit(f"a process of the benchmark ({role}) did not start")

    def go(self) -> None:
        """Let it begin."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def found(self) -> dict[str, float]:
        """Wait for its end and return what it found."""
        output, _ = self.process.communicate()
        if self.process.returncode:
            sys.exit(f"a process of the benchmark ended with status {self.process.returncode}")
        found: dict[str, float] = json.loads(output)
        return found

    def stop(self) -> dict[str, float]:
        """Stop a worker in order and return what it found."""
        self.process.terminate()
        return self.found()


async def begin() -> None:
    """Say that all is ready, and wait for the word."""
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


def memory_bytes() -> int:
    """Return how much memory this process has now; the most that it ever had, if none can say."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    return peak_bytes()


def peak_bytes() -> int:
    """Return the most memory that this process ever had."""
    status = Path("/proc/self/status")  # what `getrusage` says is also of who started it
    if status.exists():
        (line,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
        return 1024 * int(line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


async def drain(folder: Path, backend: str, **options: Any) -> dict[str, float]:
    """Drain what is there; how long that took by the clock that all processes share."""
    oq, _ = app_on(folder, backend)
    async with oq:
        before = memory_bytes()
        stats = await oq.stats()
        loaded = memory_bytes() - before
        await begin()
        began = time.monotonic()
        await oq.worker(concurrency=options.get("concurrency", TOGETHER)).drain()
        ended = time.monotonic()
    pending = sum(stats.by_status.values())
    return {
        "began": began,
        "ended": ended,
        "ran": len(RAN),
        "bytes_a_task": loaded / max(1, pending),
    }


async def work(folder: Path, backend: str, **options: Any) -> dict[str, float]:
    """Work until told to stop."""
    oq, _ = app_on(folder, backend, durability=options.get("durability", "fsync"))
    async with oq:
        await oq.stats()
        print("ready", flush=True)
        await oq.worker(concurrency=options.get("concurrency", 10)).run()
    return {"ran": len(RAN)}


async def idle(folder: Path, backend: str, *, seconds: float) -> dict[str, float]:
    """Have nothing to do, and say which part of a core that takes."""
    oq, _ = app_on(folder, backend)
    async with oq, oq.worker():
        await begin()
        await asyncio.sleep(0.3)  # what joining left to do
        began, used = time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        part = (time.process_time() - used) / (time.monotonic() - began)
    return {"part": part}


async def loop(_folder: Path, _backend: str, *, count: int) -> dict[str, float]:
    """Burn as long as so many tasks do, without a queue."""
    await begin()
    began = time.monotonic()
    for _ in range(count):
        spin(0.001)
    return {"began": began, "ended": time.monotonic()}


async def wake(_folder: Path, _backend: str, *, seconds: float) -> dict[str, float]:
    """Wake twice a second for nothing, without a queue, and say which part of a core that takes."""
    await begin()
    began, used = time.monotonic(), time.process_time()
    while time.monotonic() < began + seconds:  # noqa: ASYNC110 - to wake is what is measured
        await asyncio.sleep(0.5)
    return {"part": (time.process_time() - used) / (time.monotonic() - began)}


async def answer(folder: Path, _backend: str, *, trips: int) -> dict[str, float]:
    """Write two records for each question and answer when it was heard, without a queue."""
    running = asyncio.get_running_loop()
    descriptor = os.open(folder / "floor", os.O_WRONLY | os.O_APPEND)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as questions:
        questions.setblocking(False)
        questions.bind(str(folder / "questions"))
        print("ready", flush=True)
        for number in range(trips):
            await running.sock_recv(questions, 1)
            heard = time.monotonic()
            _, started, succeeded = lives(range(number, number + 1))
            for event in (started, succeeded):
                os.write(descriptor, with_sum(encoded([event], number)))
            questions.sendto(struct.pack("d", heard), str(folder / "answers"))
    (folder / "questions").unlink()
    os.close(descriptor)
    return {"answered": trips}


async def first(folder: Path, backend: str) -> dict[str, float]:
    """Open a journal for nothing but to enqueue, and say how long the first call takes."""
    await begin()
    oq, tasks = app_on(folder, backend)
    began = time.monotonic()
    await tasks.noop.enqueue(b"x")
    took = time.monotonic() - began
    await oq.close()
    return {"took": took}


async def verify(folder: Path, backend: str, *, journal: str) -> dict[str, float]:
    """Verify a journal, and say how long that took and how much memory."""
    path = folder / journal
    verification = Verification(FileScan(path) if backend == "file" else SQLiteScan(path))
    await begin()
    began = time.monotonic()
    if problems := list(verification.problems(lambda _seq: None)):
        sys.exit(f"verify finds {problems}")
    took = time.monotonic() - began
    return {"events": verification.events, "took": took, "peak": peak_bytes()}


ROLES = {role.__name__: role for role in (drain, work, idle, loop, wake, answer, first, verify)}

if __name__ == "__main__":
    name, where, backend, options = sys.argv[1:]
    print(json.dumps(run_loop(ROLES[name](Path(where), backend, **json.loads(options)))))
