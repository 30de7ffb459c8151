"""How attempts run, end, are retried, timed out, cancelled and given back."""

import asyncio
import importlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omniq import (
    AsyncOmniQ,
    Cancel,
    ConfigError,
    RetryLater,
    RetryPolicy,
    TaskCancelled,
    TaskFailed,
    TaskStatus,
    current_task,
)
from omniq.clock import wait_at_most
from omniq.core import commands as cmd
from omniq.core import events as ev
from omniq.testing import VirtualClock
from omniq.worker import pool
from tests.app import jobs

SOON = 5.0
AT_ONCE = RetryPolicy(max_retries=3, base_delay=0.0)


async def kinds(handle) -> list[str]:
    return [event.kind.removeprefix("task.") for event in await handle.history()]


async def test_a_failing_task_is_retried_until_it_works(oq: AsyncOmniQ) -> None:
    attempts: list[int] = []

    @oq.task(retry=AT_ONCE)
    async def flaky() -> str:
        attempts.append(current_task().attempt)
        if len(attempts) < 3:
            raise OSError("not yet")
        return "done"

    handle = await flaky.enqueue()
    await oq.worker().drain()
    assert await handle.result() == "done"
    assert attempts == [1, 2, 3]


async def test_an_outcome_and_the_start_that_follows_it_are_one_commit(
    oq: AsyncOmniQ, monkeypatch
) -> None:
    """Else a worker takes the journal's lock, and writes, twice as often."""

    @oq.task
    async def wait_a_turn() -> None:
        await asyncio.sleep(0)

    await wait_a_turn.enqueue_many([()] * 20)
    storage = (await oq.engine()).storage
    append, commits = storage.append, list[ev.Commit]()

    async def noted(*args: Any, **kwargs: Any) -> ev.Commit:
        commits.append(await append(*args, **kwargs))
        return commits[-1]

    monkeypatch.setattr(storage, "append", noted)
    await oq.worker(concurrency=1).drain()
    found = [[type(event) for event in commit.events] for commit in commits]
    assert found.count([ev.TaskSucceeded, ev.TaskStarted]) == 19


async def test_no_more_than_one_plus_max_retries_attempts_start(oq: AsyncOmniQ) -> None:
    runs: list[int] = []

    @oq.task(retry=AT_ONCE)
    async def hopeless() -> None:
        runs.append(current_task().attempt)
        raise OSError("never")

    handle = await hopeless.enqueue()
    await oq.worker().drain()
    with pytest.raises(TaskFailed) as failure:
        await handle.result()
    assert runs == [1, 2, 3, 4]
    assert failure.value.error.retry_count == 3


async def test_a_waiting_retry_shows_its_time_and_error(oq: AsyncOmniQ) -> None:
    policy = RetryPolicy(max_retries=1, base_delay=3600, jitter=0.0)
    handle = await oq.options(retry=policy).enqueue(jobs.raise_value_error)
    await oq.worker().drain()
    task = await oq.get_task(handle.id)
    assert task is not None
    assert task.status is TaskStatus.RETRYING
    assert task.error is not None
    assert task.error.message == "a bad value"
    assert task.finished_at is not None
    assert (task.schedule.eta - task.finished_at).total_seconds() == pytest.approx(3600, abs=1)


@pytest.mark.parametrize(
    ("policy", "attempts"),
    [
        (RetryPolicy(base_delay=0, retry_on=(OSError,)), 1),
        (RetryPolicy(base_delay=0, retry_on=(ValueError,)), 4),
        (RetryPolicy(base_delay=0, retry_on=(LookupError, ArithmeticError, ValueError)), 4),
        (RetryPolicy(base_delay=0, never_on=(ValueError,)), 1),
        (RetryPolicy(base_delay=0, never_on=(Exception,)), 1),
    ],
)
async def test_only_the_named_exceptions_are_retried(
    oq: AsyncOmniQ, policy: RetryPolicy, attempts: int
) -> None:
    handle = await oq.options(retry=policy).enqueue(jobs.raise_value_error)
    await oq.worker().drain()
    assert await handle.status() is TaskStatus.FAILED
    assert (await kinds(handle)).count("started") == attempts


