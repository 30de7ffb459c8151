"""Commands on their way to the committer, and how many of them make one commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from omniq.core import commands as cmd

if TYPE_CHECKING:
    import asyncio
    from collections import deque

__all__ = ("Order", "take_batch")

MAX_BATCH_EVENTS = 4096  # keeps a commit's work on the event loop below about 20 ms
MAX_BATCH_BYTES = 8 * 1024 * 1024  # of payloads and results; a single command may have more


class Order(NamedTuple):
    """A command that was ordered. Without a future nobody waits for its answer."""

    command: cmd.Command
    future: asyncio.Future[Any] | None
    durable: bool


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
        return len(command.tasks), sum([len(task.payload) for task in command.tasks])
    if isinstance(command, cmd.Claim):
        return command.limit, 0
    return 1, len(command.result) if isinstance(command, cmd.Succeed) else 0
