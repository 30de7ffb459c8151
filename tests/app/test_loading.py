"""Reading the journal for the first time, when it takes longer than who asked for it will wait."""

import asyncio

import pytest

from omniq import AsyncOmniQ, StorageError, TaskStatus, following
from tests.app import jobs


class Gate:
    """Holds up every first reading of a journal until it is opened, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = asyncio.Event()
        self.begun = asyncio.Event()
        self.times = 0
        self.error: Exception | None = None
        restored = following.restored

        async def held_up(storage):
            self.times += 1
            self.begun.set()
            await self.open.wait()
            if self.error is not None:
                raise self.error
            return await restored(storage)

        monkeypatch.setattr(following, "restored", held_up)


async def test_reading_goes_on_though_who_asked_for_it_gave_up(location, monkeypatch) -> None:
    async with AsyncOmniQ(location) as oq:
        handle = await oq.enqueue(jobs.add, 1)
        gate = Gate(monkeypatch)
        for _ in range(3):
            with pytest.raises(TimeoutError, match="was still being read. Next: allow more time"):
                await handle.result(timeout=0.001)
        gate.open.set()
        assert await handle.status() is TaskStatus.PENDING
        assert gate.times == 1


async def test_a_reading_that_fails_is_told_to_all_who_wait_and_begins_anew(
    location, monkeypatch, caplog
) -> None:
    async with AsyncOmniQ(location) as oq:
        handle = await oq.enqueue(jobs.add, 1)
        gate = Gate(monkeypatch)
        gate.error = StorageError("unplugged")
        waiting = [asyncio.create_task(handle.status()) for _ in range(3)]
        await gate.begun.wait()
        waiting.pop().cancel()
        gate.open.set()
        for task in waiting:
            with pytest.raises(StorageError, match="unplugged"):
                await task
        assert gate.times == 1
        gate.error = None
        assert await handle.status() is TaskStatus.PENDING
        assert gate.times == 2
    assert not caplog.records


async def test_who_waits_for_the_first_reading_while_the_app_closes_gets_an_answer(
    location, monkeypatch
) -> None:
    async with AsyncOmniQ(location) as oq:
        handle = await oq.enqueue(jobs.add, 1)
        gate = Gate(monkeypatch)
        waiting = asyncio.create_task(handle.status())
        await gate.begun.wait()
        asyncio.get_running_loop().call_soon(gate.open.set)
    assert await waiting is TaskStatus.PENDING