async def test_retry_later_spends_no_attempt(oq: AsyncOmniQ) -> None:
    runs: list[int] = []

    @oq.task(max_retries=0)
    async def patient() -> str:
        runs.append(current_task().attempt)
        if len(runs) < 4:
            raise RetryLater(after=0, reason="busy")
        return "done"

    handle = await patient.enqueue()
    await oq.worker().drain()
    assert await handle.result() == "done"
    assert runs == [1, 1, 1, 1]
    assert (await kinds(handle)).count("released") == 3


async def test_retry_later_waits_as_long_as_it_says(oq: AsyncOmniQ) -> None:
    @oq.task
    async def patient() -> None:
        raise RetryLater(after=3600)

    handle = await patient.enqueue()
    await oq.worker().drain()
    assert await handle.status() is TaskStatus.PENDING
    assert await kinds(handle) == ["enqueued", "started", "released"]


async def test_a_task_can_cancel_itself(oq: AsyncOmniQ) -> None:
    @oq.task
    async def pointless() -> None:
        raise Cancel("nothing to do")

    handle = await pointless.enqueue()
    await oq.worker().drain()
    with pytest.raises(TaskCancelled, match="nothing to do"):
        await handle.result()


@pytest.mark.parametrize("executor", ["async", "thread", "process"])
async def test_a_timeout_ends_the_attempt(oq: AsyncOmniQ, executor: str, tmp_path: Path) -> None:
    release = threading.Event()

    async def wait_async() -> None:
        await asyncio.Event().wait()

    def wait_thread() -> None:
        release.wait()

    policy = RetryPolicy(max_retries=0)
    if executor == "process":
        marker = tmp_path / "pid"
        task = oq.task(executor="process", timeout=0.5, retry=policy)(jobs.spin_for_ever)
        handle = await task.enqueue(str(marker))
    else:
        function = wait_async if executor == "async" else wait_thread
        handle = await oq.task(timeout=0.05, retry=policy)(function).enqueue()
    async with oq.worker():
        with pytest.raises(TaskFailed) as failure:
            await handle.result(timeout=SOON)
    release.set()
    error = failure.value.error
    assert error.error_type == "TimeoutError"
    assert "timeout" in error.message
    if executor == "thread":
        assert "thread was given up" in error.message
    if executor == "process":
        assert not _is_running(int((tmp_path / "pid").read_text()))


async def test_the_start_of_a_child_and_its_imports_are_not_time_of_the_task(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a task whose module takes long to import would never end, as its child is killed."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "heavy.py").write_text(
        "import sys, time\n"
        "if 'pytest' not in sys.modules:\n"
        "    time.sleep(0.5)\n"
        "def double(number: int) -> int:\n"
        "    return 2 * number\n"
    )
    double = importlib.import_module("heavy").double
    async with AsyncOmniQ(location) as oq:
        task = oq.task(executor="process", timeout=0.3, max_retries=0)(double)
        handle = await task.enqueue(3)
        await oq.worker().drain()
        assert await handle.result() == 6


