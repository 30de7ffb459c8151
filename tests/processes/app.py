"""The app of the process tests: where its journal is comes from OMNIQ_DB_URL."""

import asyncio
import os
import time
from pathlib import Path

from omniq import AsyncOmniQ, RetryPolicy, current_task

oq = AsyncOmniQ()
TRACES = Path(os.environ.get("TRACES", "."))
AT_ONCE = RetryPolicy(max_retries=3, base_delay=0.0)


def leave_trace(name: str) -> None:
    """Append a line to this process' file: what really ran, whatever the journal says."""
    with (TRACES / f"{os.getpid()}.trace").open("a") as file:
        file.write(f"{name}\n")


@oq.task
async def note(name: str) -> int:
    leave_trace(name)
    return os.getpid()


@oq.task(retry=AT_ONCE)
async def wait_for_file(path: str, name: str) -> int:
    leave_trace(name)
    while not Path(path).exists():
        await asyncio.sleep(0.005)
    return os.getpid()


@oq.task(retry=AT_ONCE)
async def block_until_file(path: str, name: str) -> int:
    """Block the worker's event loop, as a careless task would."""
    leave_trace(name)
    while not Path(path).exists():
        time.sleep(0.005)
    return os.getpid()


@oq.task(retry=AT_ONCE)
def hold_the_lock(name: str) -> float:
    """Keep all other threads of the process from running, and return for how long."""
    leave_trace(name)
    count = 1_000_000
    while True:
        began = time.perf_counter()
        sum(range(count))  # one call in C, which never lets go of the lock
        if (took := time.perf_counter() - began) > 1.6:
            return took
        count = int(count * 2 / took)


@oq.task(retry=RetryPolicy(max_retries=1, base_delay=0.0))
async def kill_worker(name: str) -> None:
    leave_trace(name)
    os.kill(os.getpid(), 9)


@oq.task(retry=AT_ONCE)
async def loop_of_worker(*, wait: bool = False) -> str:
    """Return which event loop runs this; wait for the end of the process, at first."""
    if wait and current_task().attempt == 1:
        await asyncio.Event().wait()
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]
