"""Snapshots and retention as a program meets them: opening is quick, and nothing needed goes."""

import asyncio
import logging
import sqlite3
from pathlib import Path

import fsspec
import pytest

from omniq import AsyncOmniQ, CorruptJournal, RetryPolicy, StorageError, TaskStatus, upkeep
from omniq.core.projection import Projection
from omniq.storage.archive import Archive
from omniq.storage.base import Head
from omniq.storage.file import FileStorage
from omniq.testing import VirtualClock
from tests.app import jobs

DAY = 86_400.0


@pytest.fixture(params=["file", "sqlite"])
def location(request, tmp_path) -> str:
    return str(tmp_path / {"file": "journal", "sqlite": "jobs.db"}[request.param])


@pytest.fixture(autouse=True)
def _often(monkeypatch) -> None:
    monkeypatch.setattr(upkeep, "EVENTS_A_SNAPSHOT", 16)
    monkeypatch.setattr(upkeep, "EVENTS_A_TASK", 0)


async def work(oq: AsyncOmniQ, count: int) -> None:
    """Enqueue tasks of all kinds and run what is due."""

    @oq.task(name="flaky", retry=RetryPolicy(max_retries=2, base_delay=3600))
    async def flaky(number: int) -> int:
        if number % 3:
            raise ValueError(number)
        return number

    for number in range(count):
        await flaky.options(priority=number % 2, queue=f"q{number % 3}").enqueue(number)
        await oq.options(delay=3600 * number).enqueue(jobs.add, number)
    await oq.worker(concurrency=3).drain()


async def snapshot_seq(oq: AsyncOmniQ) -> int:
    return await (await oq.engine()).storage.snapshot_seq()


async def until_snapshot(oq: AsyncOmniQ, after: int = 0) -> int:
    while (seq := await snapshot_seq(oq)) <= after:
        await asyncio.sleep(0)
    return seq


async def folded(oq: AsyncOmniQ) -> Projection:
    """Return the fold of all events, from the first one on."""
    storage, state = (await oq.engine()).storage.sibling(), Projection()
    await storage.open()
    while commits := await storage.read(state.seq):
        for commit in commits:
            state.apply(commit)
    await storage.close()
    return state


async def test_opening_reads_the_snapshot_and_only_what_follows_it(location, monkeypatch) -> None:
    async with AsyncOmniQ(location) as oq:
        await work(oq, 40)
        seq = await until_snapshot(oq)
    async with AsyncOmniQ(location) as oq:
        queue = await oq.engine()
        read, seen = queue.storage.read, []

        async def watched(after, limit=4096):
            seen.append(after)
            return await read(after, limit)

        monkeypatch.setattr(queue.storage, "read", watched)
        state = await queue.refresh()
        assert min(seen) >= seq
        whole = await folded(oq)
        assert state.state() == whole.state()
        assert list(state.tasks) == list(whole.tasks)
        assert state.counts == whole.counts


async def test_work_goes_on_behind_a_snapshot(location) -> None:
    clock = VirtualClock()
    async with AsyncOmniQ(location, clock=clock, result_ttl=None) as oq:
        await work(oq, 20)
        await until_snapshot(oq)
    async with AsyncOmniQ(location, clock=clock, result_ttl=None) as oq:
        oq.registry.register(jobs.add)
        await work(oq, 0)
        for _ in range(3):
            clock.step(30 * 3600)
            await oq.worker().drain()
        assert (await oq.stats()).by_status == {
            TaskStatus.SUCCESS: 20 + 7,
            TaskStatus.FAILED: 13,
            **dict.fromkeys(("PENDING", "RUNNING", "RETRYING", "CANCELLED"), 0),
        }


async def test_one_of_many_processes_takes_the_snapshot_and_others_see_to_it_if_not(
    location,
) -> None:
    async with AsyncOmniQ(location) as reader, AsyncOmniQ(location) as producer:
        await reader.stats()  # follows from now on, and writes nothing
        for number in range(40):
            await producer.enqueue(jobs.add, number)
        assert await snapshot_seq(reader) == 0  # nobody who knows the state has written
        await reader.enqueue(jobs.add, 1)
        assert await until_snapshot(reader) == 41


