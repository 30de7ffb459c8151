"""Reading a journal from its beginning to its end, commit by commit, in bounded memory.

The journal may be in use: its end is where it ended when it was opened, so that a report is of
one moment, and ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

from omniq.config import open_storage
from omniq.core.projection import Projection
from omniq.core.snapshot import restore
from omniq.errors import ConfigError, CorruptJournal, StorageError, UnsupportedFormat
from omniq.storage.archive import ARCHIVED, Archive, ArchiveDisk
from omniq.storage.file import FileStorage
from omniq.storage.folder import SegmentFolder
from omniq.storage.memory import MemoryStorage
from omniq.storage.sqlite import SQLiteStorage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from omniq.core.events import Commit
    from omniq.storage.base import BaseStorage, Head, Snapshot
    from omniq.tools.points import Point

__all__ = (
    "Journal",
    "Progress",
    "find_archive",
    "find_storage",
    "first_state",
    "fold_until",
    "is_behind",
    "opened",
    "printable",
    "whole",
)

READ_EVENTS = 4096  # at a time
SHOW_AFTER_SECONDS = 1.0  # work that takes longer shows how far it is
SHOW_EVERY_SECONDS = 0.2


class Progress:
    """How far long work is, on standard error if that is a terminal.

    Work that prints to a terminal as it goes is `seen` to go on, and needs none.
    """

    def __init__(self, total: int = 0, stream: TextIO | None = None, *, seen: bool = False) -> None:
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._next = time.monotonic() + SHOW_AFTER_SECONDS
        self._is_shown = False
        self._is_wanted = self._stream.isatty() and not seen

    def at(self, seq: int) -> None:
        """Say that everything up to this sequence number was read."""
        if not self._is_wanted or (now := time.monotonic()) < self._next:
            return
        self._next = now + SHOW_EVERY_SECONDS
        self._is_shown = True
        share = f" of {self._total:,} events, {100 * seq // self._total} %" if self._total else ""
        self._stream.write(f"\r\x1b[Kread {seq:,}{share}")
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.done()

    def done(self) -> None:
        """Take the line away again."""
        if self._is_shown:
            self._is_shown = False
            self._stream.write("\r\x1b[K")
            self._stream.flush()


class Journal:
    """An open journal, up to the head that it had when it was opened."""

    def __init__(self, storage: BaseStorage, beginning: Head, head: Head) -> None:
        self.storage = storage
        self.beginning = beginning  # what is before it was dropped
        self.head = head
        self.location = printable(storage.location)
        self.backend = "sqlite" if isinstance(storage, SQLiteStorage) else "file"
        self.is_seen = False  # whether everything that is read is printed to a terminal
        self.torn_bytes = 0
        if isinstance(storage, FileStorage) and storage.torn is not None:
            self.torn_bytes = storage.torn.length

    async def commits(self, after: int = 0) -> AsyncIterator[list[Commit]]:
        """Yield the commits with events behind `after`, some at a time."""
        end = self.head.seq
        after = max(after, self.beginning.seq)
        seq = after
        with Progress(end, seen=self.is_seen) as progress:
            while seq < end:
                try:
                    batch = await self.storage.read(seq, READ_EVENTS)
                except CorruptJournal:
                    raise
                except StorageError:
                    if seq != after or after == self.beginning.seq:
                        raise
                    # `after` lies inside of a commit, which a storage need not find.
                    seq = self.beginning.seq
                    continue
                if not batch:
                    return
                seq = batch[-1].last_seq
                wanted = [
                    commit
                    for commit in batch
                    if after < commit.last_seq and commit.first_seq <= end
                ]
                if wanted:
                    yield wanted
                progress.at(seq)
                await asyncio.sleep(0)  # a chance for Ctrl-C

    async def followed(self, after: int = 0) -> AsyncIterator[list[Commit]]:
        """Yield the commits with events behind `after`, and for ever those that come."""
        while True:
            async for batch in self.commits(after):
                yield batch
            after = max(after, self.head.seq)
            await self.storage.wait(after)
            self.head = await self.storage.head()

    def bytes_on_disk(self) -> int:
        """Return how much room the journal takes, without locks and other things beside it."""
        if isinstance(self.storage, FileStorage):
            folder = SegmentFolder(self.storage.disk, self.storage.path, writable=False)
            return folder.bytes_on_disk()
        if isinstance(self.storage, SQLiteStorage):
            return _sqlite_bytes(self.storage.path)
        return 0


def _sqlite_bytes(path: Path) -> int:
    paths = (path, path.with_name(f"{path.name}-wal"))
    return sum(part.stat().st_size for part in paths if part.exists())


def printable(text: str) -> str:
    """Return a path as text that can be encoded, whatever bytes its names are made of."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def find_storage(location: str) -> BaseStorage:
    """Return the storage that a location means, read-only and not open yet.

    What is there decides: a directory with a name that ends in .db is a file journal.
    """
    path = Path(location)
    if (archive := find_archive(location)) is not None:
        return FileStorage(location, read_only=True, disk=ArchiveDisk(archive))
    if "://" not in location and location.strip():
        if path.is_dir():
            return FileStorage(path, read_only=True)
        if path.is_file():
            return SQLiteStorage(path, read_only=True)
        if not path.exists():
            raise UnsupportedFormat(f"{printable(location)} does not exist")
    storage = open_storage(location, read_only=True)
    if isinstance(storage, MemoryStorage):
        raise ConfigError(
            "a journal in memory is gone with its process. Next: name a directory or a file"
        )
    return storage


