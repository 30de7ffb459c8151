"""Segment files, and how they are walked through: from one frame to the next.

A `Position` moves from frame to frame, checking every frame's checksums, its sequence number and
its place in the hash chain. What it means if one does not verify, `ends` says.

Zero bytes at the end of a segment are room for later frames, see `make_room`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from omniq.errors import CorruptJournal, UnsupportedFormat
from omniq.storage.disk import is_no_room
from omniq.storage.encoding import MAX_COMMIT_BYTES, chain, decode_commit, misplaced
from omniq.storage.framing import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    BadBytes,
    FrameHeader,
    NotASegment,
    SegmentHeader,
    is_blank,
    seed_of,
    unpack_frame_header,
    unpack_segment_header,
    verify_payload,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omniq.core.events import Commit
    from omniq.storage.disk import Disk

__all__ = (
    "READ_BYTES",
    "SEGMENT_BYTES",
    "SUFFIX",
    "LargeCommit",
    "Position",
    "Segment",
    "headers_from",
    "make_room",
    "segment_name",
    "segments_in",
    "write_again",
)

SEGMENT_BYTES = 64 * 1024 * 1024  # etcd's WAL segments have this size
SUFFIX = ".seg"
DIGITS = 20
READ_BYTES = 1 << 20  # at a time; a commit that has more is large
_FIRST_READ_BYTES = 2048  # who follows a journal finds a small commit, and room behind it


def segment_name(first_seq: int) -> str:
    return f"{first_seq:0{DIGITS}}{SUFFIX}"


def segments_in(disk: Disk, folder: Path) -> list[int]:
    """Return the first sequence numbers of all segments, in order."""
    return sorted(
        int(name[:DIGITS])
        for name in disk.list(folder)
        if len(name) == DIGITS + len(SUFFIX)
        and name.endswith(SUFFIX)
        and name.isascii()
        and name[:DIGITS].isdigit()
    )


class Segment:
    """An open segment file with a verified header."""

    def __init__(self, disk: Disk, folder: Path, first_seq: int, *, writable: bool) -> None:
        self.disk = disk
        self.folder = folder
        self.path = folder / segment_name(first_seq)
        self.first_seq = first_seq
        self.room_until = 0  # up to where there is room for frames, as far as this handle knows
        self._seen_at = -1  # when a name in the folder had last changed and the file had its own
        self.descriptor = disk.open(self.path, os.O_RDWR if writable else os.O_RDONLY)
        try:
            self.header = self._read_header(first_seq)
        except BaseException:
            self.close()
            raise
        self.seed = seed_of(self.header.journal_id)

    def _read_header(self, first_seq: int) -> SegmentHeader:
        try:
            header = unpack_segment_header(self.read(4096, 0))
        except NotASegment as error:
            raise UnsupportedFormat(f"{self.path}: {error}. It was not touched") from None
        except BadBytes as error:
            raise self.corrupt(0, first_seq, error.expected, error.found) from None
        if header.first_seq != first_seq:
            raise self.corrupt(
                0, first_seq, f"a segment that begins at {first_seq}", f"one at {header.first_seq}"
            )
        return header

    def size(self) -> int:
        return self.disk.size(self.descriptor)

    def read(self, length: int, offset: int) -> bytes:
        return self.disk.read(self.descriptor, length, offset)

    def ends_at(self, offset: int) -> bool:
        """Whether a frame ends here and nothing follows it, as far as the next one's header goes.

        Raises `FileNotFoundError` if the file was removed while it was open.
        """
        changed_at = self.disk.changed_at(self.folder)
        if changed_at != self._seen_at:
            self.size()
            self._seen_at = changed_at
        data = self.disk.read(self.descriptor, 1 + FRAME_HEADER_BYTES, offset - 1)
        return len(data) == 1 or (len(data) > 1 and is_blank(data[1:]))

    def cut(self, offset: int) -> None:
        """Remove everything from here on."""
        self.room_until = 0
        self.disk.truncate(self.descriptor, offset)

    def written_until(self, offset: int) -> int:
        """Return where the last byte ends that is not zero, at `offset` or behind it."""
        until = offset
        while data := self.read(READ_BYTES, offset):
            if written := len(data.rstrip(b"\0")):
                until = offset + written
            offset += len(data)
        return until

    def corrupt(
        self, offset: int, sequence: int, expected: str, found: str, *, last: int | None = None
    ) -> CorruptJournal:
        """Return the error of damage here, up to `last`, or to the next segment if there is one."""
        if last is None:
            with suppress(OSError):
                later = [first for first in segments_in(self.disk, self.folder) if first > sequence]
                last = min(later) - 1 if later else None
        return CorruptJournal(
            str(self.folder),
            segment=self.path.name,
            offset=offset,
            sequence=sequence,
            last_sequence=last,
            expected=expected,
            found=found,
        )

    def close(self) -> None:
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            self.disk.close(descriptor)


class LargeCommit(Exception):
    """The next commit has more than `READ_BYTES`, so reading it would hold an event loop up."""


class Position(msgspec.Struct):
    """A place between two frames, and what is known there."""

    segment: Segment
    offset: int
    seq: int
    digest: bytes
    at: int = 0
    frame_offset: int = 0  # where the frame before begins, 0 at the segment's beginning
    durable: int = 0  # the highest durable watermark seen

    @classmethod
    def start_of(cls, segment: Segment) -> Position:
        header = segment.header
        return cls(segment, SEGMENT_HEADER_BYTES, header.first_seq - 1, header.previous, header.at)

    def read(
        self, limit: int, skip_until: int = 0, *, large: bool = True
    ) -> tuple[list[Commit], BadBytes | None]:
        """Return about `limit` events' commits from here on, and what stopped the reading.

        Moves behind what was returned. Commits up to `skip_until` are verified, not returned.
        None means that the limit or the end of the file was reached cleanly, or room.

        Without `large`, stops at a large commit, too; raises `LargeCommit` if that is the first.
        """
        commits: list[Commit] = []
        count = 0
        buffer, size, is_all = memoryview(b""), _FIRST_READ_BYTES, False
        start = self.offset
        while count < limit:
            view = buffer[self.offset - start :]
            wanted = FRAME_HEADER_BYTES
            if is_all or len(view) >= wanted:
                if is_blank(view[:wanted]):  # the common end, found without an error's cost
                    return commits, None
                try:
                    header, payload = self._next_frame(view)
                except BadBytes as error:
                    wanted = self._wanted(view)
                    if is_all or len(view) >= wanted:
                        return commits, error
                    if wanted > READ_BYTES and not large:
                        if commits:
                            return commits, None
                        raise LargeCommit from None
                else:
                    commit = self._take(header, payload)
                    if commit.last_seq > skip_until:
                        commits.append(commit)
                        count += len(commit.events)
                    continue
            start, size = self.offset, max(size, wanted)
            buffer = memoryview(self.segment.read(size, start))
            is_all, size = len(buffer) < size, min(8 * size, READ_BYTES)
        return commits, None

    def _take(self, header: FrameHeader, payload: memoryview) -> Commit:
        """Return the commit of the frame that is here, and move behind it."""
        commit = self._decode(header, payload)
        self.digest = chain(self.digest, payload)
        self.pass_frame(commit, FRAME_HEADER_BYTES + len(payload))
        return commit

    def _next_frame(self, view: memoryview) -> tuple[FrameHeader, memoryview]:
        header = unpack_frame_header(self.segment.seed, view)
        self.durable = max(self.durable, header.durable)
        if header.length > MAX_COMMIT_BYTES:
            raise BadBytes(f"a payload of at most {MAX_COMMIT_BYTES} bytes", str(header.length))
        payload = view[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + header.length]
        verify_payload(self.segment.seed, header, payload)
        if header.first_seq != self.seq + 1:
            raise BadBytes(f"sequence number {self.seq + 1}", str(header.first_seq))
        if header.previous != self.digest:
            raise BadBytes(
                f"a frame chained to {self.digest.hex()[:16]}…", f"{header.previous.hex()[:16]}…"
            )
        return header, payload

    def _wanted(self, view: memoryview) -> int:
        """Return how many bytes the frame here needs to be judged, or the file has for it."""
        try:
            length = unpack_frame_header(self.segment.seed, view).length
        except BadBytes:
            return FRAME_HEADER_BYTES
        wanted = FRAME_HEADER_BYTES + min(length, MAX_COMMIT_BYTES)
        if wanted > READ_BYTES:
            wanted = min(wanted, self.segment.size() - self.offset)
        return wanted

    def _decode(self, header: FrameHeader, payload: memoryview) -> Commit:
        try:
            commit = decode_commit(payload)
        except msgspec.DecodeError as error:
            raise UnsupportedFormat(
                f"{self.segment.path}, offset {self.offset}: the commit of sequence number "
                f"{self.seq + 1} is intact but cannot be read ({error}); a newer OmniQ may have "
                "written it. Next: install that version"
            ) from None
        if (problem := misplaced(commit, self.seq, self.at, header.events)) is not None:
            raise self.damage(BadBytes(*problem))
        return commit

    def pass_frame(self, commit: Commit, length: int) -> None:
        """Move behind the frame that is here; its digest is the caller's to note."""
        self.frame_offset = self.offset
        self.offset += length
        self.seq = commit.last_seq
        self.at = commit.at

    def damage(self, problem: BadBytes | None) -> CorruptJournal:
        """Return the error that the journal goes on behind here, and cannot be read."""
        if problem is None:
            problem = BadBytes(f"sequence number {self.seq + 1}", "the end of the segment")
        first = self.seq + 1
        return self.segment.corrupt(
            self.offset, first, problem.expected, problem.found, last=self._damaged_until()
        )

    def _damaged_until(self) -> int | None:
        """Return the last sequence number of the damage here, if anything behind it tells."""
        for offset, header in headers_from(self.segment, self.offset):
            if offset == self.offset:
                return header.first_seq + header.events - 1
            if header.first_seq > self.seq + 1:
                return header.first_seq - 1
        return None


