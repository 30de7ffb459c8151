"""Time and chance for tests: moved by hand, and drawn from a seed."""

import asyncio
from itertools import islice
from uuid import UUID

import pytest

from omniq.clock import sleep, wait_at_most
from omniq.testing import SeededEntropy, VirtualClock


@pytest.fixture
def clock():
    return VirtualClock(start_us=1_000_000)


async def test_time_passes_only_when_it_is_advanced(clock):
    assert (clock.now_us(), clock.monotonic()) == (1_000_000, 0.0)
    await asyncio.sleep(0)
    assert (clock.now_us(), clock.monotonic()) == (1_000_000, 0.0)
    await clock.advance(2.5)
    assert (clock.now_us(), clock.monotonic()) == (3_500_000, 2.5)


async def test_timers_are_called_in_order_and_at_their_time(clock):
    called = []
    for seconds in (3, 1, 2, 1):
        clock.call_later(seconds, lambda s=seconds: called.append((s, clock.monotonic())))
    await clock.advance(2)
    assert called == [(1, 1.0), (1, 1.0), (2, 2.0)]
    await clock.advance(0.999)
    assert len(called) == 3
    await clock.advance(0.001)
    assert called[-1] == (3, 3.0)


async def test_cancelled_timer_is_not_called(clock):
    timer = clock.call_later(1, pytest.fail)
    timer.cancel()
    await clock.advance(5)


async def test_timer_that_a_timer_sets_is_called_if_it_falls_due(clock):
    called = []

    def tick():
        called.append(clock.monotonic())
        clock.call_later(1, tick)

    clock.call_later(1, tick)
    await clock.advance(3.5)
    assert called == [1.0, 2.0, 3.0]


async def test_tasks_go_on_between_two_timers(clock):
    seen = []

    async def sleeper():
        for _ in range(3):
            await sleep(clock, 10)
            seen.append(clock.monotonic())

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper())
        await clock.advance(25)
        assert seen == [10.0, 20.0]
        await clock.advance(5)
    assert seen == [10.0, 20.0, 30.0]


async def test_waiting_for_an_hour_takes_no_time(clock):
    waiting = asyncio.create_task(wait_at_most(clock, asyncio.Event(), 3600))
    await clock.advance(3600)
    assert await waiting is False


async def test_step_moves_the_wall_clock_alone(clock):
    called = []
    clock.call_later(10, lambda: called.append(clock.now_us()))
    clock.step(-3600)
    assert (clock.now_us(), clock.monotonic()) == (1_000_000 - 3_600_000_000, 0.0)
    clock.step(7200)
    await clock.advance(9)
    assert called == []
    await clock.advance(1)
    assert called == [1_000_000 + 3_600_000_000 + 10_000_000]


def test_same_seed_gives_the_same_draws():
    def draw(seed):
        entropy = SeededEntropy(seed)
        ids = islice(entropy.task_ids(5), 50)
        return [(task_id, entropy.name(), entropy.fraction()) for task_id in ids]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    drawn = draw(3)
    assert len({task_id for task_id, _, _ in drawn}) == 50
    assert len({name for _, name, _ in drawn}) == 50
    assert all(0 <= fraction < 1 for _, _, fraction in drawn)
    assert {UUID(task_id).version for task_id, _, _ in drawn} == {7}
    assert all(name.isalnum() and len(name) == 10 for _, name, _ in drawn)
