"""Commands on their way to the committer: how many make one commit, and what follows from them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, final

import msgspec
from msgspec.structs import replace

from omniq.core import commands as cmd
from omniq.core.decide import decide
from omniq.core.events import ErrorRecord, TaskEnqueued
from omniq.errors import OmniqError
from omniq.parts import by_parts

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterator

    from omniq.core.events import Event
    from omniq.core.projection import Projection

__all__ = (
    "Answers",
    "CommandOrder",
    "NewTasks",
    "Order",
    "decide_all",
    "failure_of",
    "is_large",
    "name_all",
    "outcomes_of",
    "take_batch",
)

MAX_BATCH_EVENTS = 2048  # keeps a commit's work on the event loop below about 10 ms
MAX_BATCH_BYTES = 8 * 1024 * 1024  # of payloads and results; a single command may have more


# To each order of a batch: the events that it made, or why it was refused.
type Answers = list[Sequence[Event] | OmniqError]


@final
class CommandOrder(msgspec.Struct):
    """A command that was ordered. Without a future nobody waits for its answer."""

    command: cmd.Command
    future: asyncio.Future[Any] | None
    durable: bool


@final
class NewTasks(msgspec.Struct):
    """Tasks like this one, with these payloads, that are to be enqueued, all or none.

    They get their ids when they are committed, as the ids of a whole batch take little more time
    than one.
    """

    like: TaskEnqueued
    payloads: Sequence[bytes]
    size: int  # of all payloads, in bytes
    future: asyncio.Future[Any]
    durable: bool

    def named(self, payloads: Sequence[bytes], ids: Iterator[str]) -> list[TaskEnqueued]:
        """Return the events of those with these payloads, under the next of these ids."""
        like = self.like
        if len(payloads) == 1:  # most have one, and it takes a third of the time
            tasks = [replace(like, task_id=next(ids), payload=payloads[0])]
        else:
            named = zip(payloads, ids, strict=False)
            tasks = [replace(like, task_id=name, payload=payload) for payload, name in named]
        if like.interval_us:
            tasks = [replace(task, series_id=task.task_id) for task in tasks]
        return tasks

    @property
    def is_large(self) -> bool:
        """Whether these tasks alone are too many to be taken in at once."""
        return len(self.payloads) > MAX_BATCH_EVENTS


type Order = CommandOrder | NewTasks


def outcomes_of(batch: list[Order]) -> list[CommandOrder]:
    """Return the orders that nobody waits for and that say how an attempt ended, small ones first.

    They exist nowhere else, while whoever waits for an answer can be told to try again.
    """
    commands = [order for order in batch if type(order) is CommandOrder and order.future is None]
    outcomes = [order for order in commands if _outcome_in(order) is not None]
    return sorted(outcomes, key=lambda order: _weight(order.command))


def decide_all(
    state: Projection, batch: list[Order], at: int, ids: Iterator[str]
) -> tuple[list[Event], Answers]:
    """Decide one command after the other, each on the state that those before it leave.

    New tasks get the next of `ids`. Returns the events of all, and the answer to each: its events,
    or why it was refused.
    """
    events: list[Event] = []
    answers: Answers = []
    for order in batch:
        if type(order) is NewTasks:
            command: cmd.Command = cmd.Enqueue(tuple(order.named(order.payloads, ids)))
        else:
            command = order.command
        try:
            decided = decide(state, command, at)
        except OmniqError as refusal:
            answers.append(refusal)
            continue
        state.apply_events(decided)
        events.extend(decided)
        answers.append(decided)
    return events, answers


async def name_all(batch: list[Order], ids: Iterator[str]) -> tuple[list[Event], Answers]:
    """Return what `decide_all` would for new tasks alone, which needs no state."""
    events: list[Event] = []
    answers: Answers = []
    for order in batch:
        assert type(order) is NewTasks, "who orders a command loads the state"
        like, payloads = order.like, order.payloads
        if len(payloads) == 1 and not like.interval_us:  # most have one, so nothing is called
            task = replace(like, task_id=next(ids), payload=payloads[0])
            events.append(task)
            answers.append((task,))
            continue
        if order.is_large:
            tasks = await by_parts(payloads, partial(order.named, ids=ids))
        else:
            tasks = order.named(payloads, ids)
        events.extend(tasks)
        answers.append(tasks)
    return events, answers


def is_large(batch: list[Order]) -> bool:
    """Whether this is a single order of many new tasks, which are taken in by parts."""
    return len(batch) == 1 and type(batch[0]) is NewTasks and batch[0].is_large


def failure_of(order: Order, error: Exception) -> cmd.Fail | None:
    """Return the outcome to write in the place of one that cannot be written."""
    outcome = _outcome_in(order)
    if outcome is None:
        return None
    kind, message = type(error).__name__, ascii(str(error))[1:-1]
    record = ErrorRecord(kind, message, retryable=False)
    failure = cmd.Fail(outcome.task_id, outcome.attempt, outcome.worker, record)
    return None if failure == outcome else failure


def take_batch(orders: deque[Order]) -> list[Order]:
    """Remove and return the next orders, at least one, that fit into one commit."""
    if len(orders) == 1:
        return [orders.popleft()]
    events = size = 0
    for count, order in enumerate(orders):
        # The most common order, so nothing is called; for a Struct, isinstance takes long.
        if type(order) is NewTasks:
            events += len(order.payloads)
            size += order.size
        else:
            more_events, more_size = _weight(order.command)
            events, size = events + more_events, size + more_size
        if count and (events > MAX_BATCH_EVENTS or size > MAX_BATCH_BYTES):
            return [orders.popleft() for _ in range(count)]
    batch = list(orders)
    orders.clear()
    return batch


def _outcome_in(order: Order) -> cmd.Outcome | None:
    if type(order) is CommandOrder and isinstance(
        order.command, cmd.Succeed | cmd.Fail | cmd.Release | cmd.AcknowledgeCancel
    ):
        return order.command
    return None


def _weight(command: cmd.Command) -> tuple[int, int]:
    """Return about how many events a command makes, and how many bytes they carry."""
    if type(command) is cmd.Claim:
        return command.limit, 0
    return 1, _length(command.result) if type(command) is cmd.Succeed else 0


def _length(value: bytes) -> int:
    return len(value) if type(value) is bytes else 0  # what is no bytes is refused later
