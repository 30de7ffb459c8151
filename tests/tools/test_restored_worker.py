"""A worker on a recovered journal takes up what the workers of the source held, and only that."""

import asyncio
import json

import pytest

from omniq import AsyncOmniQ, TaskStatus, current_task
from omniq.core import events as ev
from omniq.core.retry import RetryRule
from omniq.host import boot_id
from tests.tools.journals import CLIENT, NAMES, A, B, C, D, write

NOTHING = b"\x92\x90\x80"  # no arguments
SHORT = RetryRule(3, base_delay_us=1, jitter=0.0)
STORY = [
    (0, CLIENT, [
        ev.TaskEnqueued(A, "shop:ship", "orders", NOTHING, retry=SHORT),
        ev.TaskEnqueued(B, "shop:ship", "orders", NOTHING, retry=RetryRule(0)),
        ev.TaskEnqueued(C, "shop:ship", "orders", NOTHING, retry=SHORT),
        ev.TaskEnqueued(D, "shop:ship", "orders", NOTHING, retry=SHORT),
    ]),
    (1, "w1@h:1", [ev.WorkerJoined("w1", "host", 1, boot_id(), 30_000_000)]),
    (2, "w1@h:1", [ev.TaskStarted(A, 1, "w1"), ev.TaskStarted(B, 1, "w1")]),
    (3, "w1@h:1", [ev.TaskStarted(C, 1, "w1")]),
    (4, "w1@h:1", [ev.TaskSucceeded(C, 1, "w1", b"\xa4done")]),
]  # fmt: skip


@pytest.fixture(params=["file", "sqlite"])
def target(request, tmp_path):
    return tmp_path / f"new-{NAMES[request.param]}"


async def recovered(tmp_path, target, run, *, without=None, options=()):
    source = tmp_path / "journal"
    await write(source, STORY, segment_bytes=1)
    if without is not None:
        (source / f"{without:020}.seg").unlink()
    result = await asyncio.to_thread(run, "recover", source, target, "--json", *options)
    return json.loads(result.out)


async def worked_off(target):
    """Let a real worker do what there is to do; return which tasks ran, and how each stands."""
    oq = AsyncOmniQ(target)
    ran = []

    @oq.task(name="shop:ship", queue="orders")
    async def ship() -> None:
        ran.append(current_task().id)

    async with oq:
        await oq.worker().drain()
        tasks = [await oq.get_task(task_id) for task_id in (A, B, C, D)]
    return sorted(ran), [(task.status, task.attempts) for task in tasks]


ALL_DONE = [
    (TaskStatus.SUCCESS, 2),
    (TaskStatus.FAILED, 1),  # it may run once only, and perhaps it did
    (TaskStatus.SUCCESS, 1),
    (TaskStatus.SUCCESS, 1),
]


async def test_tasks_of_a_worker_that_the_journal_calls_alive_run_again(tmp_path, target, run):
    """Its lock is not in the new place, so the next worker sees that it does not live there."""
    report = await recovered(tmp_path, target, run)
    assert (report["is_whole"], report["workers"]) == (True, [])
    assert await worked_off(target) == ([A, D], ALL_DONE)


async def test_tasks_of_a_worker_whose_joining_is_lost_run_again(tmp_path, target, run):
    report = await recovered(tmp_path, target, run, without=5)
    assert [worker["tasks"] for worker in report["workers"]] == [[A, B]]
    assert await worked_off(target) == ([A, D], ALL_DONE)


async def test_task_whose_start_is_lost_runs_again(tmp_path, target, run):
    report = await recovered(tmp_path, target, run, without=8)
    assert [(fate["id"], fate["status"]) for fate in report["tasks"]] == [(C, "PENDING")]
    assert await worked_off(target) == ([A, C, D], ALL_DONE)


async def test_journal_restored_to_a_point_goes_on_from_there(tmp_path, target, run):
    await recovered(tmp_path, target, run, options=["--until", "8"])
    ran, (_, _, c, _) = await worked_off(target)
    assert (ran, c) == ([A, C, D], (TaskStatus.SUCCESS, 2))
    assert await worked_off(target) == ([], [ALL_DONE[0], ALL_DONE[1], c, ALL_DONE[3]])
