"""The words in which the conformance suites make their claims."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from omniq.core.events import Event, TaskEnqueued

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from pathlib import Path

    from omniq.core.events import Commit
    from omniq.storage.base import BaseStorage

__all__ = ("Suite", "claim", "in_thread", "opened", "read_all", "tasks")

_LIMIT_SECONDS = 20.0


class Suite(Protocol):
    """A class of claims about the storages that it makes."""

    def make_storage(self, path: Path) -> BaseStorage:
        """Return a handle, not open yet, on a new journal; all others on it come from `sibling`."""
        ...


def claim[S: Suite](
    body: Callable[[S, BaseStorage], Coroutine[object, object, None]],
) -> Callable[[S, Path], None]:
    """Turn a claim about an open storage into a test for any runner, with or without a loop."""

    def test(self: S, tmp_path: Path) -> None:
        async def run() -> None:
            async with asyncio.timeout(_LIMIT_SECONDS), opened(self.make_storage(tmp_path)) as it:
                await body(self, it)

        asyncio.run(run())

    test.__name__ = body.__name__
    test.__qualname__ = body.__qualname__
    test.__doc__ = body.__doc__
    return test


@asynccontextmanager
async def opened(storage: BaseStorage) -> AsyncGenerator[BaseStorage]:
    """Open a storage, and close it at the end."""
    await storage.open()
    try:
        yield storage
    finally:
        await storage.close()


async def in_thread[T](work: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run something in another thread, with an event loop of its own."""
    return await asyncio.to_thread(lambda: asyncio.run(work()))


async def read_all(storage: BaseStorage, after: int = 0) -> list[Commit]:
    """Return all commits behind a place, page by page."""
    commits: list[Commit] = []
    while page := await storage.read(commits[-1].last_seq if commits else after):
        commits += page
    return commits


def tasks(*ids: str) -> list[Event]:
    """Return events that enqueue a task for each id."""
    return [TaskEnqueued(task_id, "m:f", "default", b"\x90") for task_id in ids]
