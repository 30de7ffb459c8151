"""What can be enqueued, how, and what comes back, over every storage."""

import asyncio
import functools
import gc
import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest

from omniq import (
    AsyncOmniQ,
    ConfigError,
    RetryPolicy,
    Schedule,
    SerializationError,
    TaskCancelled,
    TaskFailed,
    TaskHandle,
    TaskNotFound,
    TaskResult,
    TaskStatus,
    current_task,
)
from omniq.core.task import TaskRecord
from omniq.facade import LISTED_TOGETHER
from tests.app import jobs

SOON = 5.0


async def test_a_decorated_function_is_still_a_plain_function(oq: AsyncOmniQ) -> None:
    @oq.task
    async def double(number: int) -> int:
        return number * 2

    @oq.task(queue="other", max_retries=1)
    def triple(number: int) -> int:
        """Triple it."""
        return number * 3

    assert await double(4) == 8
    assert triple(4) == 12
    assert triple.__doc__ == "Triple it."
    assert triple.__name__ == "triple"


async def test_a_result_comes_back_from_an_async_and_from_a_sync_function(oq: AsyncOmniQ) -> None:
    first = await oq.task(jobs.add_async).enqueue(1, b=5)
    second = await oq.task(jobs.add).enqueue(1)
    async with oq.worker():
        assert await first.result(timeout=SOON) == 6
        assert await second.result(timeout=SOON) == 3


async def test_an_async_function_is_awaited_though_a_decorator_hides_that_it_is_one(
    oq: AsyncOmniQ,
) -> None:
    @functools.wraps(jobs.add_async)
    def logged(*args: int) -> Any:
        return jobs.add_async(*args)

    handle = await oq.task(name="logged")(logged).enqueue(1)
    await oq.worker().drain()
    assert await handle.result() == 3


async def test_a_function_runs_in_another_process_with_the_process_executor(
    oq: AsyncOmniQ,
) -> None:
    task = oq.task(executor="process")(jobs.process_id)
    handles = await task.enqueue_many([(), ()])
    async with oq.worker(concurrency=1):
        pids = {await handle.result(timeout=SOON) for handle in handles}
    assert len(pids) == 1, "the child process is used again"
    assert os.getpid() not in pids


@pytest.mark.parametrize("name", ["plain", os.fsdecode(b"latin-1 \xe9")])
async def test_a_child_process_has_the_arguments_and_the_path_of_its_worker(
    oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["worker.py", name])
    monkeypatch.setattr(sys, "path", [*sys.path, name])
    handle = await oq.task(executor="process")(jobs.what_it_was_started_with).enqueue()
    async with oq.worker():
        words, path = await handle.result(timeout=SOON)
    assert words == [b"worker.py", os.fsencode(name)]
    assert path[-1] == os.fsencode(name)


async def test_arguments_arrive_with_their_annotated_types(oq: AsyncOmniQ) -> None:
    handle = await oq.task(jobs.describe).enqueue(
        Path("/a/b"),
        datetime(2030, 1, 1, tzinfo=UTC),
        Decimal("1.10"),
        UUID(int=7),
        jobs.Color.RED,
        jobs.Point(1, 2),
        meta=jobs.Meta(Path("c"), 3),
    )
    await oq.worker().drain()
    assert await handle.result() == {
        "PosixPath": "/a/b",
        "datetime": "2030-01-01 00:00:00+00:00",
        "Decimal": "1.10",
        "UUID": "00000000-0000-0000-0000-000000000007",
        "Color": "Color.RED",
        "Point": "Point(x=1, y=2)",
        "Meta": "Meta(path=PosixPath('c'), width=3)",
    }


async def test_a_result_has_the_annotated_type(oq: AsyncOmniQ) -> None:
    handle = await oq.enqueue(jobs.make_point, 1, 2)
    await oq.worker().drain()
    assert await handle.result() == jobs.Point(1, 2)
    result = await oq.get_result(handle.id)
    assert result is not None
    assert result.value == jobs.Point(1, 2)


