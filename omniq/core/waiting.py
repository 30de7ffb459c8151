"""The order in which waiting tasks run: by queue, then priority, then who was ready first.

The index holds the records themselves and is lazy: an entry counts as long as its record is what
`tasks` has under that id. So whatever happens to a task makes its entry void, where it stands, and
none can be there twice; void entries are dropped when they are met, and swept as more become it.
While events are tried (`begin` … `rollback`) nothing is dropped for good, since what is void may
come back. What a process cannot run (a function that is not there) it sets aside, per name, so
that a backlog of foreign tasks costs nothing.
"""

from __future__ import annotations

from bisect import insort
from heapq import heapify, heappop, heappush
from itertools import chain, groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from omniq.core.lane import Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from omniq.core.task import TaskRecord, TaskSpec

__all__ = ("WaitingTasks",)

GONE_TOGETHER = 64  # so many are dropped at once, in half the time
SWEEP_AFTER = 1000  # void entries at least, before it is worth sweeping those that come later


class _Queue:
    """The ready tasks of one queue: a first-in, first-out lane for each priority."""

    __slots__ = ("lanes", "priorities")

    def __init__(self) -> None:
        self.lanes: dict[int, Lane] = {}
        self.priorities: list[int] = []  # ascending, of the lanes that exist

    def lane(self, priority: int) -> Lane:
        lane = self.lanes.get(priority)
        if lane is None:
            lane = self.lanes[priority] = Lane()
            insort(self.priorities, priority)
        return lane

    def drop_lane(self, priority: int) -> None:
        del self.lanes[priority]
        self.priorities.remove(priority)


class _Trial:
    """What to put back if the events that are tried do not get written."""

    __slots__ = ("taken", "turn")

    def __init__(self, turn: tuple[str, ...]) -> None:
        self.taken: list[TaskRecord] = []
        self.turn = turn


