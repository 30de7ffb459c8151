"""The public types as a user sees them. Type checkers read this file; nothing runs it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import assert_type

from omniq import (
    AsyncOmniQ,
    OmniQ,
    RetryPolicy,
    Settings,
    Task,
    TaskHandle,
    TaskResult,
    TaskStatus,
    current_task,
)

oq = AsyncOmniQ("jobs.db")
configured = AsyncOmniQ(settings=Settings.from_env())


@oq.task
async def bare(path: str) -> int:
    return len(path)


@oq.task(queue="images", max_retries=5, timeout=60, priority=5)
async def resize(path: str, width: int = 800) -> bytes:
    assert_type(current_task().attempt, int)
    return path.encode() * width


@oq.task(retry=RetryPolicy(max_retries=2, retry_on=(OSError,)), timeout=timedelta(minutes=1))
def plain(number: int) -> str:
    return str(number)


def a_plain_function(number: int, *, x: int) -> float:
    return number / x


async def asynchronous() -> None:
    assert_type(await bare("a"), int)
    assert_type(await resize("a", width=400), bytes)
    assert_type(plain(1), str)

    assert_type(await bare.enqueue("a"), TaskHandle[int])
    assert_type(await oq.enqueue(bare, "a"), TaskHandle[int])
    assert_type(await oq.enqueue(plain, 1), TaskHandle[str])
    handle = await resize.enqueue("a", width=400)
    assert_type(handle, TaskHandle[bytes])
    assert_type(handle.id, str)
    assert_type(await handle.result(timeout=5), bytes)
    assert_type(await handle.status(), TaskStatus)
    assert_type(await plain.enqueue(1), TaskHandle[str])

    later = datetime(2030, 1, 1, tzinfo=UTC)
    assert_type(await resize.options(delay=10, priority=9).enqueue("a"), TaskHandle[bytes])
    assert_type(await resize.options(eta=later).enqueue("a", 300), TaskHandle[bytes])
    assert_type(await resize.enqueue_many([("a",), ("b", 300)]), list[TaskHandle[bytes]])

    assert_type(await oq.enqueue(a_plain_function, 1, x=2), TaskHandle[float])
    assert_type(await oq.options(delay=1).enqueue(a_plain_function, 1, x=2), TaskHandle[float])
    await oq.options().enqueue(bare)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    assert_type(await oq.get_result(handle.id, wait=True, timeout=5), TaskResult | None)
    assert_type(await oq.get_task(handle.id), Task | None)
    assert_type(await oq.list_tasks(status=TaskStatus.FAILED, queue="images"), list[Task])
    assert_type((await oq.stats()).by_status[TaskStatus.PENDING], int)

    await resize.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await resize.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def blocking() -> None:
    sync = OmniQ("jobs.db")

    @sync.task(queue="images")
    def shrink(path: str, width: int = 80) -> bytes:
        return path.encode() * width

    assert_type(shrink("a"), bytes)
    handle = shrink.enqueue("a", width=40)
    assert_type(handle.result(timeout=5), bytes)
    assert_type(handle.status(), TaskStatus)
    assert_type(sync.options(delay=1).enqueue(a_plain_function, 1, x=2).result(), float)
    assert_type(sync.get_result(handle.id, wait=True, timeout=5), TaskResult | None)
    assert_type(sync.list_tasks(queue="images", limit=10), list[Task])