async def test_options_change_how_a_task_runs_and_never_mix_with_its_arguments(
    oq: AsyncOmniQ,
) -> None:
    @oq.task(queue="images", priority=5, timeout=60, max_retries=5)
    async def resize(queue: str, priority: int) -> str:
        return f"{queue} {priority}"

    plain = await resize.enqueue("q", 1)
    changed = await resize.options(queue="slow", priority=9, timeout=timedelta(seconds=5)).enqueue(
        queue="q", priority=2
    )
    first, second = await oq.get_task(plain.id), await oq.get_task(changed.id)
    assert first is not None
    assert second is not None
    assert (first.queue, first.priority, first.timeout) == ("images", 5, timedelta(seconds=60))
    assert (second.queue, second.priority, second.timeout) == ("slow", 9, timedelta(seconds=5))
    assert (first.max_retries, second.max_retries) == (5, 5)
    await oq.worker().drain()
    assert await changed.result() == "q 2"


async def test_enqueue_many_is_one_commit(oq: AsyncOmniQ) -> None:
    task = oq.task(jobs.add)
    handles = await task.enqueue_many([(1,), (2, 3), {"a": 4, "b": 5}])
    seqs = [(await handle.history())[0].seq for handle in handles]
    assert seqs == [1, 2, 3]
    assert len(await oq.storage.read(0)) == 1
    await oq.worker().drain()
    assert [await handle.result() for handle in handles] == [3, 5, 9]


async def test_enqueue_many_writes_nothing_if_one_call_is_refused(oq: AsyncOmniQ) -> None:
    task = oq.task(jobs.add)
    with pytest.raises(SerializationError, match="argument 'a'"):
        await task.enqueue_many([(1,), ("two",), (3,)])
    assert await oq.list_tasks() == []


async def test_enqueue_many_of_nothing_is_nothing(oq: AsyncOmniQ) -> None:
    assert await oq.task(jobs.add).enqueue_many([]) == []
    assert await oq.list_tasks() == []


async def test_any_importable_function_can_be_enqueued(oq: AsyncOmniQ) -> None:
    handle = await oq.enqueue(jobs.add, 1, b=2)
    await oq.worker().drain()
    assert await handle.result() == 3
    task = await oq.get_task(handle.id)
    assert task is not None
    assert task.name == "tests.app.jobs:add"


async def test_a_function_is_looked_at_only_when_it_is_enqueued_first(oq: AsyncOmniQ) -> None:
    """Looking at its parameters takes many times as long as enqueueing."""
    await oq.enqueue(jobs.add, 1)
    registered, version = oq.registry.get("tests.app.jobs:add"), oq.registry.version
    for _ in range(3):
        await oq.enqueue(jobs.add, 1)
        await oq.options(priority=2).enqueue(jobs.add, 1)
    assert oq.registry.get("tests.app.jobs:add") is registered
    assert oq.registry.version == version


async def test_enqueueing_keeps_no_task_alive_that_was_made_for_one_call(oq: AsyncOmniQ) -> None:
    task = oq.task(jobs.add)
    made = task.options(priority=5)
    handle = await oq.enqueue(made, 1)
    known = weakref.ref(made)
    del made
    gc.collect()
    assert known() is None
    assert (await oq.enqueue(task, 1)).id != handle.id
    assert [found.priority for found in await oq.list_tasks()] == [0, 5]


async def test_a_function_of_an_allowed_module_can_be_enqueued_by_name(location: str) -> None:
    async with AsyncOmniQ(location, task_modules=("tests.app.jobs",)) as app:
        handle = await app.enqueue("tests.app.jobs:add", 1, b=2)
        delayed = await app.options(delay=3600).enqueue("tests.app.jobs:add", 1)
        await app.worker().drain()
        assert await handle.result() == 3
        assert await delayed.status() is TaskStatus.PENDING


async def test_a_task_name_can_be_given(oq: AsyncOmniQ) -> None:
    task = oq.task(name="thumbnails")(jobs.add)
    handle = await task.enqueue(1)
    found = await oq.get_task(handle.id)
    assert found is not None
    assert found.name == "thumbnails"
    await oq.worker().drain()
    assert await handle.result() == 3


async def test_higher_priority_runs_first_and_equals_in_order(oq: AsyncOmniQ) -> None:
    order: list[str] = []

    @oq.task
    async def note(name: str) -> None:
        order.append(name)

    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", -1), ("e", 5)):
        await note.options(priority=priority).enqueue(name)
    await oq.worker(concurrency=1).drain()
    assert order == ["b", "e", "a", "c", "d"]


