"""The engine: commands go in, events are decided and appended, and whoever waits is told.

All commands of a process go through one committer. It takes everything that waits, enters the
journal's exclusive section, catches up with what others appended, decides, appends one batch and
leaves. While the disk syncs that batch, the next one gathers (group commit). Nothing polls.

What is acknowledged when: `enqueue` returns, and a result is handed out, once it is durable;
everything else once it is written.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from typing import TYPE_CHECKING

from omniq.clock import SystemClock, SystemEntropy
from omniq.core import events as ev
from omniq.core.snapshot import Capture
from omniq.errors import (
    JournalConflict,
    OmniqError,
    QueueFull,
    SerializationError,
    StorageClosed,
    StorageError,
    StorageFull,
    TaskNotFound,
)
from omniq.following import UNREADABLE, Follower
from omniq.host import host_name
from omniq.orders import (
    CommandOrder,
    NewTasks,
    decide_all,
    failure_of,
    is_large,
    name_all,
    outcomes_of,
    take_batch,
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
    from omniq.orders import Answers, Order
    from omniq.storage.base import BaseStorage, Bookmark
    from omniq.syncing import Waiter

__all__ = ("AsyncTaskQueue",)

MAX_WAITING_COMMANDS = 100_000  # beyond it `QueueFull`: the caller is faster than the disk
READ_APART_EVENTS = 256  # who is further behind does not read while all others wait for the journal
READ_APART_TIMES = 8  # but others may be faster for ever, so then it does
RETRY_APPEND_SECONDS = 0.5  # how long outcomes that could not be written wait for the next try

_NO_TASK = ev.TaskEnqueued(task_id="", name="", queue="", payload=b"")
_FINAL = (StorageClosed, *UNREADABLE)  # the journal cannot be used any longer

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
        self._orders: deque[Order] = deque()
        self._ordered = asyncio.Event()
        self._follower = Follower(storage, on_loaded=self._loaded, on_failure=self._fail)
        self._syncer = Syncer(storage, self.clock, self._fail)
        self.upkeep = Upkeep(
            storage,
            self.clock,
            retention_us=retention_us,
            archive_url=archive_url,
            capture=self._capture,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None

    async def open(self) -> None:
        """Open the journal and begin to take commands."""
        await self.storage.open()
        self.actor = f"{self.entropy.name()}@{host_name()}:{os.getpid()}"
        self._tasks = [asyncio.create_task(self._commit_forever(), name="omniq-committer")]

    async def close(self) -> None:
        """Write what was ordered, make it durable, and close the journal."""
        try:
            if self._tasks and self._failure is None:
                await self.flush()
        except StorageError as error:
            # Whoever waited for something was told; what nobody waited for happens again.
            message = "the journal %s was closed before everything was written: %s"
            _log.warning(message, self.storage.location, error, extra={"action": "closed_early"})
        finally:
            await self._follower.close()
            tasks, self._tasks = self._tasks, []
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
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
        future: asyncio.Future[Sequence[ev.TaskEnqueued]] = asyncio.Future()
        self._order(NewTasks(like, payloads, future, durable=True))
        return future

    async def execute(self, command: cmd.Command) -> Sequence[ev.Event]:
        """Carry out a command and return its events, which are written when this returns."""
        await self.load()
        future: asyncio.Future[Sequence[ev.Event]] = asyncio.Future()
        self._order(CommandOrder(command, future, durable=False))
        return await future

    def post(self, command: cmd.Command) -> None:
        """Order a command whose answer nobody waits for, such as an attempt's outcome."""
        self._orders.append(CommandOrder(command, None, durable=False))
        self._ordered.set()

    async def settle(self) -> None:
        """Return once everything ordered so far is written, or was refused."""
        future: asyncio.Future[object] = asyncio.Future()
        self._order(NewTasks(_NO_TASK, (), future, durable=False))
        await future

    async def flush(self) -> None:
        """Return once everything ordered so far is durable."""
        await self.settle()
        if self.is_loaded:
            await self.make_durable(self.projection.seq)

    def _order(self, order: Order) -> None:
        if self._failure is not None or not self._tasks:
            self._check()
        if len(self._orders) >= MAX_WAITING_COMMANDS:
            raise QueueFull(
                f"{len(self._orders)} commands of this process wait to be written to "
                f"{self.storage.location}. Next: await earlier calls before making more"
            )
        self._orders.append(order)
        self._ordered.set()

    def _check(self) -> None:
        if not self._tasks:
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
        self._tasks.append(asyncio.create_task(self.upkeep.run(), name="omniq-upkeep"))

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

    # The committer.

    async def _commit_forever(self) -> None:
        while True:
            await self._ordered.wait()
            # What follows from it, such as the next claim, joins it; and where a worker drains, its
            # host's timers come between the tasks that it ran and their commit.
            if self._follower.listeners:
                await asyncio.sleep(0)
            self._ordered.clear()
            while self._orders:
                batch: list[Order] = []
                try:
                    batch = take_batch(self._orders)
                    await self._commit_what_fits(batch)
                except Exception as error:  # noqa: BLE001 - whatever it is, everyone is told
                    self._refuse(batch, error)
                    break
                if self._orders:
                    await asyncio.sleep(0)  # a commit may take 10 ms of somebody's event loop

    async def _commit_what_fits(self, batch: list[Order]) -> None:
        """Commit a batch; on a full disk, into the room kept for them, only its outcomes.

        The smallest come first. What was committed or refused is taken out of the batch.
        """
        try:
            await self._commit_readable(batch)
        except StorageFull as error:
            self._refuse([order for order in batch if order.future is not None], error)
            batch[:] = outcomes_of(batch)
            with self.storage.reserve():
                while batch:
                    await self._commit_readable(batch[:1])
                    del batch[0]
                    await asyncio.sleep(0)

    async def _commit_readable(self, batch: list[Order]) -> None:
        """Commit a batch; if an order in it cannot be written, that one alone is refused."""
        try:
            await self._commit(batch)
        except SerializationError as error:
            if len(batch) > 1:
                for order in batch:
                    await self._commit_readable([order])
                return
            order = batch[0]
            if order.future is not None:
                tell(order.future, error)
            elif (failure := failure_of(order, error)) is not None:
                await self._commit_readable([CommandOrder(failure, None, durable=False)])

    async def _commit(self, batch: list[Order]) -> None:
        """Append the events of a batch as one commit and answer whoever ordered it."""
        commit, answers = await self._append(batch)
        durably: list[Waiter] = []
        for order, answer in zip(batch, answers, strict=True):
            future = order.future
            if future is None:
                continue
            if isinstance(answer, OmniqError):
                tell(future, answer)
            elif order.durable:
                durably.append((future, answer))
            elif not future.done():
                future.set_result(answer)
        self._syncer.acknowledge(0 if commit is None else commit.last_seq, durably)
        if commit is not None:
            self._follower.announce(commit)
            self._syncer.soon(commit.last_seq)
            if self.is_loaded:
                self.upkeep.appended(commit, self.projection)

    async def _append(self, batch: list[Order]) -> tuple[ev.Commit | None, Answers]:
        """Append the events of a batch in a turn that finds this process nearly up to date.

        While it waits for its turn, the follower reads what others write. If it is far behind all
        the same, it reads while the next one appends.
        """
        follower, patience = self._follower, READ_APART_TIMES
        while True:
            async with self.storage.exclusive(), follower.exclusive:
                if not follower.is_loaded:
                    return await self._append_unread(batch)
                if self.storage.known - follower.state.seq <= READ_APART_EVENTS or not patience:
                    if is_large(batch):
                        return await self._append_large(batch)
                    return await self._decide_and_append(batch)
            patience -= 1
            async with follower.exclusive:
                await follower.catch_up()

    async def _append_large(self, batch: list[Order]) -> tuple[ev.Commit | None, Answers]:
        """Append more new tasks than should be taken in at once, and then take them in by parts.

        They are not tried first: new tasks are what they are, whatever else is in the journal.
        """
        await self._follower.catch_up()
        commit, answers = await self._append_unread(batch)
        if commit is not None:
            await self._follower.take_in(commit)
        return commit, answers

    async def _append_unread(self, batch: list[Order]) -> tuple[ev.Commit | None, Answers]:
        """Append new tasks without knowing what else is in the journal."""
        now, durable = self.clock.now_us(), any(order.durable for order in batch)
        events, answers = await name_all(batch, self.entropy.task_ids(now))
        if not events:
            return None, answers
        commit = await self.storage.append(events, at=now, actor=self.actor, durable=durable)
        return commit, answers

    async def _decide_and_append(self, batch: list[Order]) -> tuple[ev.Commit | None, Answers]:
        state = self.projection
        while True:
            await self._follower.catch_up()
            seq, at = state.seq, max(self.clock.now_us(), state.at)
            state.begin(at)
            try:
                events, answers = decide_all(state, batch, at, self.entropy.task_ids(at))
                if not events:
                    state.rollback()
                    return None, answers
                durable = any(order.durable for order in batch)
                commit = await self.storage.append(
                    events, at=at, actor=self.actor, expected=seq, durable=durable
                )
            except JournalConflict:
                state.rollback()
                continue
            except BaseException:
                state.rollback()
                raise
            state.keep()
            return commit, answers

    def _refuse(self, batch: list[Order], error: Exception) -> None:
        """Nothing of this batch was written: say so to whoever waits, and keep the outcomes.

        An attempt's outcome exists only here, so it is tried again until it can be written, for
        example when there is room on the disk. What it said of its progress is not.
        """
        for order in batch:
            if order.future is not None:
                tell(order.future, error)
        if isinstance(error, _FINAL) or not isinstance(error, OmniqError | OSError):
            self._fail(error)
            return
        self._orders.extendleft(reversed(outcomes_of(batch)))
        if self._orders:
            message = "%d commands could not be written and will be tried again: %s"
            count = len(self._orders)
            extra = {"action": "append_failed", "commands": count}
            _log.warning(message, count, error, extra=extra)
            self.clock.call_later(RETRY_APPEND_SECONDS, self._ordered.set)

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
        futures += [order.future for order in self._orders if order.future is not None]
        self._orders.clear()
        for future in futures:
            tell(future, error)
        for listener in tuple(self._follower.listeners):
            listener.on_failure(error)
