"""How many of the processor's instructions a call takes, which no busy machine changes.

    python tools/instructions.py              all that is counted, with valgrind, in a few minutes
    python tools/instructions.py --only fold  what has this word in its name

Each thing is done a few times in one process and many times in another, both under callgrind, and
what the one took more than the other is shared by what it did more. Waiting, the kernel's work and
caches that are cold do not count, so a time says more where one can be had.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from omniq.core import events as ev  # noqa: E402 - the path comes first
from omniq.core.projection import Projection  # noqa: E402 - as above
from tools.bench_floors import BACKENDS, PAYLOAD, app_on, enqueued  # noqa: E402 - as above
from tools.bench_queue import PRODUCERS, fill  # noqa: E402 - as above

if TYPE_CHECKING:
    from collections.abc import Callable

FEW, MANY = 1000, 5000
SLOTS = 500  # of the worker that drains
WORKER = "worker0001"
KINDS = ("enqueued", "started", "succeeded")


def enqueue(count: int, backend: str, producers: int) -> None:
    """Enqueue so many tasks, by so many producers of one process."""

    async def run(folder: Path) -> None:
        oq, tasks = app_on(folder, backend)

        async def produce() -> None:
            for _ in range(count // producers):
                await tasks.noop.enqueue(PAYLOAD)

        async with oq:
            await asyncio.gather(*(produce() for _ in range(producers)))

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


def drain(count: int, backend: str) -> None:
    """Enqueue so many no-op tasks, and run them in the same process."""

    async def run(folder: Path) -> None:
        oq, tasks = app_on(folder, backend)
        async with oq:
            await fill(tasks.noop, count)
            await oq.worker(concurrency=SLOTS).drain()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


def fold(count: int, kind: str) -> None:
    """Fold so many events of one kind."""
    gc.disable()
    ids = [enqueued(number).task_id for number in range(MANY)]
    events: list[list[ev.Event]] = [
        [enqueued(number) for number in range(MANY)],
        [ev.TaskStarted(task_id, 1, WORKER) for task_id in ids],
        [ev.TaskSucceeded(task_id, 1, WORKER, b"\xc0") for task_id in ids],
    ]
    state = Projection()
    for name, all_of_them in zip(KINDS, events, strict=True):
        some = all_of_them[:count] if name == kind else all_of_them
        state.apply(ev.Commit(state.seq + 1, 1, "fold", some))
        if name == kind:
            return


COUNTED: dict[str, Callable[[int], None]] = {
    **{
        f"enqueue, {who}, {backend}": partial(enqueue, backend=backend, producers=producers)
        for who, producers in (("100 producers", PRODUCERS), ("one after another", 1))
        for backend in BACKENDS
    },
    "enqueue_many and drain, file": partial(drain, backend="file"),
    **{f"fold, task.{kind}": partial(fold, kind=kind) for kind in KINDS},
}


def counted(name: str, count: int) -> int:
    """Return how many instructions a process takes that does something so often."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = subprocess.run(
        [*command, sys.executable, __file__, "--do", name, str(count)],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    (found,) = re.findall(r"Collected : (\d+)", done.stderr)
    return int(found)


def main() -> int:
    """Count what is asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="what has this word in its name")
    parser.add_argument("--do", nargs=2, help=argparse.SUPPRESS)  # in the process that is counted
    options = parser.parse_args()
    if options.do:
        name, count = options.do
        COUNTED[name](int(count))
        return 0
    if shutil.which("valgrind") is None:
        print("valgrind is not there. Next: install it, as in `apt install valgrind`")
        return 1
    print("| what | instructions each |\n| --- | --- |")
    for name in COUNTED:
        if options.only in name:
            each = (counted(name, MANY) - counted(name, FEW)) // (MANY - FEW)
            print(f"| {name} | {each:,} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