async def test_named_queues_are_served_in_their_order_and_others_left_alone(
    oq: AsyncOmniQ,
) -> None:
    order: list[str] = []

    @oq.task
    async def note(name: str) -> None:
        order.append(name)

    for name, queue in (("a", "low"), ("b", "high"), ("c", "other"), ("d", "high")):
        await note.options(queue=queue).enqueue(name)
    await oq.worker(concurrency=1, queues=["high", "low"]).drain()
    assert order == ["b", "d", "a"]
    assert [task.queue for task in await oq.list_tasks(status="PENDING")] == ["other"]


async def test_a_paused_queue_starts_nothing_until_it_is_resumed(oq: AsyncOmniQ) -> None:
    task = oq.task(jobs.add)
    await oq.pause("default")
    handle = await task.enqueue(1)
    await oq.worker().drain()
    assert await handle.status() is TaskStatus.PENDING
    assert (await oq.stats()).paused == {"default"}
    await oq.resume("default")
    await oq.worker().drain()
    assert await handle.status() is TaskStatus.SUCCESS


async def test_status_goes_from_pending_to_success(oq: AsyncOmniQ) -> None:
    started, may_end = asyncio.Event(), asyncio.Event()

    @oq.task
    async def wait() -> str:
        started.set()
        await may_end.wait()
        return "done"

    handle = await wait.enqueue()
    assert await handle.status() is TaskStatus.PENDING
    async with oq.worker():
        await started.wait()
        assert await handle.status() is TaskStatus.RUNNING
        may_end.set()
        assert await handle.result(timeout=SOON) == "done"
    assert await handle.status() is TaskStatus.SUCCESS


async def test_result_raises_what_became_of_the_task(oq: AsyncOmniQ) -> None:
    failing = await oq.task(max_retries=0)(jobs.raise_value_error).enqueue()
    cancelled = await oq.task(jobs.add).enqueue(1)
    assert await cancelled.cancel("not needed")
    await oq.worker().drain()
    with pytest.raises(TaskFailed, match="ValueError: a bad value") as failure:
        await failing.result()
    error = failure.value.error
    assert (error.error_type, error.message, error.retry_count) == ("ValueError", "a bad value", 0)
    assert "raise ValueError" in error.traceback
    assert "omniq/worker" not in error.traceback
    assert "raise ValueError" in failure.value.__notes__[0], "an uncaught one shows where it was"
    with pytest.raises(TaskCancelled, match="not needed"):
        await cancelled.result()


async def test_result_times_out_with_the_built_in_error(oq: AsyncOmniQ) -> None:
    handle = await oq.task(jobs.add).enqueue(1)
    with pytest.raises(TimeoutError, match=handle.id):
        await handle.result(timeout=0.01)


async def test_get_result_answers_for_every_end(oq: AsyncOmniQ) -> None:
    good = await oq.enqueue(jobs.add, 1)
    bad = await oq.options(max_retries=0).enqueue(jobs.raise_value_error)
    gone = await oq.enqueue(jobs.add, 2)
    later = await oq.options(delay=3600).enqueue(jobs.add, 3)
    await gone.cancel()
    await oq.worker().drain()
    results = {h: await oq.get_result(h.id) for h in (good, bad, gone, later)}
    assert results[later] is None
    found = [results[h] for h in (good, bad, gone)]
    assert all(isinstance(result, TaskResult) for result in found)
    assert [(r.status, r.value, r.attempts) for r in found if r] == [
        (TaskStatus.SUCCESS, 3, 1),
        (TaskStatus.FAILED, None, 1),
        (TaskStatus.CANCELLED, None, 0),
    ]
    with pytest.raises(TimeoutError):
        await oq.get_result(later.id, wait=True, timeout=0.01)


async def test_get_result_waits_until_the_result_is_there(oq: AsyncOmniQ) -> None:
    handle = await oq.enqueue(jobs.add, 1)
    waiting = asyncio.create_task(oq.get_result(handle.id, wait=True, timeout=SOON))
    async with oq.worker():
        result = await waiting
    assert result is not None
    assert result.value == 3


async def test_an_unknown_id_is_nobody(oq: AsyncOmniQ) -> None:
    assert await oq.get_task("nobody") is None
    assert await oq.get_result("nobody") is None
    assert await oq.get_result("nobody", wait=True, timeout=SOON) is None
    handle = oq.handle("nobody")
    assert await handle.history() == []
    for call in (handle.status, handle.cancel, handle.result):
        with pytest.raises(TaskNotFound, match="nobody"):
            await call()


