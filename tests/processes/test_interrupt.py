"""Ctrl-C in a program that has a worker in it."""

import re
import signal

PROGRAM = """
import asyncio
from omniq import AsyncOmniQ

oq = AsyncOmniQ()

@oq.task(max_retries=0)
async def wait() -> None:
    print("running", flush=True)
    await asyncio.sleep(1000)

async def main() -> None:
    async with oq, oq.worker():
        await wait.enqueue()
        try:
            await asyncio.sleep(1000)
        finally:  # asyncio itself may lose a wake-up if it is interrupted while it does something
            asyncio.get_running_loop().call_later(0.1, lambda: print("idle", flush=True))

asyncio.run(main())
"""


def test_a_second_interrupt_ends_a_program_with_a_worker_and_its_tasks_are_given_back(
    processes,
) -> None:
    program = processes.script(PROGRAM)
    for word in ("running", "idle"):
        while word not in program.stdout.readline():
            continue
        program.send_signal(signal.SIGINT)
    printed = program.communicate(timeout=10)[0]
    assert program.returncode == -signal.SIGINT, printed
    assert printed.rstrip().endswith("KeyboardInterrupt")
    events = processes.start("-m", "omniq.tools.replay", "events", processes.location)
    found = re.findall(r"(?:task|worker)\.\w+", events.communicate(timeout=20)[0])
    assert found == [
        "worker.joined",
        "task.enqueued",
        "task.started",
        "task.released",
        "worker.left",
    ]
