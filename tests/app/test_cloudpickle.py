"""cloudpickle is used only where both sides opted in."""

import os
from pathlib import Path

import pytest

from omniq import AsyncOmniQ, SerializationError, TaskStatus


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


class Plain:
    def __init__(self, value: int) -> None:
        self.value = value


async def test_both_sides_opted_in_pass_any_object(tmp_path: Path) -> None:
    async with AsyncOmniQ(tmp_path / "j", serializer="cloudpickle") as app:

        @app.task
        async def twice(plain: Plain) -> Plain:
            return Plain(plain.value * 2)

        handle = await twice.enqueue(Plain(4))
        await app.worker().drain()
        assert (await handle.result()).value == 8


async def test_a_safe_worker_never_unpickles_and_leaves_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def use(value: object) -> None: ...

    async with AsyncOmniQ(tmp_path / "j", serializer="cloudpickle") as writer:
        handle = await writer.task(name="use")(use).enqueue(Evil())
    async with AsyncOmniQ(tmp_path / "j") as safe:
        safe.task(name="use")(use)
        await safe.worker().drain()
        assert await safe.handle(handle.id).status() is TaskStatus.PENDING
    assert not (tmp_path / "pwned").exists()
    async with AsyncOmniQ(tmp_path / "j", serializer="cloudpickle") as open_minded:
        open_minded.task(name="use")(use)
        await open_minded.worker().drain()
        assert (
            await open_minded.handle(handle.id).status() is TaskStatus.FAILED
            or (tmp_path / "pwned").exists()
        )


async def test_a_safe_reader_refuses_a_pickled_result(tmp_path: Path) -> None:
    async with AsyncOmniQ(tmp_path / "j", serializer="cloudpickle") as writer:

        @writer.task
        async def make() -> Plain:
            return Plain(1)

        handle = await make.enqueue()
        await writer.worker().drain()
    async with AsyncOmniQ(tmp_path / "j") as safe:
        with pytest.raises(SerializationError, match='serializer="cloudpickle"'):
            await safe.handle(handle.id).result()
