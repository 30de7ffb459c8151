"""The folder of a file journal: which segments there are, and how one follows another."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from omniq.errors import CorruptJournal, StorageError, UnsupportedFormat
from omniq.host import random_bytes
from omniq.storage.base import GENESIS
from omniq.storage.disk import missing_folder
from omniq.storage.framing import SegmentHeader, pack_segment_header
from omniq.storage.rendezvous import LOCK_NAME, HeadHint
from omniq.storage.segments import Position, Segment, segment_name, segments_in

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from omniq.storage.disk import Disk

__all__ = ("SegmentFolder", "hint_of", "position_of")


class SegmentFolder:
    """The segments of one journal; those that are in use are open."""

    def __init__(self, disk: Disk, path: Path, *, writable: bool) -> None:
        self.disk = disk
        self.path = path
        self._writable = writable
        self._open: dict[int, Segment] = {}

    def firsts(self) -> list[int]:
        """Return the first sequence numbers of all segments, in order."""
        return segments_in(self.disk, self.path)

    def prepare(self, own_names: AbstractSet[str]) -> None:
        """Create the folder, unless it is there; raises `UnsupportedFormat` for somebody else's."""
        with suppress(FileExistsError), missing_folder(self.path):
            self.disk.make_directory(self.path)
        if not self.disk.is_directory(self.path):
            raise UnsupportedFormat(
                f"{self.path} is a file, and a file journal is a directory. It was not "
                "touched. Next: name another path, or one that ends in .db for SQLite"
            )
        names = {name for name in self.disk.list(self.path) if not name.endswith(".tmp")}
        if names - own_names and not self.firsts():
            raise UnsupportedFormat(
                f"{self.path} holds other files and no journal. It was not touched. "
                "Next: name an empty or a new directory"
            )
        lock = self.path / LOCK_NAME
        if not self.firsts() and lock.exists() and lock.stat().st_size:
            # The head hint was written to it, and before that a segment was durable.
            raise CorruptJournal(
                str(self.path),
                segment=segment_name(1),
                offset=0,
                sequence=1,
                expected="the segments of the journal that was here",
                found="none; to begin a new one, remove the directory",
            )

    def begin(self) -> None:
        """Create the first segment of a new journal."""
        self.create(SegmentHeader(random_bytes(16), number=1, first_seq=1, at=0, previous=GENESIS))

    def create(self, header: SegmentHeader) -> None:
        """Create a segment; it is durable when this returns."""
        path = self.path / segment_name(header.first_seq)
        self.disk.create(path, [pack_segment_header(header)])

    def check(self) -> None:
        """Raise `UnsupportedFormat` unless there is a journal."""
        if not self.disk.is_directory(self.path):
            what = "is not a directory" if self.disk.exists(self.path) else "does not exist"
            raise UnsupportedFormat(f"{self.path} {what}, so there is no journal to read")
        if not self.firsts():
            raise UnsupportedFormat(f"{self.path} holds no segment of an OmniQ journal")

    def goes_back_to(self, after: int) -> bool:
        """Whether what follows this sequence number is still there."""
        firsts = self.firsts()
        return bool(firsts) and firsts[0] <= after + 1

    def dropped(self, after: int) -> StorageError:
        """Return the error for who wants to read what is no longer there."""
        firsts = self.firsts()
        begins = f"begins with sequence number {firsts[0]}" if firsts else "has no segment any more"
        return StorageError(
            f"the journal {self.path} {begins}: what follows {after} was dropped. "
            "Next: begin with its snapshot"
        )

    def bytes_on_disk(self) -> int:
        size = 0
        for first in self.firsts():
            segment = Segment(self.disk, self.path, first, writable=False)
            size += segment.size()
            segment.close()
        return size

    def open(self, first_seq: int, *in_use: Position | None) -> Segment:
        """Return an open segment, and close those that no position in use is in."""
        segment = self._open.get(first_seq)
        if segment is None:
            segment = Segment(self.disk, self.path, first_seq, writable=self._writable)
            used = {place.segment.first_seq for place in in_use if place is not None}
            for other in set(self._open) - used:
                self._open.pop(other).close()
            self._open[first_seq] = segment
        return segment

    def open_last(self) -> Segment:
        """Return the last segment, which must be of the same journal as the one before it."""
        firsts = self.firsts()
        last = self.open(firsts[-1])
        if len(firsts) > 1:
            before = Segment(self.disk, self.path, firsts[-2], writable=False)
            before.close()
            wanted = (before.header.journal_id, before.header.number + 1)
            if last.header[:2] != wanted:
                raise last.corrupt(
                    0,
                    last.first_seq,
                    f"segment {wanted[1]} of journal {wanted[0].hex()}",
                    f"segment {last.header.number} of journal {last.header.journal_id.hex()}",
                )
        return last

    def has_after(self, place: Position) -> bool:
        """Whether there is a segment that begins behind a position in another one."""
        following = place.seq + 1
        return following != place.segment.first_seq and self.disk.exists(
            self.path / segment_name(following)
        )

    def start_after(self, place: Position, *in_use: Position | None) -> Position:
        """Return the beginning of the segment that follows the one which ends at a position."""
        before, first_seq = place.segment.header, place.seq + 1
        if not self.has_after(place):
            later = [first for first in self.firsts() if first > first_seq]
            raise CorruptJournal(
                str(self.path),
                segment=segment_name(first_seq),
                offset=0,
                sequence=first_seq,
                last_sequence=later[0] - 1 if later else None,
                expected="a segment that begins there",
                found="no such file",
            )
        segment = self.open(first_seq, place, *in_use)
        wanted = SegmentHeader(
            before.journal_id, before.number + 1, first_seq, place.at, place.digest
        )
        if segment.header != wanted:
            raise segment.corrupt(0, first_seq, str(wanted), str(segment.header))
        return Position.start_of(segment)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def hint_of(end: Position) -> HeadHint:
    """Return a place as the head hint has it."""
    return HeadHint(
        end.segment.header.first_seq, end.frame_offset, end.offset, end.seq, end.at, end.digest
    )


def position_of(segment: Segment, hint: HeadHint) -> Position:
    """Return the place that a head hint means."""
    return Position(segment, hint.offset, hint.seq, hint.digest, hint.at, hint.frame_offset)
