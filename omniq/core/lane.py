"""A first-in, first-out line of waiting tasks that stays cheap when it is very long.

A million entries in one list or deque hold the process up by some 50 ms whenever the garbage
collector walks over them, or somebody copies them or looks for those that no longer count. Here
they lie in tuples of a few hundred, which the collector stops to look at, which a copy shares, and
which are swept one at a time.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from omniq.core.task import TaskRecord

__all__ = ("Lane",)

TASKS_A_PART = 256


class Lane:
    """The line itself. An entry counts while its record is what `tasks` has under its id."""

    __slots__ = ("_first", "_last", "_next", "_parts", "_unswept")

    def __init__(self) -> None:
        self._first: list[TaskRecord] = []  # the head is its end; empty only if the lane is
        self._parts: deque[tuple[TaskRecord, ...]] = deque()
        self._last: list[TaskRecord] = []
        self._next = 0  # which part is swept next
        self._unswept = 0  # entries that became void since one was

    def __bool__(self) -> bool:
        return bool(self._first)

    def append(self, task: TaskRecord) -> None:
        """Put a task at the end."""
        if not self._first:
            self._first.append(task)
            return
        last = self._last
        last.append(task)
        if len(last) == TASKS_A_PART:
            self._parts.append(tuple(last))
            last.clear()

    def extend(self, tasks: Iterable[TaskRecord]) -> None:
        """Put several tasks at the end."""
        last = self._last
        for task in tasks:
            last.append(task)
            if len(last) == TASKS_A_PART:
                self._parts.append(tuple(last))
                last.clear()
        if not self._first:
            self._move_up()

    def put_first(self, task: TaskRecord) -> None:
        """Put a task before all others."""
        self._first.append(task)

    def pop(self) -> TaskRecord:
        """Remove and return the head."""
        task = self._first.pop()
        if not self._first:
            self._move_up()
        return task

    def drop_void(self, tasks: Mapping[str, TaskRecord], number: int) -> None:
        """Drop void entries, after so many became it: the first ones, or a share of those behind.

        Two entries are looked at for each that became void, so at most about half of them are.
        """
        first, dropped = self._first, 0
        while first and tasks.get((head := first[-1]).id) is not head:
            first.pop()
            dropped += 1
            if not first:
                self._move_up()
                first = self._first
        self._unswept += max(0, number - dropped)
        while self._unswept >= TASKS_A_PART // 2:
            self._unswept -= TASKS_A_PART // 2
            self._sweep(tasks)

    def copy(self) -> Iterable[TaskRecord]:
        """Return what is in the line now, from the head on, void entries included."""
        parts = tuple(self._parts)
        return chain(self._first[::-1], chain.from_iterable(parts), tuple(self._last))

    def _move_up(self) -> None:
        if self._parts:
            self._first = list(reversed(self._parts.popleft()))
            self._next = max(self._next - 1, 0)
        else:
            self._first, self._last = self._last[::-1], []

    def _sweep(self, tasks: Mapping[str, TaskRecord]) -> None:
        """Drop the void entries among the next few hundred."""
        looked_at, parts = 0, self._parts
        while looked_at < TASKS_A_PART:
            if self._next >= len(parts):
                self._next = 0
                self._last = _what_counts(self._last, tasks)
                return
            looked_at += len(parts[self._next])
            if kept := _what_counts(parts[self._next], tasks):
                parts[self._next] = tuple(kept)
                self._next += 1
            else:
                del parts[self._next]


def _what_counts(
    entries: Iterable[TaskRecord], tasks: Mapping[str, TaskRecord]
) -> list[TaskRecord]:
    return [task for task in entries if tasks.get(task.id) is task]
