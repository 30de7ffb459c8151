"""Who waits for the end of which task, and is woken by the commit that tells of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from omniq.core import events as ev

if TYPE_CHECKING:
    from omniq.core.events import Commit

__all__ = ("Finishing",)

_ENDS = frozenset({ev.TaskSucceeded, ev.TaskFailed, ev.TaskCancelled})


class Finishing:
    """The futures of those who wait, by task. Its owner shows it every commit."""

    def __init__(self) -> None:
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}

    async def wait(self, task_id: str) -> None:
        """Return once the task has ended, or was forgotten, in a commit from now on."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(task_id, []).append(future)
        try:
            await future
        finally:
            self._forget(task_id, future)

    def look(self, commit: Commit) -> None:
        """Wake those who wait for what this commit tells of."""
        if not self._waiters:
            return
        for event in commit.events:
            if type(event) in _ENDS:
                self._wake(event.task_id)  # type: ignore[union-attr] # each of them has one
            elif type(event) is ev.ResultExpired:
                for task_id in event.task_ids:
                    self._wake(task_id)

    def take_waiting(self) -> list[asyncio.Future[None]]:
        """Return the futures of all who wait, for the owner to tell them that it is in vain."""
        futures = [future for waiters in self._waiters.values() for future in waiters]
        self._waiters.clear()
        return futures

    def _wake(self, task_id: str) -> None:
        for future in self._waiters.pop(task_id, ()):
            if not future.done():
                future.set_result(None)

    def _forget(self, task_id: str, future: asyncio.Future[None]) -> None:
        waiters = self._waiters.get(task_id)
        if waiters is not None and future in waiters:
            waiters.remove(future)
            if not waiters:
                del self._waiters[task_id]
