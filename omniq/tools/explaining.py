"""Why a task is not running: what the journal knows, the most important first, in sentences.

A journal does not know which functions a worker has, nor whether a process that it names is still
alive; where that matters, the answer says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from omniq.core import events as ev
from omniq.core.transitions import TaskStatus
from omniq.errors import TaskNotFound
from omniq.tools.printing import SECOND, iso, show_duration, show_time
from omniq.tools.reading import first_state, is_behind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omniq.core.projection import Projection
    from omniq.core.task import TaskRecord, WorkerRecord
    from omniq.tools.points import Point
    from omniq.tools.reading import Journal

__all__ = ("Explanation", "Reason", "explain")

LISTED = 5  # workers that are named in a sentence
LONGEST_MESSAGE = 200  # characters of an error that are told


class Reason(msgspec.Struct, frozen=True):
    """One thing that explains where a task stands: a code for programs, a sentence for people.

    `at` is the time that it is about, and `seq` the event that says so, where there is one.
    """

    code: str
    text: str
    at: str | None = None
    seq: int | None = None


class Explanation(msgspec.Struct, frozen=True):
    """Where a task stands at a time, and why. `status` is null once its retention has ended."""

    journal: str
    task: str
    name: str
    queue: str
    status: TaskStatus | None
    now: str | None
    reasons: list[Reason]


class _Said(NamedTuple):
    """By which event something was said, when, and by whom."""

    seq: int
    at: int
    actor: str


class _Notes:
    """What a state does not keep, and an explanation needs."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.last: TaskRecord | None = None  # as it stood when its retention ended
        self.expired: _Said | None = None
        self.cancelled: _Said | None = None  # or asked to
        self.paused: dict[str, _Said] = {}
        self.starters: dict[str, dict[str, int]] = {}  # worker -> task name -> when it started one

    def take(self, event: ev.Event, said: _Said, state: Projection) -> None:
        """Take note of an event that the state is about to take in."""
        match event:
            case ev.TaskStarted():
                if (task := state.tasks.get(event.task_id)) is not None:
                    self.starters.setdefault(event.worker, {})[task.spec.name] = said.at
            case ev.QueuePaused():
                self.paused[event.queue] = said
            case ev.WorkerLeft() | ev.WorkerLost():
                self.starters.pop(event.worker, None)
            case ev.TaskCancelRequested() | ev.TaskCancelled():
                if event.task_id == self.task_id:
                    self.cancelled = said
            case ev.ResultExpired():
                if self.task_id in event.task_ids:
                    self.last, self.expired = state.tasks.get(self.task_id), said
            case _:
                pass


async def explain(journal: Journal, task_id: str, until: Point, now: int) -> Explanation:
    """Explain a task as it stands at a point, or now; raises `TaskNotFound` if it never was there.

    At a point that is a sequence number, the time is that of its event.
    """
    notes = _Notes(task_id)
    state = await _folded(journal, until, notes)
    if until.at is not None:
        now = until.at
    now = state.at if until.seq is not None else max(now, state.at)
    task = state.tasks.get(task_id)
    if task is not None:
        reasons = list(_Explainer(state, notes, now).reasons(task))
    elif notes.last is not None and notes.expired is not None:
        task, reasons = notes.last, [_expired(notes.last, notes.expired)]
    else:
        raise _never_there(journal, task_id, state)
    spec = task.spec
    status = task.status if task_id in state.tasks else None
    return Explanation(journal.location, task_id, spec.name, spec.queue, status, iso(now), reasons)


async def _folded(journal: Journal, until: Point, notes: _Notes) -> Projection:
    """Return the state at a point, and take notes on the way to it."""
    state = await first_state(journal, until.seq, until.at)
    async for batch in journal.commits(state.seq):
        for commit in batch:
            for seq, event in enumerate(commit.events, commit.first_seq):
                if is_behind(seq, commit.at, until):
                    return state
                state.at = commit.at
                notes.take(event, _Said(seq, commit.at, commit.actor), state)
                state.apply_events((event,))
    return state


def _never_there(journal: Journal, task_id: str, state: Projection) -> TaskNotFound:
    dropped = journal.beginning.seq
    perhaps = f"; those up to {dropped} were dropped, so it may have been there" if dropped else ""
    return TaskNotFound(
        f"no task {task_id!r} was ever enqueued in the journal {journal.location}, as far as its "
        f"events tell, the last of which is {state.seq} of {show_time(state.at)}{perhaps}"
    )


def _expired(task: TaskRecord, said: _Said) -> Reason:
    text = (
        f"Its result expired at {show_time(said.at)} (sequence number {said.seq}), since when it "
        f"is known only from its events. It had ended as {task.status} at "
        f"{show_time(task.run.finished_at)}."
    )
    return Reason("expired", text, iso(said.at), said.seq)


