"""What the queue does when the disk does not do its part."""

import asyncio
import errno
import shutil
from pathlib import Path

import pytest

from omniq import (
    AsyncOmniQ,
    SerializationError,
    StorageClosed,
    StorageError,
    StorageFull,
    TaskFailed,
    TaskStatus,
)
from omniq.core import commands as cmd
from omniq.core import events as ev
from omniq.errors import IllegalEvent
from omniq.storage.disk import Disk
from omniq.storage.file import FileStorage
from omniq.storage.memory import MemoryStorage
from omniq.storage.rendezvous import Rendezvous
from omniq.testing import VirtualClock
from tests.app import jobs

SOON = 5.0


class FailingDisk(Disk):
    """A disk that is full, or cannot sync, when it is told to be."""

    full = False
    broken = False

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(descriptor)


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
async def oq(tmp_path: Path, disk: FailingDisk):
    async with AsyncOmniQ(FileStorage(tmp_path / "journal", disk=disk)) as app:
        yield app


async def test_a_full_disk_is_an_error_and_work_goes_on_once_there_is_room(oq, disk) -> None:
    before = await oq.enqueue(jobs.add, 1)
    disk.full = True
    with pytest.raises(StorageFull, match="make room"):
        await oq.enqueue(jobs.add, 2)
    with pytest.raises(StorageFull):
        await before.cancel()
    assert await before.status() is TaskStatus.PENDING, "what was not written did not happen"
    disk.full = False
    after = await oq.enqueue(jobs.add, 3)
    await oq.worker().drain()
    assert [await before.result(), await after.result()] == [3, 5]
    assert len(await oq.list_tasks()) == 2


async def test_an_outcome_that_finds_the_disk_full_is_written_later(oq, disk) -> None:
    started, may_end = asyncio.Event(), asyncio.Event()

    @oq.task(max_retries=0)
    async def wait() -> str:
        started.set()
        await may_end.wait()
        disk.full = True
        return "done"

    handle = await wait.enqueue()
    async with oq.worker():
        await started.wait()
        may_end.set()
        while not disk.full:
            await asyncio.sleep(0)
        waiting = asyncio.create_task(handle.result(timeout=SOON))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not waiting.done()
        disk.full = False
        assert await waiting == "done"


async def test_a_worker_outlasts_a_full_disk(oq, disk) -> None:
    handle = await oq.enqueue(jobs.add, 1)
    disk.full = True
    pool = oq.worker()
    with pytest.raises(StorageFull):
        await pool.start()
    disk.full = False
    async with oq.worker():
        disk.full = True
        await asyncio.sleep(0)
        disk.full = False
        assert await handle.result(timeout=SOON) == 3


async def test_a_worker_that_was_taken_for_dead_joins_again_once_there_is_room(
    oq, disk, monkeypatch
) -> None:
    monkeypatch.setattr("omniq.worker.pool.WAIT_SECONDS", 0.001)
    tried = asyncio.Event()
    engine = await oq.engine()
    execute = engine.execute

    async def noted(command):
        try:
            return await execute(command)
        except StorageFull:
            tried.set()
            raise

    async with oq.worker() as worker:
        monkeypatch.setattr(engine, "execute", noted)
        await engine.execute(cmd.DeclareLost(worker.id, "it was not heard of"))
        disk.full = True
        await tried.wait()
        disk.full = False
        handle = await oq.enqueue(jobs.add, 1)
        assert await handle.result(timeout=SOON) == 3


async def test_no_worker_is_taken_for_dead_because_the_disk_is_full(
    oq, disk, monkeypatch, caplog
) -> None:
    """Nobody can renew a lease then, for longer than the lease; and then there is room again."""
    monkeypatch.setattr("omniq.worker.pool.WATCH_SECONDS", 0.01)
    monkeypatch.setattr("omniq.worker.pool.WAIT_SECONDS", 0.01)
    may_end = asyncio.Event()

    @oq.task
    async def wait() -> None:
        await may_end.wait()

    def failed_renewals() -> int:
        actions = [getattr(record, "action", "") for record in caplog.records]
        return actions.count("renewal_failed")

    engine = await oq.engine()
    async with oq.worker(lease=0.1), oq.worker(lease=0.1):
        handle = await wait.enqueue()
        while await handle.status() is not TaskStatus.RUNNING:
            await asyncio.sleep(0)
        disk.full = True
        while failed_renewals() < 9:  # of which there are three in a lease
            await asyncio.sleep(0)
        disk.full = False
        (holder,) = engine.projection.running
        heard = engine.projection.heard[holder]
        while engine.projection.heard.get(holder, heard + 1) == heard:
            await asyncio.sleep(0)
        may_end.set()
        await handle.result(timeout=SOON)
    kinds = [event.kind for event in await handle.history()]
    assert kinds == ["task.enqueued", "task.started", "task.succeeded"]