@pytest.mark.parametrize("how", ["flipped", "cut", "empty"])
async def test_damaged_snapshot_is_ignored_with_a_warning(location, how, caplog) -> None:
    async with AsyncOmniQ(location) as oq:
        await work(oq, 20)
        await until_snapshot(oq)
    damage(location, how)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "omniq"):
        async with AsyncOmniQ(location) as oq:
            state = await (await oq.engine()).refresh()
            assert state.state() == (await folded(oq)).state()
    assert {record.action for record in caplog.records} == {"snapshot_ignored"}


async def test_snapshot_of_another_version_is_ignored_with_a_warning(
    location, monkeypatch, caplog
) -> None:
    async with AsyncOmniQ(location) as oq:
        await work(oq, 20)
        await until_snapshot(oq)
        queue = await oq.engine()
        while not queue.upkeep.is_idle:  # or it may write over what is written here
            await asyncio.sleep(0)
        await queue.storage.save_snapshot(
            await queue.storage.bookmark((await queue.refresh()).seq), parts(b"\x91\xa5other")
        )
    with caplog.at_level(logging.WARNING, "omniq"):
        async with AsyncOmniQ(location) as oq:
            state = await (await oq.engine()).refresh()
            assert state.state() == (await folded(oq)).state()
    assert "another version" in caplog.text


async def parts(*values):
    for value in values:
        yield value


async def test_snapshot_that_cannot_be_written_is_said_and_work_goes_on(
    location, monkeypatch, caplog
) -> None:
    async def fail(*_):
        raise OSError(28, "No space left on device")

    async with AsyncOmniQ(location) as oq:
        monkeypatch.setattr((await oq.engine()).storage, "save_snapshot", fail)
        with caplog.at_level(logging.WARNING, "omniq"):
            await work(oq, 20)
            while "upkeep_failed" not in {getattr(r, "action", "") for r in caplog.records}:
                await asyncio.sleep(0)
        assert await (await oq.enqueue(jobs.add, 1)).status() is TaskStatus.PENDING


