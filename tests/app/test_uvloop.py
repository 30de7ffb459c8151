"""The engine and the workers on uvloop's event loop, which the worker command uses."""

import asyncio
import threading
from pathlib import Path

import pytest

from omniq import AsyncOmniQ, TaskCancelled, TaskFailed, current_task
from tests.app import jobs


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(params=["jobs", "jobs.db", "memory://"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.param if "://" in request.param else str(tmp_path / request.param)


async def test_tasks_run_in_the_loop_in_threads_and_in_processes(location):
    async with AsyncOmniQ(location) as oq:

        @oq.task
        async def in_loop() -> str:
            await asyncio.sleep(0)
            return type(asyncio.get_running_loop()).__module__

        @oq.task
        def in_thread() -> bool:
            return threading.current_thread() is threading.main_thread()

        in_process = oq.task(executor="process")(jobs.add)
        async with oq.worker():
            assert await (await in_loop.enqueue()).result() == "uvloop"
            assert not await (await in_thread.enqueue()).result()
            assert await (await in_process.enqueue(1)).result() == 3


async def test_tasks_are_cancelled_timed_out_and_given_back(location):
    async with AsyncOmniQ(location) as oq:
        started = asyncio.Event()

        @oq.task(timeout=0.05, max_retries=0)
        async def too_long() -> None:
            await asyncio.Event().wait()

        @oq.task
        async def endless() -> int:
            started.set()
            if current_task().attempt == 1 and not ended:
                await asyncio.Event().wait()
            return current_task().attempt

        ended: list[bool] = []
        async with oq.worker(shutdown_timeout=0):
            with pytest.raises(TaskFailed, match="TimeoutError"):
                await (await too_long.enqueue()).result()
            handle = await endless.enqueue()
            await started.wait()
            assert await handle.cancel()
            with pytest.raises(TaskCancelled):
                await handle.result()
            started.clear()
            again = await endless.enqueue()
            await started.wait()
            ended.append(True)
            pool = oq.worker()
        await pool.drain()
        assert await again.result() == 1, "what its worker gave back was no attempt"


async def test_news_of_another_handle_wakes_whoever_waits(tmp_path):
    async with AsyncOmniQ(tmp_path / "jobs") as one, AsyncOmniQ(tmp_path / "jobs") as other:
        for oq in (one, other):
            oq.task(name="add")(jobs.add)
        async with other.worker():
            assert await (await one.enqueue("add", 1)).result() == 3
