"""How a worker begins many tasks at once, on an event loop that is its host's as well."""

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from omniq import AsyncOmniQ, TaskStatus
from omniq.core import events as ev
from omniq.testing import VirtualClock
from omniq.worker import signals
from omniq.worker.running import HOLD_SECONDS, SLICE, SLICE_SECONDS

MANY = 3 * SLICE
SOON = 5.0
LONG = 2 * SLICE_SECONDS


class WorkClock(VirtualClock):
    """Time passes while a task works, and else stands still."""

    worked = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.worked


class Work:
    """A task that takes longer than a slice, and what is known of its runs."""

    def __init__(self, oq: AsyncOmniQ, clock: WorkClock) -> None:
        self.ran: list[int] = []
        self.seconds = LONG
        self.after: dict[int, Callable[[], Any]] = {}  # what a run does at its end

        @oq.task
        async def work(number: int) -> None:
            self.ran.append(number)
            clock.worked += self.seconds
            if number in self.after:
                self.after[number]()

        self.enqueue_many = work.enqueue_many


@pytest.fixture
def clock() -> WorkClock:
    return WorkClock()


@pytest.fixture
async def oq(location: str, clock: WorkClock) -> AsyncIterator[AsyncOmniQ]:
    async with AsyncOmniQ(location, clock=clock) as app:
        yield app


@pytest.fixture
def work(oq: AsyncOmniQ, clock: WorkClock) -> Work:
    return Work(oq, clock)


async def beside[T](look: Callable[[], T], draining: Awaitable[None]) -> list[T]:
    """Return what a host sees that looks at each turn of the loop while a worker drains."""
    seen: list[T] = []

    async def host() -> None:
        while True:
            seen.append(look())
            await asyncio.sleep(0)

    looking = asyncio.create_task(host())
    async with asyncio.timeout(SOON):
        await draining
    looking.cancel()
    return seen


@pytest.mark.parametrize(("seconds", "at_once"), [(0.0, SLICE), (LONG, 1)])
async def test_others_have_their_turn_after_a_slice_of_tasks_or_of_time(
    oq: AsyncOmniQ, work: Work, *, seconds: float, at_once: int
) -> None:
    work.seconds = seconds
    await work.enqueue_many([(number,) for number in range(MANY)])
    seen = await beside(lambda: len(work.ran), oq.worker(concurrency=MANY).drain())
    assert work.ran == list(range(MANY))
    steps = {after - before for before, after in itertools.pairwise(seen)}
    assert steps == {0, at_once}


async def test_the_outcomes_of_all_slices_are_one_commit(
    oq: AsyncOmniQ, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the journal is written, and its lock changes hands, once for each of them."""
    work.seconds = 0.0
    await work.enqueue_many([(number,) for number in range(MANY)])
    storage = (await oq.engine()).storage
    append, ended = storage.append, list[int]()

    async def noted(*args: Any, **kwargs: Any) -> ev.Commit:
        commit = await append(*args, **kwargs)
        ended.append(sum(type(event) is ev.TaskSucceeded for event in commit.events))
        return commit

    monkeypatch.setattr(storage, "append", noted)
    await oq.worker(concurrency=MANY).drain()
    assert [count for count in ended if count] == [MANY]


async def test_an_outcome_is_not_held_back_for_long(oq: AsyncOmniQ, work: Work) -> None:
    """If the process dies, what has ended need not run again."""
    count = 20 * round(HOLD_SECONDS / LONG)
    handles = await work.enqueue_many([(number,) for number in range(count)])
    engine = await oq.engine()
    await engine.load()

    def look() -> tuple[int, bool]:
        return len(work.ran), engine.projection.tasks[handles[0].id].is_finished

    seen = await beside(look, oq.worker(concurrency=count).drain())
    written_after = next(ran for ran, is_written in seen if is_written)
    assert written_after < count


async def test_a_task_that_is_cancelled_before_its_slice_does_not_run(
    oq: AsyncOmniQ, work: Work
) -> None:
    handles = await work.enqueue_many([(number,) for number in range(MANY)])
    wishes = []
    work.after[0] = lambda: wishes.append(asyncio.ensure_future(handles[-1].cancel()))
    await oq.worker(concurrency=MANY).drain()
    await wishes[0]
    assert await handles[-1].status() is TaskStatus.CANCELLED
    assert work.ran == list(range(MANY - 1))


@pytest.mark.parametrize("how", ["the loop ends its tasks", "two signals", "the worker is lost"])
async def test_what_is_not_begun_is_given_back(
    oq: AsyncOmniQ, work: Work, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(signals, "SAME_SIGNAL_SECONDS", -1.0)
    handles = await work.enqueue_many([(number,) for number in range(MANY)])
    pool = oq.worker(concurrency=MANY)

    def interrupt() -> None:
        if how == "two signals":
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        elif how == "the worker is lost":
            loop.call_soon(pool.on_commit, lost())
        else:
            running.cancel()

    def lost() -> ev.Commit:
        return ev.Commit(1, 0, "other", [ev.WorkerLost(pool.id, "it was thought dead")])

    loop = asyncio.get_running_loop()
    work.after[5] = interrupt
    running = asyncio.ensure_future(pool.run())
    async with asyncio.timeout(SOON):
        if how == "the worker is lost":
            while not work.ran[5:]:
                await asyncio.sleep(0)
            await pool.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert 5 < len(work.ran) < 20
    tasks = [await oq.get_task(handle.id) for handle in handles]
    waiting = [task for task in tasks if task and task.status is TaskStatus.PENDING]
    assert len(waiting) + len(work.ran) == MANY
    assert {task.attempts for task in waiting} == {0}