async def test_a_worker_outlasts_a_lack_of_file_descriptors(oq, monkeypatch, caplog) -> None:
    """It takes one to look at the lock of another worker."""
    monkeypatch.setattr("omniq.worker.pool.WATCH_SECONDS", 0.001)
    monkeypatch.setattr("omniq.worker.pool.WAIT_SECONDS", 0.001)
    async with oq.worker(), oq.worker():
        with monkeypatch.context() as lacking:
            lacking.setattr(Rendezvous, "is_dead", none_left)
            while "Too many open files" not in caplog.text:
                await asyncio.sleep(0)
        handle = await oq.enqueue(jobs.add, 1)
        assert await handle.result(timeout=SOON) == 3


def none_left(*_: object) -> bool:
    raise OSError(errno.EMFILE, "Too many open files")


async def test_a_failed_sync_is_told_to_the_caller_and_ends_the_handle(oq, disk, tmp_path) -> None:
    disk.broken = True
    with pytest.raises(StorageError, match="cannot sync"):
        await oq.enqueue(jobs.add, 1)
    disk.broken = False
    with pytest.raises(StorageError):
        await oq.enqueue(jobs.add, 2)
    with pytest.raises(StorageError):
        await oq.stats()
    await oq.close()
    await oq.open()
    handle = await oq.enqueue(jobs.add, 3)
    await oq.worker().drain()
    assert await handle.result() == 5


async def test_results_that_wait_for_a_sync_fail_with_it_and_so_does_the_worker(oq, disk) -> None:
    handle = await oq.enqueue(jobs.add, 1)
    pool = oq.worker()
    await pool.start()
    disk.broken = True
    with pytest.raises(StorageError, match="cannot sync"):
        await handle.result(timeout=SOON)
    with pytest.raises(StorageError, match="cannot sync"):
        await pool.stop()
    disk.broken = False


async def test_an_event_that_cannot_follow_ends_the_engine_and_says_so() -> None:
    storage = MemoryStorage()
    async with AsyncOmniQ(storage) as app:
        handle = await app.enqueue(jobs.add, 1)
        forged = ev.TaskSucceeded(handle.id, 1, "nobody", b"\x01")
        await storage.append([forged], at=0, actor="forger")
        for _ in range(3):  # it is not passed over the next time
            with pytest.raises(IllegalEvent, match="cannot follow the state PENDING"):
                await handle.status()


async def test_use_after_close_opens_again_and_a_closed_wait_is_told(tmp_path: Path) -> None:
    app = AsyncOmniQ(tmp_path / "j")
    handle = await app.enqueue(jobs.add, 1)
    waiting = asyncio.create_task(handle.result())
    while not (await app.engine())._follower.finishing._waiters:
        await asyncio.sleep(0)
    await app.close()
    with pytest.raises(StorageClosed):
        await waiting
    assert await handle.status() is TaskStatus.PENDING
    await app.close()


async def test_large_payloads_that_wait_together_are_not_refused_for_each_other(
    tmp_path: Path,
) -> None:
    async with AsyncOmniQ(tmp_path / "j", max_payload_bytes=8_000_000) as app:

        @app.task
        async def size(data: bytes) -> int:
            return len(data)

        handles = await asyncio.gather(*(size.enqueue(bytes(7_000_000)) for _ in range(12)))
        await app.worker().drain()
        assert [await handle.result() for handle in handles] == [7_000_000] * 12


async def test_a_task_that_ignores_its_cancellation_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omniq.worker.attempt.GRACE_SECONDS", 0.05)
    release = asyncio.Event()
    async with AsyncOmniQ(tmp_path / "j") as app:

        @app.task(timeout=0.05, max_retries=0)
        async def stubborn() -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        handle = await stubborn.enqueue()
        async with app.worker():
            result = await app.get_result(handle.id, wait=True, timeout=SOON)
            assert result is not None
            assert result.error is not None
            assert result.error.error_type == "TimeoutError"
            release.set()


async def test_a_journal_that_is_deleted_under_the_queue_acknowledges_nothing(
    tmp_path: Path,
) -> None:
    async with AsyncOmniQ(tmp_path / "j") as app:
        await app.enqueue(jobs.add, 1)
        shutil.rmtree(tmp_path / "j")
        with pytest.raises(StorageError, match="removed while it was open"):
            await app.enqueue(jobs.add, 2)
        async with AsyncOmniQ(tmp_path / "j") as another:  # in its place
            await another.enqueue(jobs.add, 3)
            with pytest.raises(StorageError, match="removed while it was open"):
                await app.enqueue(jobs.add, 4)


