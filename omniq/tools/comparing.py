"""How two journals differ, or one at two points: where their events part, and in which tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from omniq.core.events import Commit
from omniq.core.projection import Projection
from omniq.core.transitions import TaskStatus
from omniq.errors import ConfigError
from omniq.storage.base import Head
from omniq.tools.printing import EventView, iso, view_event
from omniq.tools.reading import Progress, whole
from omniq.tools.reports import HeadView, TaskView, view_head
from omniq.tools.scanning import base_of
from omniq.tools.sources import undamaged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omniq.core.events import Event
    from omniq.core.task import TaskRecord
    from omniq.tools.points import Point
    from omniq.tools.sources import Source

__all__ = ("Difference", "Side", "TaskDifference", "compare")

type _Entry = tuple[int, Commit, Event]


class Side(msgspec.Struct, frozen=True):
    """One of the two: a journal up to a sequence number. `digest` is null inside of a commit."""

    journal: str
    backend: str
    seq: int
    at: str | None
    digest: str | None
    tasks: int


class TaskDifference(msgspec.Struct, frozen=True):
    """A task that is not the same in both; its status and attempt are null where it is unknown."""

    id: str
    name: str
    status_a: TaskStatus | None
    status_b: TaskStatus | None
    attempt_a: int | None
    attempt_b: int | None
    fields: list[str]


class Difference(msgspec.Struct, frozen=True):
    """What differs.

    `difference` is "event" if another event stands at `parted_at`, "end" if one journal goes on
    there and the other ends, "commits" if equal events were committed in other groups, "beginning"
    if they differ where history was dropped from one of them, and null if they do not differ.
    `common` is the last end of a commit up to which they are the same.
    """

    a: Side
    b: Side
    same: bool
    difference: Literal["event", "end", "commits", "beginning"] | None
    common: HeadView | None
    parted_at: int | None
    event_a: EventView | None
    event_b: EventView | None
    differing: int
    listed: list[TaskDifference]


def compare(a: Source, b: Source, until_a: Point, until_b: Point, limit: int) -> Difference:
    """Compare two journals, each up to a point."""
    ours, theirs = _Walk(a, until_a), _Walk(b, until_b)
    start = max(ours.beginning.seq, theirs.beginning.seq)
    ours.skip(start)
    theirs.skip(start)
    common = ours.head if ours.head == theirs.head else None
    with Progress() as progress:
        while common is not None and ours.commit is not None and ours.commit == theirs.commit:
            ours.step()
            theirs.step()
            if ours.head != theirs.head:  # encoded in another way
                break
            common = ours.head
            progress.at(common.seq)
        one, other = _first_difference(ours, theirs)
        ours.finish(progress)
        theirs.finish(progress)
    found = list(_tasks_that_differ(ours.state, theirs.state, limit))
    kind = _kind(ours, theirs, common, one, other)
    parted = one or other
    return Difference(
        a=ours.side(),
        b=theirs.side(),
        same=kind is None,
        difference=kind,
        common=None if common is None else view_head(common),
        parted_at=None if parted is None or common is None else parted[0],
        event_a=None if one is None else view_event(*one),
        event_b=None if other is None else view_event(*other),
        differing=len(found),
        listed=[difference for difference in found[:limit] if difference is not None],
    )


def _first_difference(ours: _Walk, theirs: _Walk) -> tuple[_Entry | None, _Entry | None]:
    """Return the first events that are not the same, from where the commits are not."""
    left, right = ours.entries(), theirs.entries()
    while True:
        one, other = next(left, None), next(right, None)
        if one is None or other is None or _said(one) != _said(other):
            return one, other


def _said(entry: _Entry) -> tuple[int, int, str, Event]:
    seq, commit, event = entry
    return seq, commit.at, commit.actor, event


def _kind(
    ours: _Walk, theirs: _Walk, common: Head | None, one: _Entry | None, other: _Entry | None
) -> Literal["event", "end", "commits", "beginning"] | None:
    if common is None:
        return "beginning"
    if one is None and other is None:
        is_same = (ours.head, ours.until) == (theirs.head, theirs.until)
        return None if is_same else "commits"
    return "end" if one is None or other is None else "event"


class _Walk:
    """A journal up to a point: the next commit, and the state behind the commits before it."""

    def __init__(self, source: Source, until: Point) -> None:
        self._source = source
        self._until = until
        self._scan = source.make_scan()
        self._commits = undamaged(self._scan, source.location)
        self.commit = next(self._commits, None)  # which is not folded yet
        self._digest = self._scan.digest  # behind it
        self.beginning = self._scan.beginning
        self.head = self.beginning  # the end of the last whole commit
        self.until = self.beginning.seq  # the last event
        self.state = Projection()
        if (base := base_of(self._scan)) is not None:
            self.state = whole(base)
        self._check(until, self.state.seq)
        self._cut()

    def _check(self, until: Point, base: int) -> None:
        seq, at = until
        if (seq is not None and seq < base) or (at is not None and at < self.state.at):
            raise ConfigError(
                f"history of {self._source.location} was dropped, and no state before sequence "
                f"number {base} can be computed. Next: ask for that or later"
            )

    def step(self) -> None:
        """Fold the next commit, and read the one behind it."""
        commit = self.commit
        assert commit is not None, "there is another commit"
        if commit.first_seq > self.state.seq:
            self.state.apply(commit)
        self.until = commit.last_seq
        if not self._is_cut:
            self.head = Head(commit.last_seq, commit.at, self._digest)
        self.commit = None if self._is_cut else next(self._commits, None)
        self._digest = self._scan.digest
        self._cut()

    def _cut(self) -> None:
        """Leave of the next commit what is up to the point."""
        (seq, at), commit, self._is_cut = self._until, self.commit, False
        if commit is None:
            if seq is not None and seq > self.until:
                raise ConfigError(
                    f"{self._source.location} ends at {self.until}, before sequence number {seq}"
                )
        elif at is not None and commit.at > at:
            self.commit = None
        elif seq is not None and commit.last_seq > seq:
            self._is_cut = seq >= commit.first_seq
            events = commit.events[: seq + 1 - commit.first_seq]
            self.commit = Commit(commit.first_seq, commit.at, commit.actor, events)
            if not self._is_cut:
                self.commit = None

    def skip(self, seq: int) -> None:
        """Go behind the last commit that ends at or before a sequence number."""
        while self.commit is not None and self.commit.last_seq <= seq:
            self.step()

    def entries(self) -> Iterator[_Entry]:
        """Yield the events from here on, each with its number and its commit."""
        while (commit := self.commit) is not None:
            for seq, event in enumerate(commit.events, commit.first_seq):
                yield seq, commit, event
            self.step()

    def finish(self, progress: Progress) -> None:
        while self.commit is not None:
            self.step()
            progress.at(self.until)

    def side(self) -> Side:
        return Side(
            journal=self._source.location,
            backend=self._source.backend,
            seq=self.until,
            at=iso(self.state.at),
            digest=self.head.digest.hex() if self.head.seq == self.until else None,
            tasks=len(self.state.tasks),
        )


def _tasks_that_differ(a: Projection, b: Projection, limit: int) -> Iterator[TaskDifference | None]:
    """Yield the tasks that are not the same; behind `limit` of them only that there are more."""
    count = 0
    for task_id in a.tasks | b.tasks:
        ours, theirs = a.tasks.get(task_id), b.tasks.get(task_id)
        if ours != theirs:
            count += 1
            yield _difference(task_id, ours, theirs) if count <= limit else None


def _difference(task_id: str, ours: TaskRecord | None, theirs: TaskRecord | None) -> TaskDifference:
    known = ours or theirs
    assert known is not None, "a task that differs is in one of them"
    fields: list[str] = []
    if ours is not None and theirs is not None:
        one, other = TaskView.of(ours), TaskView.of(theirs)
        names = TaskView.__struct_fields__
        fields = [name for name in names if getattr(one, name) != getattr(other, name)]
    return TaskDifference(
        id=task_id,
        name=known.spec.name,
        status_a=None if ours is None else ours.status,
        status_b=None if theirs is None else theirs.status,
        attempt_a=None if ours is None else ours.attempt,
        attempt_b=None if theirs is None else theirs.attempt,
        fields=fields,
    )
