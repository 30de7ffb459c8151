"""The disk begins to work for a large append at once, and nothing is durable before it ends."""

import asyncio
import errno
import threading

import pytest

from omniq import AsyncOmniQ
from omniq.errors import StorageClosed
from omniq.storage.disk import Disk
from omniq.storage.file import FileStorage
from omniq.testing.virtual import settle
from tests.app import jobs
from tests.storage.language import FaultyDisk, append, names_in, opened


class SlowDisk(Disk):
    """A disk whose syncs of segments last until they are let go, and that counts."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.written = 0
        self.syncs = []  # what was written when they began
        self.duplicates = set()  # descriptors that are open

    def write_all(self, descriptor, data, offset):
        super().write_all(descriptor, data, offset)
        self.written += 1

    def duplicate(self, descriptor):
        duplicate = super().duplicate(descriptor)
        self.duplicates.add(duplicate)
        return duplicate

    def close(self, descriptor):
        self.duplicates.discard(descriptor)
        super().close(descriptor)

    async def at_work(self):
        assert await asyncio.to_thread(self.begun.acquire, timeout=10)

    def sync(self, descriptor):
        if threading.current_thread().name.startswith("omniq-sync"):
            self.syncs.append(self.written)
            self.begun.release()
            assert self.may_end.acquire(timeout=10)
        super().sync(descriptor)


@pytest.fixture(autouse=True)
def every_commit_is_large(monkeypatch):
    monkeypatch.setattr("omniq.storage.file.SYNC_AHEAD_BYTES", 0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


async def test_durable_append_has_the_disk_at_work_when_it_returns(path):
    disk = SlowDisk()
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append(storage, "a", durable=True)
        await disk.at_work()
        assert storage.durable == 0
        disk.may_end.release()
        await storage.sync(1)
        assert storage.durable == 1
        assert len(disk.syncs) == 1


async def test_what_is_written_while_the_disk_works_waits_for_the_next_sync(path):
    disk = SlowDisk()
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append(storage, "a", durable=True)
        await disk.at_work()
        before = disk.written
        await append(storage, "b", durable=True)
        waiting = asyncio.create_task(storage.sync(2))
        disk.may_end.release()
        await disk.at_work()
        assert storage.durable == 1
        assert not waiting.done()
        disk.may_end.release()
        await waiting
        assert storage.durable == 2
        assert disk.syncs == [before, before + 1]


async def test_durable_append_becomes_durable_though_nobody_waits(path):
    disk = SlowDisk()
    disk.may_end.release()
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append(storage, "a", durable=True)
        while storage.durable < 1:
            await asyncio.sleep(0)


async def test_closing_waits_for_the_disk_and_leaves_nothing_open(path):
    disk = SlowDisk()
    storage = FileStorage(path, disk=disk)
    await storage.open()
    await append(storage, "a", durable=True)
    assert len(disk.duplicates) == 1
    closing = asyncio.create_task(storage.close())
    await disk.at_work()
    await settle()
    assert not closing.done()
    disk.may_end.release()
    await closing
    assert disk.duplicates == set()
    assert await names_in(FileStorage(path)) == ["a"]


async def test_of_a_small_commit_others_hear_before_the_disk_begins(path, monkeypatch):
    monkeypatch.setattr("omniq.storage.file.SYNC_AHEAD_BYTES", 8192)
    disk = SlowDisk()
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append(storage, "a" * 100, durable=True)
        assert not storage._sync_thread.is_busy
        await append(storage, "b" * 9000, durable=True)
        await disk.at_work()
        disk.may_end.release()


@pytest.mark.parametrize("durable", [True, False])
async def test_append_that_need_not_be_durable_leaves_the_disk_alone(path, durable):
    disk = SlowDisk()
    durability = "os" if durable else "fsync"
    async with opened(FileStorage(path, disk=disk, durability=durability)) as storage:
        await append(storage, "a", durable=durable)
        assert not disk.begun.acquire(blocking=False)


async def test_failed_sync_that_nobody_waits_for_ends_the_handle(path, caplog):
    disk = FaultyDisk()
    storage = FileStorage(path, disk=disk)
    await storage.open()
    disk.fail("sync", errno.EIO)
    await append(storage, "a", durable=True)
    while not disk.failed:
        await asyncio.sleep(0)
    await storage._sync_thread.close()
    with pytest.raises(StorageClosed, match="syncing .* failed"):
        await append(storage, "b", durable=True)
    assert storage.synced == 0
    await storage.close()
    assert not caplog.records


async def test_sync_that_cannot_begin_is_begun_by_who_waits_for_it(path):
    disk = FaultyDisk()
    async with opened(FileStorage(path, disk=disk)) as storage:
        disk.fail("duplicate", errno.EMFILE)
        await append(storage, "a", durable=True)
        assert disk.failed == 1
        await storage.sync(1)
        assert storage.durable == 1


async def test_a_commit_that_callers_wait_for_is_synced_once(path):
    disk = SlowDisk()
    async with AsyncOmniQ(FileStorage(path, disk=disk)) as oq:
        for number in range(5):
            enqueuing = asyncio.create_task(oq.enqueue(jobs.add, number))
            await disk.at_work()
            disk.may_end.release()
            await enqueuing
        assert len(disk.syncs) == 5