class _Explainer:
    """Says why a task is where it is, out of a state, at a time."""

    def __init__(self, state: Projection, notes: _Notes, now: int) -> None:
        self.state = state
        self.notes = notes
        self.now = now

    def reasons(self, task: TaskRecord) -> Iterator[Reason]:
        if task.is_finished:
            yield from self._finished(task)
        elif task.status is TaskStatus.RUNNING:
            yield from self._running(task)
        else:
            yield from self._waiting(task)

    # Finished.

    def _finished(self, task: TaskRecord) -> Iterator[Reason]:
        run, error, said = task.run, task.error, self.notes.cancelled
        when = show_time(run.finished_at)
        if task.status is TaskStatus.SUCCESS:
            ran = show_duration(run.finished_at - run.started_at)
            text = f"Attempt {task.attempt} succeeded at {when} on worker {run.worker} after {ran}."
            yield Reason("succeeded", text, iso(run.finished_at))
        elif task.status is TaskStatus.CANCELLED:
            why = f": {_short(error.message)}" if error is not None and error.message else ""
            by = "" if said is None else f" by {said.actor} (sequence number {said.seq})"
            seq = None if said is None else said.seq
            text = f"It was cancelled at {when}{by}{_end(why)}"
            yield Reason("cancelled", text, iso(run.finished_at), seq)
        else:
            said_error = "" if error is None else f": {_told(error)}"
            text = f"It failed for good at {when}, at {_attempt(task)}{_end(said_error)}"
            yield Reason("failed", text, iso(run.finished_at))
            if error is not None and task.attempt <= task.spec.retry.max_retries:
                yield Reason(
                    "not_retried",
                    "There were retries left, but its retry rule, or the task itself, does not "
                    f"allow one after a {error.error_type}.",
                )
        yield from self._afterwards(task)

    def _afterwards(self, task: TaskRecord) -> Iterator[Reason]:
        leader = self.state.live_run(task)
        if leader is not task:
            text = f"Its series goes on with task {leader.id}, which is {leader.status}."
            yield Reason("series", text)
        if task.spec.result_ttl_us:
            until = task.run.finished_at + task.spec.result_ttl_us
            verb = "is kept until" if until > self.now else "may go since"
            yield Reason("kept_until", f"Its result {verb} {show_time(until)}.", iso(until))

    # Running.

    def _running(self, task: TaskRecord) -> Iterator[Reason]:
        run, worker = task.run, self.state.workers.get(task.run.worker)
        since, said = show_time(run.started_at), self.notes.cancelled
        where = run.worker if worker is None else _named(worker)
        text = f"It runs since {since} ({self._ago(run.started_at)}) on worker {where}: "
        yield Reason("running", f"{text}{_attempt(task)}.", iso(run.started_at))
        if run.cancel_requested and said is not None:
            text = (
                f"It was asked to cancel at {show_time(said.at)} by {said.actor} (sequence number "
                f"{said.seq}), and its worker has not answered yet."
            )
            yield Reason("cancel_requested", text, iso(said.at), said.seq)
        elif run.cancel_requested:
            yield Reason("cancel_requested", "It was asked to cancel, and has not answered yet.")
        if run.fraction or run.message:
            text = f"It last said how far it is: {run.fraction:.0%}{_end(_after(run.message))}"
            yield Reason("progress", text)
        if task.spec.timeout_us:
            yield self._timeout(run.started_at + task.spec.timeout_us)
        if worker is None:
            yield Reason(
                "worker_unknown",
                "The journal does not say that this worker ever joined, or it has left.",
            )
        else:
            yield from self._lease(worker)

    def _timeout(self, until: int) -> Reason:
        if until > self.now:
            text = f"Its timeout ends at {show_time(until)}, in {self._in(until)}."
        else:
            text = (
                f"Its timeout ended at {show_time(until)}, {self._ago(until)} ago; a worker that "
                "lives would have ended it."
            )
        return Reason("timeout", text, iso(until))

    def _lease(self, worker: WorkerRecord) -> Iterator[Reason]:
        until = worker.lease_until
        if until >= self.now:
            text = (
                f"The lease of its worker ends at {show_time(until)}, in {self._in(until)}, and is "
                "renewed before that as long as the worker lives."
            )
            yield Reason("lease_valid", text, iso(until))
            return
        text = (
            f"The lease of its worker ended at {show_time(until)}, {self._ago(until)} ago: that "
            "process is dead or stopped, or could not write. Another worker takes the task away, "
            "at once if it sees on its own host that the process is gone, otherwise after it has "
            f"waited a lease ({show_duration(worker.lease_us)}) in vain, unless it sees it work."
        )
        yield Reason("lease_over", text, iso(until))
        if len(self.state.workers) == 1:
            yield Reason("no_other_worker", "But the journal knows no other worker.")

    # Waiting.

    def _waiting(self, task: TaskRecord) -> Iterator[Reason]:
        spec, now = task.spec, self.now
        is_due = task.due_at <= now
        paused = self.notes.paused.get(spec.queue) if spec.queue in self.state.paused else None
        if not is_due:
            yield self._due_later(task)
        if spec.queue in self.state.paused:
            yield _pause(spec.queue, paused)
        serving = self._serving(spec.queue)
        yield from self._workers(spec.queue, serving)
        if not is_due:
            return
        if ahead := self._ahead(task):
            others = "1 other task" if ahead == 1 else f"{ahead:,} other tasks"
            yield Reason("behind_others", f"Before it in line: {others} of its queue.")
        yield self._readiness(task)
        yield from self._function(task, serving)

    def _due_later(self, task: TaskRecord) -> Reason:
        when = f"{show_time(task.due_at)}, in {self._in(task.due_at)}"
        if task.status is TaskStatus.RETRYING and task.error is not None:
            error = task.error
            text = (
                f"{_attempt(task).capitalize()} failed at {show_time(task.run.finished_at)} "
                f"({_told(error)}); the retry waits until {when}."
            )
            return Reason("retry_later", text, iso(task.due_at))
        return Reason("due_later", f"It is not due before {when}.", iso(task.due_at))

    def _readiness(self, task: TaskRecord) -> Reason:
        since = f"It is due since {show_time(task.due_at)} ({self._ago(task.due_at)})"
        if task.status is TaskStatus.RETRYING and task.error is not None:
            since += f", after {_attempt(task)} failed with a {task.error.error_type}"
        return Reason("due", f"{since}.", iso(task.due_at))

    def _serving(self, queue: str) -> list[WorkerRecord]:
        workers = self.state.workers.values()
        return [worker for worker in workers if not worker.queues or queue in worker.queues]

    def _workers(self, queue: str, serving: list[WorkerRecord]) -> Iterator[Reason]:
        """Say which workers serve the task's queue, and whether they have a place free."""
        others = [worker for worker in self.state.workers.values() if worker not in serving]
        if not serving:
            text = f"No worker that the journal knows serves the queue {queue!r}"
            if others:
                text += f": {_listed([f'{w.id} serves {_names(w.queues)}' for w in others])}"
            yield Reason("no_worker", f"{text}.")
            return
        loads = [(worker, len(self.state.running.get(worker.id, ()))) for worker in serving]
        is_busy = all(held >= worker.concurrency for worker, held in loads)
        how = "are all busy" if is_busy else "are there, if they live"
        each = _listed([f"{_named(w)} runs {held} of {w.concurrency}" for w, held in loads])
        text = f"Workers that serve the queue {queue!r} {how}: {each}."
        yield Reason("workers_busy" if is_busy else "workers", text)
        for worker, held in loads:
            if held and worker.lease_until < self.now:
                until = worker.lease_until
                text = (
                    f"The lease of {worker.id} ended at {show_time(until)}, {self._ago(until)} "
                    "ago, so it is dead or stopped, or could not write."
                )
                yield Reason("worker_silent", text, iso(until))

    def _ahead(self, task: TaskRecord) -> int:
        """Return how many tasks a worker of this queue would start before this one."""
        waiting, queue = self.state.waiting, (task.spec.queue,)
        line = waiting.take(queue, frozenset(), len(self.state.tasks), self.now, lambda _: True)
        return next((place for place, other in enumerate(line) if other is task), 0)

    def _function(self, task: TaskRecord, serving: list[WorkerRecord]) -> Iterator[Reason]:
        """Say what is known of who has the task's function."""
        if not serving:
            return
        spec, starters = task.spec, self.notes.starters
        known = [w.id for w in serving if spec.name in starters.get(w.id, {})]
        if known:
            text = f"Such tasks ({spec.name}) were started before by {_listed(known)}."
            yield Reason("function_known", text)
            return
        text = (
            f"None of these workers has ever started a task of {spec.name!r}. Whether one has this "
            f"function, and may read its arguments ({spec.codec}), a journal cannot tell: a worker "
            "without it leaves the task, and says so once in its log (task_not_runnable)."
        )
        yield Reason("function_unknown", text)

    def _ago(self, at: int) -> str:
        return _span(self.now - at)

    def _in(self, at: int) -> str:
        return _span(at - self.now)


