"""Walking over a journal that may be damaged: what verifies is returned, what does not is told.

The storage refuses a damaged journal at the first bad byte. A scan goes on behind it: to the next
frame whose header verifies, or the next commit in the table. It holds no locks and changes
nothing. `FileScan` and `SQLiteScan` (in `rows`) yield commits that verify, and a `Problem` for each
place that does not; a commit that does not follow the one before it says how much is missing.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_right
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import msgspec

from omniq.errors import CorruptJournal, OmniqError, StorageError, UnsupportedFormat
from omniq.storage.base import GENESIS, Head
from omniq.storage.disk import Disk
from omniq.storage.encoding import chain, decode_commit, misplaced
from omniq.storage.folder import SegmentFolder
from omniq.storage.framing import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC,
    BadBytes,
    NotASegment,
    unpack_segment_header,
)
from omniq.storage.history import History
from omniq.storage.segments import Segment, segment_name
from omniq.storage.snapshots import snapshot_of
from omniq.tools.frames import Frames, find_headless

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omniq.core.events import Commit
    from omniq.storage.base import Snapshot
    from omniq.storage.framing import FrameHeader
    from omniq.storage.snapshots import SnapshotFolder
    from omniq.tools.frames import Headless

__all__ = ("FileScan", "Problem", "Scan", "Torn", "base_of")

JOURNAL_ID = slice(16, 32)  # in a segment's header


class Problem(msgspec.Struct, frozen=True):
    """Something that does not verify: where, how much, what was expected and what was found.

    `offset` and `bytes` are of a file, and null in a database. `last_seq` is 0 if nothing behind
    says how many events are affected. `tasks` are those that the damaged place seems to name.
    """

    kind: str
    place: str
    offset: int | None
    bytes: int | None
    first_seq: int
    last_seq: int
    expected: str
    found: str
    tasks: list[str] = []


class Torn(msgspec.Struct, frozen=True):
    """Bytes behind the end: of a write that a crash cut short, or one that is under way."""

    place: str
    offset: int
    bytes: int


class Scan(Protocol):
    """A walk over a journal, from its beginning to its end.

    `seq` and `digest` are where it has come to, damage included. `beginning` is not 0 if history
    was dropped, and a snapshot is of a state behind it.
    """

    beginning: Head

    @property
    def seq(self) -> int: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def payload(self) -> bytes | memoryview:
        """The encoded bytes of the commit that was yielded last."""
        ...

    @property
    def torn(self) -> Torn | None: ...

    # Those that verify, in order, and those that are whole but whose place in the journal does not
    # verify; known once the walk has begun.
    snapshots: list[Snapshot]
    displaced: list[Snapshot]

    def __iter__(self) -> Iterator[Commit | Problem]: ...

    def place(self) -> tuple[str, int | None, int | None]:
        """Return the place, offset and length of the commit that was yielded last."""
        ...

    def surroundings(self) -> Iterator[Problem]:
        """Check what the commits are embedded in, which a reader of them need not care about."""
        ...


def base_of(scan: Scan) -> Snapshot | None:
    """Return the snapshot with which a fold of a walk begins, None if history was not dropped."""
    if not scan.beginning.seq:
        return None
    known = [*scan.snapshots, *scan.displaced]
    return next(shot for shot in known if shot.bookmark.seq >= scan.beginning.seq)


class FileScan:
    """A walk over the segments of a file journal."""

    def __init__(self, folder: Path, *, disk: Disk | None = None) -> None:
        self.folder = folder
        self.seq = 0
        self.digest: bytes = GENESIS
        self.beginning = Head()
        self.payload: bytes | memoryview = b""
        self.torn: Torn | None = None
        self._disk = disk or Disk()
        self._folder = SegmentFolder(self._disk, folder, writable=False)
        self._firsts: list[int] = []
        self._first = 0  # of the segment that is walked
        self._stop = (0, 0)
        self._durable = 0
        self._name = ""
        self._offset = 0
        self._length = 0
        # Behind damage nothing is known to be chained to.
        self._is_chained = True
        self.snapshots: list[Snapshot] = []
        self.displaced: list[Snapshot] = []

    def place(self) -> tuple[str, int | None, int | None]:
        """Return segment, offset and length of the frame of the latest commit."""
        return self._name, self._offset, self._length

    def __iter__(self) -> Iterator[Commit | Problem]:
        if not self._disk.is_directory(self.folder):
            raise UnsupportedFormat(f"{self.folder} is no directory, so there is no file journal")
        self._stop = self._end()
        yield from self._read_snapshots()
        before: Segment | None = None
        while (first := self._following()) is not None and first <= self._stop[0]:
            self._first = first
            self._name = segment_name(first)
            try:
                segment = Segment(self._disk, self.folder, first, writable=False)
            except FileNotFoundError:
                raise self._dropped_meanwhile() from None
            except (OSError, CorruptJournal, UnsupportedFormat) as error:
                yield from self._walk_headless(first, error)
                before = None
                continue
            except StorageError as error:  # an archive that does not give it back
                yield self._unreadable(first, "a segment", str(error))
                continue
            try:
                yield from self._check_header(segment, before)
                yield from self._walk(segment)
            finally:
                segment.close()
            before = segment

    def _walk_headless(
        self, first: int, error: OSError | CorruptJournal | UnsupportedFormat
    ) -> Iterator[Commit | Problem]:
        """Walk a segment whose header does not verify, if its frames do.

        All that a reader needs of the header is the number from which the checksums start, and
        any frame that verifies tells that, too.
        """
        expected, found = "a segment header", str(error)
        if isinstance(error, CorruptJournal):
            expected, found = error.expected, error.found
        has_header = self._has_header(first)
        segment = None
        if not has_header or isinstance(error, OSError):
            segment = find_headless(self._disk, self.folder / self._name, first)
        if segment is not None:
            try:
                if not has_header:  # else the disk fails farther on, where it will be met again
                    last = (self._following() or 1) - 1
                    yield Problem(
                        "segment", self._name, 0, SEGMENT_HEADER_BYTES, first, last, expected, found
                    )
                if segment.previous:
                    self._begins_behind(Head(first - 1, digest=segment.previous))
                yield from self._walk(segment)
            finally:
                segment.close()
        elif isinstance(error, UnsupportedFormat) and len(self._folder.firsts()) == 1:
            raise error
        else:
            yield self._unreadable(first, expected, found)

    def _has_header(self, first: int) -> bool:
        """Whether a segment has a header that is whole, be it of a later version."""
        try:
            unpack_segment_header(self._read_header(first))
        except (BadBytes, OSError):
            return False
        except NotASegment:
            return self._read_header(first).startswith(SEGMENT_MAGIC)
        return True

    def _dropped_meanwhile(self) -> StorageError:
        return StorageError(
            f"history of {self.folder} was dropped while it was read. Next: run the command again"
        )

    def surroundings(self) -> Iterator[Problem]:
        return iter(())

    def _read_snapshots(self) -> Iterator[Problem]:
        history = History(self._disk, self.folder, self._folder)
        for seq in history.snapshots.seqs():
            name = history.snapshots.file(seq).name
            try:
                self.snapshots.append(history.verified(seq))
            except FileNotFoundError:
                continue  # a newer one has replaced it just now
            except (OmniqError, OSError) as error:
                wanted = "a snapshot of this journal"
                yield Problem("snapshot", name, 0, None, seq, seq, wanted, str(error))
                self._keep_displaced(history.snapshots, seq)

    def _keep_displaced(self, folder: SnapshotFolder, seq: int) -> None:
        """Keep a snapshot that is whole and names the id in one of the segments' headers."""
        for first in self._folder.firsts():
            with suppress(OmniqError, OSError):
                header = self._read_header(first)
                self.displaced.append(snapshot_of(header[JOURNAL_ID], folder.read(seq)))
                return

    def _read_header(self, first: int) -> bytes:
        descriptor = self._disk.open(self.folder / segment_name(first), os.O_RDONLY)
        try:
            return self._disk.read(descriptor, SEGMENT_HEADER_BYTES, 0)
        finally:
            self._disk.close(descriptor)

    def _end(self) -> tuple[int, int]:
        """Return last segment and size of the journal: a writer may be faster than this walk."""
        firsts = self._folder.firsts()
        if not firsts:
            raise UnsupportedFormat(f"{self.folder} holds no segment of an OmniQ journal")
        return firsts[-1], self._size_of(firsts[-1])

    def _size_of(self, first: int) -> int:
        descriptor = self._disk.open(self.folder / segment_name(first), os.O_RDONLY)
        try:
            return self._disk.size(descriptor)
        finally:
            self._disk.close(descriptor)

    def _following(self) -> int | None:
        """Return the next segment; a writer may have begun one since the folder was listed."""
        if not self._firsts or self._firsts[-1] <= self._first:
            self._firsts = self._folder.firsts()
        behind = bisect_right(self._firsts, self._first)
        return self._firsts[behind] if behind < len(self._firsts) else None

    def _unreadable(self, first: int, expected: str, found: str) -> Problem:
        size = None
        with suppress(OSError, StorageError):
            size = self._size_of(first)
        last = first - 1 if size == SEGMENT_HEADER_BYTES else self._lose_until()
        return Problem("segment", self._name, 0, size, first, last, expected, found)

    def _lose_until(self) -> int:
        """Go to the end of a segment that cannot be read on; return its last number, 0 if unknown.

        Where it ended, only the next segment says.
        """
        following = self._following()
        last = 0 if following is None else following - 1
        self.seq = max(self.seq, last)
        self._is_chained = False
        return last

    def _check_header(self, segment: Segment, before: Segment | None) -> Iterator[Problem]:
        """Compare what a segment says of itself with what came before it."""
        header = segment.header
        self._offset, self._length = 0, SEGMENT_HEADER_BYTES
        if self._begins_behind(Head(header.first_seq - 1, header.at, header.previous)):
            return
        if header.first_seq != self.seq + 1:
            if self._folder.firsts()[0] > self.seq + 1 > 1:
                raise self._dropped_meanwhile()
            yield self._out_of_order(header.first_seq)
        elif before is not None and header.journal_id != before.header.journal_id:
            yield self._problem(
                "segment",
                f"journal {before.header.journal_id.hex()}",
                f"journal {header.journal_id.hex()}",
            )
        elif before is not None and header.number != before.header.number + 1:
            yield self._problem(
                "segment", f"segment {before.header.number + 1}", f"segment {header.number}"
            )
        elif self._is_chained and header.previous != self.digest:
            yield self._problem("chain", self.digest.hex(), header.previous.hex())
        self.seq = header.first_seq - 1
        self.digest, self._is_chained = header.previous, True

    def _begins_behind(self, before: Head) -> bool:
        """Begin the walk at the first segment if what is before it was dropped."""
        known = (snapshot.bookmark.seq for snapshot in (*self.snapshots, *self.displaced))
        if self.seq or not before.seq or before.seq > max(known, default=0):
            return False
        self.beginning = before
        self.seq, self.digest = before.seq, before.digest
        return True

    def _walk(self, segment: Segment | Headless) -> Iterator[Commit | Problem]:
        """Check the frames of a segment, which a writer may be appending to.

        A frame that does not verify may be one that is just being written, and the end one that
        was behind us by the time we looked. So both are looked at again, after what would make
        them final was seen: a later segment, or a watermark that says that they were durable.
        """
        frames = Frames(segment)
        end = self._stop[1] if self._first == self._stop[0] else sys.maxsize
        is_last, suspect = self._following() is None, -1
        while frames.offset < end:
            self._offset = frames.offset
            try:
                frame = frames.next()
            except BadBytes as error:
                if suspect != frames.offset:
                    if is_last and suspect < 0:
                        self._durable = max(self._durable, frames.highest_watermark())
                    is_last = self._following() is None
                    suspect = frames.offset
                    frames.forget()
                elif not is_last or self.seq < self._durable or frames.failure is not None:
                    yield self._skip(frames, error)
                elif self._following() is None:
                    rest = frames.rest()
                    self.torn = Torn(self._name, frames.offset, rest) if rest > 0 else None
                    return
                else:
                    suspect = -1
                continue
            if frame is not None:
                # This loop is where verifying spends its time: the plain case comes first.
                header, payload = frame
                if header.first_seq != self.seq + 1 or header.previous != self.digest:
                    yield from self._misplaced(header, len(payload))
                self._enter(header, payload)
                yield self._decoded(header, payload)
            elif is_last and self._following() is not None:
                is_last = False
                frames.forget()
            else:
                return

    def _misplaced(self, header: FrameHeader, length: int) -> Iterator[Problem]:
        """Say what is wrong with the place of a frame that verifies by itself."""
        self._length = FRAME_HEADER_BYTES + length
        if header.first_seq != self.seq + 1:
            yield self._out_of_order(header.first_seq)
        elif self._is_chained:
            yield self._problem(
                "chain", self.digest.hex(), header.previous.hex(), header.events - 1
            )

    def _enter(self, header: FrameHeader, payload: memoryview) -> None:
        """Go on to the end of a frame, whose payload `_decoded` is about to look into."""
        self._length = FRAME_HEADER_BYTES + len(payload)
        self._durable = max(self._durable, header.durable)
        self.seq = header.first_seq + header.events - 1
        self.digest, self._is_chained = chain(header.previous, payload), True
        self.payload = payload

    def _decoded(self, header: FrameHeader, payload: memoryview) -> Commit | Problem:
        try:
            commit = decode_commit(payload)
        except msgspec.DecodeError as error:
            return self._undecodable(header, str(error))
        impossible = misplaced(commit, header.first_seq - 1, 0, header.events)
        return commit if impossible is None else self._undecodable(header, impossible[1])

    def _skip(self, frames: Frames, error: BadBytes) -> Problem:
        """Go to the next frame that begins well, and say what lies between."""
        start, first = frames.offset, self.seq + 1
        tasks = frames.named_tasks()
        if (header := frames.skip()) is None:
            last = self._lose_until()
        else:
            last = header.first_seq - 1
            self.seq = max(self.seq, last)
            self._is_chained = False
        length = frames.offset - start
        kind, expected, found = "frame", error.expected, error.found
        if frames.failure is not None:
            kind, expected, found = "read", "bytes that the disk can read", frames.failure
            frames.failure = None
        return Problem(kind, self._name, start, length, first, last, expected, found, tasks)

    def _out_of_order(self, first_seq: int) -> Problem:
        wanted = self.seq + 1
        self._is_chained = False
        return Problem(
            "gap" if first_seq > wanted else "repetition",
            self._name,
            self._offset,
            0,
            min(first_seq, wanted),
            max(first_seq, wanted) - 1,
            f"sequence number {wanted}",
            f"sequence number {first_seq}",
        )

    def _problem(self, kind: str, expected: str, found: str, more: int = 0) -> Problem:
        seq = self.seq + 1
        return Problem(
            kind, self._name, self._offset, self._length, seq, seq + more, expected, found
        )

    def _undecodable(self, header: FrameHeader, found: str) -> Problem:
        return Problem(
            "decode",
            self._name,
            self._offset,
            self._length,
            header.first_seq,
            self.seq,
            f"a commit of {header.events} events from {header.first_seq}",
            found,
        )
