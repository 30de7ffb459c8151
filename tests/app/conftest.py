import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from omniq import AsyncOmniQ, RetryPolicy

AT_ONCE = RetryPolicy(max_retries=3, base_delay=0.0)


@pytest.fixture(params=["file", "sqlite", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    places = {"file": str(tmp_path / "journal"), "sqlite": str(tmp_path / "jobs.db")}
    return places.get(request.param, "memory://")


@pytest.fixture
async def oq(location: str) -> AsyncIterator[AsyncOmniQ]:
    async with AsyncOmniQ(location) as app:
        yield app


@pytest.fixture
def working(oq: AsyncOmniQ) -> Callable[..., contextlib.AbstractAsyncContextManager]:
    return lambda **options: oq.worker(**options)
