"""A small language for tests of the core: a life made of commands and events, and its picture."""

from copy import deepcopy
from typing import get_args

from omniq.core import commands as cmd
from omniq.core import events as ev
from omniq.core.decide import decide
from omniq.core.projection import Projection
from omniq.core.transitions import TaskStatus

BOOM = ev.ErrorRecord("ValueError", "boom")
ANY = ("builtins:ValueError", "builtins:Exception", "builtins:BaseException", "builtins:object")
EVERY_NAME = ("f", "g", "h")


def members(union):
    """Return the classes of a union of classes, unions and aliases of unions."""
    parts = get_args(getattr(union, "__value__", union))
    return [kind for part in parts for kind in members(part)] if parts else [union]


def task(task_id, *, name="f", queue="q", payload=b"", **rules):
    return ev.TaskEnqueued(task_id, name, queue, payload, **rules)


def joined(worker, **options):
    return ev.WorkerJoined(worker, "host", 1, "boot", 30, **options)


def ids(events):
    return [event.task_id for event in events]


class Life:
    """A projection and all commits that made it. Each call is one commit, a microsecond later."""

    def __init__(self, *events):
        self.state = Projection()
        self.commits = []
        self.now = 0
        if events:
            self.happen(*events)

    def happen(self, *events, at=None):
        """Let events be committed that nobody decided here."""
        self._move_on(at)
        commit = ev.Commit(self.state.seq + 1, self.now, "somebody", list(events))
        self.state.apply(commit)
        self.commits.append(commit)

    def do(self, command, at=None):
        """Carry out a command, as the engine does, and return its events."""
        self._move_on(at)
        first_seq = self.state.seq + 1
        self.state.begin(self.now)
        events = self.attempt(command)
        if not events:
            self.state.rollback()
            return []
        self.state.keep()
        self.commits.append(ev.Commit(first_seq, self.now, "us", events))
        return events

    def attempt(self, command):
        """Carry out a command in the trial that is under way."""
        events = decide(self.state, command, self.now)
        for event in events:
            self.state.apply_events((event,))
        return events

    def try_in_vain(self, *commands, at=None):
        """Carry out commands whose events cannot be written, and return those events."""
        self._move_on(at)
        self.state.begin(self.now)
        events = [event for command in commands for event in self.attempt(command)]
        self.state.rollback()
        return events

    def _move_on(self, at):
        self.now = self.now + 1 if at is None else at

    # Common commands.

    def enqueue(self, *tasks, at=None):
        return self.do(cmd.Enqueue(tasks), at)

    def claim(self, worker="w", *, queues=(), names=EVERY_NAME, limit=1, at=None, **options):
        return self.do(cmd.Claim(worker, queues, frozenset(names), limit, **options), at)

    def claimed(self, **options):
        return ids(self.claim(**options))

    def run(self, *task_ids, worker="w"):
        """Start these tasks, whatever stands before them."""
        for task_id in task_ids:
            self.happen(ev.TaskStarted(task_id, self[task_id].attempt + 1, worker))

    def succeed(self, task_id, at=None, worker="w"):
        return self.do(cmd.Succeed(task_id, self[task_id].attempt, worker, b"r"), at)

    def fail(self, task_id, at=None, worker="w", error=BOOM, class_names=ANY, drawn=0.0):
        attempt = self[task_id].attempt
        return self.do(cmd.Fail(task_id, attempt, worker, error, class_names, drawn), at)

    def cancel(self, task_id, at=None):
        return self.do(cmd.CancelTask(task_id, "enough"), at)

    # Looking.

    def __getitem__(self, task_id):
        return self.state.tasks[task_id]

    def status(self, task_id):
        return str(self[task_id].status)

    def refolded(self):
        """Return the fold of all commits, from zero."""
        state = Projection()
        for commit in self.commits:
            state.apply(commit)
        return state


def picture(state):
    """Return everything a projection knows, to compare; what it counts as 0 is left out."""
    return {
        "state": state.state(),
        "heard": dict(state.heard),
        "running": {worker: set(held) for worker, held in state.running.items()},
        "series": dict(state.series),
        "counts": {
            (queue, str(status)): number
            for queue, counts in state.counts.items()
            for status, number in counts.items()
            if number
        },
        "names": {name: number for name, number in state.names.items() if number},
    }


def line(state, now, *queues):
    """Return the ids that claims would take from here on, in their order."""
    state.begin(now)
    taken = state.waiting.take(queues, state.paused, 10**6, now, lambda _task: True)
    state.rollback()
    return [record.id for record in taken]


def lines(state, now=10**12):
    """Return for each queue the tasks that are ready at a time, by default all that wait."""
    state = deepcopy(state)
    state.waiting.recall(EVERY_NAME)
    found = {queue: line(state, now, queue) for queue in state.counts}
    return {queue: waiting for queue, waiting in found.items() if waiting}


def in_state(status, **rules):
    """Return a life in which the task "t" has this status."""
    life = Life(joined("w"), task("t", **rules))
    match status:
        case TaskStatus.PENDING:
            return life
        case TaskStatus.CANCELLED:
            life.happen(ev.TaskCancelled("t"))
            return life
    life.run("t")
    match status:
        case TaskStatus.RETRYING:
            life.happen(ev.TaskRetried("t", 1, "w", BOOM, 0))
        case TaskStatus.SUCCESS:
            life.happen(ev.TaskSucceeded("t", 1, "w", b"r"))
        case TaskStatus.FAILED:
            life.happen(ev.TaskFailed("t", 1, "w", BOOM))
    return life
