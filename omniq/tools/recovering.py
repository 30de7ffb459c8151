"""What of a journal, damaged or not, can be kept in a new one, and exactly what is lost of it.

Commits are taken over byte by byte, so that without loss the new journal has the digests of its
source, in whatever backend. Behind a loss the sequence numbers close up. Then events that verify,
but can no longer follow, are left out: the outcome of a task whose beginning is gone, for example.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from omniq.core import commands as cmd
from omniq.core.decide import decide
from omniq.core.events import Commit
from omniq.core.projection import Projection
from omniq.core.task import WorkerRecord
from omniq.core.transitions import TaskStatus
from omniq.errors import ConfigError, IllegalEvent
from omniq.storage.base import Head
from omniq.storage.encoding import encode_events
from omniq.tools.points import END, Point
from omniq.tools.reading import whole
from omniq.tools.reports import HeadView, view_head
from omniq.tools.scanning import Problem, Torn, base_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from omniq.core.events import Event
    from omniq.storage.base import Snapshot
    from omniq.tools.scanning import Scan
    from omniq.tools.targets import Target

__all__ = ("LeftOut", "LostRange", "LostWorker", "RecoverReport", "Recovery", "TaskFate")

ACTOR = "recover"
_LOSING = frozenset({"database", "decode", "frame", "read", "row", "segment"})

_split = msgspec.msgpack.Decoder(tuple[int, int, str, list[msgspec.Raw]]).decode


class LostRange(msgspec.Struct, frozen=True):
    """Events of the source that are not in the target because nothing verifies there.

    `last_seq` is null if nothing says how many they are. What they said about the tasks that were
    unfinished at that point, `unfinished_tasks` in number, is not known.
    """

    first_seq: int
    last_seq: int | None
    unfinished_tasks: int


class LeftOut(msgspec.Struct, frozen=True):
    """An event that verifies, by its number in the source, and cannot follow the task's `state`."""

    seq: int
    kind: str
    task: str
    state: str


class TaskFate(msgspec.Struct, frozen=True):
    """A task of which events were left out: `status` in the target, null if it is not in there."""

    id: str
    name: str | None
    status: TaskStatus | None
    left_out: int
    last_kind: str


class LostWorker(msgspec.Struct, frozen=True):
    """A worker that holds tasks, and whose joining is lost: nobody else could take them away."""

    id: str
    tasks: list[str]


class RecoverReport(msgspec.Struct, frozen=True):
    """What was recovered and what was lost. `added` are events that only the target has."""

    journal: str
    target: str
    until: int | None
    is_whole: bool
    events: int
    commits: int
    added: int
    head: HeadView
    shared: HeadView
    torn: Torn | None
    problems: list[Problem]
    lost: list[LostRange]
    left_out: list[LeftOut]
    tasks: list[TaskFate]
    workers: list[LostWorker]
    read_seconds: float


