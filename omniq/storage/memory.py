"""A journal in memory: the reference for what a backend does, and for tests. Nothing survives."""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_left
from contextlib import suppress
from typing import TYPE_CHECKING

from omniq.core.events import Commit
from omniq.errors import JournalConflict, StorageClosed, StorageError
from omniq.storage.base import BaseStorage, Bookmark, Head, Snapshot, events_of
from omniq.storage.encoding import chain, encode_commit
from omniq.storage.snapshots import KEPT

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Sequence

    from omniq.core.events import Event

__all__ = ("MemoryStorage",)


class _Journal:
    """What the handles of one journal share; they may belong to loops in different threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.commits: list[Commit] = []
        self.ends: list[Head] = [Head()]  # before the first commit, and of each
        self.snapshots: list[Snapshot] = []
        self.waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []


def _seq_of(snapshot: Snapshot) -> int:
    return snapshot.bookmark.seq


class MemoryStorage(BaseStorage):
    """One handle on a journal in memory; `sibling` gives another one on the same journal.

    Everything is as durable as it gets the moment it is appended.
    """

    def __init__(self, *, _journal: _Journal | None = None) -> None:
        self._shared = _journal or _Journal()
        self._is_open = False

    @property
    def _journal(self) -> _Journal:
        if not self._is_open:
            raise StorageClosed("this handle on a journal in memory is not open")
        return self._shared

    @property
    def location(self) -> str:
        return "memory://"

    def sibling(self) -> MemoryStorage:
        return MemoryStorage(_journal=self._shared)

    async def open(self) -> None:
        self._is_open = True

    async def close(self) -> None:
        """Keep the journal, which lives as long as one of its handles, open or not."""
        self._is_open = False

    async def append(
        self,
        events: Sequence[Event],
        *,
        at: int,
        actor: str,
        expected: int | None = None,
        durable: bool = False,  # noqa: ARG002 - what is in memory is as durable as it gets
    ) -> Commit:
        journal = self._journal
        with journal.lock:
            head = journal.ends[-1]
            if expected is not None and expected != head.seq:
                raise JournalConflict(expected, head.seq)
            commit = Commit(head.seq + 1, max(at, head.at), actor, list(events))
            digest = chain(head.digest, encode_commit(commit))
            journal.commits.append(commit)
            journal.ends.append(Head(commit.last_seq, commit.at, digest))
            waiting, journal.waiting = journal.waiting, []
        for loop, event in waiting:
            with suppress(RuntimeError):  # a loop that was closed waits for nothing
                loop.call_soon_threadsafe(event.set)
        return commit

    async def read(self, after: int, limit: int = 4096) -> list[Commit]:
        commits, begins = self._journal.commits, self._journal.ends[0].seq
        if after < begins:
            raise StorageError(
                f"the events up to {begins} were dropped, so {after} has no next one"
            )
        start = bisect_left(commits, after + 1, key=lambda commit: commit.first_seq)
        stop, count = start, 0
        while stop < len(commits) and count < limit:
            count += len(commits[stop].events)
            stop += 1
        return commits[start:stop]

    async def read_task(self, task_id: str) -> list[tuple[int, Commit, Event]]:
        return [found for commit in self._journal.commits for found in events_of(commit, task_id)]

    async def head(self) -> Head:
        return self._journal.ends[-1]

    @property
    def durable(self) -> int:
        return self._journal.ends[-1].seq

    async def sync(self, seq: int) -> None:
        ends = self._journal.ends[-1].seq
        if seq > ends:
            raise StorageError(f"sequence number {seq} is behind the end, {ends}")

    async def beginning(self) -> Head:
        return self._journal.ends[0]

    async def bookmark(self, seq: int) -> Bookmark:
        ends = self._journal.ends
        end = ends[bisect_left(ends, seq, key=lambda end: end.seq)]
        return Bookmark(seq, end.at, end.digest)

    async def save_snapshot(self, bookmark: Bookmark, parts: AsyncIterable[bytes]) -> None:
        snapshot = Snapshot(bookmark, [part async for part in parts])
        journal = self._journal
        with journal.lock:
            others = [kept for kept in journal.snapshots if kept.bookmark.seq != bookmark.seq]
            journal.snapshots = sorted([*others, snapshot], key=_seq_of)[-KEPT:]

    async def snapshot_seq(self) -> int:
        return max(map(_seq_of, self._journal.snapshots), default=0)

    async def load_snapshot(self, before: int | None = None) -> Snapshot | None:
        for snapshot in reversed(self._journal.snapshots):
            if before is None or _seq_of(snapshot) < before:
                return snapshot
        return None

    async def drop_history(self, *, before: int, until: int) -> Head:
        journal = self._journal
        with journal.lock:
            limit = (
                min(until, _seq_of(journal.snapshots[0])) if len(journal.snapshots) == KEPT else 0
            )
            count = 0
            while journal.ends[count + 1].seq <= limit and journal.ends[count + 1].at < before:
                count += 1
            del journal.commits[:count], journal.ends[:count]
        return journal.ends[0]

    async def wait(self, seq: int) -> None:
        journal, event = self._journal, asyncio.Event()
        entry = (asyncio.get_running_loop(), event)
        with journal.lock:
            if journal.ends[-1].seq > seq:
                return
            journal.waiting.append(entry)
        try:
            await event.wait()
        finally:
            with journal.lock:
                if entry in journal.waiting:
                    journal.waiting.remove(entry)
