"""Much work a part at a time, so that the event loop whose guests we are goes on in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ("PART_ITEMS", "by_parts", "parts_of")

PART_ITEMS = 2048  # of tasks or events: a few milliseconds' work


def parts_of[T](items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items, up to `PART_ITEMS` of them at a time."""
    for start in range(0, len(items), PART_ITEMS):
        yield items[start : start + PART_ITEMS]


async def by_parts[T, R](items: Sequence[T], make: Callable[[Sequence[T]], Iterable[R]]) -> list[R]:
    """Return what is made of the items; the event loop goes on behind each part but the last."""
    made: list[R] = []
    for part in parts_of(items):
        if made:
            await asyncio.sleep(0)
        made.extend(make(part))
    return made
