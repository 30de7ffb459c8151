"""The `omniq` command, as a person runs it."""

import re

import pytest


async def test_the_demo_ends_with_everything_right(processes, tmp_path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(4000):
        (folder / f"{number}.txt").write_text("line\n" * (number % 1000))
    demo = processes.start(
        "-m", "omniq", "demo", "--journal", processes.location, "--directory", folder
    )
    printed = demo.communicate(timeout=40)[0]
    assert demo.returncode == 0, printed
    said = dict(re.findall(r"^(\w+(?: again)?) +(.*)$", printed, re.MULTILINE))
    assert said["tasks"] == "4000, 4000 succeeded"
    assert (said["duplicate"], said["missing"], said["wrong"]) == ("0", "0", "0")
    assert said["workers"] == "2, of which 1 was killed and replaced"
    assert int(said["attempts"]) == 4000 + int(said["run again"].split(",")[0])
    assert re.fullmatch(r"\d+ [0-9a-f]{64}", said["head"])


async def test_a_worker_that_drains_ends_when_nothing_is_due(processes, app) -> None:
    handle = await app.note.enqueue("a")
    worker = processes.worker("--drain")
    assert worker.wait(20) == 0
    assert await handle.result() == worker.pid


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("worker", "app"), "names no app"),
        (("worker", "nowhere:oq"), "no module 'nowhere'"),
        (
            ("worker", "app.py:oq"),
            "app.py is a file. Next: go to its folder and name the module, app:oq",
        ),
        (("worker", "app:nothing"), "nothing called 'nothing'"),
        (("worker", "app:TRACES"), "not an AsyncOmniQ"),
        (("worker", "app:oq", "--concurrency", "0"), "no whole number from 1 on"),
        (("demo", "--directory", "/nowhere/at/all"), "no files"),
        ((), "usage: omniq"),
    ],
)
async def test_a_wrong_call_says_what_is_wrong_and_exits_with_2(processes, arguments, says) -> None:
    if "file" not in processes.location and processes.location.endswith(".db"):
        return
    command = processes.start("-m", "omniq", *arguments)
    assert says in command.communicate(timeout=20)[0]
    assert command.returncode == 2


UNGUARDED = """
from omniq import AsyncOmniQ
import asyncio, sys

oq = AsyncOmniQ()

@oq.task(executor="process", max_retries=0)
def double(n: int) -> int:
    return 2 * n

async def main() -> None:
    async with oq:
        handle = await double.enqueue(4)
        await oq.worker().drain()
        print(await handle.status(), (await oq.get_result(handle.id)).error, flush=True)

asyncio.run(main())
"""


def test_a_script_without_a_guard_is_told_so_and_starts_nothing(processes, tmp_path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED)
    printed = processes.start(str(script)).communicate(timeout=30)[0]
    assert "FAILED" in printed
    assert '`if __name__ == "__main__":`' in printed
    worker = processes.start("-m", "omniq", "worker", "unguarded:oq", cwd=tmp_path)
    printed = worker.communicate(timeout=30)[0]
    assert worker.returncode == 2
    assert '`if __name__ == "__main__":`' in printed


DEAF = """
import asyncio, time
from omniq import AsyncOmniQ
from omniq.worker import attempt, pool

attempt.GRACE_SECONDS = pool.GRACE_SECONDS = 0.2
oq = AsyncOmniQ()

@oq.task
def thread() -> None:
    print("begins", flush=True)
    while True:
        time.sleep(0.01)

@oq.task
async def loop() -> None:
    print("begins", flush=True)
    while True:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            pass

async def enqueue(name: str) -> None:
    async with oq:
        await {"thread": thread, "loop": loop}[name].enqueue()
"""


@pytest.mark.parametrize("name", ["thread", "loop"])
def test_a_worker_ends_although_a_task_does_not_heed_that_it_has_to(
    processes, tmp_path, name
) -> None:
    """Its attempt was given back, and may run elsewhere by then."""
    (tmp_path / "deaf.py").write_text(DEAF)
    script = f"import asyncio, deaf; asyncio.run(deaf.enqueue({name!r}))"
    assert processes.start("-c", script, cwd=tmp_path).wait(20) == 0
    command = ("-m", "omniq", "worker", "deaf:oq", "--shutdown-timeout", "0.1")
    worker = processes.start(*command, cwd=tmp_path)
    while "begins" not in worker.stdout.readline():
        continue
    worker.terminate()
    printed = worker.communicate(timeout=30)[0]
    assert worker.returncode == 0, printed
    assert "end with this process: 1" in printed
    events = processes.start("-m", "omniq.tools.replay", "events", processes.location)
    assert re.search(r"task.released.*\n.*worker.left", events.communicate(timeout=20)[0])
