"""The state of a queue, computed from its events: tasks, workers, who runs what, what is next.

A projection is a mutable index over immutable task records. `apply` takes commits in the order
of the journal; the same commits give the same state in every process, and a projection may be
thrown away at any time. While commands are decided, `begin` … `rollback` let the engine try
events before they are written and take them back if they could not be.
"""

from __future__ import annotations

from collections import defaultdict
from heapq import heappop, heappush
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from omniq.core import events as ev
from omniq.core.events import TaskStarted, TaskSucceeded
from omniq.core.evolve import ended, enqueued, evolve, illegal, started, succeeded
from omniq.core.task import NO_RUN, Run, TaskRecord, TaskSpec, WorkerRecord
from omniq.core.transitions import TRANSITIONS, TaskStatus
from omniq.core.waiting import WaitingTasks
from omniq.errors import IllegalEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ("Projection", "State")


type _Reaction[E] = Callable[[Projection, Iterable[E]], None]
type _OfATask = (
    ev.TaskRetried
    | ev.TaskFailed
    | ev.TaskCancelled
    | ev.TaskCancelRequested
    | ev.TaskReleased
    | ev.TaskRequeued
    | ev.TaskProgressed
)

_PENDING, _RETRYING, _RUNNING = TaskStatus.PENDING, TaskStatus.RETRYING, TaskStatus.RUNNING
_CHANGES = frozenset(kind for kinds in TRANSITIONS.values() for kind in kinds)
_MAX_US = (1 << 63) - 1  # a forged lease may be longer than any time that can be written
FORGET_AFTER = 1000  # specs at least, before it is worth looking for those that nobody has
_NO_COUNTS = dict.fromkeys(TaskStatus, 0)


class State(msgspec.Struct):
    """What a projection says, without its indexes: two equal journals give two equal states."""

    seq: int
    at: int
    tasks: dict[str, TaskRecord]
    workers: dict[str, WorkerRecord]
    paused: set[str]


class _Undo(msgspec.Struct):
    """What to put back if the events that were tried do not get written."""

    seq: int
    at: int
    tasks: list[tuple[TaskRecord | None, TaskRecord | None]]
    workers: dict[str, WorkerRecord]
    heard: dict[str, int]
    paused: set[str]
    series: dict[str, str | None]  # who led those that changed


def _to_each[E](react: Callable[[Projection, E], None]) -> _Reaction[E]:
    """Return a reaction to several events from one to a single event."""

    def react_to_each(state: Projection, events: Iterable[E]) -> None:
        for event in events:
            state.seq += 1
            react(state, event)

    return react_to_each