async def test_a_handle_can_be_had_again_by_its_id(oq: AsyncOmniQ) -> None:
    handle = await oq.enqueue(jobs.add, 1)
    again = oq.handle(handle.id)
    assert again == handle
    assert isinstance(again, TaskHandle)
    await oq.worker().drain()
    assert await again.result() == 3


async def test_history_tells_every_step_with_number_and_time(oq: AsyncOmniQ) -> None:
    policy = RetryPolicy(max_retries=1, base_delay=0.0)
    handle = await oq.options(retry=policy).enqueue(jobs.raise_value_error)
    await oq.worker().drain()
    history = await handle.history()
    assert [event.kind for event in history] == [
        "task.enqueued",
        "task.started",
        "task.retried",
        "task.started",
        "task.failed",
    ]
    assert [event.seq for event in history] == sorted({event.seq for event in history})
    assert all(event.at.tzinfo is UTC for event in history)
    assert history[0].event.task_id == handle.id


async def test_list_tasks_is_newest_first_and_filtered(oq: AsyncOmniQ) -> None:
    handles = [await oq.options(queue=q).enqueue(jobs.add, 1) for q in ("a", "b", "a")]
    await handles[0].cancel()
    ids = [handle.id for handle in handles]
    assert [task.id for task in await oq.list_tasks()] == ids[::-1]
    assert [task.id for task in await oq.list_tasks(limit=1)] == [ids[2]]
    assert [task.id for task in await oq.list_tasks(queue="a")] == [ids[2], ids[0]]
    assert [task.id for task in await oq.list_tasks(status="CANCELLED")] == [ids[0]]
    assert [t.id for t in await oq.list_tasks(status=TaskStatus.PENDING, queue="b")] == [ids[1]]
    with pytest.raises(ConfigError, match="PENDING, RUNNING"):
        await oq.list_tasks(status="LOST")


async def test_list_tasks_looks_no_further_once_it_has_all_there_are(oq: AsyncOmniQ) -> None:
    """Else a dashboard that asks for failed tasks would look at each of a million others."""
    handles = await oq.task(jobs.add).enqueue_many([(1,)] * 50)
    await handles[-2].cancel()
    looked: list[TaskRecord] = []

    class Values(list[TaskRecord]):
        def __reversed__(self) -> Iterator[TaskRecord]:
            for task in super().__reversed__():
                looked.append(task)
                yield task

    class Watched(dict[str, TaskRecord]):
        def values(self) -> Any:
            return Values(super().values())

    state = await (await oq.engine()).refresh()
    state.tasks = Watched(state.tasks)
    assert await oq.list_tasks(status="FAILED") == []
    assert [task.id for task in await oq.list_tasks(status="CANCELLED")] == [handles[-2].id]
    assert len(looked) <= 1 + 3


async def test_a_long_list_lets_the_event_loop_go_on(oq: AsyncOmniQ) -> None:
    handles = await oq.task(jobs.add).enqueue_many([(1,)] * 2000)
    listing = asyncio.create_task(oq.list_tasks(limit=2000))
    turns = 0
    while not listing.done():
        await asyncio.sleep(0)
        turns += 1
    assert [task.id for task in listing.result()] == [handle.id for handle in reversed(handles)]
    assert turns >= 2000 // LISTED_TOGETHER


async def test_stats_count_tasks_and_name_workers(oq: AsyncOmniQ) -> None:
    task = oq.task(jobs.add)
    await task.enqueue_many([(1,)] * 3)
    await task.options(queue="slow", delay=3600).enqueue(1)
    await oq.worker(queues=["default"]).drain()
    stats = await oq.stats()
    assert stats.by_status[TaskStatus.SUCCESS] == 3
    assert stats.by_status[TaskStatus.PENDING] == 1
    assert stats.by_status[TaskStatus.FAILED] == 0
    assert stats.by_queue == {"default": 3, "slow": 1}
    assert stats.workers == []
    async with oq.worker(concurrency=4, queues=["default"]) as pool:
        (worker,) = (await oq.stats()).workers
        assert (worker.id, worker.concurrency, worker.queues) == (pool.id, 4, ("default",))
    assert (await oq.stats(queue="slow")).by_status[TaskStatus.SUCCESS] == 0