def headers_from(segment: Segment, begin: int) -> Iterator[tuple[int, FrameHeader]]:
    """Yield each frame header from `begin` on that verifies, with its offset.

    What lies behind one, as far as its length says, is its payload: arguments that look like a
    frame are none.
    """
    while data := segment.read(READ_BYTES, begin):
        view, following = memoryview(data), 0
        while (at := data.find(FRAME_MAGIC, following)) >= 0:
            following = at + 1
            with suppress(BadBytes):
                header = unpack_frame_header(segment.seed, view[at:])
                if header.durable < header.first_seq:  # or no writer ever meant it
                    yield begin + at, header
                    following = at + FRAME_HEADER_BYTES + header.length
        if len(data) < READ_BYTES:
            return
        # A header may lie across the border.
        begin += max(following, len(data) - FRAME_HEADER_BYTES + 1)


def make_room(end: Position, length: int, limit: int) -> None:
    """Write zeros where a frame of `length` bytes goes and where later ones go, up to `limit`.

    A sync of a file that does not grow has only its bytes to write (PostgreSQL's `wal_init_zero`,
    etcd's preallocated WAL). If the disk has no room, nothing is done.
    """
    segment, disk, needed = end.segment, end.segment.disk, end.offset + length
    if needed <= segment.room_until:
        return
    ahead = min(disk.room_ahead(needed, length), limit - needed)
    if ahead <= 0:
        return
    segment.room_until = segment.size()  # another process may have made some
    if needed <= segment.room_until:
        return
    try:
        disk.write_all(segment.descriptor, bytes(length + ahead), end.offset)
    except OSError as error:
        segment.cut(end.offset)
        if not is_no_room(error):
            raise
    else:
        segment.room_until = needed + ahead


def write_again(end: Position) -> None:
    """Write a segment once more, and sync it, after a sync of it has failed.

    The system may hold pages for clean that never reached the disk (Rebello et al., ATC 2020): who
    reads them sees what a power cut would take away, and another sync would not write them.
    """
    segment = end.segment
    for offset in range(0, end.offset, READ_BYTES):
        data = segment.read(min(READ_BYTES, end.offset - offset), offset)
        segment.disk.write_all(segment.descriptor, data, offset)
    segment.disk.sync(segment.descriptor)
