"""Walking over the table of an SQLite journal that may be damaged (see `scanning`)."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from omniq.errors import CorruptJournal, OmniqError, StorageError, UnsupportedFormat
from omniq.storage.base import GENESIS, Head
from omniq.storage.database import connect, error_of
from omniq.storage.encoding import chain, decode_commit, joined, misplaced
from omniq.storage.rows import APPLICATION_ID, FORMAT_VERSION, Table, columns_of
from omniq.storage.snapshot_rows import SnapshotTable
from omniq.tools.reading import printable
from omniq.tools.scanning import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omniq.core.events import Commit
    from omniq.storage.base import Snapshot
    from omniq.tools.scanning import Torn

__all__ = ("SQLiteScan",)

_READ_ROWS = 4096
_LONGEST_LEAP = 1 << 40
_LAST = (1 << 63) - 1  # no row of SQLite has a higher number
_READ = """
SELECT seq, at, actor, data, digest, kind, task_id, queue, worker FROM events
WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"""
# What SQLite finds, and what the module around it finds in the names that SQLite tells it.
_ERRORS = (sqlite3.Error, UnicodeDecodeError)
_NEXT = "SELECT seq FROM events WHERE seq > ? ORDER BY seq LIMIT 1"

type _Row = tuple[int, int, str, bytes, bytes | None, str, str | None, str | None, str | None]


class SQLiteScan:
    """A walk over the rows of the table `events`, and a check of the database around them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seq = 0
        self.digest: bytes = GENESIS
        self.beginning = Head()
        self.payload: bytes | memoryview = b""
        self.torn: Torn | None = None
        self.snapshots: list[Snapshot] = []
        self.displaced: list[Snapshot] = []
        self._is_chained = True
        self._dropped = Head()  # the end of what the table says was dropped

    def place(self) -> tuple[str, int | None, int | None]:
        """Return the table; its rows are named by sequence numbers."""
        return "table events", None, None

    def __iter__(self) -> Iterator[Commit | Problem]:
        try:
            connection, is_immutable = _connect(self.path)
        except CorruptJournal as error:  # not even its tables can be listed
            place, expected, found = self.place()[0], error.expected, error.found
            yield Problem("database", place, None, None, 1, 0, expected, found)
            return
        try:
            self._check_format(connection)
            yield from self._read_snapshots(connection)
            yield from self._walk(connection)
        finally:
            connection.close()
        if is_immutable and _log_of(self.path).exists():
            raise StorageError(
                f"{self.path} was opened by a writer while it was read, so what was said about it "
                "may be wrong. Next: run the command again"
            )

    def _check_format(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise UnsupportedFormat(f"{self.path} is a database of something else")
        if version > FORMAT_VERSION:
            raise UnsupportedFormat(
                f"{self.path} has format version {version}; this OmniQ reads up to "
                f"{FORMAT_VERSION}. Next: install the OmniQ that wrote it"
            )

    def _read_snapshots(self, connection: sqlite3.Connection) -> Iterator[Problem]:
        """Read the snapshots, and begin the walk where the rows do if one stands behind that."""
        table = Table(self.path)
        snapshots = SnapshotTable(self.path, table)
        try:
            seqs = snapshots.seqs(connection)
            self._dropped = table.beginning(connection)
        except (OmniqError, *_ERRORS) as error:
            wanted = "tables that SQLite can read"
            yield Problem("database", "table snapshots", None, None, 1, 0, wanted, str(error))
            return
        for seq in seqs:
            try:
                self.snapshots.append(snapshots.verified(connection, seq))
            except (OmniqError, *_ERRORS) as error:
                wanted = "a snapshot of this journal"
                yield Problem(
                    "snapshot", "table snapshots", None, None, seq, seq, wanted, str(error)
                )
                with suppress(OmniqError, *_ERRORS):
                    self.displaced.append(snapshots.whole(connection, seq))
        known = (snapshot.bookmark.seq for snapshot in (*self.snapshots, *self.displaced))
        if self._dropped.seq <= max(known, default=0):
            self.beginning = self._dropped
            self.seq, self.digest = self._dropped.seq, self._dropped.digest

    def _walk(self, connection: sqlite3.Connection) -> Iterator[Commit | Problem]:
        rows: list[_Row] = []
        last, end = self.seq, _end(connection)
        while True:
            read, reason = _rows_behind(connection, last, end)
            for row in read:
                if row[0] <= last:  # a damaged tree may lead back to where one came from
                    reason = f"row {row[0]} behind row {last}"
                    break
                rows.append(row)
                last = row[0]
                if row[4] is not None:
                    yield from self._check(rows, connection)
                    rows = []
            if reason:
                following = _leap(connection, last)
                yield self._lost(following, reason)
                rows = []
                if following is None:
                    return
                last = following - 1
            elif not read:
                break
        if rows:
            yield self._problem("row", rows, "a digest at the end of the commit", "none")

    def _lost(self, following: int | None, reason: str) -> Problem:
        """Go on behind rows that cannot be read, and drop the commit that they cut short."""
        first, until = self.seq + 1, 0 if following is None else following - 1
        self.seq = max(self.seq, until)
        self._is_chained = False
        expected = "rows that SQLite can read"
        return Problem("database", "table events", None, None, first, until, expected, reason)

    def _check(
        self, rows: list[_Row], connection: sqlite3.Connection
    ) -> Iterator[Commit | Problem]:
        """Check the rows of one commit, and put it together."""
        first, last = rows[0][0], rows[-1][0]
        if first != self.seq + 1:
            yield self._gap(first, connection)
        digest, is_chained = self.digest, self._is_chained
        self.seq, self.digest, self._is_chained = last, _digest_of(rows[-1]), True
        if last != first + len(rows) - 1:
            wanted = f"rows {first} to {first + len(rows) - 1}"
            yield self._problem("row", rows, wanted, f"{len(rows)} rows from {first} to {last}")
            return
        try:
            payload = joined(first, rows[0][1], rows[0][2], [row[3] for row in rows])
        except (TypeError, ValueError, OverflowError) as error:  # any value may be in any column
            yield self._problem("row", rows, "rows with a blob in the column data", str(error))
            return
        if not is_chained:
            # Only the digest before it could tell whether these rows are as they were written.
            wanted = "the digest of the commit before, to compute this one's"
            yield self._problem("chain", rows, wanted, "none")
            return
        if (computed := chain(digest, payload)) != self.digest:
            yield self._problem("chain", rows, computed.hex(), self.digest.hex())
            return
        try:
            commit = decode_commit(payload)
        except msgspec.DecodeError as error:
            yield self._problem("decode", rows, f"a commit of {len(rows)} events", str(error))
            return
        if (impossible := misplaced(commit, first - 1, 0, len(rows))) is not None:
            yield self._problem("decode", rows, *impossible)
            return
        self.payload = payload
        yield from self._check_columns(commit, rows)
        yield commit

    def _gap(self, first: int, connection: sqlite3.Connection) -> Problem:
        """Go on behind rows that are missing."""
        wanted = self.seq + 1
        now = self._dropped
        with suppress(OmniqError, *_ERRORS):
            now = Table(self.path).beginning(connection)
        if now.seq > self._dropped.seq:
            raise StorageError(
                f"history of {self.path} was dropped while it was read. Next: run the command again"
            )
        self._is_chained = first == self._dropped.seq + 1
        self.digest = self._dropped.digest
        return Problem(
            "gap",
            "table events",
            None,
            None,
            wanted,
            first - 1,
            f"sequence number {wanted}",
            f"sequence number {first}",
        )

    def _check_columns(self, commit: Commit, rows: list[_Row]) -> Iterator[Problem]:
        """Compare the columns, which queries use, with the events, which the chain covers."""
        at, actor = commit.at, commit.actor
        for event, row in zip(commit.events, rows, strict=True):
            kind, values_of = columns_of(type(event))
            columns = values_of(event)
            if row[6:] != columns or row[5] != kind or row[1] != at or row[2] != actor:
                says = str((at, actor, kind, *columns))
                yield self._problem("column", [row], says, str((row[1], row[2], *row[5:])))

    def surroundings(self) -> Iterator[Problem]:
        """Let SQLite check its pages and indexes; it knows nothing of events."""
        try:
            connection, _ = _connect(self.path)
        except CorruptJournal:
            return  # which was said before
        try:
            found = [str(line) for (line,) in connection.execute("PRAGMA integrity_check")]
        except _ERRORS as error:
            found = [str(error)]
        finally:
            connection.close()
        for line in found:
            if line != "ok":
                expected = "a database that SQLite finds in order"
                yield Problem("database", str(self.path.name), None, None, 1, 0, expected, line)

    def _problem(self, kind: str, rows: list[_Row], expected: str, found: str) -> Problem:
        named = [printable(row[6]) for row in rows if isinstance(row[6], str)]
        tasks = list(dict.fromkeys(named))
        first, last = rows[0][0], rows[-1][0]
        return Problem(kind, "table events", None, None, first, last, expected, found, tasks)


def _connect(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Connect to a database for reading, and say whether it is taken for one that nobody changes.

    A database without a write-ahead log beside it is one: all that SQLite would do is to make a
    log. `readonly_shm` keeps SQLite from noting in the shared-memory file what it reads. It needs
    that file, though: where there is a log and no such file, SQLite has to make one.
    """
    try:
        if not _log_of(path).exists():
            return _connected(path, "immutable=1"), True
        try:
            return _connected(path, "readonly_shm=1"), False
        except sqlite3.OperationalError:
            return _connected(path), False
    except _ERRORS as error:
        raise error_of(error, path) from error


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _connected(path: Path, *parameters: str) -> sqlite3.Connection:
    connection = connect(path, "mode=ro", *parameters)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _rows_behind(connection: sqlite3.Connection, last: int, end: int) -> tuple[list[_Row], str]:
    """Return some of the rows behind one, and why there are no more that can be read."""
    read: list[_Row] = []
    try:
        # Keeps what comes before an error; `fetchall` would not.
        read.extend(connection.execute(_READ, (last, end, _READ_ROWS)))
    except _ERRORS as error:
        if connection.text_factory is str:
            # Text that is none is seen as different, and costs no more than its column.
            connection.text_factory = _text
            return _rows_behind(connection, last, end)
        return read, str(error)
    return read, ""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _end(connection: sqlite3.Connection) -> int:
    """Return the last sequence number: a writer may be faster than this walk."""
    try:
        (end,) = connection.execute("SELECT max(seq) FROM events").fetchone()
    except _ERRORS:
        return _LAST
    return int(end or 0)


def _leap(connection: sqlite3.Connection, last: int) -> int | None:
    """Return the next row that can be read behind one that cannot, looking ever farther."""
    step = 1
    while step < _LONGEST_LEAP:
        try:
            row = connection.execute(_NEXT, (last + step,)).fetchone()
        except _ERRORS:
            step *= 2
            continue
        if row is None or row[0] > last:
            return None if row is None else int(row[0])
        step *= 2
    return None


def _digest_of(row: _Row) -> bytes:
    digest: object = row[4]
    return digest if isinstance(digest, bytes) else b""