class Recovery:
    """One pass over a source, which writes what can be kept to a target that is empty."""

    def __init__(self, make_scan: Callable[[], Scan], target: Target, until: Point = END) -> None:
        self.scan = make_scan()
        self.problems: list[Problem] = []
        self.lost: list[LostRange] = []
        self.left_out: list[LeftOut] = []
        self.lost_workers: list[LostWorker] = []
        self.events = 0
        self.commits = 0
        self.added = 0  # events that no source has
        self.source = Head()  # the end of the last commit that was looked at
        self.shared = Head()  # the last end of a commit that both journals have
        self.is_stopped = False  # by `until`
        self._make_scan = make_scan
        self._target = target
        self._until = until
        self._state = Projection()
        self._next = 1  # the number in the source that comes next
        self._base: Snapshot | None = None  # with which the source begins

    @property
    def is_whole(self) -> bool:
        """Whether the target has everything, up to the point that was asked for, as it was."""
        is_same = self.shared == self.source == self._target.head
        return is_same and not self.lost and not self.left_out

    def run(self, on_progress: Callable[[int], None]) -> None:
        """Write everything that can be kept."""
        has_begun = False
        for found in self.scan:
            if isinstance(found, Problem):
                self.problems.append(found)
                continue
            if self._is_behind_the_point(found):
                self.is_stopped = True
                break
            if not has_begun:
                has_begun = True
                self._begin()
            self._take(found)
            on_progress(found.last_seq)
        if not has_begun:
            self._begin()
        self._lose_the_end()
        self._declare_lost()

    def report(self, journal: str, target: str, read_seconds: float) -> RecoverReport:
        """Return what came of it."""
        return RecoverReport(
            journal=journal,
            target=target,
            until=self.source.seq if self._until != END else None,
            is_whole=self.is_whole,
            events=self.events,
            commits=self.commits,
            added=self.added,
            head=view_head(self._target.head),
            shared=view_head(self.shared),
            torn=self.scan.torn,
            problems=self.problems,
            lost=self.lost,
            left_out=self.left_out,
            tasks=list(self._fates()),
            workers=self.lost_workers,
            read_seconds=read_seconds,
        )

    def _fates(self) -> Iterator[TaskFate]:
        """Yield what became of each task of which something was left out."""
        by_task: dict[str, list[LeftOut]] = {}
        for event in self.left_out:
            by_task.setdefault(event.task, []).append(event)
        for task_id, events in by_task.items():
            task = self._state.tasks.get(task_id)
            yield TaskFate(
                id=task_id,
                name=None if task is None else task.spec.name,
                status=None if task is None else task.status,
                left_out=len(events),
                last_kind=events[-1].kind,
            )

    # Where it begins and ends.

    def _begin(self) -> None:
        """Begin where the source does: with nothing, or with a snapshot if history was dropped."""
        beginning, self._base = self.scan.beginning, base_of(self.scan)
        if self._base is None:
            self._target.begin(beginning)
            return
        mark, (seq, at) = self._base.bookmark, self._until
        if (seq is not None and seq < mark.seq) or (at is not None and at < mark.at):
            raise ConfigError(
                f"history was dropped, and no state before sequence number {mark.seq} can be "
                "computed. Next: ask for that or later, or name the archive with --archive URL"
            )
        self._state = whole(self._base)
        self._next = beginning.seq + 1
        if _has_all_until(self._make_scan(), mark.seq, mark.digest):
            self.source = self.shared = beginning
            self._target.begin(beginning)
        else:  # it says nothing about the state, but numbers must not have gaps
            self._lose(mark.seq)
            self.source = self.shared = Head(mark.seq, mark.at, mark.digest)
            self._target.begin(self.source)
        self._keep_snapshot()

    def _keep_snapshot(self) -> None:
        if self._base is not None and self._target.head.seq == self._base.bookmark.seq:
            self._target.keep(self._base)

    def _is_behind_the_point(self, commit: Commit) -> bool:
        seq, at = self._until
        return (seq is not None and commit.last_seq > seq) or (at is not None and commit.at > at)

    def _lose_the_end(self) -> None:
        """Report what is lost behind the last commit."""
        if self.is_stopped:
            return
        losing = [
            problem
            for problem in self.problems
            if problem.kind in _LOSING and problem.first_seq >= self._next
        ]
        end = max([self.scan.seq, *(problem.last_seq for problem in losing)])
        if end >= self._next:
            self._lose(end)
        if any(not problem.last_seq for problem in losing):
            self._lose(None)

    # Commits.

    def _take(self, commit: Commit) -> None:
        """Write what can be kept of a commit."""
        if commit.first_seq < self._next:
            return  # it comes again, or is before the snapshot with which the target begins
        if commit.first_seq > self._next:
            self._lose(commit.first_seq - 1)
        self._next = commit.last_seq + 1
        self.source = Head(commit.last_seq, commit.at, self.scan.digest)
        encoded = [bytes(event) for event in _split(self.scan.payload)[3]]
        events, head = commit.events, self._target.head
        if self._base is None or commit.last_seq > self._base.bookmark.seq:
            kept = [i for i, event in enumerate(events) if self._can_follow(commit, i, event)]
            events, encoded = [events[i] for i in kept], [encoded[i] for i in kept]
        if events:
            at = max(commit.at, head.at)
            self._write(Commit(head.seq + 1, at, commit.actor, events), encoded)
            self._keep_snapshot()

    def _write(self, commit: Commit, encoded: list[bytes]) -> None:
        self._target.write(commit, encoded)
        self.events += len(encoded)
        self.commits += 1
        if self._target.head == self.source:
            self.shared = self.source

    def _can_follow(self, commit: Commit, index: int, event: Event) -> bool:
        state = self._state
        before, state.at = state.seq, max(commit.at, state.at)
        try:
            state.apply_events((event,))
        except IllegalEvent as illegal:
            state.seq = before
            seq = commit.first_seq + index
            self.left_out.append(LeftOut(seq, illegal.kind, illegal.task_id, illegal.state))
            return False
        return True

    def _lose(self, until: int | None) -> None:
        """Report everything up to a number as lost; None if it is not known how much there was."""
        unfinished = sum(self._state.names.values())
        self.lost.append(LostRange(self._next, until, unfinished))
        if until is not None:
            self._next = until + 1

    def _declare_lost(self) -> None:
        """Take their tasks from workers whose joining is lost: no other worker could do that."""
        if not self.lost and not self.left_out:
            return
        state, head = self._state, self._target.head
        for worker in [worker for worker in state.running if worker not in state.workers]:
            tasks = list(state.running[worker])
            state.workers[worker] = _unknown(worker)
            declaration = cmd.DeclareLost(worker, "it was lost with the events that named it")
            events = decide(state, declaration, state.at)
            self.lost_workers.append(LostWorker(worker, tasks))
            commit = Commit(head.seq + 1, max(state.at, head.at), ACTOR, events)
            state.apply(commit)
            self._write(commit, encode_events(events))
            self.added += len(events)
            head = self._target.head


def _has_all_until(scan: Scan, seq: int, digest: bytes) -> bool:
    """Whether everything from a journal's beginning to a commit's end verifies."""
    expected = -1
    for found in scan:
        if scan.beginning.seq == seq:
            return True
        if isinstance(found, Problem):
            if found.first_seq <= seq and found.kind in _LOSING | {"chain", "gap", "repetition"}:
                return False
            continue
        if expected < 0:
            expected = scan.beginning.seq + 1
        if found.first_seq != expected:
            return False
        expected = found.last_seq + 1
        if found.last_seq >= seq:
            return (found.last_seq, scan.digest) == (seq, digest)
    return False


def _unknown(worker: str) -> WorkerRecord:
    return WorkerRecord(worker, "", 0, "", 0, 0, (), 0, 0)
