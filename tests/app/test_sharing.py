"""Two handles on one journal: whoever is far behind does not keep the other one waiting."""

import asyncio
from pathlib import Path

import pytest

from omniq import AsyncOmniQ, TaskStatus
from omniq.committing import READ_APART_EVENTS, READ_APART_TIMES
from omniq.core import events as ev
from omniq.queue import AsyncTaskQueue
from tests.app import jobs

MANY = 2 * READ_APART_EVENTS


class Reads:
    """Where a handle reads: in its turn, while all others wait, or apart."""

    def __init__(self, queue: AsyncTaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inside: list[int] = []  # how many events at a time
        self.apart: list[int] = []
        read, storage = queue.storage.read, queue.storage

        async def noted(after: int, limit: int) -> list[ev.Commit]:
            commits = await read(after, limit)
            where = self.inside if queue.storage._inside else self.apart  # type: ignore[attr-defined]
            where.append(sum(len(commit.events) for commit in commits))
            return commits

        async def never(_seq: int) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(storage, "read", noted)
        monkeypatch.setattr(storage, "wait", never)  # so that it falls behind


@pytest.mark.parametrize("name", ["journal", "jobs.db"])
@pytest.mark.parametrize(
    ("count", "inside", "apart"), [(MANY, 0, MANY), (READ_APART_EVENTS, READ_APART_EVENTS, 0)]
)
async def test_only_who_is_far_behind_reads_while_others_may_append(
    tmp_path: Path, monkeypatch, name, count, inside, apart
) -> None:
    async with AsyncOmniQ(tmp_path / name) as ahead, AsyncOmniQ(tmp_path / name) as behind:
        queue = await behind.engine()
        reads = Reads(queue, monkeypatch)
        await queue.load()
        await ahead.task(jobs.add).enqueue_many([(1,)] * count)
        await behind.pause("other")
        assert (sum(reads.inside), sum(reads.apart)) == (inside, apart)


@pytest.mark.parametrize("name", ["journal", "jobs.db"])
async def test_who_never_catches_up_gets_its_turn_all_the_same(
    tmp_path: Path, monkeypatch, name
) -> None:
    async with AsyncOmniQ(tmp_path / name) as ahead, AsyncOmniQ(tmp_path / name) as behind:
        queue = await behind.engine()
        reads = Reads(queue, monkeypatch)
        await queue.load()
        fill = ahead.task(jobs.add).enqueue_many
        await fill([(1,)] * MANY)
        catch_up = queue._follower.catch_up

        async def too_slow() -> None:
            is_apart = not queue.storage._inside  # type: ignore[attr-defined]
            await catch_up()
            if is_apart:
                await fill([(1,)] * MANY)

        monkeypatch.setattr(queue._follower, "catch_up", too_slow)
        await behind.pause("other")
        assert reads.inside.count(MANY) == 1
        assert reads.apart.count(MANY) == READ_APART_TIMES
        counts = (await behind.stats()).by_status
        assert counts[TaskStatus.PENDING] >= MANY * (READ_APART_TIMES + 1)
