"""How two journals differ, or one at two points: where their events part, and in which tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from omniq.core.events import kind_of
from omniq.core.transitions import TaskStatus
from omniq.errors import ConfigError
from omniq.tools.reading import Journal, fold_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from omniq.core.events import Event
    from omniq.core.projection import Projection
    from omniq.tools.points import Point

__all__ = ("Difference", "Side", "TaskDifference", "compare")


class Side(msgspec.Struct, frozen=True):
    """One of the two: a journal up to a sequence number."""

    journal: str
    seq: int
    tasks: int


class TaskDifference(msgspec.Struct, frozen=True):
    """A task that is not the same in both; a status is null where the task is unknown."""

    id: str
    name: str
    a: TaskStatus | None
    b: TaskStatus | None
    attempt_a: int | None
    attempt_b: int | None


class Difference(msgspec.Struct, frozen=True):
    """What differs. `parted_at` is the first event that is not the same, null if there is none.

    If one journal goes on where the other ends, that is the first event behind it. `listed` holds
    as many of the tasks that differ as were asked for, `differing` is their number.
    """

    a: Side
    b: Side
    same: bool
    parted_at: int | None
    kind_a: str | None
    kind_b: str | None
    differing: int
    listed: list[TaskDifference]


async def compare(a: Journal, b: Journal, at_a: Point, at_b: Point, limit: int) -> Difference:
    """Compare two journals, each up to a point."""
    state_a = await fold_until(a, at_a.seq, at_a.at)
    state_b = await fold_until(b, at_b.seq, at_b.at)
    parted = await _parting(a, b, state_a.seq, state_b.seq)
    found = list(_tasks_that_differ(state_a, state_b))
    return Difference(
        a=Side(a.location, state_a.seq, len(state_a.tasks)),
        b=Side(b.location, state_b.seq, len(state_b.tasks)),
        same=parted is None and not found,
        parted_at=None if parted is None else parted[0],
        kind_a=None if parted is None else parted[1],
        kind_b=None if parted is None else parted[2],
        differing=len(found),
        listed=found[:limit],
    )


async def _parting(
    a: Journal, b: Journal, until_a: int, until_b: int
) -> tuple[int, str | None, str | None] | None:
    """Return the first event that is not the same in both, with the kind that each has there."""
    start = max(a.beginning.seq, b.beginning.seq)
    if start > min(until_a, until_b):
        raise ConfigError(
            f"the two have no events in common: those up to {start} were dropped from one of them"
        )
    ours, theirs = _events(a, start, until_a), _events(b, start, until_b)
    try:
        while True:
            one, other = await anext(ours, None), await anext(theirs, None)
            if one is None and other is None:
                return None
            if one is None or other is None or one != other:
                seq = one[0] if one is not None else other[0] if other is not None else start
                return seq, _kind(one), _kind(other)
    finally:
        await ours.aclose()
        await theirs.aclose()


async def _events(
    journal: Journal, after: int, until: int
) -> AsyncGenerator[tuple[int, int, str, Event]]:
    async for batch in journal.commits(after):
        for commit in batch:
            for seq, event in enumerate(commit.events, commit.first_seq):
                if seq > until:
                    return
                if seq > after:
                    yield seq, commit.at, commit.actor, event


def _kind(entry: tuple[int, int, str, Event] | None) -> str | None:
    return None if entry is None else kind_of(entry[3])


def _tasks_that_differ(a: Projection, b: Projection) -> Iterator[TaskDifference]:
    for task_id in a.tasks | b.tasks:
        ours, theirs = a.tasks.get(task_id), b.tasks.get(task_id)
        if ours != theirs:
            known = ours or theirs
            assert known is not None, "a task that differs is in one of them"
            yield TaskDifference(
                id=task_id,
                name=known.spec.name,
                a=None if ours is None else ours.status,
                b=None if theirs is None else theirs.status,
                attempt_a=None if ours is None else ours.attempt,
                attempt_b=None if theirs is None else theirs.attempt,
            )
