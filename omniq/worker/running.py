"""The attempts that run in a worker: begun a slice at a time, and ended when somebody says so."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from omniq.core import commands as cmd
from omniq.worker.attempt import Attempt, End

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from omniq.core import events as ev
    from omniq.core.task import TaskRecord
    from omniq.registry import Registry
    from omniq.worker.attempt import Surroundings

__all__ = ("RunningAttempts",)

SLICE = 128  # attempts that are begun until others on the event loop have their turn,
SLICE_SECONDS = 0.005  # or the time after which they have it in any case
HOLD_SECONDS = 0.02  # how long outcomes wait for those of the next slices, to share their commit


class RunningAttempts:
    """Begins attempts, ends them, and orders what became of them.

    `changed` is called when one attempt fewer runs.
    """

    surroundings: Surroundings  # of the attempts to come; set once the worker has a name

    def __init__(self, registry: Registry, changed: Callable[[], None]) -> None:
        self.runners: set[asyncio.Task[None]] = set()  # with those that were given up
        self._registry = registry
        self._changed = changed
        self._started: deque[ev.TaskStarted] = deque()  # in the journal, and not yet here
        self._attempts: dict[str, Attempt] = {}
        self._outcomes: list[cmd.Outcome] = []  # not yet ordered
        self._is_beginning = False

    def __len__(self) -> int:
        return len(self._attempts)

    async def begin(
        self, started: Iterable[ev.TaskStarted], tasks: Mapping[str, TaskRecord]
    ) -> None:
        """Begin an attempt at each task that was started, unless it was taken away meanwhile.

        What they do up to their first await is done when this returns. What is not begun because
        this is cancelled, or all attempts are ended meanwhile, is given back.
        """
        monotonic = self.surroundings.clock.monotonic
        self._started.extend(started)
        self._is_beginning = True
        try:
            began = slice_began = monotonic()
            begun = 0
            while self._started:
                event = self._started.popleft()
                task = tasks.get(event.task_id)
                if task is not None and task.is_claimed_by(event.worker, event.attempt):
                    self._begin(task)
                begun += 1
                now = monotonic()
                if begun % SLICE == 0 or now - slice_began >= SLICE_SECONDS:
                    if now - began >= HOLD_SECONDS:
                        self._order_outcomes()
                    await asyncio.sleep(0)
                    slice_began = monotonic()
        finally:
            self._is_beginning = False
            self._order_outcomes()
            self._give_back()

    def _begin(self, task: TaskRecord) -> None:
        registration = self._registry.get(task.spec.name)
        assert registration is not None, "only tasks with a known name are claimed"
        attempt = Attempt(task, registration, self.surroundings)
        self._attempts[task.id] = attempt
        # Eager: a task that awaits nothing costs no turn of the event loop.
        loop = asyncio.get_running_loop()
        runner = asyncio.Task(attempt.run(), loop=loop, eager_start=True)
        if not runner.done():
            self.runners.add(runner)
            runner.add_done_callback(self.runners.discard)

    def _give_back(self) -> None:
        """Give back what was started and is not begun; it does not count as an attempt."""
        for event in self._started:
            reason = "its worker stopped"
            self.surroundings.order(cmd.Release(event.task_id, event.attempt, event.worker, reason))
        self._started.clear()

    def report(self, attempt: Attempt, outcome: cmd.Outcome | None) -> None:
        """Take the outcome of an attempt that has ended; None if it counts no longer."""
        if outcome is not None:
            if self._is_beginning:
                self._outcomes.append(outcome)
            else:
                self.surroundings.order(outcome)
        if self._attempts.get(attempt.task.id) is attempt:
            del self._attempts[attempt.task.id]
        self._changed()

    def _order_outcomes(self) -> None:
        for outcome in self._outcomes:
            self.surroundings.order(outcome)
        self._outcomes.clear()

    def cancel(self, task_id: str, reason: str) -> None:
        """End the attempt at a task, if there is one; if it is still to begin, it sees the wish."""
        attempt = self._attempts.get(task_id)
        if attempt is not None:
            attempt.cancel(reason)

    def end_all(self, reason: End) -> None:
        """End all attempts, and begin no more of what was started."""
        if reason is End.LOST:
            self._started.clear()
        self._give_back()
        for attempt in tuple(self._attempts.values()):
            attempt.end(reason)

    def lose_all(self) -> None:
        """End all attempts, and forget them at once, as others have their tasks."""
        self.end_all(End.LOST)
        self._attempts.clear()