async def test_state_that_is_too_large_for_a_snapshot_is_said(
    location, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("omniq.storage.snapshots.MAX_SNAPSHOT_BYTES", 500)
    async with AsyncOmniQ(location) as oq:
        with caplog.at_level(logging.WARNING, "omniq"):
            await work(oq, 20)
            while "upkeep_failed" not in {getattr(r, "action", "") for r in caplog.records}:
                await asyncio.sleep(0)
        assert await snapshot_seq(oq) == 0
    assert "more than the 500 bytes" in caplog.text


# Retention.


async def test_old_history_is_dropped_and_nothing_that_is_needed(location) -> None:
    clock = VirtualClock()
    settings = {"clock": clock, "retention": DAY, "result_ttl": 30 * DAY}
    async with AsyncOmniQ(location, **settings) as oq:
        done = await oq.enqueue(jobs.add, 1)
        later = await oq.options(delay=20 * DAY).enqueue(jobs.add, 2)
        await oq.worker().drain()
        await pass_days(oq, clock, 6)
        beginning = await (await oq.engine()).storage.beginning()
        assert beginning.seq >= 5  # both tasks, a worker, an attempt and its outcome
    async with AsyncOmniQ(location, **settings) as oq:
        oq.registry.register(jobs.add)
        assert await oq.handle(done.id).result() == 3
        assert await oq.handle(done.id).history() == []
        clock.step(20 * DAY)
        await oq.worker().drain()
        assert await oq.handle(later.id).result() == 4


async def pass_days(oq: AsyncOmniQ, clock: VirtualClock, days: int) -> None:
    """Let days pass, with some work on each, and the upkeep done as often as it is due."""
    storage = (await oq.engine()).storage
    for _ in range(days * upkeep.TICKS_A_RETENTION):
        seq = await storage.snapshot_seq()
        await oq.enqueue(jobs.add, 0)
        await oq.worker().drain()
        await clock.advance(3600.0 * 3)
        await until_snapshot(oq, after=seq)
        await until_idle(oq)


async def until_idle(oq: AsyncOmniQ) -> None:
    """Wait for the upkeep to wait for its next tick."""
    queue = await oq.engine()
    while not queue.upkeep.is_idle:
        await asyncio.sleep(0)


async def test_history_is_kept_for_ever_by_default(location) -> None:
    clock = VirtualClock()
    async with AsyncOmniQ(location, clock=clock) as oq:
        for _ in range(30):
            clock.step(30 * DAY)
            await (await oq.enqueue(jobs.add, 1)).status()
        await until_snapshot(oq)
        assert (await (await oq.engine()).storage.beginning()).seq == 0


async def test_journal_whose_snapshots_and_history_are_gone_is_not_opened(location) -> None:
    clock = VirtualClock()
    async with AsyncOmniQ(location, clock=clock, retention=DAY) as oq:
        await pass_days(oq, clock, 6)
        assert (await (await oq.engine()).storage.beginning()).seq > 0
    damage(location, "flipped", every=True)
    async with AsyncOmniQ(location, clock=clock) as oq:
        with pytest.raises(CorruptJournal, match="dropped, found none that verifies"):
            await oq.stats()


def damage(location: str, how: str, *, every: bool = False) -> None:
    """Damage the newest snapshot, or every one."""

    def damaged(data: bytes) -> bytes:
        flipped = bytes([*data[:-1], data[-1] ^ 1])
        return {"flipped": flipped, "cut": data[: len(data) // 2], "empty": b""}[how]

    if location.endswith(".db"):
        with sqlite3.connect(location) as database:
            for (seq,) in database.execute("SELECT DISTINCT seq FROM snapshots").fetchall():
                (data,) = database.execute(
                    "SELECT data FROM snapshots WHERE seq = ? AND part = 0", (seq,)
                ).fetchone()
                database.execute(
                    "UPDATE snapshots SET data = ? WHERE seq = ? AND part = 0", (damaged(data), seq)
                )
        database.close()
        return
    paths = sorted(Path(location).glob("*.snapshot"))
    for path in paths if every else paths[-1:]:
        path.write_bytes(damaged(path.read_bytes()))


# Archives.


@pytest.fixture
def archive_url() -> str:
    fsspec.filesystem("memory").store.clear()
    return "memory://archive"


async def test_history_is_dropped_only_once_it_is_in_the_archive(
    location, archive_url, monkeypatch
) -> None:
    clock = VirtualClock()
    put, is_down = Archive.put, True

    def try_to_put(self, name, data):
        if is_down:
            raise StorageError("the network is gone")
        put(self, name, data)

    monkeypatch.setattr(Archive, "put", try_to_put)
    settings = {"clock": clock, "retention": DAY, "archive_url": archive_url}
    async with AsyncOmniQ(location, **settings) as oq:
        handle = await oq.enqueue(jobs.add, 1)
        before = await handle.history()
        await pass_days(oq, clock, 4)
        storage = (await oq.engine()).storage
        assert await storage.beginning() == Head()
        is_down = False
        await pass_days(oq, clock, 2)
        assert (await storage.beginning()).seq > 0
        assert (await handle.history())[: len(before)] == before
        assert len(await handle.history()) == 4  # enqueued, started, succeeded, expired


async def test_archive_fills_without_retention(location, archive_url, monkeypatch) -> None:
    monkeypatch.setattr("omniq.storage.snapshot_rows.SEGMENT_BYTES", 2000)
    clock = VirtualClock()
    storage = FileStorage(location, segment_bytes=2000) if "journal" in location else location
    async with AsyncOmniQ(storage, clock=clock, archive_url=archive_url) as oq:
        for number in range(40):
            await oq.enqueue(jobs.add, number)
        await oq.stats()
        await until_idle(oq)
        await clock.advance(upkeep.LONGEST_TICK)
        while len(Archive(archive_url).names()) < 3:
            await asyncio.sleep(0)
        await until_idle(oq)
        assert (await (await oq.engine()).storage.beginning()).seq == 0