def _pause(queue: str, said: _Said | None) -> Reason:
    until = "no task of it starts before somebody resumes it."
    if said is None:
        return Reason("queue_paused", f"Its queue {queue!r} is paused; {until}")
    text = (
        f"Its queue {queue!r} is paused since {show_time(said.at)}, by {said.actor} (sequence "
        f"number {said.seq}); {until}"
    )
    return Reason("queue_paused", text, iso(said.at), said.seq)


def _attempt(task: TaskRecord) -> str:
    return f"attempt {task.attempt} of at most {1 + task.spec.retry.max_retries}"


def _named(worker: WorkerRecord) -> str:
    return f"{worker.id} (process {worker.pid} on {worker.host})"


def _names(queues: tuple[str, ...]) -> str:
    return ", ".join(map(repr, queues))


def _listed(items: list[str]) -> str:
    text = "; ".join(items[:LISTED])
    return text if len(items) <= LISTED else f"{text}; and {len(items) - LISTED} more"


def _told(error: ev.ErrorRecord) -> str:
    return _short(f"{error.error_type}: {error.message}")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 1]}…"


def _after(message: str) -> str:
    return f", {_short(message)}" if message else ""


def _end(text: str) -> str:
    """Return the end of a sentence with a full stop."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _span(us: int) -> str:
    return show_duration(max(0, us)) if us < SECOND else show_duration(us // SECOND * SECOND)
