"""The engine: commands go in, events are decided and appended, and whoever waits is told.

It puts together who keeps the state (the follower), who writes (the committer), who waits for the
disk (the syncer), and the upkeep of the journal. All commands of a process go through it. Nothing
polls.

What is acknowledged when: `enqueue` returns, and a result is handed out, once it is durable;
everything else once it is written.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from omniq.clock import SystemClock, SystemEntropy
from omniq.committing import Committer
from omniq.core import events as ev
from omniq.core.snapshot import Capture
from omniq.errors import (
    StorageClosed,
    StorageError,
    TaskNotFound,
)
from omniq.following import Follower
from omniq.host import host_name
from omniq.orders import (
    CommandOrder,
    NewTasks,
)
from omniq.syncing import Syncer, tell
from omniq.upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omniq.clock import Clock, Entropy
    from omniq.core import commands as cmd
    from omniq.core.projection import Projection
    from omniq.core.task import TaskRecord
    from omniq.following import Listener
    from omniq.storage.base import BaseStorage, Bookmark

__all__ = ("AsyncTaskQueue",)

_NO_TASK = ev.TaskEnqueued(task_id="", name="", queue="", payload=b"")

_log = logging.getLogger(__name__)


class AsyncTaskQueue:
    """One process' engine on one journal. All methods are called on one event loop."""

    def __init__(
        self,
        storage: BaseStorage,
        *,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        retention_us: int = 0,
        archive_url: str | None = None,
    ) -> None:
        self.storage = storage
        self.clock = clock or SystemClock()
        self.entropy = entropy or SystemEntropy()
        self.actor = ""
        self._follower = Follower(storage, on_loaded=self._loaded, on_failure=self._fail)
        self._syncer = Syncer(storage, self.clock, self._fail)
        self.upkeep = Upkeep(
            storage,
            self.clock,
            retention_us=retention_us,
            archive_url=archive_url,
            capture=self._capture,
        )
        self._committer = Committer(
            storage,
            self._follower,
            self._syncer,
            clock=self.clock,
            entropy=self.entropy,
            on_commit=self._committed,
            on_failure=self._fail,
        )
        self._keeper: asyncio.Task[None] | None = None  # of the upkeep
        self._is_open = False
        self._failure: BaseException | None = None

    async def open(self) -> None:
        """Open the journal and begin to take commands."""
        await self.storage.open()
        self.actor = f"{self.entropy.name()}@{host_name()}:{os.getpid()}"
        self._committer.open(self.actor)
        self._is_open = True

    async def close(self) -> None:
        """Write what was ordered, make it durable, and close the journal."""
        try:
            if self._is_open and self._failure is None:
                await self.flush()
        except StorageError as error:
            # Whoever waited for something was told; what nobody waited for happens again.
            message = "the journal %s was closed before everything was written: %s"
            _log.warning(message, self.storage.location, error, extra={"action": "closed_early"})
        finally:
            await self._follower.close()
            self._is_open = False
            await self._committer.close()
            if self._keeper is not None:
                self._keeper.cancel()
                await asyncio.wait([self._keeper])
            await self._syncer.close()
            self._fail_waiters(StorageClosed(f"the journal {self.storage.location} was closed"))
            await self.storage.close()

    # Commands.

    def enqueue(
        self, like: ev.TaskEnqueued, payloads: Sequence[bytes]
    ) -> asyncio.Future[Sequence[ev.TaskEnqueued]]:
        """Accept tasks like this one, with these payloads, all or none.

        They are durable once the future is done, which has their events, with their ids. Raises
        `QueueFull` if more commands wait than the disk keeps up with; the future has a
        `StorageError` if they could not be written.
        """
        if self._failure is not None or not self._is_open:
            self._check()
        future: asyncio.Future[Sequence[ev.TaskEnqueued]] = asyncio.Future()
        size = len(payloads[0]) if len(payloads) == 1 else sum(map(len, payloads))
        self._committer.order(NewTasks(like, payloads, size, future, durable=True))
        return future

    async def execute(self, command: cmd.Command) -> Sequence[ev.Event]:
        """Carry out a command and return its events, which are written when this returns."""
        await self.load()
        self._check()  # it may have failed meanwhile
        future: asyncio.Future[Sequence[ev.Event]] = asyncio.Future()
        self._committer.order(CommandOrder(command, future, durable=False))
        return await future

    def post(self, command: cmd.Command) -> None:
        """Order a command whose answer nobody waits for, such as an attempt's outcome."""
        self._committer.post(CommandOrder(command, None, durable=False))

    async def settle(self) -> None:
        """Return once everything ordered so far is written, or was refused."""
        self._check()
        future: asyncio.Future[object] = asyncio.Future()
        self._committer.order(NewTasks(_NO_TASK, (), 0, future, durable=False))
        await future

    async def flush(self) -> None:
        """Return once everything ordered so far is durable."""
        await self.settle()
        if self.is_loaded:
            await self.make_durable(self.projection.seq)

    def _check(self) -> None:
        if not self._is_open:
            raise StorageClosed(f"the journal {self.storage.location} is not open")
        if self._failure is not None:
            raise self._failure

    # Reading.

    @property
    def projection(self) -> Projection:
        """The state as this process knows it; nobody but the engine changes it."""
        return self._follower.state

    @property
    def is_loaded(self) -> bool:
        """Whether this process knows the state; if it only enqueues, it never does."""
        return self._follower.is_loaded

    async def load(self) -> None:
        """Read the journal, if that was not done yet, and follow it from now on."""
        self._check()
        await self._follower.load()

    def _loaded(self, snapshot: int) -> None:
        self.upkeep.loaded(self.projection, snapshot)
        self._keeper = asyncio.create_task(self.upkeep.run(), name="omniq-upkeep")

    def _committed(self, commit: ev.Commit) -> None:
        if self.is_loaded:
            self.upkeep.appended(commit, self.projection)

    async def refresh(self) -> Projection:
        """Return the state as the journal has it now, whoever appended to it."""
        self._check()
        return await self._follower.refresh()

    async def finished(self, task_id: str) -> TaskRecord:
        """Wait until a task is finished, and return it once its outcome is durable.

        Raises `TaskNotFound` if the journal does not know it, or no longer.
        """
        await self.load()
        state = self.projection
        if task_id not in state.tasks:
            await self.refresh()
        while (task := state.tasks.get(task_id)) is not None and not task.is_finished:
            self._check()  # as nobody is told of a failure who begins to wait behind it
            await self._follower.finishing.wait(task_id)
        if task is None:
            raise TaskNotFound(f"no task {task_id!r} is known, or its result_ttl has ended")
        await self.make_durable(state.seq)
        return task

    async def make_durable(self, seq: int) -> None:
        """Return once everything up to `seq`, whoever appended it, would survive power loss."""
        self._check()
        await self._syncer.make_durable(seq)

    async def _capture(self) -> tuple[Bookmark, Capture] | None:
        """Return the state as it is now and where in the journal that is."""
        async with self._follower.exclusive:
            await self._follower.catch_up()
            bookmark = await self.storage.bookmark(self.projection.seq)
            return None if bookmark is None else (bookmark, Capture(self.projection))

    def subscribe(self, listener: Listener) -> None:
        """Call `listener.on_commit` for every commit from now on."""
        self._follower.listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        self._follower.listeners.remove(listener)

    # Failing.

    def _fail(self, error: BaseException) -> None:
        """Tell everyone who waits, now and later, that the journal cannot be used from here on."""
        if self._failure is None:  # one reason is enough
            where, extra = self.storage.location, {"action": "journal_failed"}
            _log.error("the journal %s failed: %s", where, error, extra=extra)
            self._failure = error
        self._fail_waiters(self._failure)

    def _fail_waiters(self, error: BaseException) -> None:
        futures = self._syncer.take_waiting()
        futures += self._follower.finishing.take_waiting()
        futures += self._committer.take_waiting()
        for future in futures:
            tell(future, error)
        for listener in tuple(self._follower.listeners):
            listener.on_failure(error)
