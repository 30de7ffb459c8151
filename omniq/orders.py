"""Commands on their way to the committer: how many make one commit, and what follows from them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeIs

import msgspec

from omniq.core import commands as cmd
from omniq.core.decide import decide
from omniq.core.events import ErrorRecord
from omniq.errors import OmniqError

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Sequence

    from omniq.core.events import Event
    from omniq.core.projection import Projection

__all__ = ("Answers", "Order", "decide_all", "failure_of", "outcomes_of", "take_batch")

MAX_BATCH_EVENTS = 2048  # keeps a commit's work on the event loop below about 10 ms
MAX_BATCH_BYTES = 8 * 1024 * 1024  # of payloads and results; a single command may have more


# To each order of a batch: the events that it made, or why it was refused.
type Answers = list[Sequence[Event] | OmniqError]


class Order(msgspec.Struct):
    """A command that was ordered. Without a future nobody waits for its answer."""

    command: cmd.Command
    future: asyncio.Future[Any] | None
    durable: bool


def outcomes_of(batch: list[Order]) -> list[Order]:
    """Return the orders that nobody waits for and that say how an attempt ended, small ones first.

    They exist nowhere else, while whoever waits for an answer can be told to try again.
    """
    found = [order for order in batch if order.future is None and _is_outcome(order.command)]
    return sorted(found, key=lambda order: _weight(order.command))


def decide_all(state: Projection, batch: list[Order], at: int) -> tuple[list[Event], Answers]:
    """Decide one command after the other, each on the state that those before it leave.

    Returns the events of all, and the answer to each: its events, or why it was refused.
    """
    events: list[Event] = []
    answers: Answers = []
    for order in batch:
        try:
            decided = decide(state, order.command, at)
        except OmniqError as refusal:
            answers.append(refusal)
            continue
        for event in decided:
            state.apply_event(event)
        events.extend(decided)
        answers.append(decided)
    return events, answers


def failure_of(command: cmd.Command, error: Exception) -> cmd.Fail | None:
    """Return the outcome to write in the place of one that cannot be written."""
    if not _is_outcome(command):
        return None
    kind, message = type(error).__name__, ascii(str(error))[1:-1]
    record = ErrorRecord(kind, message, retryable=False)
    failure = cmd.Fail(command.task_id, command.attempt, command.worker, record)
    return None if failure == command else failure


def take_batch(orders: deque[Order]) -> list[Order]:
    """Remove and return the next orders, at least one, that fit into one commit."""
    if len(orders) == 1:
        return [orders.popleft()]
    events = size = 0
    for count, order in enumerate(orders):
        more_events, more_size = _weight(order.command)
        events, size = events + more_events, size + more_size
        if count and (events > MAX_BATCH_EVENTS or size > MAX_BATCH_BYTES):
            return [orders.popleft() for _ in range(count)]
    batch = list(orders)
    orders.clear()
    return batch


def _is_outcome(command: cmd.Command) -> TypeIs[cmd.Outcome]:
    return isinstance(command, cmd.Succeed | cmd.Fail | cmd.Release | cmd.AcknowledgeCancel)


def _weight(command: cmd.Command) -> tuple[int, int]:
    """Return about how many events a command makes, and how many bytes they carry."""
    if type(command) is cmd.Enqueue:  # for a Struct, isinstance takes six times as long
        if len(command.tasks) == 1:  # the most common command, so nothing is called for it
            payload = command.tasks[0].payload
            return 1, len(payload) if type(payload) is bytes else 0
        payloads = [task.payload for task in command.tasks if type(task.payload) is bytes]
        return len(command.tasks), sum(map(len, payloads))
    if type(command) is cmd.Claim:
        return command.limit, 0
    return 1, _length(command.result) if type(command) is cmd.Succeed else 0


def _length(value: bytes) -> int:
    return len(value) if type(value) is bytes else 0  # what is no bytes is refused later
