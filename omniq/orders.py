"""Commands on their way to the committer, and how many of them make one commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from omniq.core import commands as cmd
from omniq.core.events import ErrorRecord

if TYPE_CHECKING:
    import asyncio
    from collections import deque

__all__ = ("Order", "failure_of", "take_batch")

MAX_BATCH_EVENTS = 4096  # keeps a commit's work on the event loop below about 20 ms
MAX_BATCH_BYTES = 8 * 1024 * 1024  # of payloads and results; a single command may have more


class Order(NamedTuple):
    """A command that was ordered. Without a future nobody waits for its answer."""

    command: cmd.Command
    future: asyncio.Future[Any] | None
    durable: bool


def failure_of(command: cmd.Command, error: Exception) -> cmd.Fail | None:
    """Return the outcome to write in the place of one that cannot be written."""
    if not isinstance(command, cmd.Succeed | cmd.Fail | cmd.Release | cmd.AcknowledgeCancel):
        return None
    kind, message = type(error).__name__, ascii(str(error))[1:-1]
    record = ErrorRecord(kind, message, retryable=False)
    failure = cmd.Fail(command.task_id, command.attempt, command.worker, record)
    return None if failure == command else failure


def take_batch(orders: deque[Order]) -> list[Order]:
    """Remove and return the next orders, at least one, that fit into one commit."""
    batch: list[Order] = []
    events = size = 0
    while orders:
        more_events, more_size = _weight(orders[0].command)
        events, size = events + more_events, size + more_size
        if batch and (events > MAX_BATCH_EVENTS or size > MAX_BATCH_BYTES):
            break
        batch.append(orders.popleft())
    return batch


def _weight(command: cmd.Command) -> tuple[int, int]:
    """Return about how many events a command makes, and how many bytes they carry."""
    if isinstance(command, cmd.Enqueue):
        return len(command.tasks), sum([_length(task.payload) for task in command.tasks])
    if isinstance(command, cmd.Claim):
        return command.limit, 0
    return 1, _length(command.result) if isinstance(command, cmd.Succeed) else 0


def _length(value: bytes) -> int:
    return len(value) if isinstance(value, bytes) else 0  # what is no bytes is refused later
