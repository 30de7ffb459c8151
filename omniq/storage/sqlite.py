"""A journal as one table of an SQLite database: a row an event, readable with plain SQL.

One thread owns the connection, and each operation is one hop to it: an append begins, checks the
head, inserts and commits without coming back in between (docs/decisions/0004 has the numbers).

Every append holds the journal's lock, and checkpoints are only made by its holder, so none ever
runs beside a writer. That keeps clear of the WAL-reset race of SQLite 3.7.0 to 3.51.2. The
database file itself is never opened by hand: closing any descriptor of it would drop the locks
that SQLite holds in this process. Locks and sockets live in the folder beside it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from omniq.core.events import Commit, kind_of
from omniq.errors import (
    CorruptJournal,
    JournalConflict,
    StorageClosed,
    StorageError,
    StorageFull,
    UnsupportedFormat,
)
from omniq.host import open_private, sync_directory
from omniq.storage.base import GENESIS, Head, events_of
from omniq.storage.disk import system_errors
from omniq.storage.encoding import chain, decode_commit, encode_event, joined
from omniq.storage.local import Durability, LocalStorage
from omniq.storage.rendezvous import HeadHint, Rendezvous

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from omniq.core.events import Event

__all__ = ("SQLiteStorage",)

APPLICATION_ID = 0x4F6D6E51  # "OmnQ", in the database's header
FORMAT_VERSION = 1  # in its user_version
BUSY_SECONDS = 30.0
CHECKPOINT_BYTES = 4 * 1024 * 1024  # SQLite's own default, 1,000 pages of 4 KiB

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE journal (id TEXT NOT NULL, synced INTEGER NOT NULL);
INSERT INTO journal VALUES (lower(hex(randomblob(16))), 0);
CREATE TABLE events (
    seq     INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,   -- microseconds since 1970 UTC
    kind    TEXT NOT NULL,      -- the event's tag, such as task.enqueued
    task_id TEXT,
    queue   TEXT,
    worker  TEXT,
    actor   TEXT NOT NULL,      -- the process that appended it
    data    BLOB NOT NULL,      -- the whole event, msgpack
    digest  BLOB,               -- on the last event of a commit: the hash chain up to here
    durable INTEGER             -- on the last event of a commit: whether it was synced with it
);
CREATE INDEX events_by_task ON events (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX events_of_expiry ON events (seq) WHERE kind = 'result.expired';
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT_VERSION};
COMMIT;
"""
_INSERT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_HEAD = "SELECT seq, at, digest FROM events ORDER BY seq DESC LIMIT 1"
_READ = "SELECT seq, at, actor, data, digest, durable FROM events WHERE seq > ? ORDER BY seq"
_READ_TASK = """
SELECT seq FROM events WHERE task_id = ? UNION SELECT seq FROM events WHERE kind = 'result.expired'
ORDER BY seq"""