async def test_an_eta_in_any_time_zone_is_the_same_moment(oq: AsyncOmniQ) -> None:
    moment = datetime(2100, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    handle = await oq.options(eta=moment).enqueue(jobs.add, 1)
    task = await oq.get_task(handle.id)
    assert task is not None
    assert task.schedule == Schedule(datetime(2100, 1, 1, 10, tzinfo=UTC))
    await oq.worker().drain()
    assert await handle.status() is TaskStatus.PENDING


async def test_a_past_eta_is_due_at_once(oq: AsyncOmniQ) -> None:
    handle = await oq.options(eta=datetime(2001, 1, 1, tzinfo=UTC)).enqueue(jobs.add, 1)
    await oq.worker().drain()
    assert await handle.result() == 3


async def test_a_finished_task_can_be_run_again(oq: AsyncOmniQ) -> None:
    runs: list[int] = []

    @oq.task(max_retries=0)
    async def flaky() -> str:
        runs.append(current_task().attempt)
        if len(runs) == 1:
            raise OSError("try again")
        return "done"

    handle = await flaky.enqueue()
    assert not await handle.requeue()
    await oq.worker().drain()
    assert await handle.status() is TaskStatus.FAILED
    assert await handle.requeue("fixed")
    assert await handle.status() is TaskStatus.PENDING
    await oq.worker().drain()
    assert await handle.result() == "done"
    assert runs == [1, 1]


async def test_the_queue_survives_being_closed_and_opened(location: str) -> None:
    if location == "memory://":
        return await _same_app_again(location)
    async with AsyncOmniQ(location) as first:
        waiting = await first.enqueue(jobs.add, 1)
        done = await first.options(queue="done").enqueue(jobs.add, 5)
        await first.worker(queues=["done"]).drain()
    async with AsyncOmniQ(location) as second:
        second.task(jobs.add)
        assert await second.handle(done.id).result() == 7
        await second.worker().drain()
        assert await second.handle(waiting.id).result() == 3
    return None


async def _same_app_again(location: str) -> None:
    app = AsyncOmniQ(location)
    async with app:
        handle = await app.enqueue(jobs.add, 1)
    async with app:
        await app.worker().drain()
        assert await handle.result() == 3


async def test_it_opens_itself_on_first_use(location: str) -> None:
    app = AsyncOmniQ(location)
    try:
        handle = await app.enqueue(jobs.add, 1)
        await app.worker().drain()
        assert await handle.result() == 3
    finally:
        await app.close()


async def test_a_task_of_one_app_can_be_used_by_another(tmp_path: Path) -> None:
    async with AsyncOmniQ(tmp_path / "a") as one, AsyncOmniQ(tmp_path / "b") as other:

        @one.task(queue="q", priority=3)
        async def double(number: int) -> int:
            return number * 2

        other.task(double)
        other.task(name="old")(double)
        handle = await other.enqueue(double, 4)
        old = await other.options(priority=4).enqueue("old", 5)
        assert await one.list_tasks() == []
        task = await other.get_task(handle.id)
        assert task is not None
        assert (task.queue, task.priority) == ("q", 3)
        await other.worker().drain()
        assert [await handle.result(), await old.result()] == [8, 10]


async def test_the_sqlite_backend_of_the_settings_makes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMNIQ_BACKEND", "sqlite")
    async with AsyncOmniQ() as app:
        await app.enqueue(jobs.add, 1)
    assert (tmp_path / "omniq-journal" / "omniq.db").is_file()


async def test_odd_annotations_and_parameters_are_taken_as_they_are_meant(oq: AsyncOmniQ) -> None:
    @oq.task
    async def odd(
        first: int | None, *rest: int, kind: Literal["a", "b"] = "a", **more: float
    ) -> tuple[int, ...]:
        return (first or 0, *rest, len(kind), int(sum(more.values())))

    @oq.task
    async def loose(items: Iterable[str], mapping: Mapping[str, int]) -> set[str]:
        return {*items, *mapping}

    @oq.task
    async def unresolvable(x: "Nowhere") -> "Nowhere":  # noqa: F821 - that is the point
        return x

    handles = [
        await odd.enqueue(None),
        await odd.enqueue(1, 2, 3, kind="b", extra=2.5),
        await loose.enqueue(["a"], {"b": 1}),
        await unresolvable.enqueue(5),
    ]
    for wrong in ({"kind": "c"}, {"more": "text"}):
        with pytest.raises(SerializationError):
            await odd.enqueue(1, **wrong)
    await oq.worker().drain()
    results = [await handle.result() for handle in handles]
    assert results == [(0, 1, 0), (1, 2, 3, 1, 2), {"a", "b"}, 5]
