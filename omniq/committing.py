"""The committer: whatever a process orders, it decides and appends to the journal, in batches.

It takes everything that waits, enters the journal's exclusive section, catches up with what others
appended, decides, appends one batch and leaves. While the disk syncs that batch, the next one
gathers (group commit).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from omniq.errors import (
    JournalConflict,
    OmniqError,
    QueueFull,
    SerializationError,
    StorageClosed,
    StorageError,
    StorageFull,
)
from omniq.following import UNREADABLE
from omniq.orders import (
    CommandOrder,
    decide_all,
    failure_of,
    is_large,
    name_all,
    outcomes_of,
    take_batch,
)
from omniq.syncing import tell

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from omniq.clock import Clock, Entropy
    from omniq.core import events as ev
    from omniq.following import Follower
    from omniq.orders import Answers, Order
    from omniq.storage.base import BaseStorage
    from omniq.syncing import Syncer, Waiter

__all__ = ("Committer",)

MAX_WAITING_COMMANDS = 100_000  # beyond it `QueueFull`: the caller is faster than the disk
READ_APART_EVENTS = 256  # who is further behind does not read while all others wait for the journal
READ_APART_TIMES = 8  # but others may be faster for ever, so then it does
RETRY_APPEND_SECONDS = 0.5  # how long outcomes that could not be written wait for the next try

_FINAL = (StorageClosed, *UNREADABLE)  # the journal cannot be used any longer

_log = logging.getLogger(__name__)


class Committer:
    """Takes the orders of one engine, and answers them once they are written, or durable.

    `on_commit` is called for each commit, `on_failure` when the journal cannot be used any longer.
    """

    def __init__(
        self,
        storage: BaseStorage,
        follower: Follower,
        syncer: Syncer,
        *,
        clock: Clock,
        entropy: Entropy,
        on_commit: Callable[[ev.Commit], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._actor = ""
        self._storage = storage
        self._follower = follower
        self._syncer = syncer
        self._clock = clock
        self._entropy = entropy
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._orders: deque[Order] = deque()
        self._ordered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_open = False

    def open(self, actor: str) -> None:
        """Begin to commit under this name, on the running event loop."""
        self._actor = actor
        self._is_open = True
        self._begin(self._commit_forever())

    async def close(self) -> None:
        """Commit no more."""
        self._is_open = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def order(self, order: Order) -> None:
        """Take an order; raises `QueueFull` if more of them wait than the disk keeps up with."""
        if self._task is None:
            self._begin(self._commit_all())
        if len(self._orders) >= MAX_WAITING_COMMANDS:
            raise QueueFull(
                f"{len(self._orders)} commands of this process wait to be written to "
                f"{self._storage.location}. Next: await earlier calls before making more"
            )
        self._orders.append(order)
        self._ordered.set()

    def post(self, order: Order) -> None:
        """Take an order in any case, such as an attempt's outcome."""
        self._orders.append(order)
        self._ordered.set()

    def take_waiting(self) -> list[asyncio.Future[object]]:
        """Forget what was ordered; return the futures of those who wait, for the owner to tell."""
        futures = [order.future for order in self._orders if order.future is not None]
        self._orders.clear()
        return futures

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        self._task = asyncio.create_task(work, name="omniq-committer")
        self._task.add_done_callback(self._on_end)

    def _on_end(self, _: object) -> None:
        # Who ends an event loop cancels all its tasks. Some have something to write even then.
        self._task = None
        if self._is_open and self._orders:
            self._begin(self._commit_all())

    async def _commit_forever(self) -> None:
        while True:
            await self._ordered.wait()
            # What follows from it, such as the next claim, joins it; and where a worker drains, its
            # host's timers come between the tasks that it ran and their commit.
            if self._follower.listeners:
                await asyncio.sleep(0)
            self._ordered.clear()
            await self._commit_all()

    async def _commit_all(self) -> None:
        """Commit what was ordered, a batch at a time."""
        while self._orders:
            batch = take_batch(self._orders)
            try:
                await self._commit_what_fits(batch)
            except asyncio.CancelledError:
                self._drop(batch)
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, everyone is told
                self._refuse(batch, error)
                return
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
            with self._storage.reserve():
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
            self._on_commit(commit)

    async def _append(self, batch: list[Order]) -> tuple[ev.Commit | None, Answers]:
        """Append the events of a batch in a turn that finds this process nearly up to date.

        While it waits for its turn, the follower reads what others write. If it is far behind all
        the same, it reads while the next one appends.
        """
        follower, patience = self._follower, READ_APART_TIMES
        while True:
            async with self._storage.exclusive(), follower.exclusive:
                if not follower.is_loaded:
                    return await self._append_unread(batch)
                if self._storage.known - follower.state.seq <= READ_APART_EVENTS or not patience:
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
        now, durable = self._clock.now_us(), any(order.durable for order in batch)
        events, answers = await name_all(batch, self._entropy.task_ids(now))
        if not events:
            return None, answers
        commit = await self._storage.append(events, at=now, actor=self._actor, durable=durable)
        return commit, answers

    async def _decide_and_append(self, batch: list[Order]) -> tuple[ev.Commit | None, Answers]:
        state = self._follower.state
        while True:
            await self._follower.catch_up()
            seq, at = state.seq, max(self._clock.now_us(), state.at)
            state.begin(at)
            try:
                events, answers = decide_all(state, batch, at, self._entropy.task_ids(at))
                if not events:
                    state.rollback()
                    return None, answers
                durable = any(order.durable for order in batch)
                commit = await self._storage.append(
                    events, at=at, actor=self._actor, expected=seq, durable=durable
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
            self._on_failure(error)
            return
        self._orders.extendleft(reversed(outcomes_of(batch)))
        if self._orders:
            message = "%d commands could not be written and will be tried again: %s"
            count = len(self._orders)
            extra = {"action": "append_failed", "commands": count}
            _log.warning(message, count, error, extra=extra)
            self._clock.call_later(RETRY_APPEND_SECONDS, self._ordered.set)

    def _drop(self, batch: list[Order]) -> None:
        """Nobody knows whether this batch was written; an outcome counts only once in any case."""
        where = self._storage.location
        unknown = StorageError(f"the event loop ended while this was written to {where}")
        for order in batch:
            if order.future is not None:
                tell(order.future, unknown)
        self._orders.extendleft(reversed(outcomes_of(batch)))
