from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from omniq import AsyncOmniQ


@pytest.fixture(params=["file", "sqlite", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    places = {"file": str(tmp_path / "journal"), "sqlite": str(tmp_path / "jobs.db")}
    return places.get(request.param, "memory://")


@pytest.fixture
async def oq(location: str) -> AsyncIterator[AsyncOmniQ]:
    async with AsyncOmniQ(location) as app:
        yield app
