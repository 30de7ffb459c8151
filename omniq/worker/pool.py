"""`AsyncWorkerPool`: claims due tasks, runs up to `concurrency` of them at a time, reports.

The pool sleeps until something is due, a slot is free or a timer says so. Outcomes and the next
claim are ordered together, so one commit carries both.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from omniq.clock import sleep, wait_at_most
from omniq.core import commands as cmd
from omniq.core import events as ev
from omniq.errors import ConfigError, StorageError
from omniq.host import boot_id, host_name
from omniq.models import Duration, to_us
from omniq.worker import logbook
from omniq.worker.attempt import GRACE_SECONDS, End, Surroundings
from omniq.worker.executors import Executors
from omniq.worker.liveness import LeaseRenewal, Watch
from omniq.worker.running import RunningAttempts
from omniq.worker.signals import stop_signals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from omniq.queue import AsyncTaskQueue
    from omniq.registry import Registry
    from omniq.serialization import Codecs
    from omniq.worker.context import TaskContext

__all__ = ("AsyncWorkerPool",)

LEASE_SECONDS = 30.0
MIN_LEASE_US = 100_000  # shorter ones would fill the journal with renewals
SHUTDOWN_SECONDS = 30.0
INTERRUPTED_SECONDS = 1.0  # what attempts have to end if nobody waits for that any longer
WATCH_SECONDS = 0.5  # how often the locks of other workers are looked at: tasks wait that long
WAIT_SECONDS = 0.5  # before a step is tried again that the system refused
MAX_CLAIM = 512  # tasks that are started at once: keeps a turn of the loop below about 5 ms
MOMENT_SECONDS = 0.001  # a timer may be so early
EXPIRE_AT_ONCE = 1000  # results that are forgotten in one event

_log = logging.getLogger(__name__)


class AsyncWorkerPool:
    """A worker in this process. Made by `AsyncOmniQ.worker`, and used once.

    `async with pool` works in the background, `await pool.run()` until `stop()` or a signal,
    `await pool.drain()` until nothing is due and nothing runs.
    """

    def __init__(
        self,
        engine: Callable[[], Awaitable[AsyncTaskQueue]],
        registry: Registry,
        codecs: Codecs,
        *,
        concurrency: int = 10,
        queues: Sequence[str] = (),
        lease: Duration = LEASE_SECONDS,
        shutdown_timeout: Duration = SHUTDOWN_SECONDS,
    ) -> None:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ConfigError(f"concurrency must be an integer from 1 on, not {concurrency!r}")
        if isinstance(queues, str):
            raise ConfigError(f"queues must be a list of names, not the text {queues!r}")
        if not isinstance(queues, Iterable) or not all(isinstance(name, str) for name in queues):
            raise ConfigError(f"queues must be a list of names, not {queues!r}")
        self.id = ""
        self.concurrency = concurrency
        self.queues = tuple(queues)
        self._lease_us = to_us(lease, "lease")
        if self._lease_us < MIN_LEASE_US:
            raise ConfigError(f"lease must be at least {MIN_LEASE_US / 1e6:g} s, not {lease!r}")
        self._shutdown_seconds = to_us(shutdown_timeout, "shutdown_timeout") / 1_000_000
        self._engine = engine
        self._registry = registry
        self._codecs = codecs
        self._executors = Executors()
        self._renewal: LeaseRenewal | None = None
        self._names: frozenset[str] = frozenset()
        self._names_known = (-1, -1)
        self._not_run: set[str] = set()
        self._wake = asyncio.Event()
        self._running = RunningAttempts(registry, changed=self._wake.set)
        self._left = asyncio.Event()
        self._stopping = False
        self._failure: BaseException | None = None
        self._background: asyncio.Task[None] | None = None
        self._main: asyncio.Task[Any] | None = None  # that claims, and starts attempts

    # Working.

    async def start(self) -> None:
        """Begin to work in the background, until `stop`."""
        await self._join()
        self._background = asyncio.create_task(self._work(until_idle=False), name="omniq-worker")

    async def stopped(self) -> None:
        """Return once the background work has ended; raises what ended it, if it was an error."""
        if self._background is not None:
            background = self._background
            await asyncio.wait([background])  # it goes on if who waits for it does not
            background.result()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def run(self) -> None:
        """Work until `stop()`, or until the process gets SIGTERM or SIGINT.

        The first signal stops in order: running tasks have `shutdown_timeout` to finish, what is
        left is given back. A second one gives everything back at once.
        """
        with stop_signals(self._on_first_signal, self._on_second_signal):
            await self._join()
            try:
                await self._work(until_idle=False)
            finally:
                await self._leave()

    async def drain(self) -> None:
        """Work until nothing is due and nothing runs; tasks for later are left alone."""
        await self._join()
        try:
            await self._work(until_idle=True)
        finally:
            await self._leave()

    async def stop(self, timeout: Duration | None = None) -> None:
        """Claim no more, let running tasks finish for `timeout`, and give back the rest.

        Without a timeout it is the pool's `shutdown_timeout`. What is given back does not count
        as an attempt. When this returns, everything is written.
        """
        if timeout is not None:
            self._shutdown_seconds = to_us(timeout, "timeout") / 1_000_000
        self._stop_soon()
        if self._background is not None:
            background, self._background = self._background, None
            try:
                await background
            finally:
                await self._leave()
        elif self.id:
            await self._left.wait()  # of `run`, of `drain`, or of another `stop`

    @property
    def abandoned(self) -> int:
        """How many functions, in threads or on the loop, go on although this worker has stopped."""
        return len(self._running.runners) + self._executors.busy_threads

    def _on_first_signal(self) -> None:
        _log.info(
            "stopping: %d running tasks have %g s to finish; once more gives them back at once",
            len(self._running),
            self._shutdown_seconds,
            extra={"action": "worker_stopping", "tasks": len(self._running)},
        )
        self._stop_soon()

    def _on_second_signal(self) -> None:
        self._shutdown_seconds = 0.0  # for what is started just now
        self._running.end_all(End.STOP)

    def _stop_soon(self) -> None:
        self._stopping = True
        self._wake.set()

    def _is_stopping(self) -> bool:
        """Whether it was told to stop, or is cancelled, as by who ends the event loop."""
        return self._stopping or self._main is None or bool(self._main.cancelling())

    async def _work(self, *, until_idle: bool) -> None:
        self._main = asyncio.current_task()
        watching = asyncio.create_task(self._watch_forever(), name="omniq-watch")
        watching.add_done_callback(lambda _: self._wake.set())
        try:
            while not self._stopping:
                self._wake.clear()
                if self._failure is not None:
                    break
                if watching.done():
                    watching.result()
                started = await self._patiently(self._claim)
                if started:
                    await self._running.begin(started, self._queue.projection.tasks)
                    continue
                if until_idle and not self._running:
                    await self._patiently(self._look_around)
                    await self._queue.settle()  # outcomes on their way may make tasks due
                    if not self._has_ready():
                        return
                    continue
                await wait_at_most(self._clock, self._wake, self._seconds_to_next_due())
            if self._failure is not None:
                raise self._failure
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _patiently[T](self, step: Callable[[], Awaitable[T]]) -> T | None:
        """Take a step, or say why it was not possible and wait a little.

        A full disk, or another trouble of the system that passes, does not end a worker.
        """
        try:
            return await step()
        except StorageError as error:
            if self._failure is not None:
                raise
            _log.warning("the worker waits: %s", error, extra={"action": "worker_waits"})
            await sleep(self._clock, WAIT_SECONDS)
            return None

    async def _claim(self) -> list[ev.TaskStarted]:
        """Start as many due tasks as there are free slots, and return that they were."""
        if self.id not in self._queue.projection.workers:
            await self._rejoin()
        free = min(MAX_CLAIM, self.concurrency - len(self._running))
        if free <= 0:
            return []
        self._learn_names()
        if not self._has_ready():
            return []
        claim = cmd.Claim(self.id, self.queues, self._names, free, self._codecs.readable)
        events = await self._queue.execute(claim)
        self._say_what_is_not_run()
        return [event for event in events if type(event) is ev.TaskStarted]

    def _say_what_is_not_run(self) -> None:
        """Warn, once for each name, of tasks that are due and that this worker cannot run."""
        for name in self._queue.projection.waiting.set_aside():
            if name not in self._not_run:
                self._not_run.add(name)
                logbook.tell_not_run(name, self._registry.why_missing(name))

    def _has_ready(self) -> bool:
        state = self._queue.projection
        return state.waiting.has_ready(self.queues, state.paused, self._clock.now_us())

    def _learn_names(self) -> None:
        """Find out which of the names in the journal this process has a function for."""
        state = self._queue.projection
        known = (len(state.names), self._registry.version)
        if known == self._names_known:
            return
        runnable = [name for name in state.names if self._registry.resolve(name) is not None]
        self._names = frozenset(runnable)
        self._names_known = (len(state.names), self._registry.version)
        state.waiting.recall(runnable)

    def _seconds_to_next_due(self) -> float | None:
        """Return when there is something to claim, or None if something else must happen first."""
        if len(self._running) >= self.concurrency:
            return None  # what falls due meanwhile has to wait for a free slot
        due_at = self._queue.projection.waiting.next_due()
        return None if due_at is None else (due_at - self._clock.now_us()) / 1_000_000

    async def _make_start_durable(self) -> None:
        await self._queue.make_durable(self._queue.projection.seq)

    def _report_progress(
        self, worker: str, context: TaskContext, fraction: float, message: str
    ) -> None:
        command = cmd.ReportProgress(context.id, context.attempt, worker, fraction, message)
        if threading.get_ident() == self._thread:
            self._queue.post(command)
        else:
            self._loop.call_soon_threadsafe(self._queue.post, command)

    # Joining and leaving.

    async def _join(self) -> None:
        if self.id:
            raise ConfigError("this worker was used before. Next: make a new one, oq.worker(…)")
        self._queue = await self._engine()
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._clock = self._queue.clock
        self._watch = Watch(self._queue.storage, self._clock)
        await self._queue.load()
        self._queue.subscribe(self)
        try:
            await self._enlist()
        except BaseException:
            self._queue.unsubscribe(self)
            await self._queue.storage.drop_life(self.id)
            self._left.set()
            raise
        self._renewal = LeaseRenewal(
            self._queue.storage.sibling(),
            self._clock,
            actor=self._queue.actor,
            lease_seconds=self._lease_us / 1_000_000,
            holds_tasks=lambda: bool(self._running),
            drop_life=self._queue.storage.drop_life,
        )
        self._renewal.worker = self.id
        self._renewal.start()

    async def _enlist(self) -> None:
        """Take a new name, hold its lock, and only then let others know it."""
        self.id = self._queue.entropy.name()
        await self._queue.storage.hold_life(self.id)
        joined = ev.WorkerJoined(
            worker=self.id,
            host=host_name(),
            pid=os.getpid(),
            boot=boot_id(),
            lease_us=self._lease_us,
            queues=self.queues,
            concurrency=self.concurrency,
        )
        await self._queue.execute(cmd.Join(joined))
        self._running.surroundings = Surroundings(
            worker=self.id,
            codecs=self._codecs,
            executors=self._executors,
            entropy=self._queue.entropy,
            clock=self._clock,
            is_stopping=self._is_stopping,
            make_durable=self._make_start_durable,
            report=self._running.report,
            order=self._queue.post,
            report_progress=partial(self._report_progress, self.id),
        )

    async def _rejoin(self) -> None:
        """Go on under a new name after others took this worker for dead."""
        await self._queue.storage.drop_life(self.id)
        await self._enlist()
        if self._renewal is not None:
            self._renewal.worker = self.id

    async def _leave(self) -> None:
        """Finish or give back what runs, write everything, and say good-bye."""
        self._stopping = True
        try:
            if self._failure is None:
                try:
                    await self._finish_attempts()
                except asyncio.CancelledError:  # who waits for this has no time left
                    self._running.end_all(End.STOP)
                    await self._until_none_runs(INTERRUPTED_SECONDS)
                    raise
                finally:
                    await self._queue.execute(cmd.Leave(self.id))
                await self._queue.flush()
        finally:
            self._running.end_all(End.LOST)
            if self._running.runners:
                await asyncio.wait(self._running.runners, timeout=GRACE_SECONDS)
            self._queue.unsubscribe(self)
            if self._renewal is not None:
                await self._renewal.stop()
            await self._executors.close()
            with contextlib.suppress(StorageError):
                await self._queue.storage.drop_life(self.id)
            self._left.set()

    async def _finish_attempts(self) -> None:
        await self._until_none_runs(self._shutdown_seconds)
        self._running.end_all(End.STOP)
        await self._until_none_runs(2 * GRACE_SECONDS)  # what does not heed it is given up by then

    async def _until_none_runs(self, seconds: float) -> None:
        """Wait until each attempt has said how it ended, for so long at most."""
        until = self._clock.monotonic() + seconds
        while self._running and (left := until - self._clock.monotonic()) > MOMENT_SECONDS:
            self._wake.clear()
            await wait_at_most(self._clock, self._wake, left)

    # Watching.

    async def _watch_forever(self) -> None:
        while True:
            await sleep(self._clock, WATCH_SECONDS)
            await self._patiently(self._look_around)
            self._wake.set()

    async def _look_around(self) -> None:
        """Take the tasks of dead workers away, and forget what was kept long enough."""
        state = self._queue.projection
        for command in self._watch.find_lost(state, self.id):
            logbook.tell_loss(await self._queue.execute(command))
        if state.expired(self._clock.now_us(), 1):
            await self._queue.execute(cmd.ExpireResults(EXPIRE_AT_ONCE))

    def on_commit(self, commit: ev.Commit) -> None:
        """Look at what happened, for work, for news about running attempts and for the log."""
        self._wake.set()
        untold = logbook.untold()
        for event in commit.events:
            if type(event) not in untold:  # most are, and isinstance takes four times as long
                self._on_news(event, commit.at)

    def _on_news(self, event: ev.Event, at: int) -> None:
        # In a turn of its own, as the owner's handlers and filters may do anything, raise as well.
        self._loop.call_soon(logbook.tell, event, at, self.id, self._queue.projection.tasks)
        if type(event) is ev.TaskCancelRequested:
            self._running.cancel(event.task_id, event.reason)
        elif type(event) is ev.WorkerLost and event.worker == self.id:
            self._running.lose_all()

    def on_failure(self, error: BaseException) -> None:
        """End what runs here: its outcome cannot be recorded any more."""
        self._failure = error
        self._running.end_all(End.LOST)
        self._wake.set()
