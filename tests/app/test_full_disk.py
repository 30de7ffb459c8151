"""A full disk, for who enqueues, for tasks that run, and for who waits for them."""

import asyncio
from pathlib import Path

import pytest

from omniq import AsyncOmniQ, StorageFull, TaskStatus, current_task
from omniq.core import events as ev
from omniq.storage.file import FileStorage
from omniq.storage.reserve import RESERVE_BYTES, RESERVE_NAME
from omniq.storage.sqlite import SQLiteStorage
from tests.app import jobs
from tests.storage.language import SmallDisk, opened, read_all
from tests.storage.test_full_disk import FullConnection

SOON = 5.0


async def succeeded(storage) -> list[str]:
    """Return whose success stands in the journal, as another process reads it."""
    async with opened(storage) as reader:
        events = [event for commit in await read_all(reader) for event in commit.events]
    return [event.task_id for event in events if isinstance(event, ev.TaskSucceeded)]


async def until(condition) -> None:
    async with asyncio.timeout(SOON):
        while not await condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("backend", ["file", "sqlite"])
async def test_running_tasks_record_their_outcomes_on_a_full_disk(tmp_path: Path, backend) -> None:
    path = tmp_path / ("journal" if backend == "file" else "jobs.db")
    disk = SmallDisk(path)
    storage = FileStorage(path, disk=disk) if backend == "file" else SQLiteStorage(path)
    may_end = asyncio.Event()
    async with AsyncOmniQ(storage) as oq:

        @oq.task(max_retries=0)
        async def wait(number: int) -> int:
            await may_end.wait()
            return number

        handles = await wait.enqueue_many([(number,) for number in range(5)])
        later = await wait.enqueue(6)
        async with oq.worker(concurrency=5):
            while (await oq.stats()).by_status[TaskStatus.RUNNING] < 5:
                await asyncio.sleep(0)
            if backend == "sqlite":
                storage._database.connection = disk = FullConnection(
                    storage._database.connection, tmp_path
                )
            disk.capacity = disk.used()
            with pytest.raises(StorageFull):
                await wait.enqueue(7)
            may_end.set()
            assert [await handle.result(timeout=SOON) for handle in handles] == [0, 1, 2, 3, 4]
            reader = type(storage)(path, read_only=True)
            assert sorted(await succeeded(reader)) == sorted(handle.id for handle in handles)
            with pytest.raises(StorageFull):
                await wait.enqueue(8)
            assert await later.status() is TaskStatus.PENDING, "there is no room to start it"
            disk.capacity = 1 << 60
            assert await later.result(timeout=SOON) == 6
            assert await (await wait.enqueue(9)).result(timeout=SOON) == 9
        folder = path if backend == "file" else path.with_name("jobs.db-omniq")
        assert (folder / RESERVE_NAME).stat().st_size == RESERVE_BYTES


async def test_a_result_that_the_reserve_is_too_small_for_does_not_hold_up_the_others(
    tmp_path: Path,
) -> None:
    disk = SmallDisk(tmp_path / "journal")
    storage = FileStorage(tmp_path / "journal", disk=disk, reserve_bytes=100_000)
    may_end = asyncio.Event()
    async with AsyncOmniQ(storage) as oq:

        @oq.task
        async def produce(size: int) -> bytes:
            await may_end.wait()
            return bytes(size)

        large, small = await produce.enqueue_many([(200_000,), (10,)])
        async with oq.worker():
            while (await oq.stats()).by_status[TaskStatus.RUNNING] < 2:
                await asyncio.sleep(0)
            disk.fill()
            may_end.set()
            assert await small.result(timeout=SOON) == bytes(10)
            assert await large.status() is TaskStatus.RUNNING
            disk.capacity = 1 << 60
            assert await large.result(timeout=SOON) == bytes(200_000)


async def test_what_was_written_is_made_durable_on_a_full_disk(tmp_path: Path) -> None:
    """A sync of SQLite's log takes no room, so whoever waits for a result gets it."""
    storage = SQLiteStorage(tmp_path / "jobs.db", reserve_bytes=0)
    async with AsyncOmniQ(storage) as oq:
        await oq.pause("later")
        queue = await oq.engine()
        storage._database.connection = disk = FullConnection(storage._database.connection, tmp_path)
        disk.capacity = disk.used()
        await queue.make_durable(queue.projection.seq)
        assert storage.durable == queue.projection.seq
        disk.capacity = 1 << 60


async def test_progress_takes_no_room_from_outcomes(tmp_path: Path) -> None:
    """It is said again, and better, the next time."""
    disk = SmallDisk(tmp_path / "journal")
    may_end = asyncio.Event()
    async with AsyncOmniQ(FileStorage(tmp_path / "journal", disk=disk)) as oq:

        @oq.task
        async def report() -> str:
            await may_end.wait()
            for step in range(2000):
                current_task().progress(step / 2000, "x" * 1000)
                await asyncio.sleep(0)
            return "done"

        handle = await report.enqueue()
        async with oq.worker():
            while await handle.status() is not TaskStatus.RUNNING:
                await asyncio.sleep(0)
            disk.fill()
            may_end.set()
            assert await handle.result(timeout=SOON) == "done"
            kinds = [event.kind for event in await handle.history()]
            assert kinds == ["task.enqueued", "task.started", "task.succeeded"]
            assert disk.capacity - disk.used() < 100_000
            disk.capacity = 1 << 60


async def test_a_worker_that_stops_on_a_full_disk_leaves_its_outcomes_behind(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal"
    disk = SmallDisk(path)
    async with AsyncOmniQ(FileStorage(path, disk=disk)) as oq:
        handle = await oq.enqueue(jobs.add, 1)
        pool = oq.worker()
        await pool.start()
        assert await handle.result(timeout=SOON) == 3
        again = await oq.enqueue(jobs.add, 2)
        while await again.status() is TaskStatus.PENDING:
            await asyncio.sleep(0)
        disk.fill()
        with pytest.raises(StorageFull):
            await pool.stop()
        assert sorted(await succeeded(FileStorage(path, read_only=True))) == sorted(
            (handle.id, again.id)
        )
        disk.capacity = 1 << 60
