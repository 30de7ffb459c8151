"""The order in which waiting tasks run: by queue, then priority, then who was ready first.

The index holds ids only and is lazy: an entry may be stale (its task was started, cancelled or
moved), so each is checked against the task's record when it is reached. Putting an id in twice
does no harm. What a process cannot run (a function that is not there) it sets aside, per name, so
that a backlog of foreign tasks costs nothing.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from omniq.core.transitions import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from omniq.core.task import TaskRecord

__all__ = ("WaitingTasks",)

_SLACK = 1024  # stale entries that are tolerated, beyond two for each task
_PENDING, _RETRYING = TaskStatus.PENDING, TaskStatus.RETRYING


class _Queue:
    """The ready tasks of one queue: a first-in, first-out lane for each priority."""

    __slots__ = ("lanes", "priorities")

    def __init__(self) -> None:
        self.lanes: dict[int, deque[str]] = {}
        self.priorities: list[int] = []  # ascending, of the lanes that exist

    def add(self, priority: int, task_id: str, *, first: bool = False) -> None:
        lane = self.lanes.get(priority)
        if lane is None:
            lane = self.lanes[priority] = deque()
            insort(self.priorities, priority)
        if first:
            lane.appendleft(task_id)
        else:
            lane.append(task_id)

    def drop_lane(self, priority: int) -> None:
        del self.lanes[priority]
        self.priorities.remove(priority)


class WaitingTasks:
    """An index over the waiting tasks among `tasks`, which its owner keeps up to date."""

    def __init__(self, tasks: Mapping[str, TaskRecord]) -> None:
        self._tasks = tasks
        self._queues: dict[str, _Queue] = {}
        self._later: list[tuple[int, int, str]] = []  # (due_at, order, id)
        self._order = 0
        self._aside: dict[str, dict[str, None]] = {}  # task name -> ids

    def add(self, task: TaskRecord, now: int, *, first: bool = False) -> None:
        """Take in a task that waits; `first` puts it before its equals."""
        if task.due_at > now:
            if len(self._later) > 2 * len(self._tasks) + _SLACK:
                self._later = [entry for entry in self._later if self._is_later(entry)]
                heapify(self._later)
            self._order += 1
            heappush(self._later, (task.due_at, self._order, task.id))
        else:
            queue = self._lane_owner(task.spec.queue)
            queue.add(task.spec.priority, task.id, first=first)
            lane = queue.lanes[task.spec.priority]
            if len(lane) > 2 * len(self._tasks) + _SLACK:
                ready = [entry for entry in dict.fromkeys(lane) if self._is_ready(entry)]
                queue.lanes[task.spec.priority] = deque(ready)

    def discard(self, task: TaskRecord) -> None:
        """Forget a task that no longer waits, and the stale entries before it."""
        queue = self._queues.get(task.spec.queue)
        if queue is not None:
            priority = task.spec.priority
            lane = queue.lanes.get(priority)
            if lane is not None:
                while lane and not self._is_ready(lane[0]):
                    lane.popleft()
                if not lane:
                    queue.drop_lane(priority)
        if self._aside and (aside := self._aside.get(task.spec.name)) is not None:
            aside.pop(task.id, None)

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
        taken: dict[str, TaskRecord] = {}  # by id: one that is in line twice is taken once
        if queues:
            for name in queues:
                if name not in paused:
                    self._drain(name, limit, may_run, taken)
            return list(taken.values())
        active = [name for name in self._queues if name not in paused]
        while active and len(taken) < limit:
            share = max(1, (limit - len(taken)) // len(active))
            for name in tuple(active):
                wanted = min(limit, len(taken) + share)
                self._drain(name, wanted, may_run, taken)
                if len(taken) < wanted:
                    active.remove(name)
        return list(taken.values())

    def recall(self, names: Iterable[str]) -> None:
        """Put what was set aside back in line, for functions that can be run by now."""
        for name in names:
            for task_id in self._aside.pop(name, ()):
                task = self._tasks.get(task_id)
                if task is not None and task.is_waiting:
                    self.add(task, task.due_at, first=True)

    def set_aside(self) -> Iterable[str]:
        """Return the names of tasks that are ready and that this process cannot run."""
        return self._aside

    def has_ready(self, queues: tuple[str, ...], paused: AbstractSet[str], now: int) -> bool:
        """Whether `take` may find something; stale entries make it err towards yes."""
        self._promote(now)
        return any(
            queue.priorities
            for name, queue in self._queues.items()
            if name not in paused and (not queues or name in queues)
        )

    def next_due(self) -> int | None:
        """Return the earliest time at which a task that is not ready yet becomes so."""
        while self._later:
            if self._is_later(self._later[0]):
                return self._later[0][0]
            heappop(self._later)
        return None

    def _lane_owner(self, name: str) -> _Queue:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _Queue()
        return queue

    def _is_later(self, entry: tuple[int, int, str]) -> bool:
        due_at, _, task_id = entry
        task = self._tasks.get(task_id)
        return task is not None and task.is_waiting and task.due_at == due_at

    def _is_ready(self, task_id: str) -> bool:
        task = self._tasks.get(task_id)
        return task is not None and (task.status is _PENDING or task.status is _RETRYING)

    def _promote(self, now: int) -> None:
        while (due_at := self.next_due()) is not None and due_at <= now:
            task = self._tasks[heappop(self._later)[2]]
            self._lane_owner(task.spec.queue).add(task.spec.priority, task.id)

    def _drain(
        self,
        name: str,
        wanted: int,
        may_run: Callable[[TaskRecord], bool],
        taken: dict[str, TaskRecord],
    ) -> None:
        """Take ready tasks of a queue until `wanted` are taken."""
        queue = self._queues.get(name)
        while queue is not None and queue.priorities and len(taken) < wanted:
            priority = queue.priorities[-1]
            lane = queue.lanes[priority]
            while lane and len(taken) < wanted:
                task = self._tasks.get(lane.popleft())
                if task is None or not task.is_waiting:
                    continue
                if may_run(task):
                    taken[task.id] = task
                else:
                    self._aside.setdefault(task.spec.name, {})[task.id] = None
            if not lane:
                queue.drop_lane(priority)
