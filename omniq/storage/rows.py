"""The table of an SQLite journal: its schema, and how commits become rows and verified commits.

Everything here works on a connection that it is given, within the caller's transaction. The
specification is docs/reference/journal-format.md.
"""

from __future__ import annotations

import re
import sqlite3
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from omniq.core.events import Commit
from omniq.errors import StorageError, UnsupportedFormat
from omniq.storage.base import Head, events_of
from omniq.storage.database import corrupt
from omniq.storage.encoding import (
    MAX_COMMIT_BYTES,
    chain,
    check_readable,
    decode_commit,
    encode_events,
    joined,
    misplaced,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from omniq.core.events import Event
    from omniq.errors import CorruptJournal

__all__ = (
    "APPLICATION_ID",
    "FORMAT_VERSION",
    "SCHEMA",
    "Table",
    "Verified",
    "columns_of",
    "identify",
    "prepare",
)

APPLICATION_ID = 0x4F6D6E51  # "OmnQ", in the database's header
FORMAT_VERSION = 1  # in its user_version

_TABLES = """
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
CREATE TABLE beginning (seq INTEGER NOT NULL, at INTEGER NOT NULL, digest BLOB NOT NULL);
CREATE TABLE snapshots (
    seq  INTEGER NOT NULL,      -- of the last event in the state
    part INTEGER NOT NULL,      -- the digest at the end is part -1: without it, it is not whole
    data BLOB NOT NULL,
    PRIMARY KEY (seq, part)
);
CREATE INDEX events_by_task ON events (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX events_of_expiry ON events (seq) WHERE kind = 'result.expired';
"""
SCHEMA = (
    f"{_TABLES}PRAGMA application_id = {APPLICATION_ID};"
    f"PRAGMA user_version = {FORMAT_VERSION};COMMIT;"
)
_INSERT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_HEAD = "SELECT seq, at, digest FROM events ORDER BY seq DESC LIMIT 1"
_READ = "SELECT seq, at, actor, data, digest, durable FROM events WHERE seq > ? ORDER BY seq"
_OF_TASK = """
SELECT seq FROM events WHERE task_id = ? UNION SELECT seq FROM events
WHERE kind = 'result.expired' AND instr(data, CAST(? AS BLOB)) ORDER BY seq"""
_BEGINNING = "SELECT seq, at, digest FROM beginning ORDER BY seq DESC LIMIT 1"
_COMMIT_BEFORE = """
SELECT seq, digest FROM events WHERE seq < ? AND digest IS NOT NULL ORDER BY seq DESC LIMIT 1"""

_OBJECTS = {
    statement.split()[2]: statement.strip()
    for statement in _TABLES.split(";")
    if statement.strip().startswith("CREATE")
}

type _Values = tuple[str | None, str | None, str | None]
type _Row = tuple[int, int, str, object, object, object]


def prepare(connection: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    """See that this is the database of a journal; an empty one becomes one.

    Raises `UnsupportedFormat` for anything else, before anything was changed.
    """
    connection.execute("BEGIN")  # another process may be creating the schema just now
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    connection.execute("ROLLBACK")
    if application == APPLICATION_ID:
        if version > FORMAT_VERSION:
            raise UnsupportedFormat(
                f"{path} has format version {version}; this OmniQ reads up to "
                f"{FORMAT_VERSION}. It was not touched. Next: install the OmniQ that wrote it"
            )
    elif application or version or objects or read_only:
        raise UnsupportedFormat(
            f"{path} is a database of something else ({objects} tables and indexes). "
            "It was not touched. Next: name another path"
        )
    else:
        _create(connection)


def _create(connection: sqlite3.Connection) -> None:
    # While the database is not in WAL mode yet, the schema gets into the file itself. In a log
    # beside it, damage could make a journal look like an empty database.
    connection.execute("PRAGMA synchronous = EXTRA")
    try:
        connection.executescript(SCHEMA)
    except sqlite3.OperationalError:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:  # otherwise another process was first
            raise


def identify(connection: sqlite3.Connection, path: Path) -> str:
    """Return the journal's id; raises `CorruptJournal` if a table or an index is not ours.

    What somebody else added to the database, such as a view, is theirs.
    """
    found = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    for name, statement in _OBJECTS.items():
        if (sql := found.get(name)) != statement:
            raise corrupt(path, 0, f"{name}: {statement}", repr(sql))
    row = connection.execute("SELECT id FROM journal").fetchone()
    if row is None or not isinstance(row[0], str) or not re.fullmatch("[0-9a-f]{32}", row[0]):
        raise corrupt(path, 0, "the journal's id in the table journal", repr(row))
    return row[0]


class Verified(msgspec.Struct, frozen=True):
    """A commit that was read, with its digest and whether its row says that it was synced."""

    commit: Commit
    digest: bytes
    durable: bool
    size: int  # in bytes, encoded


class Table:
    """The table `events` of the database at `path`, whose name is only for messages."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def beginning(self, connection: sqlite3.Connection) -> Head:
        """Return what the first row is chained to, which was dropped or is nothing."""
        row = connection.execute(_BEGINNING).fetchone()
        return Head() if row is None else self._end(*row)

    def head(self, connection: sqlite3.Connection) -> Head:
        """Return the end of the last commit as its row has it."""
        row = connection.execute(_HEAD).fetchone()
        return self.beginning(connection) if row is None else self._end(*row)

    def verified_end(self, connection: sqlite3.Connection, seq: int | None = None) -> Head:
        """Return the end of the commit that ends at `seq`, or the head, after reading it."""
        beginning = self.beginning(connection)
        end = self.head(connection) if seq is None else self.end_at(connection, seq)
        if end.seq == beginning.seq:
            return end
        if end.seq < beginning.seq:
            raise self.corrupt(
                beginning.seq + 1, f"events behind {beginning.seq}", f"none behind {end.seq}"
            )
        before = self._end_before(connection, end.seq)
        verified = next(self.commits(connection, before.seq, before.digest))
        return Head(verified.commit.last_seq, verified.commit.at, verified.digest)

    def _end_before(self, connection: sqlite3.Connection, seq: int) -> Head:
        """Return the end of the commit before the one that has event `seq`, but for its time."""
        row = connection.execute(_COMMIT_BEFORE, (seq,)).fetchone()
        return self.beginning(connection) if row is None else self._end(row[0], 0, row[1])

    def _end(self, seq: object, at: object, digest: object) -> Head:
        if isinstance(seq, int) and isinstance(at, int) and isinstance(digest, bytes):
            return Head(seq, at, digest)
        number = seq if isinstance(seq, int) else 0
        raise self.corrupt(number, "the end of a commit", "no digest or no time")

    def insert(
        self,
        connection: sqlite3.Connection,
        head: Head,
        events: Sequence[Event],
        *,
        at: int,
        actor: str,
        durable: bool,
    ) -> Verified:
        """Write events behind the head, as one commit."""
        commit = Commit(head.seq + 1, max(at, head.at), actor, list(events))
        encoded = encode_events(events)
        return self.write(connection, head.digest, commit, encoded, durable=durable)

    def write(
        self,
        connection: sqlite3.Connection,
        before: bytes,
        commit: Commit,
        encoded: list[bytes],
        *,
        durable: bool,
    ) -> Verified:
        """Write a commit, whose events are encoded already, behind the one with this digest."""
        payload = joined(commit.first_seq, commit.at, commit.actor, encoded)
        check_readable(payload, len(encoded))
        digest = chain(before, payload)
        connection.executemany(_INSERT, _rows(commit, encoded, digest, durable=durable))
        return Verified(commit, digest, durable, len(payload))

    def commits(
        self, connection: sqlite3.Connection, after: int, digest: bytes
    ) -> Iterator[Verified]:
        """Yield the commits behind sequence number `after`, where the chain's digest is this."""
        rows: list[_Row] = []
        size = at = 0
        for row in connection.execute(_READ, (after,)):
            rows.append(row)
            size += len(_blob(row[3]))
            if size > MAX_COMMIT_BYTES:
                raise self.corrupt(after + 1, "a commit's end within 64 MiB", f"{size} bytes")
            if row[4] is not None:
                verified = self._assemble(rows, after, digest, at)
                after, digest, at = verified.commit.last_seq, verified.digest, verified.commit.at
                rows, size = [], 0
                yield verified
        if rows:
            raise self.corrupt(after + 1, "a commit with a digest at its end", "none")

    def end_at(self, connection: sqlite3.Connection, seq: int) -> Head:
        """Return the end of the commit that ends at `seq`."""
        beginning = self.beginning(connection)
        if seq == beginning.seq:
            return beginning
        if seq < beginning.seq:
            raise StorageError(
                f"the journal {self._path} begins with sequence number {beginning.seq + 1}: what "
                f"follows {seq} was dropped. Next: begin with its snapshot"
            )
        row = connection.execute("SELECT at, digest FROM events WHERE seq = ?", (seq,)).fetchone()
        if row is None or row[1] is None:
            raise StorageError(f"no commit of {self._path} ends at sequence number {seq}")
        return self._end(seq, *row)

    def history(
        self, connection: sqlite3.Connection, task_id: str
    ) -> list[tuple[int, Commit, Event]]:
        """Return a task's events, out of commits that verify."""
        found: list[tuple[int, Commit, Event]] = []
        ended = 0
        for (seq,) in connection.execute(_OF_TASK, (task_id, task_id)).fetchall():
            if seq > ended:
                before = self._end_before(connection, seq)
                commit = next(self.commits(connection, before.seq, before.digest)).commit
                ended = commit.last_seq
                found.extend(events_of(commit, task_id))
        return found

    def _assemble(self, rows: list[_Row], after: int, digest: bytes, earliest: int) -> Verified:
        """Return the commit made of these rows and its digest, which must be the stored one."""
        first_seq, at, actor = rows[0][:3]
        if first_seq != after + 1 or rows[-1][0] != after + len(rows):
            raise self.corrupt(
                after + 1,
                f"events {after + 1} to {after + len(rows)}",
                f"{len(rows)} events from {first_seq} to {rows[-1][0]}",
            )
        _, times, actors, data, *_ = zip(*rows, strict=True)  # loops of C, as this is read by all
        if times.count(at) != len(rows) or actors.count(actor) != len(rows):
            raise self.corrupt(
                first_seq, "one time and one actor in all rows of the commit", "several", len(rows)
            )
        stored = _blob(rows[-1][4])
        payload = joined(first_seq, at, actor, list(map(_blob, data)))
        computed = chain(digest, payload)
        if computed != stored:
            expected = f"digest {computed.hex()[:16]}…"
            raise self.corrupt(first_seq, expected, f"{stored.hex()[:16]}…", len(rows))
        try:
            commit = decode_commit(payload)
        except msgspec.DecodeError as error:
            raise UnsupportedFormat(
                f"{self._path}: the commit of sequence number {first_seq} is intact but cannot be "
                f"read ({error}); a newer OmniQ may have written it. Next: install that version"
            ) from None
        if (problem := misplaced(commit, after, earliest, len(rows))) is not None:
            raise self.corrupt(first_seq, *problem, len(rows))
        return Verified(commit, computed, bool(rows[-1][5]), len(payload))

    def corrupt(self, seq: int, expected: str, found: str, count: int = 0) -> CorruptJournal:
        """Return the error of damage from `seq` on, to that many events if it is known."""
        return corrupt(self._path, seq, expected, found, count)


def _blob(value: object) -> bytes:
    """Return a column's bytes; another type, which SQLite lets anybody store, matches no digest."""
    return value if isinstance(value, bytes) else b""


def _rows(
    commit: Commit, encoded: list[bytes], digest: bytes, *, durable: bool
) -> Iterator[tuple[object, ...]]:
    at, actor, last = commit.at, commit.actor, commit.last_seq
    for seq, (event, data) in enumerate(zip(commit.events, encoded, strict=True), commit.first_seq):
        kind, values_of = columns_of(type(event))
        ends = (digest, durable) if seq == last else (None, None)
        yield (seq, at, kind, *values_of(event), actor, data, *ends)


@cache
def columns_of(event: type[Event]) -> tuple[str, Callable[[Any], _Values]]:
    """Return what the column `kind` holds for a type of event, and how to get what others hold.

    These are `task_id`, `queue` and `worker`. To ask each event which of them it has took a tenth
    of the time of its row.
    """
    fields = event.__struct_fields__
    has = ("task_id" in fields, "queue" in fields, "worker" in fields)
    return str(event.__struct_config__.tag), _VALUES[has]


_VALUES: dict[tuple[bool, bool, bool], Callable[[Any], _Values]] = {
    (True, True, True): lambda event: (event.task_id, event.queue, event.worker),
    (True, True, False): lambda event: (event.task_id, event.queue, None),
    (True, False, True): lambda event: (event.task_id, None, event.worker),
    (True, False, False): lambda event: (event.task_id, None, None),
    (False, True, True): lambda event: (None, event.queue, event.worker),
    (False, True, False): lambda event: (None, event.queue, None),
    (False, False, True): lambda event: (None, None, event.worker),
    (False, False, False): lambda _: (None, None, None),
}