@pytest.mark.parametrize("name", ["journal", "jobs.db"])
@pytest.mark.parametrize("durability", ["os", "fsync"])
async def test_a_result_that_another_handle_wrote_is_handed_out_in_every_durability(
    tmp_path: Path, name: str, durability: str
) -> None:
    async with (
        AsyncOmniQ(tmp_path / name, durability=durability) as client,
        AsyncOmniQ(tmp_path / name, durability=durability) as other,
    ):
        other.task(jobs.add)
        async with other.worker():
            for number in range(3):
                handle = await client.enqueue(jobs.add, number)
                assert await handle.result(timeout=SOON) == number + 2


async def test_an_event_that_cannot_be_written_is_refused_alone(location) -> None:
    async with AsyncOmniQ(location) as oq:
        queue = await oq.engine()
        like, good = ev.TaskEnqueued("", "m:f", "q", b""), b"\x92\x90\x80"
        for count in (1, 2):  # without the state, and with it
            *bad, (task,) = await asyncio.gather(
                *(queue.enqueue(like, (payload,)) for payload in ([5], (object(),), "text", good)),
                return_exceptions=True,
            )
            assert [type(answer) for answer in bad] == [SerializationError] * 3
            tasks = (await queue.refresh()).tasks
            assert task.task_id in tasks
            assert len(tasks) == count


@pytest.mark.parametrize("result", [5, object(), "\ud800"])
async def test_an_outcome_that_cannot_be_written_fails_its_task(location, result) -> None:
    async with AsyncOmniQ(location) as oq:
        handle = await oq.enqueue(jobs.add, 1)
        queue = await oq.engine()
        await queue.execute(cmd.Join(ev.WorkerJoined("w", "host", 1, "boot", 1)))
        await queue.execute(cmd.Claim("w", (), {"tests.app.jobs:add"}, 1))
        queue.post(cmd.Succeed(handle.id, 1, "w", result))
        with pytest.raises(TaskFailed) as caught:
            await handle.result(timeout=SOON)
        assert (caught.value.error.error_type, caught.value.error.is_retryable) == (
            "SerializationError",
            False,
        )


async def test_whatever_ends_the_follower_is_told_to_everyone(monkeypatch) -> None:
    storage = MemoryStorage()
    async with AsyncOmniQ(storage) as oq:
        handle = await oq.enqueue(jobs.add, 1)

        async def fail(_seq: int) -> None:
            raise LookupError("a bug")

        monkeypatch.setattr(storage, "wait", fail)
        with pytest.raises(LookupError, match="a bug"):
            await handle.result(timeout=SOON)


@pytest.mark.parametrize("name", ["journal", "jobs.db"])
async def test_what_nobody_waits_for_is_synced_about_a_second_later(tmp_path: Path, name) -> None:
    """With durability="os" a power cut takes about that much, whatever was acknowledged."""
    clock = VirtualClock()
    async with AsyncOmniQ(tmp_path / name, durability="os", clock=clock) as oq:
        for round_ in (1, 2, 3):
            await oq.enqueue(jobs.add, 1)
            assert oq.storage.durable == round_, "it is acknowledged at once"
            await clock.advance(0.9)
            assert oq.storage.synced == round_ - 1
            await clock.advance(0.2)
            async with asyncio.timeout(SOON):
                while oq.storage.synced < round_:
                    await asyncio.sleep(0)


async def test_a_lazy_sync_that_fails_ends_the_handle_like_any_other(tmp_path: Path, disk) -> None:
    clock = VirtualClock()
    storage = FileStorage(tmp_path / "journal", durability="os", disk=disk)
    async with AsyncOmniQ(storage, clock=clock) as oq:
        await oq.enqueue(jobs.add, 1)
        disk.broken = True
        await clock.advance(1.1)
        async with asyncio.timeout(SOON):
            while storage._closed_because == "":
                await asyncio.sleep(0)
        disk.broken = False
        with pytest.raises(StorageError, match="sync"):
            await oq.enqueue(jobs.add, 2)


async def test_a_caller_that_has_gone_does_not_end_the_engine_with_its_bad_event(location) -> None:
    async with AsyncOmniQ(location) as oq:
        queue = await oq.engine()
        like = ev.TaskEnqueued("", "m:f", "q", b"")
        async with queue._follower.exclusive:  # the order still waits when its caller goes
            calling = queue.enqueue(like, ([5],))  # type: ignore[arg-type]
            calling.cancel()
        assert await (await oq.enqueue(jobs.add, 1)).status() is TaskStatus.PENDING
