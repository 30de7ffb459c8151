"""When the disk is asked to sync: at once for who waits, and so that nobody is forgotten."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from omniq import AsyncOmniQ, StorageError
from omniq.storage.base import BaseStorage
from omniq.syncing import LAZY_SECONDS, Syncer
from omniq.testing import VirtualClock
from tests.app import jobs

SOON = 5.0


class Disk:
    """As much of a storage as is synced. Each sync takes until it is let go."""

    def __init__(self) -> None:
        self.durable = self.synced = 0
        self.under_way: asyncio.Future[None] | None = None

    async def sync(self, seq: int) -> None:
        self.under_way = asyncio.get_running_loop().create_future()
        await self.under_way
        self.durable = self.synced = max(self.durable, seq)

    async def sync_lazily(self) -> None:
        await self.sync(self.durable)


async def test_a_sync_begins_before_the_event_loop_turns() -> None:
    disk = Disk()
    syncer = Syncer(cast("BaseStorage", disk), VirtualClock(), pytest.fail)
    waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    syncer.acknowledge(3, [(waiter, "answer")])
    assert disk.under_way is not None
    disk.under_way.set_result(None)
    assert await waiter == "answer"


async def test_who_comes_while_a_lazy_sync_is_under_way_is_answered() -> None:
    disk, clock = Disk(), VirtualClock()
    syncer = Syncer(cast("BaseStorage", disk), clock, pytest.fail)
    disk.durable = 1  # with durability="os" it is, and it is not synced
    syncer.soon(1)
    await clock.advance(LAZY_SECONDS)
    lazy = disk.under_way
    assert lazy is not None
    waiting = asyncio.create_task(syncer.make_durable(2))
    await asyncio.sleep(0)
    lazy.set_result(None)
    async with asyncio.timeout(SOON):
        while disk.under_way is lazy:
            await asyncio.sleep(0)
        disk.under_way.set_result(None)
        await waiting


async def test_whose_commit_ends_after_the_journal_failed_is_told(
    tmp_path: Path, monkeypatch
) -> None:
    async with AsyncOmniQ(tmp_path / "journal") as oq:
        queue = await oq.engine()
        append = queue.storage.append

        async def append_while_a_sync_fails(*args: Any, **kwargs: Any) -> Any:
            commit = await append(*args, **kwargs)
            queue.storage._fail("a sync failed")  # type: ignore[attr-defined]
            queue._fail(StorageError("a sync failed"))
            return commit

        monkeypatch.setattr(queue.storage, "append", append_while_a_sync_fails)
        async with asyncio.timeout(SOON):
            with pytest.raises(StorageError, match="a sync failed"):
                await oq.enqueue(jobs.add, 1)
