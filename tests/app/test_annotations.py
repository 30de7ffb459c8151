"""Annotations whose names are not there when a function becomes a task.

With `from __future__ import annotations`, and from Python 3.14 on in any case, nobody looks them up
before they are asked for.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from omniq import SerializationError

MODULE = """
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omniq import AsyncOmniQ

if TYPE_CHECKING:
    from decimal import Decimal

oq = AsyncOmniQ("memory://")

@oq.task
async def move(who: Point, by: list[Point], how: Path) -> Point:
    return Point(who.x + sum(step.x for step in by), type(how).__name__)

@oq.task
async def price(of: Point, times: Decimal, where: "dataclasses.Place" = None) -> Decimal:
    return [type(of).__name__, times, where]

@dataclass
class Point:
    x: int
    note: str = ""
"""
HEADS = ["from __future__ import annotations\n"]
if sys.version_info >= (3, 14):
    HEADS.append("")


@pytest.fixture(params=HEADS)
def tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> ModuleType:
    (tmp_path / "annotated.py").write_text(request.param + MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "annotated", raising=False)
    return importlib.import_module("annotated")


async def test_a_type_that_is_defined_below_its_task_is_read_back(tasks: ModuleType) -> None:
    async with tasks.oq as oq, oq.worker():
        steps = [tasks.Point(2), tasks.Point(3)]
        handle = await tasks.move.enqueue(tasks.Point(1), steps, Path("there"))
        assert await handle.result(timeout=5) == tasks.Point(6, type(Path()).__name__)


async def test_a_type_that_is_defined_below_its_task_is_checked(tasks: ModuleType) -> None:
    async with tasks.oq:
        with pytest.raises(SerializationError, match="argument 'by'"):
            await tasks.move.enqueue(tasks.Point(1), [7], Path("there"))
        with pytest.raises(SerializationError, match="cannot be called like this"):
            await tasks.price.enqueue(tasks.Point(1))


async def test_types_that_are_not_there_leave_the_others_as_they_are(
    tasks: ModuleType,
) -> None:
    async with tasks.oq as oq, oq.worker():
        handle = await tasks.price.enqueue(tasks.Point(1), 7, "here")
        assert await handle.result(timeout=5) == ["Point", 7, "here"]