class SQLiteStorage(LocalStorage):
    """The journal in the SQLite database `path`, which is created if its folder is there.

    With `durability="fsync"` a commit is on the disk when `append` returns (`synchronous=FULL`),
    with `"os"` it survives the death of the process only (`NORMAL`). `read_only` changes nothing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "fsync",
        read_only: bool = False,
    ) -> None:
        super().__init__(durability)
        self.path = Path(path)
        self.read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._head = Head()
        self._cursor = (0, GENESIS)  # the last sequence number that was read, and its digest

    @property
    def location(self) -> str:
        return str(self.path)

    @property
    def durable(self) -> int:
        return self._head.seq if self._durability == "os" else self._durable

    def sibling(self) -> SQLiteStorage:
        return SQLiteStorage(self.path, durability=self._durability)

    # Opening.

    async def open(self) -> None:
        if self._thread is not None:
            return
        self._failure = ""
        with system_errors(f"cannot open the journal {self.path}"):
            if self.read_only:
                if not self.path.is_file():
                    raise UnsupportedFormat(f"{self.path} is not a file, so there is no journal")
            else:
                self._prepare_files()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="omniq-sqlite")
        try:
            journal_id = await self._run(self._connect)
            if not self.read_only:
                folder = self.path.with_name(f"{self.path.name}-omniq")
                with system_errors(f"cannot open the folder {folder} beside the journal"):
                    folder.mkdir(mode=0o700, exist_ok=True)
                    self._rendezvous = Rendezvous(folder, journal_id.encode())
            self._head = await self._run(_read_head)
        except BaseException:
            await self.close()
            raise

    def _prepare_files(self) -> None:
        """Create the database file for its owner alone, and make its name durable."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            descriptor = open_private(self.path, flags)
        except FileExistsError:
            return
        os.close(descriptor)  # no connection can have known the file yet
        sync_directory(self.path.parent)

    def _connect(self, _: object = None) -> str:
        """Connect, and return the journal's id, after making the schema if the file is empty."""
        mode = "ro" if self.read_only else "rw"
        self._connection = connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        self._check_schema(connection)
        if not self.read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            synchronous = "FULL" if self._durability == "fsync" else "NORMAL"
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        (journal_id,) = connection.execute("SELECT id FROM journal").fetchone()
        return str(journal_id)

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == APPLICATION_ID:
            if version > FORMAT_VERSION:
                raise UnsupportedFormat(
                    f"{self.path} has format version {version}; this OmniQ reads up to "
                    f"{FORMAT_VERSION}. It was not touched. Next: install the OmniQ that wrote it"
                )
        elif application or objects or self.read_only:
            raise UnsupportedFormat(
                f"{self.path} is a database of something else ({objects} tables and indexes). "
                "It was not touched. Next: name another path"
            )
        else:
            self._create_schema(connection)

    def _create_schema(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        try:
            connection.executescript(_SCHEMA)
        except sqlite3.OperationalError:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if application != APPLICATION_ID:  # otherwise another process was first
                raise

    async def close(self) -> None:
        self._close_rendezvous()
        if self._thread is not None:
            thread, self._thread = self._thread, None
            if self._connection is not None:
                connection, self._connection = self._connection, None
                await asyncio.get_running_loop().run_in_executor(thread, connection.close)
            thread.shutdown()

    # Appending.

    def _refresh(self, rendezvous: Rendezvous) -> None:
        hint = rendezvous.read_hint()
        if hint is not None and hint.seq > self._head.seq:
            self._head = Head(hint.seq, hint.at, hint.digest)

    async def append(
        self, events: Sequence[Event], *, at: int, actor: str, expected: int | None = None
    ) -> Commit:
        if not self._inside:
            async with self:
                return await self.append(events, at=at, actor=actor, expected=expected)
        commit, digest = await self._run(
            lambda connection: self._insert(connection, events, at, actor, expected)
        )
        self._head = Head(commit.last_seq, commit.at, digest)
        if self._cursor[0] == commit.first_seq - 1:
            self._cursor = (commit.last_seq, digest)
        if self._durability == "fsync":
            self._durable = commit.last_seq
        self._shared().publish(HeadHint(0, 0, 0, commit.last_seq, commit.at, digest))
        self._rings = True
        return commit

    def _insert(
        self,
        connection: sqlite3.Connection,
        events: Sequence[Event],
        at: int,
        actor: str,
        expected: int | None,
    ) -> tuple[Commit, bytes]:
        with _transaction(connection):
            head = _read_head(connection)
            if expected is not None and expected != head.seq:
                raise JournalConflict(expected, head.seq)
            commit = Commit(head.seq + 1, max(at, head.at), actor, list(events))
            encoded = [encode_event(event) for event in events]
            digest = chain(head.digest, joined(commit.first_seq, commit.at, actor, encoded))
            rows = _rows(commit, encoded, digest, durable=self._durability == "fsync")
            connection.executemany(_INSERT, rows)
        if self._wal_bytes() > CHECKPOINT_BYTES:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return commit, digest

    def _wal_bytes(self) -> int:
        try:
            return self.path.with_name(f"{self.path.name}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    # Syncing.

    async def sync(self, seq: int) -> None:
        if seq <= self.durable:
            return
        async with self:
            known = self._head.seq
            await self._run(_commit_durably)
        self._durable = max(self._durable, known)

    # Reading.

    async def read(self, after: int, limit: int = 4096) -> list[Commit]:
        if self._inside and after == self._head.seq:
            return []  # the lock's holder knows the end without asking
        return await self._run(lambda connection: self._select(connection, after, limit))

    def _select(self, connection: sqlite3.Connection, after: int, limit: int) -> list[Commit]:
        digest = self._digest_at(connection, after)
        commits: list[Commit] = []
        count, rows = 0, []
        for row in connection.execute(_READ, (after,)):
            rows.append(row)
            if row[4] is None:
                continue
            commit, digest = self._assemble(rows, after, digest)
            commits.append(commit)
            after, rows = commit.last_seq, []
            if row[5]:
                self._durable = max(self._durable, after)
            count += len(commit.events)
            if count >= limit:
                break
        if rows:
            raise self._corrupt(after + 1, "a commit with a digest at its end", "none")
        self._cursor = (after, digest)
        return commits

    def _digest_at(self, connection: sqlite3.Connection, seq: int) -> bytes:
        if seq == self._cursor[0]:
            return self._cursor[1]
        if seq == 0:
            return GENESIS
        row = connection.execute("SELECT digest FROM events WHERE seq = ?", (seq,)).fetchone()
        if row is None or row[0] is None:
            raise StorageError(f"no commit of {self.path} ends at sequence number {seq}")
        return bytes(row[0])

    def _assemble(
        self, rows: list[tuple[int, int, str, bytes, bytes | None, int]], after: int, digest: bytes
    ) -> tuple[Commit, bytes]:
        """Return the commit made of these rows and its digest, which must be the stored one."""
        first_seq, at, actor = rows[0][:3]
        if first_seq != after + 1 or rows[-1][0] != after + len(rows):
            raise self._corrupt(
                after + 1, f"events {after + 1} to {after + len(rows)}", "a gap between them"
            )
        payload = joined(first_seq, at, actor, [row[3] for row in rows])
        computed = chain(digest, payload)
        if computed != rows[-1][4]:
            stored = bytes(rows[-1][4] or b"")
            raise self._corrupt(first_seq, f"digest {computed.hex()[:16]}…", stored.hex()[:16])
        try:
            return decode_commit(payload), computed
        except msgspec.DecodeError as error:
            raise UnsupportedFormat(
                f"{self.path}: the commit of sequence number {first_seq} is intact but cannot be "
                f"read ({error}); a newer OmniQ may have written it. Next: install that version"
            ) from None

    async def read_task(self, task_id: str) -> list[tuple[int, Commit, Event]]:
        return await self._run(lambda connection: self._select_task(connection, task_id))

    def _select_task(
        self, connection: sqlite3.Connection, task_id: str
    ) -> list[tuple[int, Commit, Event]]:
        found: list[tuple[int, Commit, Event]] = []
        for (seq,) in connection.execute(_READ_TASK, (task_id,)).fetchall():
            at, actor, data = connection.execute(
                "SELECT at, actor, data FROM events WHERE seq = ?", (seq,)
            ).fetchone()
            commit = decode_commit(joined(seq, at, actor, [data]))
            found.extend(events_of(commit, task_id))
        return found

    async def head(self) -> Head:
        self._head = await self._run(_read_head)
        return self._head

    # The thread.

    async def _run[T](self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run an operation on the connection's thread; a cancelled wait lets it finish."""
        self._check()
        if self._thread is None:
            raise StorageClosed(f"the journal {self.path} is not open")
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, operation)
        return await asyncio.shield(running)

    def _guarded[T](self, operation: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return operation(self._connection)  # type: ignore[arg-type] # None only for _connect
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise StorageFull(
                    f"cannot append to {self.path}: {error}. The journal is valid and nothing was "
                    "written. Next: make room; appends then work again"
                ) from error
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR:
                self._fail(f"the system reported: {error}")
            raise StorageError(f"the journal {self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                raise UnsupportedFormat(
                    f"{self.path} is no SQLite database. It was not touched. "
                    "Next: name another path"
                ) from error
            raise self._corrupt(0, "a database that SQLite can read", str(error)) from error

    def _corrupt(self, seq: int, expected: str, found: str) -> CorruptJournal:
        return CorruptJournal(
            str(self.path),
            segment="table events",
            offset=seq,
            sequence=seq,
            expected=expected,
            found=found,
        )


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _read_head(connection: sqlite3.Connection) -> Head:
    row = connection.execute(_HEAD).fetchone()
    return Head(row[0], row[1], bytes(row[2] or GENESIS)) if row else Head()


def _commit_durably(connection: sqlite3.Connection) -> None:
    """Commit something with a sync, which takes all earlier commits to the disk as well."""
    (before,) = connection.execute("PRAGMA synchronous").fetchone()
    connection.execute("PRAGMA synchronous = FULL")
    try:
        with _transaction(connection):
            connection.execute("UPDATE journal SET synced = synced + 1")
    finally:
        connection.execute(f"PRAGMA synchronous = {before}")


def _rows(
    commit: Commit, encoded: list[bytes], digest: bytes, *, durable: bool
) -> Iterator[tuple[object, ...]]:
    at, actor, last = commit.at, commit.actor, commit.last_seq
    for seq, (event, data) in enumerate(
        zip(commit.events, encoded, strict=True), commit.first_seq
    ):
        ends = seq == last
        yield (
            seq,
            at,
            kind_of(event),
            getattr(event, "task_id", None),
            getattr(event, "queue", None),
            getattr(event, "worker", None),
            actor,
            data,
            digest if ends else None,
            durable if ends else None,
        )
