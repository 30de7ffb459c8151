"""Functions that the tests enqueue by name: importable, as a user's would be."""

import asyncio
import contextlib
import os
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from uuid import UUID

import msgspec

from omniq import current_task


class Color(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int


class Meta(msgspec.Struct):
    path: Path
    width: int


def add(a: int, b: int = 2) -> int:
    return a + b


async def add_async(a: int, b: int = 2) -> int:
    return a + b


def describe(  # one argument of each kind that must come out as it went in
    path: Path, when: datetime, price: Decimal, key: UUID, color: Color, point: Point, meta: Meta
) -> dict[str, str]:
    given = (path, when, price, key, color, point, meta)
    return {type(value).__name__: str(value) for value in given}


def make_point(x: int, y: int) -> Point:
    return Point(x, y)


def process_id() -> int:
    return os.getpid()


def what_it_was_started_with() -> tuple[list[bytes], list[bytes]]:
    return [os.fsencode(word) for word in sys.argv], [os.fsencode(path) for path in sys.path]


def spin_for_ever(marker: str) -> None:
    Path(marker).write_text(str(os.getpid()))
    while True:
        time.sleep(0.01)


def report_progress() -> str:
    current_task().progress(0.5, "half")
    return current_task().id


def raise_value_error() -> None:
    raise ValueError("a bad value")


def raise_with_a_cause() -> None:
    try:
        raise_value_error()
    except ValueError as error:
        raise OSError("outer") from error


async def raise_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(raise_with_a_cause))


def exit_hard() -> None:
    os._exit(7)


def scribble_on_every_pipe() -> None:
    """Write nonsense to whatever is open, as a library with a wrong descriptor would."""
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"\xff" * 8)
    while True:
        time.sleep(0.01)


def unencodable() -> object:
    return object()
