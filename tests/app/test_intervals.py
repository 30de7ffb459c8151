"""Interval tasks: each run is a task of its own, and a series ends only when it is cancelled."""

from datetime import timedelta

import pytest

from omniq import AsyncOmniQ, RetryPolicy, TaskStatus
from omniq.testing import VirtualClock


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def oq(location: str, clock: VirtualClock):
    async with AsyncOmniQ(location, clock=clock) as app:
        yield app


async def pending(oq: AsyncOmniQ):
    (task,) = await oq.list_tasks(status=TaskStatus.PENDING)
    return task


async def test_every_run_is_a_task_with_the_series_id_of_the_first(oq, clock) -> None:
    runs: list[int] = []

    @oq.task
    async def tick() -> None:
        runs.append(clock.now_us())

    first = await tick.options(interval=60).enqueue()
    await oq.worker().drain()
    second = await pending(oq)
    assert second.id != first.id
    assert second.schedule.series_id == first.id
    assert second.schedule.interval == timedelta(seconds=60)
    assert await first.result() is None
    clock.step(59)
    await oq.worker().drain()
    assert len(runs) == 1
    clock.step(1)
    await oq.worker().drain()
    assert len(runs) == 2
    assert (await pending(oq)).schedule.series_id == first.id


async def test_each_call_of_a_bulk_begins_a_series_of_its_own(oq, clock) -> None:
    @oq.task
    async def tick(name: str) -> None:
        del name

    first = await tick.options(interval=60, delay=5).enqueue_many([("a",), ("b",)])
    tasks = await oq.list_tasks()
    assert {task.schedule.series_id for task in tasks} == {handle.id for handle in first}
    await oq.worker().drain()
    assert await oq.list_tasks(status=TaskStatus.SUCCESS) == []
    clock.step(5)
    await oq.worker().drain()
    assert len(await oq.list_tasks(status=TaskStatus.SUCCESS)) == 2
    following = await oq.list_tasks(status=TaskStatus.PENDING)
    assert {task.schedule.series_id for task in following} == {handle.id for handle in first}


async def test_cancelling_any_run_ends_the_series(oq, clock) -> None:
    @oq.task
    async def tick() -> None: ...

    first = await tick.options(interval=60).enqueue()
    await oq.worker().drain()
    assert await first.cancel("enough")
    assert await oq.list_tasks(status=TaskStatus.PENDING) == []
    clock.step(600)
    await oq.worker().drain()
    assert (await oq.stats()).by_status[TaskStatus.SUCCESS] == 1


async def test_the_series_goes_on_after_a_run_that_failed(oq, clock) -> None:
    @oq.task(retry=RetryPolicy(max_retries=0))
    async def tick() -> None:
        raise OSError("down")

    first = await tick.options(interval=60).enqueue()
    await oq.worker().drain()
    assert await first.status() is TaskStatus.FAILED
    assert (await pending(oq)).schedule.series_id == first.id


async def test_missed_runs_are_not_made_up_for(oq, clock) -> None:
    runs: list[int] = []

    @oq.task
    async def tick() -> None:
        runs.append(1)

    await tick.options(interval=60).enqueue()
    await oq.worker().drain()
    clock.step(3600)
    await oq.worker().drain()
    assert len(runs) == 2


async def test_a_delayed_task_runs_when_its_time_comes(oq, clock) -> None:
    ran: list[str] = []

    @oq.task
    async def note(name: str) -> None:
        ran.append(name)

    await note.options(delay=10).enqueue("later")
    await note.options(delay=timedelta(seconds=5)).enqueue("sooner")
    await oq.worker().drain()
    assert ran == []
    clock.step(5)
    await oq.worker().drain()
    assert ran == ["sooner"]
    clock.step(5)
    await oq.worker().drain()
    assert ran == ["sooner", "later"]
