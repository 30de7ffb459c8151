"""What a worker logs, so that nobody has to ask the journal whether something went wrong."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from omniq import AsyncOmniQ, Cancel, RetryLater, RetryPolicy, TaskFailed, TaskHandle
from omniq.core import commands as cmd

SOON = 5.0
TWICE = RetryPolicy(max_retries=1, base_delay=0)


@pytest.fixture
async def oq() -> AsyncIterator[AsyncOmniQ]:
    async with AsyncOmniQ("memory://") as app:
        yield app


@pytest.fixture(autouse=True)
def at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "omniq")


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.action for record in caplog.records]  # type: ignore[attr-defined]
    return [action.removeprefix("task_") for action in found]


async def run_one(oq: AsyncOmniQ, error: BaseException) -> TaskHandle[None]:
    raised = False

    @oq.task(name="jobs:once", retry=TWICE)
    async def once() -> None:
        nonlocal raised
        if not raised:
            raised = True
            raise error

    handle = await once.enqueue()
    await oq.worker().drain()
    return handle


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("no luck"), ["started", "retried", "started", "succeeded"]),
        (RetryLater(0, "busy"), ["started", "released", "started", "succeeded"]),
        (Cancel("not needed"), ["started", "cancelled"]),
    ],
)
async def test_each_beginning_and_end_of_an_attempt_is_logged(oq, caplog, error, said) -> None:
    handle = await run_one(oq, error)
    assert actions(caplog) == said
    records = [(record.task_id, record.task_name) for record in caplog.records]
    assert set(records) == {(handle.id, "jobs:once")}
    assert str(error.args[-1]) in caplog.text


async def test_starts_and_successes_are_logged_at_debug_alone(oq, caplog) -> None:
    caplog.set_level(logging.INFO, "omniq")
    await run_one(oq, OSError("no luck"))
    assert actions(caplog) == ["retried"]
    assert caplog.records[0].levelname == "WARNING"


async def test_the_last_failure_of_a_task_is_an_error_with_its_traceback(oq, caplog) -> None:
    @oq.task(max_retries=0)
    async def divide(number: int) -> float:
        return number / 0

    handle = await divide.enqueue(73)
    await oq.worker().drain()
    record = caplog.records[-1]
    assert (record.levelname, record.action, record.attempt) == ("ERROR", "task_failed", 1)
    first, *frames, last = record.getMessage().splitlines()
    assert first.startswith(f"attempt 1 at task {handle.id} (")
    assert first.endswith("failed, and was the last one: ZeroDivisionError: division by zero")
    assert "return number / 0" in "".join(frames)
    assert last == "ZeroDivisionError: division by zero"


async def test_arguments_and_results_are_not_logged(oq, caplog) -> None:
    @oq.task(max_retries=0)
    async def keep(secret: str, *, fails: bool) -> str:
        if fails:
            raise ValueError
        return secret

    for fails in (True, False):
        await keep.enqueue("hunter2", fails=fails)
    await oq.worker().drain()
    assert sorted(actions(caplog)) == ["failed", "started", "started", "succeeded"]
    assert "hunter2" not in caplog.text


async def test_what_an_exception_says_can_neither_forge_a_line_nor_steer_a_terminal(
    oq, caplog
) -> None:
    await run_one(oq, OSError("no luck\nERROR all is lost \x1b[2J"))
    assert r"no luck\nERROR all is lost \x1b[2J" in caplog.records[1].getMessage()


async def test_a_filter_that_raises_hurts_nobody_but_the_log(oq, caplog, monkeypatch) -> None:
    def broken(_record: logging.LogRecord) -> bool:
        raise KeyError("mine")

    monkeypatch.setattr(logging.getLogger("omniq.worker"), "filters", [broken])
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: complaints.append(context["exception"])
    )
    handle = await run_one(oq, OSError("no luck"))
    assert await handle.result(timeout=SOON) is None
    assert [type(complaint) for complaint in complaints] == 4 * [KeyError]


async def test_the_death_of_a_worker_is_logged_by_who_finds_it_and_by_itself_if_it_lives(
    tmp_path: Path, caplog
) -> None:
    oq = AsyncOmniQ(tmp_path / "journal")

    @oq.task(max_retries=0)
    async def hang() -> None:
        await asyncio.Event().wait()

    async with oq, oq.worker() as first:
        handle = await hang.enqueue()
        while "started" not in actions(caplog):
            await asyncio.sleep(0)
        assert oq.running is not None
        await oq.running.storage.drop_life(first.id)
        async with oq.worker():
            with pytest.raises(TaskFailed, match="WorkerLost"):
                await handle.result(timeout=SOON)
            while len(actions(caplog)) < 4:
                await asyncio.sleep(0)
    expected = ["started", "worker_taken_for_dead", "failed", "worker_lost"]
    assert sorted(actions(caplog)) == sorted(expected)
    assert "Of its tasks 0 run again, and 1 had no attempt left" in caplog.text


async def test_an_outcome_that_comes_too_late_is_logged(oq: AsyncOmniQ, caplog) -> None:
    started, may_end = asyncio.Event(), asyncio.Event()

    @oq.task
    async def slow() -> None:
        started.set()
        await may_end.wait()

    async with oq.worker() as worker:
        handle = await slow.enqueue()
        await started.wait()
        assert oq.running is not None
        await oq.running.execute(cmd.Succeed(handle.id, 2, worker.id, b"\xc0", "msgpack"))
        may_end.set()
        await handle.result(timeout=SOON)
    assert actions(caplog) == ["started", "late", "succeeded"]
