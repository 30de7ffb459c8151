"""A journal as one table of an SQLite database: a row an event, readable with plain SQL.

Whatever may take time is one hop to the connection's thread: an append begins, checks the head,
inserts and commits without coming back in between. What is small is done at once, on the loop, and
synced apart (docs/decisions/0004 and 0014 have the numbers).

Every append holds the journal's lock, and checkpoints are only made by its holder, so none ever
runs beside a writer. That keeps clear of the WAL-reset race of SQLite 3.7.0 to 3.51.2. The
database file itself is never opened by hand: closing any descriptor of it would drop the locks
that SQLite holds in this process. Locks and sockets live in the folder beside it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from omniq.errors import JournalConflict, StorageError, UnsupportedFormat
from omniq.host import open_private, sync_directory
from omniq.storage.base import GENESIS, Head
from omniq.storage.database import (
    Connection,
    Database,
    WriteAheadLog,
    connect,
    error_of,
    is_broken_device,
    is_busy,
    no_database,
)
from omniq.storage.disk import Disk, missing_folder, system_errors
from omniq.storage.local import Durability, LocalStorage
from omniq.storage.rendezvous import HeadHint, Rendezvous, check_privacy
from omniq.storage.reserve import RESERVE_BYTES, Reserve
from omniq.storage.rows import Table, Verified, identify, prepare
from omniq.storage.snapshot_rows import END, SnapshotTable
from omniq.storage.snapshots import pieces_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Generator, Sequence

    from omniq.core.events import Commit, Event
    from omniq.storage.base import Bookmark, Sealed, Snapshot

__all__ = ("SQLiteStorage",)

CONNECT_AGAIN_SECONDS = 0.01
CONNECT_TRIES = 500  # 5 s: making a journal takes a few syncs
TRANSACTION_BYTES = 1024 * 1024  # of a snapshot: others wait for the lock meanwhile
DROP_ROWS = 2000  # in one transaction
AT_ONCE_EVENTS = 128  # about a millisecond of work
PAGE_BYTES = 4096  # what an event needs at most, if it is not large, in the log

_log = logging.getLogger(__name__)


class SQLiteStorage(LocalStorage):
    """The journal in the SQLite database `path`, which is created if its folder is there.

    A large commit that somebody waits for is on the disk when `append` returns
    (`synchronous=FULL`), any other one after the next `sync` (`NORMAL`). With `durability="os"`
    nobody waits: what is acknowledged survives the death of the process only. `read_only` changes
    nothing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "fsync",
        read_only: bool = False,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        super().__init__(path, durability=durability, read_only=read_only)
        self._database: Database | None = None
        self._reserve: Reserve | None = None
        self._reserve_bytes = reserve_bytes
        self._table = Table(self.path)
        self._snapshots = SnapshotTable(self.path, self._table)
        self._log = WriteAheadLog(self.path, self._fail)
        self._head = Head()
        # The last sequence number that was read, and its digest.
        self._cursor: tuple[int, bytes] = (0, GENESIS)

    @property
    def known(self) -> int:
        return max(self._head.seq, self._cursor[0])

    @property
    def durable(self) -> int:
        if self._durability == "os":
            return max(self._head.seq, self._cursor[0], self._durable)
        return self._durable

    def sibling(self) -> SQLiteStorage:
        return SQLiteStorage(
            self.path,
            durability=self._durability,
            read_only=self.read_only,
            reserve_bytes=self._reserve_bytes,
        )

    # Opening.

    async def open(self) -> None:
        if not self._closed_because:
            return
        await self.close()  # a handle that has failed holds something
        try:
            with system_errors(f"cannot open the journal {self.path}"):
                self._prepare_files()
                self._database = database = Database(self._errors)
                journal_id = await self._connect_patiently(database)
                if self.read_only:
                    self._head = await database.run(self._table.verified_end)
                else:
                    await self._meet(database, journal_id)
        except BaseException:
            await self.close()
            raise
        self._closed_because = ""

    def _prepare_files(self) -> None:
        """Create the database file for its owner alone, and make its name durable."""
        if self.path.is_dir():
            raise UnsupportedFormat(
                f"{self.path} is a directory, and an SQLite journal is a file. It was not touched. "
                "Next: name a file, or open the directory as a file journal"
            )
        with suppress(FileNotFoundError):
            if self.path.stat().st_size == 1:  # which SQLite takes for an empty file
                raise no_database(self.path)
        if self.read_only:
            if not self.path.exists():
                raise UnsupportedFormat(f"{self.path} is not a file, so there is no journal")
            return
        with suppress(FileExistsError), missing_folder(self.path):
            # No connection can have known the file yet, so it may be closed.
            os.close(open_private(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                check_privacy(self.path.with_name(f"{self.path.name}{suffix}"))
        # Also for who created it, and may have died before that.
        sync_directory(self.path.parent)

    async def _connect_patiently(self, database: Database) -> str:
        """Connect, and wait where SQLite does not: while another process makes the journal."""
        for _ in range(CONNECT_TRIES):
            try:
                return await database.run(partial(self._connect, database))
            except StorageError as error:
                if not is_busy(error.__cause__):
                    raise
            await asyncio.sleep(CONNECT_AGAIN_SECONDS)
        return await database.run(partial(self._connect, database))

    def _connect(self, database: Database, _: object) -> str:
        """Connect, and return the journal's id, after making the schema if the file is empty."""
        if database.connection is not None:
            database.connection.close()
        mode = "ro" if self.read_only else "rw"
        database.connection = connection = connect(self.path, f"mode={mode}")
        prepare(connection, self.path, read_only=self.read_only)
        if not self.read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            self._log.begin(connection)
        return identify(connection, self.path)

    async def _meet(self, database: Database, journal_id: str) -> None:
        """Meet the other processes, and tell them if one of them died before it could."""
        folder = self.path.with_name(f"{self.path.name}-omniq")
        folder.mkdir(mode=0o700, exist_ok=True)
        self._rendezvous = rendezvous = Rendezvous(folder, journal_id.encode())
        await rendezvous.enter()
        try:
            self._head = await database.run(self._table.verified_end)
            rendezvous.miss(self._head.seq)
            rendezvous.publish(_hint_of(self._head))
            self._reserve = Reserve(Disk(), folder, self._reserve_bytes)
            await database.run(self._open_reserve)
        finally:
            rendezvous.leave()

    def _open_reserve(self, _: object) -> None:
        if self._reserve is not None:
            self._reserve.open()

    async def close(self) -> None:
        self._closed_because = "it was closed"
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None
        self._close_rendezvous()
        self._head, self._cursor, self._durable = Head(), (0, GENESIS), 0
        if self._database is not None:
            database, self._database = self._database, None
            await database.close()
        await self._sync_thread.close()
        self._log.close()

    # Appending.

    def _refresh(self, rendezvous: Rendezvous) -> None:
        hint = rendezvous.read_hint()
        if hint is not None and hint.seq > self._head.seq:
            self._head = Head(hint.seq, hint.at, hint.digest)

    async def append(
        self,
        events: Sequence[Event],
        *,
        at: int,
        actor: str,
        expected: int | None = None,
        durable: bool = False,
    ) -> Commit:
        if not self._inside:
            async with self:
                return await self.append(
                    events, at=at, actor=actor, expected=expected, durable=durable
                )
        is_small = len(events) <= AT_ONCE_EVENTS and not self._is_urgent and not self._log.is_due
        is_synced = (durable or self._is_urgent) and self._durability == "fsync" and not is_small
        insert = partial(
            self._insert, events, at=at, actor=actor, expected=expected, durable=is_synced
        )
        if is_small:
            return await self._run(insert, at_once=True)

        def insert_and_checkpoint(connection: Connection) -> Commit:
            commit = insert(connection)
            self._log.checkpoint_if_due(connection)
            return commit

        return await self._run(insert_and_checkpoint)

    def _insert(
        self,
        events: Sequence[Event],
        connection: Connection,
        *,
        at: int,
        actor: str,
        expected: int | None,
        durable: bool,
    ) -> Commit:
        size = PAGE_BYTES * len(events)

        def write() -> tuple[Head, Verified]:
            with self._errors(), connection.transaction(synced=durable):
                head = self._table.head(connection)
                if expected is not None and expected != head.seq:
                    self._head = head  # the hint did not say so: who died did not publish it
                    raise JournalConflict(expected, head.seq)
                return head, self._table.insert(
                    connection, head, events, at=at, actor=actor, durable=durable
                )

        assert self._reserve is not None, "a handle that appends is not read-only"
        head, written = self._reserve.append(write, size, urgent=self._is_urgent)
        commit = written.commit
        # All of this is done here, in a thread or not, so that it is done even if nobody waits.
        self._head = Head(commit.last_seq, commit.at, written.digest)
        if self._rendezvous is not None:
            self._rendezvous.publish(_hint_of(self._head))
        self._rings = True
        if self._cursor[0] == head.seq:
            self._cursor = (commit.last_seq, written.digest)
        if durable:
            self._durable = commit.last_seq
        self._log.written(2 * written.size + 2 * PAGE_BYTES)
        return commit

    # Syncing.

    def _begin_sync(self) -> None:
        """Sync the log, which has all commits that are not in the database, synced, by now."""
        self._check()
        self._sync_thread.begin(self.known, self._sync_now)

    def _sync_now(self) -> None:
        try:
            self._log.sync()
        except OSError as error:
            self._fail(f"syncing {self.path} failed: {error}")
            raise StorageError(
                f"cannot sync {self.path}: {error.strerror}. What was acknowledged is safe; what "
                "was not may be lost. Next: open the journal again"
            ) from error

    # Reading.

    async def read(self, after: int, limit: int = 4096) -> list[Commit]:
        if self._inside and after == self._head.seq:
            return []  # the lock's holder knows the end without asking
        hint = None if self._rendezvous is None else self._rendezvous.read_hint()
        is_small = hint is not None and hint.seq - after <= AT_ONCE_EVENTS
        return await self._run(
            lambda connection: self._select(connection, after, limit), at_once=is_small
        )

    def _select(self, connection: sqlite3.Connection, after: int, limit: int) -> list[Commit]:
        seq, digest = self._cursor
        if seq != after:
            digest = self._table.end_at(connection, after).digest
        commits: list[Commit] = []
        count = 0
        for verified in self._table.commits(connection, after, digest):
            commits.append(verified.commit)
            after, digest = verified.commit.last_seq, verified.digest
            if verified.durable:
                self._durable = max(self._durable, after)
            count += len(verified.commit.events)
            if count >= limit:
                break
        self._cursor = (after, digest)
        return commits

    async def read_task(self, task_id: str) -> list[tuple[int, Commit, Event]]:
        return await self._run(lambda connection: self._table.history(connection, task_id))

    async def head(self) -> Head:
        self._head = await self._run(self._table.head)
        return self._head

    # Snapshots and dropping history.

    async def beginning(self) -> Head:
        return await self._run(self._table.beginning)

    async def bookmark(self, seq: int) -> Bookmark:
        return await self._run(lambda connection: self._snapshots.bookmark(connection, seq))

    async def snapshot_seq(self) -> int:
        return max(await self._run(self._snapshots.seqs), default=0)

    async def save_snapshot(self, bookmark: Bookmark, parts: AsyncIterable[bytes]) -> None:
        seq, snapshots = bookmark.seq, self._snapshots
        journal_id = await self._run(_journal_id)
        await self._write(lambda connection: snapshots.clear(connection, seq))
        pieces: list[tuple[int, bytes]] = []
        size = count = 0
        async for piece in pieces_of(journal_id, bookmark, parts):
            if size > TRANSACTION_BYTES:
                await self._write(partial(snapshots.write, seq=seq, pieces=pieces))
                pieces, size = [], 0
            pieces.append((count, piece))
            size, count = size + len(piece), count + 1
        pieces[-1] = (END, pieces[-1][1])
        await self._write(partial(snapshots.write, seq=seq, pieces=pieces))
        await self._write(snapshots.prune)

    async def load_snapshot(self, before: int | None = None) -> Snapshot | None:
        snapshot = await self._run(lambda connection: self._snapshots.load(connection, before))
        if snapshot is not None:
            self._cursor = (snapshot.bookmark.seq, snapshot.bookmark.digest)
        return snapshot

    async def drop_history(self, *, before: int, until: int) -> Head:
        snapshots = self._snapshots
        end = await self._run(lambda connection: snapshots.droppable(connection, before, until))
        if end is not None:
            await self._write(lambda connection: snapshots.begin_behind(connection, end))
        more = True
        while more:  # others may append in between
            more = await self._write(lambda connection: snapshots.drop(connection, DROP_ROWS))
        return await self.beginning()

    async def seal(self, after: Head, *, number: int, before: int) -> Sealed | None:
        return await self._run(
            partial(self._snapshots.seal, after=after, number=number, before=before)
        )

    async def _write[T](self, operation: Callable[[Connection], T]) -> T:
        """Change something in a transaction of its own, as holder of the journal's lock."""

        def change(connection: Connection) -> T:
            with connection.transaction(synced=True):
                result = operation(connection)
            self._durable = max(self._durable, self._head.seq)
            self._log.written(TRANSACTION_BYTES)
            self._log.checkpoint_if_due(connection)
            return result

        async with self:
            return await self._run(change)

    async def _run[T](self, operation: Callable[[Connection], T], *, at_once: bool = False) -> T:
        self._check()
        assert self._database is not None, "an open handle has a connection"
        return await self._database.run(operation, at_once=at_once)

    @contextmanager
    def _errors(self) -> Generator[None]:
        """Turn SQLite's errors into those of the OmniQ tree; a broken device ends the handle."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if is_broken_device(error):
                self._fail(f"the system reported: {error}")
            raise error_of(error, self.path) from error


def _journal_id(connection: sqlite3.Connection) -> bytes:
    (journal_id,) = connection.execute("SELECT id FROM journal").fetchone()
    return str(journal_id).encode()


def _hint_of(head: Head) -> HeadHint:
    return HeadHint(0, 0, 0, head.seq, head.at, head.digest)
