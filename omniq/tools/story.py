"""The story of one task: what was asked, and for each attempt who, when, how long and how it ended.

It is told from the task's events alone, by the same `evolve` that the queue uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from omniq.core import events as ev
from omniq.core.evolve import evolve
from omniq.errors import IllegalEvent, TaskNotFound
from omniq.storage.base import events_of
from omniq.tools.printing import SECOND, ErrorView, EventView, iso, view_event
from omniq.tools.reports import TaskView

if TYPE_CHECKING:
    from omniq.core.events import Commit, Event
    from omniq.core.task import TaskRecord
    from omniq.tools.reading import Journal

__all__ = ("AttemptView", "Story", "story_of")


class AttemptView(msgspec.Struct):
    """One attempt. `outcome` is the kind of the event that ended it, null while it runs.

    It waited from the moment at which it could have begun. `host` and `pid` are null if the
    journal does not tell them.
    """

    attempt: int
    started_seq: int
    started_at: str | None
    worker: str
    host: str | None
    pid: int | None
    waited_seconds: float
    ended_seq: int | None = None
    ended_at: str | None = None
    ran_seconds: float | None = None
    outcome: str | None = None
    reason: str | None = None
    retry_at: str | None = None
    error: ErrorView | None = None


class Story(msgspec.Struct, frozen=True):
    """A task as it stands, or stood when its retention ended, its attempts and all its events."""

    journal: str
    task: TaskView
    expired_at: str | None
    attempts: list[AttemptView]
    events: list[EventView]
    illegal: list[str]


async def story_of(journal: Journal, task_id: str) -> Story:
    """Read a journal for one task; raises `TaskNotFound` if nothing is said about it."""
    teller = _Teller(task_id)
    async for batch in journal.commits():
        for commit in batch:
            teller.hear(commit)
    if teller.task is None:
        raise TaskNotFound(f"no task {task_id!r} is in the journal {journal.location}")
    return Story(
        journal=journal.location,
        task=TaskView.of(teller.task),
        expired_at=teller.expired_at,
        attempts=teller.attempts,
        events=teller.events,
        illegal=teller.illegal,
    )


class _Teller:
    """Follows one task through a journal, and the workers that could run it."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.task: TaskRecord | None = None
        self.expired_at: str | None = None
        self.attempts: list[AttemptView] = []
        self.events: list[EventView] = []
        self.illegal: list[str] = []
        self._workers: dict[str, ev.WorkerJoined] = {}

    def hear(self, commit: Commit) -> None:
        for event in commit.events:
            if isinstance(event, ev.WorkerJoined):
                self._workers[event.worker] = event
            elif isinstance(event, ev.WorkerLeft | ev.WorkerLost):
                self._workers.pop(event.worker, None)
        for seq, _, event in events_of(commit, self.task_id):
            self.events.append(view_event(seq, commit, event))
            self._follow(seq, event, commit.at)

    def _follow(self, seq: int, event: Event, at: int) -> None:
        if isinstance(event, ev.ResultExpired):
            self.expired_at = iso(at)
            return
        if not isinstance(event, _TASK_EVENTS) or isinstance(event, ev.TaskLate):
            return  # what came too late changes nothing, whatever the task is by then
        before = None if self.expired_at else self.task
        try:
            after = evolve(before, event, at)
        except IllegalEvent as error:
            self.illegal.append(f"sequence {seq}: {error}")
            return
        if isinstance(event, ev.TaskEnqueued):
            self.expired_at = None
        elif isinstance(event, ev.TaskStarted) and before is not None:
            self._begin(seq, event, at, before)
        elif isinstance(event, _ENDINGS) and before is not None and before.run.started_at:
            self._end(seq, event, at, before.run.started_at)
        self.task = after

    def _begin(self, seq: int, event: ev.TaskStarted, at: int, before: TaskRecord) -> None:
        joined = self._workers.get(event.worker)
        self.attempts.append(
            AttemptView(
                attempt=event.attempt,
                started_seq=seq,
                started_at=iso(at),
                worker=event.worker,
                host=None if joined is None else joined.host,
                pid=None if joined is None else joined.pid,
                waited_seconds=max(0, at - before.due_at) / SECOND,
            )
        )

    def _end(self, seq: int, event: _Ending, at: int, started_at: int) -> None:
        attempt = self.attempts[-1]
        if attempt.outcome is not None:
            return  # cancelled between two attempts
        attempt.ended_seq = seq
        attempt.ended_at = iso(at)
        attempt.ran_seconds = (at - started_at) / SECOND
        attempt.outcome = ev.kind_of(event)
        if isinstance(event, ev.TaskRetried | ev.TaskFailed):
            attempt.error = ErrorView.of(event.error)
        elif isinstance(event, ev.TaskCancelled | ev.TaskReleased):
            attempt.reason = event.reason or None
        if isinstance(event, ev.TaskRetried):
            attempt.retry_at = iso(event.retry_at)
        elif isinstance(event, ev.TaskReleased):
            attempt.retry_at = iso(event.due_at)


type _Ending = (
    ev.TaskSucceeded | ev.TaskRetried | ev.TaskFailed | ev.TaskCancelled | ev.TaskReleased
)
_ENDINGS = (ev.TaskSucceeded, ev.TaskRetried, ev.TaskFailed, ev.TaskCancelled, ev.TaskReleased)
_TASK_EVENTS = (
    ev.TaskEnqueued,
    ev.TaskStarted,
    *_ENDINGS,
    ev.TaskCancelRequested,
    ev.TaskRequeued,
    ev.TaskLate,
    ev.TaskProgressed,
)
