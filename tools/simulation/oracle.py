"""What must be true, whatever happened: watches the journal from outside, commit by commit.

It knows what was promised to clients, and what really ran, from them and from the tasks, not from
the journal; a promise that is broken raises `BrokenPromise`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from omniq.core import events as ev
from omniq.core.projection import Projection
from omniq.core.transitions import TERMINAL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from omniq.core.task import TaskRecord

__all__ = ("BrokenPromise", "Oracle")


class BrokenPromise(Exception):
    """Something is not as OmniQ promises."""


class Oracle:
    """What was promised and what was seen, over the whole life of a journal."""

    def __init__(self) -> None:
        self.commits: list[ev.Commit] = []
        self.state = Projection()
        self.accepted: set[str] = set()  # tasks whose enqueueing was acknowledged
        self.results: dict[str, object] = {}  # what a client was told
        self.runs: Counter[str] = Counter()  # how often each task really ran
        self._retries: dict[str, int] = {}
        self._once: set[str] = set()
        self._released: Counter[str] = Counter()
        self.intact: set[str] = set()  # workers that nobody may declare lost

    def see(self, commits: Iterable[ev.Commit]) -> None:
        """Take in commits that were appended since the last look."""
        for commit in commits:
            self._expect(
                commit.first_seq == self.state.seq + 1 and commit.at >= self.state.at,
                f"commit {commit.first_seq} at {commit.at} follows {self.state.seq} at "
                f"{self.state.at}",
            )
            self.commits.append(commit)
            self.state.apply(commit)  # raises for whatever the table of transitions forbids
            for event in commit.events:
                self._check(event)

    def _check(self, event: ev.Event) -> None:
        if isinstance(event, ev.TaskEnqueued):
            rule = event.retry
            self._retries[event.task_id] = 3 if rule is None else rule.max_retries
            if event.series_id:
                self._check_series(event.series_id)
        elif isinstance(event, ev.TaskStarted):
            allowed = 1 + self._retries[event.task_id]
            self._expect(
                event.attempt <= allowed,
                f"attempt {event.attempt} of task {event.task_id} was started; {allowed} may be",
            )
        elif isinstance(event, ev.TaskReleased):
            self._released[event.task_id] += 1
        elif isinstance(event, ev.WorkerLost):
            self._expect(
                event.worker not in self.intact,
                f"worker {event.worker} was declared lost and lives: {event.reason}",
            )

    def _check_series(self, series_id: str) -> None:
        unfinished = [
            task.id
            for task in self.state.tasks.values()
            if task.spec.series_id == series_id and not task.is_finished
        ]
        self._expect(len(unfinished) <= 1, f"series {series_id} has the runs {unfinished}")

    def ran(self, task_id: str, *, once: bool) -> None:
        """Take note that a task really runs; `once` if it must not run again, whatever happens."""
        self.runs[task_id] += 1
        if once:
            self._once.add(task_id)

    def check_runs(self) -> None:
        """Check how often the tasks ran that may run once, and were not given back."""
        for task_id in self._once:
            self._expect(
                self.runs[task_id] <= 1 + self._released[task_id],
                f"task {task_id} with max_retries=0 ran {self.runs[task_id]} times",
            )

    def told(self, task_id: str, value: object) -> None:
        """Take note of a result that a client was given."""
        before = self.results.setdefault(task_id, value)
        self._expect(before == value, f"task {task_id} had the result {before}, and now {value}")

    def lost_power(self, commits: list[ev.Commit], dropped: int) -> None:
        """Take in the journal that a power cut left: a prefix, with all that was acknowledged.

        Its history begins behind `dropped`, with a snapshot of what this one has seen.
        """
        before = self.commits
        commits = [commit for commit in before if commit.last_seq <= dropped] + commits
        self._expect(
            commits == before[: len(commits)],
            f"of {len(before)} commits {len(commits)} are left, and they are not the first ones",
        )
        self.commits, self.state, self.intact = [], Projection(), set()
        released, self._released = self._released, Counter()
        self.see(commits)
        self._released = released  # also of those that the power cut took back
        self.check_promises()

    def check_promises(self) -> None:
        """Check that what clients were told is in the journal."""
        gone = self.accepted - self.state.tasks.keys()
        self._expect(not gone, f"accepted tasks are gone: {sorted(gone)}")
        for task_id, value in self.results.items():
            task = self.state.tasks.get(task_id)
            self._expect(
                task is not None and task.is_finished,
                f"task {task_id} had the result {value}, and is not finished any more",
            )

    def unfinished(self) -> list[TaskRecord]:
        """Return the tasks that somebody still has to run."""
        return [task for task in self.state.tasks.values() if task.status not in TERMINAL]

    def _expect(self, condition: object, broken: str) -> None:
        if not condition:
            raise BrokenPromise(broken)
