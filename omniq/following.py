"""What this process knows of its journal, and who is told as soon as it knows more.

The state is read when something first asks for it; a process that only enqueues never does. From
then on it follows what other processes append.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from omniq.core import events as ev
from omniq.core.projection import Projection
from omniq.errors import CorruptJournal, IllegalEvent, UnsupportedFormat
from omniq.finishing import Finishing
from omniq.parts import PART_ITEMS, parts_of
from omniq.upkeep import restored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from omniq.storage.base import BaseStorage

__all__ = ("UNREADABLE", "Follower", "Listener")

READ_EVENTS = 1024  # after so many events, catching up lets the event loop go on

# After these, what this process believes of the journal and what is in it may differ.
UNREADABLE = (CorruptJournal, UnsupportedFormat, IllegalEvent)


class Listener(Protocol):
    """Who wants to see every commit, in order, as soon as it is applied."""

    def on_commit(self, commit: ev.Commit) -> None: ...

    def on_failure(self, error: BaseException) -> None: ...


class Follower:
    """The state of one journal in one process.

    `on_loaded` is called once, with the sequence number of the snapshot that the state began
    with; `on_failure` if the journal cannot be followed any longer.
    """

    def __init__(
        self,
        storage: BaseStorage,
        *,
        on_loaded: Callable[[int], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.state = Projection()
        self.is_loaded = False
        # Whoever holds it may change the state. The journal's exclusive section comes first.
        self.exclusive = asyncio.Lock()
        self.finishing = Finishing()
        self.listeners: list[Listener] = []
        self._ahead: deque[ev.Commit] = deque()  # read, and to be applied next
        self._storage = storage
        self._on_loaded = on_loaded
        self._on_failure = on_failure
        self._loading: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Follow no more. Loading is waited for, as others may wait for it."""
        if self._loading is not None:
            await asyncio.wait([self._loading])
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])

    async def load(self) -> None:
        """Read the journal, if that was not done yet, and follow it from now on.

        Once begun this goes on, even if all who wait for it give up: who asks again and again,
        with little patience, would else begin from nothing each time.
        """
        if self.is_loaded:
            return
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load(), name="omniq-loader")
            # If it fails, whoever waits is told, and who asks next tries again.
            self._loading.add_done_callback(lambda done: done.cancelled() or done.exception())
        loading = self._loading
        await asyncio.wait([loading])  # `shield` complains to the loop when nobody waits any longer
        loading.result()

    async def _load(self) -> None:
        async with self.exclusive:
            self.state = await restored(self._storage)
            self._ahead.clear()
            snapshot = self.state.seq
            await self.catch_up()
            self.is_loaded = True
            self._on_loaded(snapshot)
            self._following = asyncio.create_task(self._follow(), name="omniq-follower")

    async def _follow(self) -> None:
        try:
            while True:
                seq = self.state.seq
                await self._storage.wait(seq)
                async with self.exclusive:
                    if self.state.seq == seq:  # else somebody has read meanwhile
                        await self._read_on()
                # If there is more, `wait` returns at once.
        except Exception as error:  # noqa: BLE001 - whatever it is, everyone is told
            self._on_failure(error)

    async def refresh(self) -> Projection:
        """Return the state as the journal has it now, whoever appended to it."""
        await self.load()
        async with self.exclusive:
            await self.catch_up()
        return self.state

    async def catch_up(self) -> None:
        """Apply what was appended by others. The caller holds `exclusive`."""
        while await self._read_on():
            continue

    async def take_in(self, commit: ev.Commit) -> None:
        """Apply, by parts, what this process has just appended. The caller holds `exclusive`."""
        if commit.first_seq == self.state.seq + 1:  # else it is read behind what others appended
            self._ahead.extend(_parts(commit))
        await self.catch_up()

    async def _read_on(self) -> bool:
        """Apply some of what was appended by others; whether there was anything."""
        state, ahead = self.state, self._ahead
        try:
            if not ahead:
                for commit in await self._storage.read(state.seq, READ_EVENTS):
                    ahead.extend(_parts(commit))
            before = state.seq
            while ahead and state.seq - before < READ_EVENTS:
                commit = ahead.popleft()
                state.apply(commit)
                self.announce(commit)
        except UNREADABLE as error:  # else whoever looks next would go on behind it
            self._on_failure(error)
            raise
        if state.seq - before >= READ_EVENTS:
            await asyncio.sleep(0)
        return state.seq > before

    def announce(self, commit: ev.Commit) -> None:
        """Tell whoever waits for it, or listens, of a commit that was applied."""
        self.finishing.look(commit)
        for listener in self.listeners:
            listener.on_commit(commit)


def _parts(commit: ev.Commit) -> Iterator[ev.Commit]:
    """Yield a commit as one or more, which together change a state as it does."""
    if len(commit.events) <= PART_ITEMS:
        yield commit
        return
    first = commit.first_seq
    for events in parts_of(commit.events):
        yield ev.Commit(first, commit.at, commit.actor, list(events))
        first += len(events)