class WaitingTasks:
    """An index over the waiting tasks among `tasks`, which its owner keeps up to date."""

    def __init__(self, tasks: Mapping[str, TaskRecord]) -> None:
        self._tasks = tasks
        self._queues: dict[str, _Queue] = {}  # in the order of whose turn it is
        self._later: list[tuple[int, int, TaskRecord]] = []  # (due_at, order, task)
        self._order = 0
        self._aside: dict[str, dict[str, TaskRecord]] = {}  # task name -> id -> task
        self._trial: _Trial | None = None
        self._gone: list[TaskRecord] = []  # who no longer waits, and may have an entry that is void
        self._promoted = 0  # until when those that come later were put in line
        self._void_later = 0  # at most so many of them no longer count

    def add(self, tasks: Sequence[TaskRecord], now: int) -> None:
        """Take in tasks that wait, behind their equals."""
        if self._later:
            self._promote(now)  # they were ready first
        for spec, alike in groupby(tasks, attrgetter("spec")):
            ready: list[TaskRecord] = []
            for task in alike:
                if task.due_at > now:
                    self._add_later(task)
                else:
                    ready.append(task)
            if ready:
                self._lane_of(spec).extend(ready)

    def discard(self, tasks: Sequence[TaskRecord]) -> None:
        """Take out tasks that no longer wait: their entries are void by now."""
        if self._aside:
            tasks = [task for task in tasks if not self._forget_aside(task)]
        self._gone.extend(tasks)
        if len(self._gone) >= GONE_TOGETHER and self._trial is None:
            self._drop_void()

    def take(
        self,
        queues: tuple[str, ...],
        paused: AbstractSet[str],
        limit: int,
        now: int,
        may_run: Callable[[TaskRecord], bool],
    ) -> list[TaskRecord]:
        """Remove and return up to `limit` ready tasks of queues that are not paused.

        Named queues are served in their order; without names all queues are, in turn.
        """
        self._promote(now)
        taken: list[TaskRecord] = []
        if queues:
            for name in queues:
                if name not in paused:
                    taken.extend(self._drain(name, limit - len(taken), now, may_run))
            return taken
        active = [name for name in self._queues if name not in paused]
        while active and len(taken) < limit:
            share = max(1, (limit - len(taken)) // len(active))
            for name in tuple(active):
                got = self._drain(name, min(share, limit - len(taken)), now, may_run)
                taken.extend(got)
                if got:  # the next claim begins with another queue
                    self._queues[name] = self._queues.pop(name)
                if len(got) < share:
                    active.remove(name)
        return taken

    def recall(self, names: Iterable[str]) -> None:
        """Put what was set aside back in line, for functions that can be run by now."""
        recalled: list[TaskRecord] = []
        for name in names:
            recalled.extend(self._aside.pop(name, {}).values())
        recalled.sort(key=attrgetter("due_at"))
        self._put_back(recalled)

    def set_aside(self) -> Iterable[str]:
        """Return the names of tasks that are ready and that this process cannot run."""
        return self._aside

    def has_ready(self, queues: tuple[str, ...], paused: AbstractSet[str], now: int) -> bool:
        """Whether `take` may find something; void entries make it err towards yes."""
        if self._trial is None:
            self._drop_void()
        self._promote(now)
        return any(
            queue.priorities
            for name, queue in self._queues.items()
            if name not in paused and (not queues or name in queues)
        )

    def next_due(self) -> int | None:
        """Return the earliest time at which a task that is not ready yet becomes so.

        While events are tried, void entries make it err towards too early.
        """
        while self._later:
            due_at, _, task = self._later[0]
            if self._counts(task) or self._trial is not None:
                return due_at
            heappop(self._later)
        return None

    # For snapshots.

    def copy(self) -> tuple[Iterable[TaskRecord], Iterable[tuple[int, int, TaskRecord]]]:
        """Return who is ready, in the order of the line, and who comes later, with their ranks.

        Some void entries are among them. What was set aside stands where `recall` would put it.
        """
        assert self._trial is None, "what is only tried is in no snapshot"
        self._drop_void()
        aside = [task for tasks in self._aside.values() for task in tasks.values()]
        aside.sort(key=attrgetter("due_at"))
        lanes = [
            queue.lanes[priority].copy()
            for queue in self._queues.values()
            for priority in reversed(queue.priorities)
        ]
        return chain(aside, *lanes), self._later.copy()

    def put_back(self, task: TaskRecord) -> None:
        """Take in a ready task as a snapshot has it, behind those before it."""
        self._lane_of(task.spec).append(task)

    def put_back_later(self, task: TaskRecord, rank: int) -> None:
        """Take in a task that is not due yet, as a snapshot has it."""
        heappush(self._later, (task.due_at, rank, task))
        self._order = max(self._order, rank)

    # Trying events before they are written.

    def begin(self) -> None:
        self._drop_void()
        self._trial = _Trial(tuple(self._queues))

    def keep(self) -> None:
        trial = self._trial
        assert trial is not None, "no trial is under way"
        self._trial = None
        taken = set(map(id, trial.taken))
        self._gone = [task for task in self._gone if id(task) not in taken]
        self._drop_void()

    def rollback(self) -> None:
        """Put back what was taken. `tasks` has the records again that it had at `begin`."""
        trial = self._trial
        assert trial is not None, "no trial is under way"
        self._trial = None
        self._gone.clear()
        self._put_back(trial.taken)
        self._queues = {name: self._queues[name] for name in trial.turn} | self._queues

    def _add_later(self, task: TaskRecord) -> None:
        self._order += 1
        heappush(self._later, (task.due_at, self._order, task))

    def _lane_of(self, spec: TaskSpec) -> Lane:
        queue = self._queues.get(spec.queue)
        if queue is None:
            queue = self._queues[spec.queue] = _Queue()
        return queue.lane(spec.priority)

    def _counts(self, task: TaskRecord) -> bool:
        return self._tasks.get(task.id) is task

    def _promote(self, now: int) -> None:
        self._promoted = max(self._promoted, now)
        while self._later and self._later[0][0] <= now:
            task = heappop(self._later)[2]
            if self._counts(task) or self._trial is not None:
                self._lane_of(task.spec).append(task)

    def _drain(
        self, name: str, limit: int, now: int, may_run: Callable[[TaskRecord], bool]
    ) -> list[TaskRecord]:
        queue, tasks, trial = self._queues.get(name), self._tasks, self._trial
        noted: list[TaskRecord] = [] if trial is None else trial.taken
        taken: list[TaskRecord] = []
        while queue is not None and queue.priorities and len(taken) < limit:
            priority = queue.priorities[-1]
            lane = queue.lanes[priority]
            while lane and len(taken) < limit:
                task = lane.pop()
                if tasks.get(task.id) is not task:
                    noted.append(task)
                elif task.due_at > now:  # the clock was set back
                    self._add_later(task)
                elif may_run(task):
                    noted.append(task)
                    taken.append(task)
                else:
                    self._aside.setdefault(task.spec.name, {})[task.id] = task
            if not lane:
                queue.drop_lane(priority)
        return taken

    def _note(self, task: TaskRecord) -> None:
        """Remember an entry that is taken out while events are tried."""
        if self._trial is not None:
            self._trial.taken.append(task)

    def _forget_aside(self, task: TaskRecord) -> bool:
        """Take out a task that was set aside; whether it was."""
        name = task.spec.name
        aside = self._aside.get(name)
        if aside is None or aside.pop(task.id, None) is None:
            return False
        self._note(task)
        if not aside:
            del self._aside[name]
        return True

    def _put_back(self, tasks: list[TaskRecord]) -> None:
        """Put these before their equals, the first of them first."""
        for task in reversed(tasks):
            if self._counts(task):
                self._lane_of(task.spec).put_first(task)

    def _drop_void(self) -> None:
        """Drop the entries of who is gone, or see to it that void ones do not become too many."""
        for spec, group in groupby(self._gone, attrgetter("spec")):
            due = [task.due_at for task in group]
            if self._later:
                in_line = sum([due_at <= self._promoted for due_at in due])
                self._void_later += len(due) - in_line
            else:
                in_line = len(due)
            queue = self._queues.get(spec.queue)
            lane = None if queue is None else queue.lanes.get(spec.priority)
            if queue is not None and lane is not None and in_line:
                lane.drop_void(self._tasks, in_line)
                if not lane:
                    queue.drop_lane(spec.priority)
        self._gone.clear()
        if self._void_later > SWEEP_AFTER + len(self._later) // 2:
            self._later = [entry for entry in self._later if self._counts(entry[2])]
            heapify(self._later)
            self._void_later = 0
