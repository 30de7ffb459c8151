"""What happens to running tasks when their process dies, hangs or only looks dead."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from omniq import TaskFailed, TaskStatus
from tests.processes.conftest import until


def running(task_id):
    return lambda state: state.tasks[task_id].status is TaskStatus.RUNNING


async def kinds(handle) -> list[str]:
    return [event.kind.removeprefix("task.") for event in await handle.history()]


async def test_a_killed_workers_tasks_run_again_elsewhere_within_a_second(
    processes, app, tmp_path
) -> None:
    gate = tmp_path / "gate"
    victim = processes.worker()
    handles = [await app.wait_for_file.enqueue(str(gate), str(n)) for n in range(5)]
    for handle in handles:
        await until(running(handle.id), app.oq)
    processes.worker("--concurrency", "1")
    await until(lambda state: len(state.workers) == 2, app.oq)

    queue = await app.oq.engine()
    killed_at = queue.clock.now_us()
    victim.kill()
    gate.touch()
    results = {await handle.result(timeout=20) for handle in handles}
    assert victim.pid not in results
    started = [queue.projection.tasks[handle.id].run.started_at for handle in handles]
    assert max(started) - killed_at < 1_000_000
    assert processes.traced() == {str(n): 2 for n in range(5)}
    for handle in handles:
        assert await kinds(handle) == ["enqueued", "started", "retried", "started", "succeeded"]


async def test_a_task_that_kills_its_worker_does_not_loop_for_ever(processes, app) -> None:
    processes.worker("--processes", "2")
    handle = await app.kill_worker.enqueue("bomb")
    with pytest.raises(TaskFailed, match="WorkerLost"):
        await handle.result(timeout=30)
    assert processes.traced() == {"bomb": 2}


async def test_a_task_that_blocks_the_loop_for_longer_than_the_lease_is_not_taken(
    processes, app, tmp_path
) -> None:
    gate = tmp_path / "gate"
    processes.worker("--lease", "0.3")
    handle = await app.block_until_file.enqueue(str(gate), "blocker")
    await until(running(handle.id), app.oq)
    processes.worker("--lease", "0.3")
    await until(lambda state: len(state.workers) == 2, app.oq)
    queue = await app.oq.engine()
    (blocked,) = queue.projection.running
    before = queue.projection.heard[blocked]
    for _ in range(5):  # five renewals: well over the length of the lease
        seen = queue.projection.heard[blocked]
        await until(lambda state, seen=seen: state.heard.get(blocked, 0) > seen, app.oq)
    assert queue.projection.heard[blocked] > before
    gate.touch()
    await handle.result(timeout=20)
    assert processes.traced() == {"blocker": 1}


async def test_a_task_that_holds_the_interpreters_lock_is_not_taken_from_its_worker(
    processes, app
) -> None:
    """Its lease ends, as no thread of its process can renew it; but the process runs."""
    processes.worker("--lease", "0.3")
    handle = await app.hold_the_lock.enqueue("task")
    await until(running(handle.id), app.oq)
    processes.worker("--lease", "0.3")
    assert await handle.result(timeout=40) > 5 * 0.3
    assert processes.traced() == {"task": 1}
    assert await kinds(handle) == ["enqueued", "started", "succeeded"]


async def test_a_stopped_workers_tasks_are_taken_after_the_lease_and_its_outcome_is_late(
    processes, app, tmp_path
) -> None:
    gate = tmp_path / "gate"
    sleeper = processes.worker("--lease", "0.5")
    handle = await app.block_until_file.enqueue(str(gate), "task")
    while not processes.traced():  # now it is in the task, and does not hold the journal's lock
        await asyncio.sleep(0)
    sleeper.send_signal(signal.SIGSTOP)
    processes.worker("--lease", "0.5")
    await until(lambda state: state.tasks[handle.id].attempt == 2, app.oq)
    gate.touch()
    winner = await handle.result(timeout=20)
    assert winner != sleeper.pid
    sleeper.send_signal(signal.SIGCONT)
    await until_late(app, handle)
    assert await handle.result() == winner
    assert await kinds(handle) == [
        "enqueued",
        "started",
        "retried",
        "started",
        "succeeded",
        "late",
    ]
    again = await app.note.enqueue("afterwards")
    await again.result(timeout=20)


async def until_late(app, handle) -> None:
    queue = await app.oq.engine()
    seq = queue.projection.seq
    while "late" not in await kinds(handle):
        await queue.storage.wait(seq)  # from before the look, else it may come in between
        seq = (await queue.refresh()).seq


async def test_a_worker_told_to_stop_gives_back_what_it_cannot_finish(
    processes, app, tmp_path
) -> None:
    gate = tmp_path / "gate"
    worker = processes.worker("--shutdown-timeout", "0.1")
    handle = await app.wait_for_file.enqueue(str(gate), "task")
    await until(running(handle.id), app.oq)
    worker.terminate()
    assert worker.wait(20) == 0
    assert await handle.status() is TaskStatus.PENDING
    assert await kinds(handle) == ["enqueued", "started", "released"]
    assert (await app.oq.stats()).workers == []


@pytest.mark.parametrize("name", ["spin", "hold_the_lock"])
async def test_a_child_process_of_a_task_does_not_outlive_its_worker(processes, name) -> None:
    script = """
import asyncio, sys
import child_task

async def main() -> None:
    async with child_task.oq as oq:
        await getattr(child_task, sys.argv[1]).enqueue()
        await oq.worker().run()

asyncio.run(main())
"""
    worker = processes.script(script, name)
    pid_file = processes.traces / "child.pid"
    while not (pid_file.exists() and pid_file.read_text()):
        os.sched_yield()
    child = int(pid_file.read_text())
    worker.kill()
    worker.wait()
    while _is_running(child):
        os.sched_yield()


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


async def test_draining_takes_over_from_a_dead_worker_first(processes, app, tmp_path) -> None:
    gate = tmp_path / "gate"
    victim = processes.worker()
    handle = await app.wait_for_file.enqueue(str(gate), "task")
    await until(running(handle.id), app.oq)
    victim.kill()
    victim.wait()
    gate.touch()
    await app.oq.worker().drain()
    assert await handle.status() is TaskStatus.SUCCESS


async def test_a_signal_to_the_whole_group_lets_running_tasks_finish(
    processes, app, tmp_path
) -> None:
    gate = tmp_path / "gate"
    handle = await app.wait_for_file.enqueue(str(gate), "task")
    supervisor = processes.start(
        "-m", "omniq", "worker", "app:oq", "--processes", "2", process_group=0
    )
    await until(running(handle.id), app.oq)
    os.killpg(supervisor.pid, signal.SIGINT)
    gate.touch()
    assert supervisor.wait(20) == 0
    assert await kinds(handle) == ["enqueued", "started", "succeeded"]