def find_archive(location: str) -> Archive | None:
    """Return the archive that a location means: a folder of archived segments, or another URL."""
    scheme, separator, rest = location.partition("://")
    if not separator or scheme == "file":
        folder = Path(location.removeprefix("file://"))
        if not folder.is_dir() or not any(folder.glob(f"*{ARCHIVED}")):
            return None
        return Archive(str(folder))
    if scheme == "sqlite" or (scheme == "memory" and not rest):
        return None
    return Archive(location)


@asynccontextmanager
async def opened(location: str) -> AsyncGenerator[Journal]:
    """Open a journal for reading, and close it afterwards."""
    storage = find_storage(location)
    await storage.open()
    try:
        yield Journal(storage, await storage.beginning(), await storage.head())
    finally:
        await storage.close()


async def fold_until(journal: Journal, seq: int | None = None, at: int | None = None) -> Projection:
    """Return the state after sequence number `seq`, after time `at`, or at the end."""
    state = await first_state(journal, seq, at)
    async for batch in journal.commits(state.seq):
        for commit in batch:
            if at is not None and commit.at > at:
                return state
            if seq is not None and commit.last_seq > seq:
                state.at = commit.at if seq >= commit.first_seq else state.at
                for event in commit.events[: max(0, seq - state.seq)]:
                    state.apply_events((event,))
                return state
            state.apply(commit)
    return state


async def first_state(
    journal: Journal, seq: int | None = None, at: int | None = None
) -> Projection:
    """Return where a fold begins: with nothing, or with a snapshot if history was dropped."""
    if not journal.beginning.seq:
        return Projection()
    before: int | None = None
    while (snapshot := await _snapshot_before(journal, before)) is not None:
        before, mark = snapshot.bookmark.seq, snapshot.bookmark
        if (seq is None or mark.seq <= seq) and (at is None or mark.at <= at):
            return whole(snapshot)
    raise ConfigError(
        f"the events up to {journal.beginning.seq} were dropped, and no snapshot is of a state so "
        f"early. Next: ask for {before} or later, or read the archive"
    )


async def _snapshot_before(journal: Journal, before: int | None) -> Snapshot | None:
    try:
        return await journal.storage.load_snapshot(before)
    except CorruptJournal:
        if before is None:  # there is none at all, and nothing to begin with
            raise
        return None


def is_behind(seq: int, at: int, until: Point) -> bool:
    """Whether an event with this number and time is behind a point."""
    return (until.seq is not None and seq > until.seq) or (until.at is not None and at > until.at)


def whole(snapshot: Snapshot) -> Projection:
    """Return the state of a snapshot; raises `UnsupportedFormat` for another version's."""
    state = Projection()
    try:
        for grown in restore(snapshot.parts):
            state = grown
    except UnsupportedFormat as error:
        raise UnsupportedFormat(
            f"the snapshot at sequence number {snapshot.bookmark.seq}: {error}"
        ) from None
    return state
