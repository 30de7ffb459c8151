"""The snapshots of an SQLite journal, and the rows that they make dispensable.

Everything here works on a connection that it is given, within the caller's transaction. A
snapshot is written in several, so that nobody waits long for the journal's lock: it counts once
the digest at its end is there. Rows are dropped in several, too: the first of them says where the
journal begins, and what is left of the rows before that does not count any more.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from omniq.errors import CorruptJournal, StorageError
from omniq.storage.base import Bookmark, Head, Sealed, Snapshot, other_journal
from omniq.storage.encoding import encode_commit
from omniq.storage.framing import SegmentHeader, pack_frame, pack_segment_header, seed_of
from omniq.storage.segments import SEGMENT_BYTES
from omniq.storage.snapshots import KEPT, MAX_SNAPSHOT_BYTES, BadSnapshot, snapshot_of

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from omniq.storage.rows import Table

__all__ = ("END", "SnapshotTable")

END = -1  # the part that ends a snapshot

_WHOLE = """
SELECT seq FROM snapshots WHERE part = -1 AND typeof(seq) = 'integer' ORDER BY seq"""
_PARTS = "SELECT data FROM snapshots WHERE seq = ? ORDER BY part = -1, part"
_AT_OR_BEFORE = """
SELECT seq FROM events WHERE seq <= ? AND digest IS NOT NULL
ORDER BY seq DESC LIMIT 1"""
_DROP_SOME = """
DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE seq <= ? ORDER BY seq LIMIT ?)"""

_log = logging.getLogger(__name__)


class SnapshotTable:
    """The table `snapshots` beside the table of events."""

    def __init__(self, path: Path, table: Table) -> None:
        self._path = path
        self._table = table

    def seqs(self, connection: sqlite3.Connection) -> list[int]:
        """Return the sequence numbers of all whole snapshots, in order."""
        return [seq for (seq,) in connection.execute(_WHOLE)]

    def bookmark(self, connection: sqlite3.Connection, seq: int) -> Bookmark:
        end = self._table.end_at(connection, seq)
        return Bookmark(end.seq, end.at, end.digest)

    def clear(self, connection: sqlite3.Connection, seq: int) -> None:
        """Remove what others wrote of this snapshot, or of older ones that they did not finish."""
        whole = self.seqs(connection)
        for (other,) in connection.execute(
            "SELECT DISTINCT seq FROM snapshots WHERE seq <= ?", (seq,)
        ).fetchall():
            if other == seq or other not in whole:
                connection.execute("DELETE FROM snapshots WHERE seq = ?", (other,))

    def write(
        self, connection: sqlite3.Connection, seq: int, pieces: list[tuple[int, bytes]]
    ) -> None:
        rows = [(seq, part, piece) for part, piece in pieces]
        connection.executemany("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", rows)

    def prune(self, connection: sqlite3.Connection) -> None:
        """Remove all whole snapshots but the newest."""
        for seq in self.seqs(connection)[:-KEPT]:
            connection.execute("DELETE FROM snapshots WHERE seq = ?", (seq,))

    def load(self, connection: sqlite3.Connection, before: int | None) -> Snapshot | None:
        """Return the newest snapshot that verifies."""
        beginning = self._table.beginning(connection)
        for seq in reversed(self.seqs(connection)):
            if seq < beginning.seq or (before is not None and seq >= before):
                continue
            if (snapshot := self._verified(connection, seq)) is not None:
                return snapshot
        if beginning.seq:
            raise CorruptJournal(
                str(self._path),
                segment="table snapshots",
                offset=beginning.seq + 1,
                sequence=beginning.seq + 1,
                expected=f"a snapshot, since the events up to {beginning.seq} were dropped",
                found="none that verifies",
            )
        return None

    def verified(self, connection: sqlite3.Connection, seq: int) -> Snapshot:
        """Return a snapshot; raises an error if it is damaged, or not of this journal."""
        snapshot = self.whole(connection, seq)
        bookmark = snapshot.bookmark
        if bookmark != self.bookmark(connection, bookmark.seq):
            raise BadSnapshot(f"the journal has another commit at sequence number {bookmark.seq}")
        return snapshot

    def whole(self, connection: sqlite3.Connection, seq: int) -> Snapshot:
        """Return a snapshot whose place in the journal is not looked at."""
        (journal_id,) = connection.execute("SELECT id FROM journal").fetchone()
        return snapshot_of(str(journal_id).encode(), self._bytes(connection, seq))

    def _verified(self, connection: sqlite3.Connection, seq: int) -> Snapshot | None:
        try:
            return self.verified(connection, seq)
        except (BadSnapshot, StorageError) as error:
            _log.warning(
                "the snapshot %d of %s was ignored: %s",
                seq,
                self._path,
                error,
                extra={"action": "snapshot_ignored"},
            )
            return None

    def _bytes(self, connection: sqlite3.Connection, seq: int) -> bytes:
        (size,) = connection.execute(
            "SELECT coalesce(sum(length(data)), 0) FROM snapshots WHERE seq = ?", (seq,)
        ).fetchone()
        if size > MAX_SNAPSHOT_BYTES:
            raise BadSnapshot(f"it has {size} bytes; {MAX_SNAPSHOT_BYTES} are the limit")
        pieces = [data for (data,) in connection.execute(_PARTS, (seq,))]
        return b"".join(piece for piece in pieces if isinstance(piece, bytes))

    def droppable(self, connection: sqlite3.Connection, before: int, until: int) -> Head | None:
        """Return the last commit that is older than a time and that two snapshots make needless."""
        seqs = self.seqs(connection)[-KEPT:]
        if len(seqs) < KEPT or not all(self._verified(connection, seq) for seq in seqs):
            return None
        beginning = self._table.beginning(connection).seq
        low, high = beginning, min(until, seqs[0])
        while low < high:  # times never decrease
            middle = (low + high + 1) // 2
            row = connection.execute("SELECT at FROM events WHERE seq = ?", (middle,)).fetchone()
            if row is not None and isinstance(row[0], int) and row[0] < before:
                low = middle
            else:
                high = middle - 1
        row = connection.execute(_AT_OR_BEFORE, (low,)).fetchone()
        if row is None or row[0] <= beginning:
            return None
        end = self._table.verified_end(connection, row[0])  # what is removed is gone for good
        return end if end.at < before else None

    def seal(
        self, connection: sqlite3.Connection, after: Head, *, number: int, before: int
    ) -> Sealed | None:
        """Return the commits behind `after` as a segment, if they fill one or are old enough."""
        end = self._table.end_at(connection, after.seq)
        if end.digest != after.digest:
            raise other_journal(self._path, after)
        (journal_id,) = connection.execute("SELECT id FROM journal").fetchone()
        header = SegmentHeader(
            bytes.fromhex(str(journal_id)), number, end.seq + 1, end.at, end.digest
        )
        seed, pieces = seed_of(header.journal_id), [pack_segment_header(header)]
        size, is_full = 0, False
        for verified in self._table.commits(connection, end.seq, end.digest):
            commit, payload = verified.commit, encode_commit(verified.commit)
            if is_full or (commit.at >= before and end.seq > after.seq and end.at < before):
                return Sealed(b"".join(pieces), end)
            pieces.append(
                pack_frame(
                    seed,
                    payload,
                    count=len(commit.events),
                    first_seq=commit.first_seq,
                    durable=after.seq,
                    previous=end.digest,
                )
            )
            size += len(pieces[-1])
            end, is_full = Head(commit.last_seq, commit.at, verified.digest), size >= SEGMENT_BYTES
        return None

    def begin_behind(self, connection: sqlite3.Connection, end: Head) -> None:
        """Say that the journal begins behind this commit."""
        self.prune(connection)  # who wrote the last snapshot may have died before that
        connection.execute("DELETE FROM beginning")
        connection.execute("INSERT INTO beginning VALUES (?, ?, ?)", (end.seq, end.at, end.digest))

    def drop(self, connection: sqlite3.Connection, count: int) -> bool:
        """Remove some of the rows before the beginning; return whether there were any."""
        end = self._table.beginning(connection).seq
        return connection.execute(_DROP_SOME, (end, count)).rowcount > 0
