"""Making a new journal, which has its name once it is whole and durable, and not before.

It grows under another name beside the one that it will have: `NAME.….recovering`. Neither kind is
a journal while it grows: the segments have no names yet, and the database has no application id. So
a process that is killed leaves nothing that could be taken for a whole journal.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from omniq.config import open_storage
from omniq.errors import ConfigError, StorageError
from omniq.host import open_private, random_bytes, sync_file
from omniq.storage.base import Bookmark, Head
from omniq.storage.disk import Disk
from omniq.storage.encoding import chain, joined
from omniq.storage.file import FileStorage
from omniq.storage.framing import (
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    pack_frame,
    pack_segment_header,
    seed_of,
)
from omniq.storage.rows import APPLICATION_ID, SCHEMA, Table
from omniq.storage.segments import SEGMENT_BYTES, segment_name
from omniq.storage.snapshot_rows import END, SnapshotTable
from omniq.storage.snapshots import SnapshotFolder, pieces_of
from omniq.storage.sqlite import SQLiteStorage
from omniq.tools.naming import check_free, give_name, temporary_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator
    from pathlib import Path

    from omniq.core.events import Commit
    from omniq.storage.base import Snapshot

__all__ = ("FileTarget", "SQLiteTarget", "Target", "new_journal")

_WRITE_BYTES = 1 << 20
_BESIDE_A_DATABASE = ("-wal", "-shm", "-journal", "-omniq")


class Target(Protocol):
    """A journal that is being made; `head` is its end so far."""

    head: Head

    def begin(self, beginning: Head) -> None:
        """Chain the first commit to this: `Head()`, unless the history before it was dropped."""
        ...

    def write(self, commit: Commit, events: list[bytes]) -> None:
        """Append a commit, whose events are given as they are encoded."""
        ...

    def keep(self, snapshot: Snapshot) -> None:
        """Keep a snapshot of the place where the target stands."""
        ...

    def finish(self) -> None:
        """Make everything durable, and a journal."""
        ...

    def close(self) -> None:
        """Give up what is held; without `finish` before, nothing is a journal."""
        ...


class FileTarget:
    """A new folder of segments.

    The last one is empty when it is finished: what is in a segment before the last one can never be
    taken for an end that a power cut tore.
    """

    def __init__(
        self, path: Path, *, disk: Disk | None = None, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self.head = Head()
        self._path = path
        self._disk = disk or Disk()
        self._segment_bytes = segment_bytes
        self._id = random_bytes(16)
        self._seed = seed_of(self._id)
        self._names: list[str] = []  # that the files will have
        self._segments: list[int] = []
        self._descriptor = -1
        self._place = (0, 0, 0)  # segment, where the last frame begins, and where it ends
        self._waiting: list[bytes] = []  # what comes behind the bytes that are written
        self._written = 0
        self._disk.make_directory(path)

    def begin(self, beginning: Head) -> None:
        self.head = beginning
        self._begin_segment()

    def write(self, commit: Commit, events: list[bytes]) -> None:
        payload = joined(commit.first_seq, commit.at, commit.actor, events)
        if (
            self._place[2] > SEGMENT_HEADER_BYTES
            and self._place[2] + len(payload) > self._segment_bytes
        ):
            self._begin_segment()
        frame = pack_frame(
            self._seed,
            payload,
            count=len(events),
            first_seq=commit.first_seq,
            durable=self._segments[-1] - 1,
            previous=self.head.digest,
        )
        first, _, offset = self._place
        self._place = (first, offset, offset + len(frame))
        self.head = Head(commit.last_seq, commit.at, chain(self.head.digest, payload))
        self._waiting.append(frame)
        if self._place[2] - self._written > _WRITE_BYTES:
            self._write_out()

    def _begin_segment(self) -> None:
        self._end_segment()
        first, before = self.head.seq + 1, self.head
        self._segments.append(first)
        header = SegmentHeader(self._id, len(self._segments), first, before.at, before.digest)
        self._descriptor = self._create(segment_name(first))
        self._waiting, self._written = [pack_segment_header(header)], 0
        self._place = (first, 0, SEGMENT_HEADER_BYTES)

    def _create(self, name: str) -> int:
        self._names.append(name)
        path = self._path / f"{name}.tmp"
        return self._disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    def _write_out(self) -> None:
        data = b"".join(self._waiting)
        self._waiting = []
        self._disk.write_all(self._descriptor, data, self._written)
        self._written += len(data)

    def _end_segment(self) -> None:
        if self._descriptor >= 0:
            self._write_out()
            self._disk.sync(self._descriptor)
            self.close()

    def keep(self, snapshot: Snapshot) -> None:
        head = self.head
        mark = Bookmark(head.seq, head.at, head.digest, self._place)
        data = b"".join(_pieces(self._id, mark, snapshot))
        descriptor = self._create(SnapshotFolder(self._disk, self._path).file(head.seq).name)
        try:
            self._disk.write_all(descriptor, data, 0)
            self._disk.sync(descriptor)
        finally:
            self._disk.close(descriptor)

    def finish(self) -> None:
        if self._place[2] > SEGMENT_HEADER_BYTES:
            self._begin_segment()
        self._end_segment()
        for name in reversed(self._names):  # without its first segment it is no journal
            self._disk.rename(self._path / f"{name}.tmp", self._path / name)
        self._disk.sync_directory(self._path)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            self._disk.close(descriptor)


class SQLiteTarget:
    """A new database. It is in one file: what SQLite keeps beside it comes when it is opened."""

    def __init__(self, path: Path) -> None:
        self.head = Head()
        self._path = path
        self._table = Table(path)
        os.close(open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        self._connection = connection = sqlite3.connect(path, isolation_level=None)
        # Nobody needs a part of it, so it is synced once, at its end.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(SCHEMA)
        connection.execute("PRAGMA application_id = 0")
        connection.execute("BEGIN")

    def begin(self, beginning: Head) -> None:
        self.head = beginning
        if beginning.seq:
            SnapshotTable(self._path, self._table).begin_behind(self._connection, beginning)

    def write(self, commit: Commit, events: list[bytes]) -> None:
        written = self._table.write(
            self._connection, self.head.digest, commit, events, durable=True
        )
        self.head = Head(commit.last_seq, commit.at, written.digest)

    def keep(self, snapshot: Snapshot) -> None:
        head, connection = self.head, self._connection
        mark = Bookmark(head.seq, head.at, head.digest)
        (journal_id,) = connection.execute("SELECT id FROM journal").fetchone()
        pieces = _pieces(str(journal_id).encode(), mark, snapshot)
        rows = [*enumerate(pieces[:-1]), (END, pieces[-1])]
        SnapshotTable(self._path, self._table).write(connection, head.seq, rows)

    def finish(self) -> None:
        connection = self._connection
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self.close()  # which brings the log into the database
        # By hand, but under a name that nobody else knows: no other connection has locks on it.
        descriptor = open_private(self._path, os.O_RDWR)
        try:
            sync_file(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self._connection.close()


def _pieces(journal_id: bytes, mark: Bookmark, snapshot: Snapshot) -> list[bytes]:
    """Return the bytes of a snapshot as another journal has it."""

    async def parts() -> AsyncIterator[bytes]:
        for part in snapshot.parts:
            yield part

    async def collect() -> list[bytes]:
        return [piece async for piece in pieces_of(journal_id, mark, parts())]

    return asyncio.run(collect())


@contextmanager
def new_journal(location: str, *, apart_from: Path) -> Generator[Target]:
    """Make a journal, of the kind that its location means, out of what the block writes to it.

    It gets its name if the block ends well; otherwise nothing is left. Raises `ConfigError` if
    something is there already, other than an empty folder for a file journal, or if the place is
    inside of another journal.
    """
    wanted = open_storage(location)
    if not isinstance(wanted, FileStorage | SQLiteStorage):
        raise ConfigError(f"{location!r} is no place for a journal. Next: name a folder or a file")
    path = wanted.path
    if path.parent.resolve().is_relative_to(apart_from.resolve()):
        raise ConfigError(f"{location} is inside of {apart_from}. Next: name a place outside of it")
    _check_place(path, is_folder=isinstance(wanted, FileStorage))
    hidden = temporary_name(path, "recovering")
    try:
        target = FileTarget(hidden) if isinstance(wanted, FileStorage) else SQLiteTarget(hidden)
        try:
            yield target
            target.finish()
        finally:
            target.close()
        give_name(hidden, path)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            f"cannot make the journal {path}: {error}. Nothing is left of what was begun"
        ) from error
    finally:
        _remove(hidden)  # if it still has that name


def _check_place(path: Path, *, is_folder: bool) -> None:
    if is_folder and path.is_dir() and not any(path.iterdir()):
        return
    for end in ("",) if is_folder else ("", *_BESIDE_A_DATABASE):
        check_free(path.with_name(f"{path.name}{end}"))


def _remove(hidden: Path) -> None:
    if hidden.is_dir():
        shutil.rmtree(hidden)
    else:
        for end in ("", "-wal", "-shm"):
            hidden.with_name(f"{hidden.name}{end}").unlink(missing_ok=True)
