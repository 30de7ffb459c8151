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

from omniq.errors import CorruptJournal, OmniqError, UnsupportedFormat
from omniq.storage.base import GENESIS
from omniq.storage.disk import Disk
from omniq.storage.encoding import MAX_COMMIT_BYTES, chain, decode_commit
from omniq.storage.folder import SegmentFolder
from omniq.storage.framing import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    BadBytes,
    FrameHeader,
    unpack_frame_header,
    verify_payload,
)
from omniq.storage.history import History
from omniq.storage.segments import Segment, segment_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omniq.core.events import Commit
    from omniq.storage.base import Snapshot

__all__ = ("FileScan", "Problem", "Scan", "Torn")

_READ_BYTES = 1 << 20


class Problem(msgspec.Struct, frozen=True):
    """Something that does not verify: where, how much, what was expected and what was found.

    `offset` and `bytes` are of a file, and null in a database. `last_seq` is 0 if nothing behind
    says how many events are affected.
    """

    kind: str
    place: str
    offset: int | None
    bytes: int | None
    first_seq: int
    last_seq: int
    expected: str
    found: str


class Torn(msgspec.Struct, frozen=True):
    """Bytes behind the end: of a write that a crash cut short, or one that is under way."""

    place: str
    offset: int
    bytes: int


class Scan(Protocol):
    """A walk over a journal, from its beginning to its end."""

    seq: int
    digest: bytes
    payload: bytes | memoryview  # the encoded bytes of the commit that was yielded last
    torn: Torn | None
    snapshots: list[Snapshot]  # those that verify, in order; known once the walk has begun

    def __iter__(self) -> Iterator[Commit | Problem]: ...

    def place(self) -> tuple[str, int | None, int | None]:
        """Return the place, offset and length of the commit that was yielded last."""
        ...


class FileScan:
    """A walk over the segments of a file journal."""

    def __init__(self, folder: Path, *, disk: Disk | None = None) -> None:
        self.folder = folder
        self.seq = 0
        self.digest: bytes = GENESIS
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
            except CorruptJournal as error:
                yield self._unreadable(first, error.expected, error.found)
                before = None
                continue
            except UnsupportedFormat as error:
                if len(self._folder.firsts()) == 1:
                    raise
                yield self._unreadable(first, "a segment header", str(error))
                before = None
                continue
            try:
                yield from self._check_header(segment, before)
                yield from self._walk(segment)
            except OSError as error:  # the disk cannot read it
                size, first = segment.size() - self._offset, self.seq + 1
                last = self._lose_until()
                wanted = "bytes that the disk can read"
                yield Problem(
                    "read", self._name, self._offset, size, first, last, wanted, str(error)
                )
            finally:
                segment.close()
            before = segment

    def _read_snapshots(self) -> Iterator[Problem]:
        history = History(self._disk, self.folder, self._folder)
        for seq in history.snapshots.seqs():
            name = history.snapshots.file(seq).name
            try:
                self.snapshots.append(history.verified(seq))
            except (OmniqError, OSError) as error:
                wanted = "a snapshot of this journal"
                yield Problem("snapshot", name, 0, None, seq, seq, wanted, str(error))

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
        size = self._size_of(first)
        last = self._lose_until()
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
        if header.first_seq != self.seq + 1:
            if self.seq or not self._begins_with(header.first_seq):
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

    def _begins_with(self, first: int) -> bool:
        """Whether what is before the first segment was dropped behind a snapshot."""
        return any(snapshot.bookmark.seq >= first - 1 for snapshot in self.snapshots)

    def _walk(self, segment: Segment) -> Iterator[Commit | Problem]:
        """Check the frames of a segment, which a writer may be appending to.

        A frame that does not verify may be one that is just being written, and the end one that
        was behind us by the time we looked. So both are looked at again, after what would make
        them final was seen: a later segment, or a watermark that says that they were durable.
        """
        frames = _Frames(segment)
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
                elif not is_last or self.seq < self._durable:
                    yield self._skip(frames, error)
                elif self._following() is None:
                    rest = segment.size() - frames.offset
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
        if commit.first_seq != header.first_seq or len(commit.events) != header.events:
            says = f"{len(commit.events)} events from {commit.first_seq}"
            return self._undecodable(header, f"a commit of {says}")
        return commit

    def _skip(self, frames: _Frames, error: BadBytes) -> Problem:
        """Go to the next frame that begins well, and say what lies between."""
        start, first = frames.offset, self.seq + 1
        if (header := frames.skip()) is None:
            last = self._lose_until()
        else:
            last = header.first_seq - 1
            self.seq = max(self.seq, last)
            self._is_chained = False
        length = frames.offset - start
        return Problem("frame", self._name, start, length, first, last, error.expected, error.found)

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


class _Frames:
    """Reads one frame after another from a segment, through a buffer."""

    def __init__(self, segment: Segment) -> None:
        self.offset = SEGMENT_HEADER_BYTES
        self.seed = segment.seed
        self._segment = segment
        self._start = self.offset
        self._buffer = memoryview(b"")

    def next(self) -> tuple[FrameHeader, memoryview] | None:
        """Return the next frame, None at the file's end; raises `BadBytes` and stays there."""
        view = self._view(FRAME_HEADER_BYTES)
        if not view:
            return None
        header = unpack_frame_header(self.seed, view)
        if header.length > MAX_COMMIT_BYTES:
            raise BadBytes(f"a payload of at most {MAX_COMMIT_BYTES} bytes", str(header.length))
        size = FRAME_HEADER_BYTES + header.length
        if len(view) < size:
            view = self._view(size)
        payload = view[FRAME_HEADER_BYTES:size]
        verify_payload(self.seed, header, payload)
        self.offset += size
        return header, payload

    def skip(self) -> FrameHeader | None:
        """Go to the next frame whose header verifies, or to the file's end."""
        begin = self.offset + 1
        with suppress(BadBytes):  # a good header says where the next frame begins
            header = unpack_frame_header(self.seed, self._view(FRAME_HEADER_BYTES))
            begin = self.offset + FRAME_HEADER_BYTES + header.length
        for offset, header in self._headers_from(begin):
            self.offset = offset
            return header
        self.offset = max(self.offset, self._segment.size())
        return None

    def highest_watermark(self) -> int:
        """Return the highest durable watermark from here on."""
        return max((header.durable for _, header in self._headers_from(self.offset)), default=0)

    def forget(self) -> None:
        """Read the file anew from here on."""
        self._buffer = memoryview(b"")

    def _headers_from(self, begin: int) -> Iterator[tuple[int, FrameHeader]]:
        """Yield every frame header from `begin` on that verifies, with its offset."""
        while data := self._segment.read(_READ_BYTES, begin):
            view = memoryview(data)
            at = data.find(FRAME_MAGIC)
            while at >= 0:
                with suppress(BadBytes):
                    yield begin + at, unpack_frame_header(self.seed, view[at:])
                at = data.find(FRAME_MAGIC, at + 1)
            if len(data) < _READ_BYTES:
                return
            begin += len(data) - FRAME_HEADER_BYTES + 1  # a header may lie across the border

    def _view(self, size: int) -> memoryview:
        """Return what lies from here on, at least `size` bytes of it if the file has them."""
        view = self._buffer[self.offset - self._start :]
        if len(view) < size:
            self._start = self.offset
            self._buffer = memoryview(self._segment.read(max(size, _READ_BYTES), self.offset))
            view = self._buffer
        return view
