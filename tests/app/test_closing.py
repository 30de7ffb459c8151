"""What becomes of a queue whose event loop ends all its tasks, its own among them."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from omniq import AsyncOmniQ, StorageError, TaskStatus
from omniq.core import events as ev
from omniq.storage.base import BaseStorage
from tests.app import jobs

SOON = 5.0


@pytest.fixture(params=["file", "sqlite"])
def location(request, tmp_path) -> str:
    return str(tmp_path / {"file": "journal", "sqlite": "jobs.db"}[request.param])


async def test_a_queue_works_and_closes_though_all_threads_of_asyncio_are_busy(
    location: str,
) -> None:
    loop, may_end = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, may_end.wait)
    try:
        async with asyncio.timeout(SOON):
            oq = AsyncOmniQ(location)
            add = oq.task(jobs.add)
            async with oq, oq.worker():
                handles = await add.enqueue_many([(number, 1) for number in range(3000)])
                assert await handles[-1].result() == 3000
    finally:
        may_end.set()
        await busy


@pytest.mark.parametrize("closes_at_the_end", [True, False])
@pytest.mark.parametrize("place", ["journal", "jobs.db", "memory://"])
def test_an_app_that_was_not_closed_goes_on_in_the_next_event_loop(
    tmp_path: Path, place: str, *, closes_at_the_end: bool
) -> None:
    """As where each request, or each test, has an event loop of its own."""
    oq = AsyncOmniQ(place if "://" in place else tmp_path / place)
    add = oq.task(jobs.add)

    async def use(number: int) -> tuple[int, int]:
        async with asyncio.timeout(SOON):
            handle = await add.enqueue(number, 1)
            waiting = asyncio.create_task(handle.result())
            await asyncio.sleep(0)
            await oq.worker().drain()
            return await waiting, len(list(Path("/proc/self/fd").iterdir()))

    results, descriptors = zip(*(asyncio.run(use(number)) for number in range(4)), strict=True)
    assert results == (1, 2, 3, 4)
    assert descriptors[1] == descriptors[3]
    if closes_at_the_end:
        asyncio.run(oq.close())
    else:
        assert asyncio.run(stats_and_close(oq)) == 4


def test_no_lease_is_renewed_any_longer_when_the_event_loop_of_a_worker_was_closed(
    tmp_path: Path,
) -> None:
    oq = AsyncOmniQ(tmp_path / "journal")

    async def work() -> None:
        await oq.worker(lease=0.1).start()

    asyncio.run(work())
    for thread in threading.enumerate():
        if thread.name == "omniq-lease":
            thread.join(SOON)
            assert not thread.is_alive()
    asyncio.run(oq.close())


LEAVES_ITS_LOOP = """
import asyncio, sys, threading
from omniq import AsyncOmniQ

begun = []

async def hang_at_first() -> int:
    begun.append(None)
    return await asyncio.sleep(3600 if len(begun) == 1 else 0, 7)

async def begin() -> str:
    handle = await hang.enqueue()
    await oq.worker(lease=0.1).start()
    while not begun:
        await asyncio.sleep(0)
    return handle.id

async def go_on(task_id: str) -> int:
    async with AsyncOmniQ(sys.argv[1]) as other:
        other.task(hang_at_first)
        await other.worker().drain()
        return await other.handle(task_id).result(timeout=5)

oq = AsyncOmniQ(sys.argv[1])
hang = oq.task(hang_at_first)
loop = asyncio.new_event_loop()
task_id = loop.run_until_complete(begin())
loop.close()
for thread in threading.enumerate():
    if thread.name == "omniq-lease":
        thread.join()
print(asyncio.run(go_on(task_id)), flush=True)
"""


def test_a_task_whose_event_loop_was_closed_runs_elsewhere_though_its_process_lives(
    location: str,
) -> None:
    """Python complains of what the loop had still to do, so that is done in a process."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVES_ITS_LOOP, location],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "7\n", done.stderr


async def stats_and_close(oq: AsyncOmniQ) -> int:
    async with oq:
        return (await oq.stats()).by_status[TaskStatus.SUCCESS]


def run_until(begun: asyncio.Event, use: Callable[[], Awaitable[None]]) -> None:
    """Run this as a task of an event loop that ends once it has begun, as `asyncio.run` does."""

    async def main() -> None:
        task = asyncio.ensure_future(use())
        await begun.wait()
        assert not task.done()

    asyncio.run(main())


def test_a_queue_is_closed_in_order_when_all_tasks_of_its_event_loop_are_cancelled(
    location,
) -> None:
    oq, begun = AsyncOmniQ(location), asyncio.Event()

    async def use() -> None:
        async with oq:
            await oq.stats()
            begun.set()
            await asyncio.Event().wait()

    run_until(begun, use)
    assert asyncio.run(kinds(location)) == []


def test_a_worker_gives_its_tasks_back_when_all_tasks_of_its_event_loop_are_cancelled(
    location,
) -> None:
    oq, begun = AsyncOmniQ(location), asyncio.Event()

    @oq.task(max_retries=0)
    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def use() -> None:
        async with oq, oq.worker():
            await wait.enqueue()
            await asyncio.Event().wait()

    run_until(begun, use)
    joined, *others = asyncio.run(kinds(location))
    assert joined == "worker.joined"
    assert others == ["task.enqueued", "task.started", "task.released", "worker.left"]


def hesitate_at(kind: type, storage: BaseStorage, monkeypatch, begun: asyncio.Event) -> None:
    """Have the first append of such an event begin and never end."""
    append = storage.append

    async def hesitant(events, **options):
        if type(events[0]) is kind and not begun.is_set():
            begun.set()
            await asyncio.Event().wait()
        return await append(events, **options)

    monkeypatch.setattr(storage, "append", hesitant)


def test_an_outcome_that_is_being_written_when_all_tasks_are_cancelled_is_written_again(
    location, monkeypatch
) -> None:
    """Here it was not written. If it was, the second time would be recorded as late."""
    oq, begun = AsyncOmniQ(location), asyncio.Event()

    async def use() -> None:
        async with oq, oq.worker():
            hesitate_at(ev.TaskSucceeded, (await oq.engine()).storage, monkeypatch, begun)
            await oq.enqueue(jobs.add, 1)
            await asyncio.Event().wait()

    run_until(begun, use)
    _joined, *others = asyncio.run(kinds(location))
    assert others == ["task.enqueued", "task.started", "task.succeeded", "worker.left"]


async def test_who_waits_for_what_is_being_written_is_told_that_nobody_knows_whether_it_was(
    location, monkeypatch
) -> None:
    begun = asyncio.Event()
    async with AsyncOmniQ(location) as oq:
        hesitate_at(ev.TaskEnqueued, (await oq.engine()).storage, monkeypatch, begun)
        waiting = asyncio.create_task(oq.enqueue(jobs.add, 1))
        await begun.wait()
        for task in asyncio.all_tasks():
            if task.get_name() == "omniq-committer":
                task.cancel()
        with pytest.raises(StorageError, match="while this was written"):
            await waiting
        await oq.enqueue(jobs.add, 2)
    assert await kinds(location) == ["task.enqueued"]


async def kinds(location: str) -> list[str]:
    """Return what the journal tells, in order."""
    async with AsyncOmniQ(location) as oq:
        storage = (await oq.engine()).storage
        return [
            str(type(event).__struct_config__.tag)
            for commit in await storage.read(0)
            for event in commit.events
        ]