async def test_a_child_that_is_not_ready_in_time_is_a_failure_that_says_so(
    oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omniq.worker.attempt.START_SECONDS", 0.01)
    task = oq.task(executor="process", timeout=0.01, max_retries=0)(jobs.add)
    handle = await task.enqueue(1)
    await oq.worker().drain()
    with pytest.raises(TaskFailed, match=r"child process was not ready within 0\.01 s") as failure:
        await handle.result()
    assert failure.value.error.error_type == "TimeoutError"


def _is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_a_timed_out_attempt_is_retried(oq: AsyncOmniQ) -> None:
    @oq.task(timeout=0.05, retry=AT_ONCE)
    async def slow_at_first() -> int:
        if current_task().attempt < 3:
            await asyncio.Event().wait()
        return current_task().attempt

    handle = await slow_at_first.enqueue()
    async with oq.worker():
        assert await handle.result(timeout=SOON) == 3


async def test_a_thread_learns_that_it_should_stop(oq: AsyncOmniQ) -> None:
    stopped = threading.Event()

    @oq.task(timeout=0.05, max_retries=0)
    def loop() -> None:
        while not current_task().should_stop():
            time.sleep(0.001)
        stopped.set()

    handle = await loop.enqueue()
    async with oq.worker():
        with pytest.raises(TaskFailed):
            await handle.result(timeout=SOON)
    assert await asyncio.to_thread(stopped.wait, SOON)


@pytest.mark.parametrize("executor", ["async", "thread", "process"])
async def test_a_running_task_can_be_cancelled(
    oq: AsyncOmniQ, executor: str, tmp_path: Path
) -> None:
    started, release = threading.Event(), threading.Event()

    async def wait_async() -> None:
        started.set()
        await asyncio.Event().wait()

    def wait_thread() -> None:
        started.set()
        release.wait()

    if executor == "process":
        task = oq.task(executor="process")(jobs.spin_for_ever)
        handle = await task.enqueue(str(tmp_path / "pid"))
    else:
        handle = await oq.task(wait_async if executor == "async" else wait_thread).enqueue()
    async with oq.worker():
        if executor == "process":
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                await asyncio.sleep(0)
        else:
            assert await asyncio.to_thread(started.wait, SOON)
        assert await handle.cancel("changed my mind")
        assert not await handle.cancel()
        with pytest.raises(TaskCancelled) as cancelled:
            await handle.result(timeout=SOON)
    assert cancelled.value.reason == "changed my mind"
    release.set()
    assert await kinds(handle) == ["enqueued", "started", "cancel_requested", "cancelled"]


def after_the_first_claim(
    oq: AsyncOmniQ, monkeypatch, command: Callable[[ev.TaskStarted], cmd.Command]
) -> None:
    """Have another command carried out between the commit of a start and the attempt's begin."""
    engine = oq.running
    assert engine is not None
    execute = engine.execute

    async def and_then(ordered):
        events = await execute(ordered)
        if isinstance(ordered, cmd.Claim):
            monkeypatch.setattr(engine, "execute", execute)
            for event in events:
                await execute(command(event))
        return events

    monkeypatch.setattr(engine, "execute", and_then)


async def test_a_wish_to_cancel_that_comes_before_the_attempt_has_begun_is_heard(
    oq: AsyncOmniQ, monkeypatch
) -> None:
    handle = await oq.task(jobs.add).enqueue(1)
    after_the_first_claim(oq, monkeypatch, lambda event: cmd.CancelTask(event.task_id, "no more"))
    async with oq.worker():
        with pytest.raises(TaskCancelled):
            await handle.result(timeout=SOON)
    assert await kinds(handle) == ["enqueued", "started", "cancel_requested", "cancelled"]


async def test_what_was_taken_away_before_the_attempt_has_begun_does_not_run(
    oq: AsyncOmniQ, monkeypatch
) -> None:
    attempts: list[int] = []

    @oq.task(retry=AT_ONCE)
    async def note() -> None:
        attempts.append(current_task().attempt)

    handle = await note.enqueue()
    after_the_first_claim(
        oq, monkeypatch, lambda event: cmd.DeclareLost(event.worker, "it was not heard of")
    )
    async with oq.worker():
        await handle.result(timeout=SOON)
    assert attempts == [2]
    assert await kinds(handle) == ["enqueued", "started", "retried", "started", "succeeded"]


async def test_a_finished_task_cannot_be_cancelled(oq: AsyncOmniQ) -> None:
    handle = await oq.enqueue(jobs.add, 1)
    await oq.worker().drain()
    assert not await handle.cancel()
    assert await handle.result() == 3


async def test_progress_is_recorded_and_seen(oq: AsyncOmniQ) -> None:
    may_end = asyncio.Event()
    reported = asyncio.Event()

    @oq.task
    async def long() -> None:
        current_task().progress(0.25, "a quarter")
        reported.set()
        await may_end.wait()

    handle = await long.enqueue()
    async with oq.worker():
        await reported.wait()
        while (task := await oq.get_task(handle.id)) is None or task.progress is None:
            await asyncio.sleep(0)
        assert (task.progress, task.progress_message) == (0.25, "a quarter")
        may_end.set()
        await handle.result(timeout=SOON)


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_progress_is_recorded_from_threads_and_processes(
    oq: AsyncOmniQ, executor: str
) -> None:
    handle = await oq.task(executor=executor)(jobs.report_progress).enqueue()
    await oq.worker().drain()
    assert await handle.result() == handle.id
    assert await kinds(handle) == ["enqueued", "started", "progressed", "succeeded"]


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_errors_of_threads_and_processes_are_told_alike(
    oq: AsyncOmniQ, executor: str
) -> None:
    policy = RetryPolicy(max_retries=2, base_delay=0, retry_on=(ValueError,))
    handle = await oq.task(executor=executor, retry=policy)(jobs.raise_value_error).enqueue()
    await oq.worker().drain()
    with pytest.raises(TaskFailed) as failure:
        await handle.result()
    error = failure.value.error
    assert (error.error_type, error.message, error.retry_count) == ("ValueError", "a bad value", 2)
    assert "raise_value_error" in error.traceback


@pytest.mark.parametrize("executor", ["async", "thread", "process"])
async def test_a_traceback_has_the_causes_of_an_error_and_the_errors_of_a_group(
    oq: AsyncOmniQ, executor: str
) -> None:
    function: Any = jobs.raise_a_group if executor == "async" else jobs.raise_with_a_cause
    handle = await oq.task(max_retries=0, executor=executor)(function).enqueue()
    await oq.worker().drain()
    with pytest.raises(TaskFailed) as failed:
        await handle.result()
    lines = [line.strip(" |+-") for line in failed.value.error.traceback.splitlines()]
    cause, outer = lines.index("ValueError: a bad value"), lines.index("OSError: outer")
    assert "direct cause" in " ".join(lines[cause:outer])
    assert "omniq/worker" not in failed.value.error.traceback


async def test_a_child_process_that_dies_fails_the_attempt_and_not_the_worker(
    oq: AsyncOmniQ,
) -> None:
    policy = RetryPolicy(max_retries=1, base_delay=0)
    dead = await oq.task(executor="process", retry=policy)(jobs.exit_hard).enqueue()
    alive = await oq.task(executor="process")(jobs.add).enqueue(1)
    await oq.worker(concurrency=1).drain()
    with pytest.raises(TaskFailed, match="exit status 7"):
        await dead.result()
    assert await alive.result() == 3


async def test_a_child_process_that_speaks_nonsense_is_killed_and_its_task_fails(
    oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omniq.worker.executors.STOP_SECONDS", 0.1)
    confused = await oq.task(executor="process", max_retries=0)(
        jobs.scribble_on_every_pipe
    ).enqueue()
    alive = await oq.task(executor="process")(jobs.add).enqueue(1)
    await oq.worker(concurrency=1).drain()
    with pytest.raises(TaskFailed, match="ended with exit status -9"):
        await confused.result()
    assert await alive.result() == 3


async def test_an_unencodable_result_fails_the_task_without_a_retry(oq: AsyncOmniQ) -> None:
    handle = await oq.options(retry=AT_ONCE).enqueue(jobs.unencodable)
    await oq.worker().drain()
    with pytest.raises(TaskFailed, match=r"result of tests.app.jobs:unencodable") as failure:
        await handle.result()
    assert not failure.value.error.is_retryable
    assert (await kinds(handle)).count("started") == 1


async def test_current_task_says_that_there_is_none() -> None:
    with pytest.raises(RuntimeError, match="only there while a worker"):
        current_task()


async def test_stop_waits_for_running_tasks(oq: AsyncOmniQ) -> None:
    started, may_end = asyncio.Event(), asyncio.Event()

    @oq.task
    async def wait() -> str:
        started.set()
        await may_end.wait()
        return "done"

    handle = await wait.enqueue()
    pool = oq.worker()
    await pool.start()
    await started.wait()
    stopping = asyncio.create_task(pool.stop())
    await asyncio.sleep(0)
    may_end.set()
    await stopping
    assert await handle.result() == "done"


async def test_what_does_not_finish_in_time_is_given_back_uncounted(oq: AsyncOmniQ) -> None:
    started = asyncio.Event()
    attempts: list[int] = []

    @oq.task(max_retries=0)
    async def wait() -> str:
        attempts.append(current_task().attempt)
        if len(attempts) == 1:
            started.set()
            await asyncio.Event().wait()
        return "done"

    handle = await wait.enqueue()
    async with oq.worker(shutdown_timeout=0):
        await started.wait()
    assert await handle.status() is TaskStatus.PENDING
    assert await kinds(handle) == ["enqueued", "started", "released"]
    await oq.worker().drain()
    assert await handle.result() == "done"
    assert attempts == [1, 1]


async def test_no_more_tasks_run_at_once_than_concurrency(oq: AsyncOmniQ) -> None:
    running = most = 0

    @oq.task
    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    await count.enqueue_many([()] * 30)
    await oq.worker(concurrency=3).drain()
    assert most == 3


async def test_tasks_may_enqueue_tasks_which_drain_runs_too(oq: AsyncOmniQ) -> None:
    ran: list[int] = []

    @oq.task
    async def spread(depth: int) -> None:
        ran.append(depth)
        if depth:
            await spread.enqueue_many([(depth - 1,), (depth - 1,)])

    await spread.enqueue(3)
    await oq.worker().drain()
    assert sorted(ran) == [0] * 8 + [1] * 4 + [2] * 2 + [3]


async def test_system_exit_in_a_task_fails_the_task_only(oq: AsyncOmniQ) -> None:
    @oq.task(max_retries=0)
    async def leave() -> None:
        raise SystemExit(3)

    handle = await leave.enqueue()
    await oq.worker().drain()
    with pytest.raises(TaskFailed, match="SystemExit"):
        await handle.result()


async def test_a_worker_is_used_once(oq: AsyncOmniQ) -> None:
    pool = oq.worker()
    await pool.drain()
    with pytest.raises(ConfigError, match="make a new one"):
        await pool.drain()


@pytest.mark.parametrize("how", ["run", "drain"])
async def test_closing_the_app_stops_a_worker_that_runs_and_waits_for_it(
    oq: AsyncOmniQ, how: str
) -> None:
    started = asyncio.Event()

    @oq.task
    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    handle = await wait.enqueue()
    working = asyncio.create_task(getattr(oq.worker(shutdown_timeout=0), how)())
    await started.wait()
    await oq.close()
    await working
    assert await handle.status() is TaskStatus.PENDING


async def test_a_worker_may_be_stopped_twice_and_before_it_began(oq: AsyncOmniQ) -> None:
    await oq.worker().stop()
    pool = oq.worker()
    await pool.start()
    await asyncio.gather(pool.stop(), pool.stop())
    await pool.stop()
    assert (await oq.stats()).workers == []


class Panic(BaseException):
    pass


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [Panic("deep"), Broken(), ValueError("caf\udce9.txt")])
@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_whatever_a_task_raises_ends_its_attempt_only(
    oq: AsyncOmniQ, error: BaseException, executor: str
) -> None:
    async def raise_async() -> None:
        raise error

    def raise_thread() -> None:
        raise error

    function = raise_async if executor == "async" else raise_thread
    handle = await oq.task(max_retries=0)(function).enqueue()
    other = await oq.enqueue(jobs.add, 1)
    await oq.worker().drain()
    with pytest.raises(TaskFailed, match=type(error).__name__):
        await handle.result()
    assert await other.result() == 3


async def test_a_worker_without_a_free_slot_waits_for_one_and_not_for_what_is_due(
    location, monkeypatch
) -> None:
    waits = 0

    async def counted(*arguments):
        nonlocal waits
        waits += 1
        return await wait_at_most(*arguments)

    monkeypatch.setattr(pool, "wait_at_most", counted)
    clock, go_on = VirtualClock(), asyncio.Event()
    async with AsyncOmniQ(location, clock=clock) as oq:

        @oq.task
        async def wait() -> None:
            await go_on.wait()

        first = await wait.enqueue()
        second = await wait.options(delay=1).enqueue()
        async with oq.worker(concurrency=1):
            while await first.status() is not TaskStatus.RUNNING:
                await asyncio.sleep(0)
            clock.step(10)  # the second one is due, and has to wait
            before = waits
            for _ in range(100):
                await asyncio.sleep(0)
            assert waits - before <= 3
            go_on.set()
            await second.result(timeout=5)