class Projection:
    """Fold of a journal up to `seq`. Not thread-safe: its owner is one event loop."""

    def __init__(self) -> None:
        self.seq = 0
        self.at = 0
        self.tasks: dict[str, TaskRecord] = {}
        self.workers: dict[str, WorkerRecord] = {}
        self.heard: dict[str, int] = {}  # worker -> sequence number of its latest sign of life
        # worker -> ids of the tasks it holds
        self.running: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self.series: dict[str, str] = {}  # series id -> id of the unfinished run that leads it
        self.paused: set[str] = set()
        # queue -> status -> number
        self.counts: defaultdict[str, dict[TaskStatus, int]] = defaultdict(_NO_COUNTS.copy)
        self.names: defaultdict[str, int] = defaultdict(int)  # name -> number of unfinished tasks
        self.waiting = WaitingTasks(self.tasks)
        self._expiry: list[tuple[int, str]] = []  # (when the result may go, id)
        self._specs: dict[TaskSpec, TaskSpec] = {}
        self._most_specs = FORGET_AFTER
        self._undo: _Undo | None = None

    def apply(self, commit: ev.Commit) -> None:
        """Take in the commit that follows `seq`."""
        assert commit.first_seq == self.seq + 1, "commits are applied in order, without gaps"
        self.at = commit.at
        self.apply_events(commit.events)

    def apply_events(self, events: Iterable[ev.Event]) -> None:
        """Take in the next events, at the time `at`."""
        for kind, alike in groupby(events, type):
            self._reactions[kind](self, alike)

    def state(self) -> State:
        """Return what the projection says, to compare, show or store."""
        return State(self.seq, self.at, dict(self.tasks), dict(self.workers), set(self.paused))

    # From a snapshot.

    def share(self, spec: TaskSpec) -> TaskSpec:
        """Return the spec that all tasks with equal ones share."""
        shared = self._specs.setdefault(spec, spec)
        if len(self._specs) > self._most_specs:
            self._forget_specs()
        return shared

    def put_back(self, task: TaskRecord) -> None:
        """Take in a task as a snapshot has it; its place in the line is `waiting`'s matter."""
        self._replace(None, task, restoring=True)

    def _forget_specs(self) -> None:
        """Forget those that no task has any more; the cost is shared by as many new ones."""
        live = {id(task.spec): task.spec for task in self.tasks.values()}
        self._specs = {spec: spec for spec in live.values()}
        self._most_specs = FORGET_AFTER + len(self.tasks) + len(live)

    # Trying events before they are written.

    def begin(self, at: int) -> None:
        """Begin to try events that would be committed at time `at`."""
        assert self._undo is None, "a trial is already under way"
        self._undo = _Undo(
            self.seq, self.at, [], dict(self.workers), dict(self.heard), set(self.paused), {}
        )
        self.waiting.begin()
        self.at = at

    def keep(self) -> None:
        """End the trial: its events were written."""
        self._undo = None
        self.waiting.keep()

    def rollback(self) -> None:
        """End the trial: its events were not written, and never happened."""
        undo = self._undo
        assert undo is not None, "no trial is under way"
        self._undo = None
        self.seq, self.at = undo.seq, undo.at
        for old, new in reversed(undo.tasks):
            self._replace(new, old, restoring=True)
        for series_id, run in undo.series.items():
            self._lead(series_id, run)
        self.waiting.rollback()
        self.workers, self.heard, self.paused = undo.workers, undo.heard, undo.paused

    # Reading.

    def counts_by_status(self) -> dict[TaskStatus, int]:
        """Return how many tasks of all queues have each status."""
        return {
            status: sum(counts[status] for counts in self.counts.values()) for status in TaskStatus
        }

    def live_run(self, task: TaskRecord) -> TaskRecord:
        """Return the run that leads the task's series, or the task itself."""
        run = self.series.get(task.spec.series_id) if task.spec.series_id else None
        return task if run is None else self.tasks[run]

    def expired(self, now: int, limit: int) -> tuple[str, ...]:
        """Return the ids of up to `limit` finished tasks whose retention ended by `now`."""
        found: dict[tuple[int, str], None] = {}  # whose expiry was taken back is in there twice
        while self._expiry and self._expiry[0][0] <= now and len(found) < limit:
            entry = heappop(self._expiry)
            task = self.tasks.get(entry[1])
            if task is not None and task.is_finished and _expires_at(task) == entry[0]:
                found[entry] = None
        for entry in found:  # the entry goes for good only with the event
            heappush(self._expiry, entry)
        return tuple([task_id for _, task_id in found])

    # Reacting to the common events, many at once: as `_replace` does, with fewer calls.

    def _enqueue(self, events: Iterable[ev.TaskEnqueued]) -> None:
        tasks, counts, names, undo, at = self.tasks, self.counts, self.names, self._undo, self.at
        added: list[TaskRecord] = []
        try:
            for event in events:
                self.seq += 1
                if (known := tasks.get(event.task_id)) is not None:
                    raise illegal(known, event)
                spec = self.share(TaskSpec.of(event))
                new = tasks[event.task_id] = enqueued(event, spec, at)
                if undo is not None:
                    undo.tasks.append((None, new))
                counts[spec.queue][_PENDING] += 1
                names[spec.name] += 1
                if spec.series_id:
                    self._begin_series(new)
                added.append(new)
        finally:
            self.waiting.add(added, at)

    def _start(self, events: Iterable[TaskStarted]) -> None:
        tasks, counts, running, undo = self.tasks, self.counts, self.running, self._undo
        heard = self.heard
        run: Run | None = None
        begun: list[TaskRecord] = []
        try:
            for event in events:
                self.seq += 1
                worker = event.worker
                if run is None or worker != run.worker:  # what one claim starts shares its run
                    run = Run(worker, self.at)
                old = tasks.get(event.task_id)
                if old is None:
                    raise illegal(None, event)
                new = tasks[event.task_id] = started(old, event, run)
                if undo is not None:
                    undo.tasks.append((old, new))
                counted = counts[old.spec.queue]
                counted[old.status] -= 1
                counted[_RUNNING] += 1
                running[worker][event.task_id] = None
                heard[worker] = self.seq
                begun.append(old)
        finally:
            self.waiting.discard(begun)

    def _succeed(self, events: Iterable[TaskSucceeded]) -> None:
        tasks, counts, names, undo, at = self.tasks, self.counts, self.names, self._undo, self.at
        running, expiry = self.running, self._expiry
        before: Run | None = None
        after = NO_RUN
        for event in events:
            self.seq += 1
            old = tasks.get(event.task_id)
            if old is None:
                raise illegal(None, event)
            if old.run is not before or event.codec != after.codec:  # shared runs stay shared
                before, after = old.run, ended(old.run, event, at)
            new = tasks[event.task_id] = succeeded(old, event, after)
            if undo is not None:
                undo.tasks.append((old, new))
            spec = old.spec
            counted = counts[spec.queue]
            counted[_RUNNING] -= 1
            counted[new.status] += 1
            names[spec.name] -= 1
            held = running[event.worker]
            held.pop(event.task_id, None)
            if not held:
                del running[event.worker]
            if spec.result_ttl_us:
                heappush(expiry, (at + spec.result_ttl_us, event.task_id))
            if spec.series_id:
                self._end_series(new)

    # Reacting to the others, one by one.

    def _change(self, event: _OfATask) -> None:
        old = self.tasks.get(event.task_id)
        self._replace(old, evolve(old, event, self.at))

    def _ignore(self, event: ev.TaskLate) -> None:
        """Do nothing: it is on record, and changes nothing."""

    def _replace(
        self, old: TaskRecord | None, new: TaskRecord | None, *, restoring: bool = False
    ) -> None:
        """Put `new` in the place of `old` in all indexes."""
        if self._undo is not None:
            self._undo.tasks.append((old, new))
        if new is not None:
            self.tasks[new.id] = new
            if old is not None and old.status is new.status:
                return
        elif old is not None:
            del self.tasks[old.id]
        was_unfinished = old is not None and self._leave(old)
        is_unfinished = new is not None and self._enter(new, restoring=restoring)
        if was_unfinished is not is_unfinished:
            task = old if new is None else new
            assert task is not None, "something is replaced, or by something"
            self.names[task.spec.name] += 1 if is_unfinished else -1
            if task.spec.series_id and not restoring:
                (self._begin_series if is_unfinished else self._end_series)(task)
        if new is None and old is not None and not any(self.counts[old.spec.queue].values()):
            del self.counts[old.spec.queue]

    def _leave(self, task: TaskRecord) -> bool:
        """Take a task out of the indexes by status; return whether it was unfinished."""
        status = task.status
        self.counts[task.spec.queue][status] -= 1
        if status is _RUNNING:
            worker = task.run.worker
            held = self.running[worker]
            held.pop(task.id, None)
            if not held:
                del self.running[worker]
        elif status is _PENDING or status is _RETRYING:
            self.waiting.discard((task,))
        else:
            return False
        return True

    def _enter(self, task: TaskRecord, *, restoring: bool) -> bool:
        """Take a task into the indexes by status; return whether it is unfinished."""
        status, spec = task.status, task.spec
        self.counts[spec.queue][status] += 1
        if status is _RUNNING:
            self.running[task.run.worker][task.id] = None
        elif status is _PENDING or status is _RETRYING:
            if not restoring:  # the index has kept its place
                self.waiting.add((task,), self.at)
        else:
            if spec.result_ttl_us:
                heappush(self._expiry, (_expires_at(task), task.id))
            return False
        return True

    def _begin_series(self, task: TaskRecord) -> None:
        """Let an unfinished task lead its series, unless another run does."""
        if task.spec.series_id not in self.series:
            self._lead(task.spec.series_id, task.id)

    def _end_series(self, task: TaskRecord) -> None:
        """End the series of a finished task, if it led it."""
        if self.series.get(task.spec.series_id) == task.id:
            self._lead(task.spec.series_id, None)

    def _lead(self, series_id: str, run: str | None) -> None:
        """Say which run the next one of a series will follow; none if the series has ended."""
        if self._undo is not None:
            self._undo.series.setdefault(series_id, self.series.get(series_id))
        if run is None:
            self.series.pop(series_id, None)
        else:
            self.series[series_id] = run

    def _pause(self, event: ev.QueuePaused) -> None:
        self.paused.add(event.queue)

    def _resume(self, event: ev.QueueResumed) -> None:
        self.paused.discard(event.queue)

    def _forget_worker(self, event: ev.WorkerLeft | ev.WorkerLost) -> None:
        self.workers.pop(event.worker, None)
        self.heard.pop(event.worker, None)

    def _expire(self, event: ev.ResultExpired) -> None:
        gone: dict[str, TaskRecord] = {}
        for task_id in event.task_ids:
            task = None if task_id in gone else self.tasks.get(task_id)
            if task is None or not task.is_finished:
                state = "unknown" if task is None else task.status
                raise IllegalEvent(task_id, ev.kind_of(event), state)
            gone[task_id] = task
        for task in gone.values():
            self._replace(task, None)
        # Who never asks for `expired`, such as a replay, must not keep what is gone.
        while self._undo is None and self._expiry and self._expiry[0][1] not in self.tasks:
            heappop(self._expiry)

    def _join(self, event: ev.WorkerJoined) -> None:
        self.workers[event.worker] = WorkerRecord(
            id=event.worker,
            host=event.host,
            pid=event.pid,
            boot=event.boot,
            lease_us=event.lease_us,
            lease_until=min(self.at + event.lease_us, _MAX_US),
            queues=event.queues,
            concurrency=event.concurrency,
            joined_at=self.at,
        )
        self.heard[event.worker] = self.seq

    def _renew(self, event: ev.WorkerRenewed) -> None:
        worker = self.workers.get(event.worker)
        if worker is not None:  # a renewal of a worker that was declared lost changes nothing
            renewed = msgspec.structs.replace(worker, lease_until=event.lease_until)
            self.workers[worker.id] = renewed
            self.heard[worker.id] = self.seq

    # `type` finds what to do in one step. For a Struct, each `isinstance` or class pattern
    # on the way would cost as much as the rest.
    _reactions: ClassVar[dict[type[ev.JournalEvent], _Reaction[Any]]] = {
        **dict.fromkeys(_CHANGES, _to_each(_change)),
        ev.TaskEnqueued: _enqueue,
        TaskStarted: _start,
        TaskSucceeded: _succeed,
        ev.TaskLate: _to_each(_ignore),
        ev.ResultExpired: _to_each(_expire),
        ev.WorkerJoined: _to_each(_join),
        ev.WorkerRenewed: _to_each(_renew),
        ev.WorkerLeft: _to_each(_forget_worker),
        ev.WorkerLost: _to_each(_forget_worker),
        ev.QueuePaused: _to_each(_pause),
        ev.QueueResumed: _to_each(_resume),
    }


def _expires_at(task: TaskRecord) -> int:
    return task.run.finished_at + task.spec.result_ttl_us
