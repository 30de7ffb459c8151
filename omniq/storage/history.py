"""How far a file journal goes back: its snapshots, and the segments that they make dispensable.

History is dropped a segment at a time, the oldest first, and only behind two snapshots that
verify. From then on the older of them is where the journal begins, so a crash in between leaves a
journal that goes back further than it has to.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

from omniq.errors import CorruptJournal, StorageError
from omniq.storage.base import Bookmark, Head, Sealed, Snapshot, other_journal
from omniq.storage.disk import system_errors
from omniq.storage.ends import ends_with_its_frame
from omniq.storage.local import LocalStorage
from omniq.storage.segments import Position, Segment, segment_name
from omniq.storage.snapshots import KEPT, BadSnapshot, SnapshotFolder, snapshot_of
from omniq.storage.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterable
    from pathlib import Path

    from omniq.storage.disk import Disk
    from omniq.storage.folder import SegmentFolder
    from omniq.storage.reader import Reader
    from omniq.storage.threads import LoopThread

__all__ = ("History", "SnapshottingFiles")

_log = logging.getLogger(__name__)


class History:
    """The snapshots and the oldest segments of one journal. Every method works on the disk."""

    def __init__(self, disk: Disk, path: Path, segments: SegmentFolder) -> None:
        self.snapshots = SnapshotFolder(disk, path)
        self._disk = disk
        self._path = path
        self._segments = segments

    def beginning(self) -> Head:
        """Return what the first commit of the first segment is chained to."""
        segment = self._segment(self._segments.firsts()[0])
        return Head(segment.first_seq - 1, segment.header.at, segment.header.previous)

    def check_empty(self) -> None:
        """See that there is no snapshot: the journal would have lost its segments."""
        if seqs := self.snapshots.seqs():
            raise CorruptJournal(
                str(self._path),
                segment=segment_name(seqs[-1] + 1),
                offset=0,
                sequence=seqs[-1],
                expected="the segments that the snapshots there are of",
                found="no segment",
            )

    def load(self, before: int | None, *, set_aside: bool) -> Snapshot | None:
        """Return the newest snapshot that verifies, and perhaps rename those that do not."""
        first = self._segments.firsts()[0]
        for seq in reversed(self.snapshots.seqs()):
            if seq < first - 1 or (before is not None and seq >= before):
                continue
            try:
                return self.verified(seq)
            except (BadSnapshot, OSError) as error:
                self._complain(seq, error, set_aside=set_aside)
        if first > 1:
            raise CorruptJournal(
                str(self._path),
                segment=segment_name(first),
                offset=0,
                sequence=first,
                expected=f"a snapshot to begin with, since events 1 to {first - 1} were dropped",
                found="none that verifies",
            )
        return None

    def verified(self, seq: int) -> Snapshot:
        """Return a snapshot; raises `BadSnapshot` if it is damaged, or not of this journal."""
        journal_id = self._segment(self._segments.firsts()[-1]).header.journal_id
        snapshot = snapshot_of(journal_id, self.snapshots.read(seq))
        first = self.segment_of(snapshot.bookmark)
        segment = Segment(self._disk, self._path, first, writable=False)
        try:
            self.place(snapshot.bookmark, segment)
        finally:
            segment.close()
        return snapshot

    def _complain(self, seq: int, error: Exception, *, set_aside: bool) -> None:
        path = self.snapshots.file(seq)
        _log.warning(
            "the snapshot %s was ignored: %s", path, error, extra={"action": "snapshot_ignored"}
        )
        if set_aside and isinstance(error, BadSnapshot):
            # It must not count as one of those that are kept.
            self._disk.rename(path, path.with_name(f"{path.name}.bad"))

    def segment_of(self, bookmark: Bookmark) -> int:
        """Return which segment a bookmark is in; raises `BadSnapshot` if there is none."""
        firsts = self._segments.firsts()
        for first in (bookmark.place[0], bookmark.seq + 1):  # the second if the first was dropped
            if first in firsts:
                return first
        raise BadSnapshot(f"the journal has no segment {segment_name(bookmark.place[0])}")

    def place(self, bookmark: Bookmark, segment: Segment) -> Position:
        """Return the place of a bookmark; raises `BadSnapshot` if the journal does not have it."""
        _, frame_offset, offset = bookmark.place
        if segment.first_seq == bookmark.seq + 1:
            frame_offset, offset = 0, Position.start_of(segment).offset
        seq, digest, at = bookmark.seq, bookmark.digest, bookmark.at
        position = Position(segment, offset, seq, digest, at, frame_offset)
        if segment.size() < offset or not ends_with_its_frame(position):
            raise BadSnapshot(f"the journal has no such commit at sequence number {seq}")
        return position

    def droppable(self, before: int, until: int) -> list[int]:
        """Return the segments, the oldest first, whose events are all older and not needed."""
        found: list[int] = []
        limit = min(until, self._second_snapshot())
        for first, following in pairwise(self._segments.firsts()):
            if following - 1 > limit or self._segment(following).header.at >= before:
                break
            found.append(first)
        return found

    def _second_snapshot(self) -> int:
        """Return up to where two snapshots make the history dispensable."""
        seqs = self.snapshots.seqs()[-KEPT:]
        if len(seqs) < KEPT:
            return 0
        for seq in seqs:
            try:
                self.verified(seq)
            except (BadSnapshot, OSError) as error:
                self._complain(seq, error, set_aside=True)
                return 0
        return seqs[0]

    def drop(self, firsts: list[int]) -> None:
        """Remove these segments."""
        if firsts:
            # Whoever wrote the snapshots may have failed to remove older ones, which are of what is
            # removed now, or to make the names durable.
            self.snapshots.remove_old()
            self._disk.sync_directory(self._path)
        for first in firsts:
            with suppress(FileNotFoundError):  # somebody else does the same
                self._disk.remove(self._path / segment_name(first))
            self._disk.sync_directory(self._path)

    def seal(self, after: Head) -> Sealed | None:
        """Return the segment behind `after`, unless it is the last one."""
        firsts, first = self._segments.firsts(), after.seq + 1
        if first not in firsts or self._segment(first).header.previous != after.digest:
            raise other_journal(self._path, after)
        if first == firsts[-1]:
            return None
        following = self._segment(firsts[firsts.index(first) + 1]).header
        segment = Segment(self._disk, self._path, first, writable=False)
        try:
            data = segment.read(segment.size(), 0)
        finally:
            segment.close()
        return Sealed(data, Head(following.first_seq - 1, following.at, following.previous))

    def began_before(self, segment: Segment, at: int) -> bool:
        """Whether the first commit of a segment is older than this."""
        commits, _ = Position.start_of(segment).read(1)
        return bool(commits) and commits[0].at < at

    def _segment(self, first: int) -> Segment:
        """Return a segment with its header, closed again."""
        segment = Segment(self._disk, self._path, first, writable=False)
        segment.close()
        return segment


class SnapshottingFiles(LocalStorage):
    """The part of the file storage that is about its history; the rest is in `file`."""

    disk: Disk
    _history: History
    _segments: SegmentFolder
    _reader: Reader
    _thread: LoopThread

    @abstractmethod
    def _position(self) -> Position: ...

    @abstractmethod
    def _rotate(self) -> None: ...

    async def beginning(self) -> Head:
        self._check()
        with system_errors(f"cannot find the beginning of {self.path}"):
            return self._history.beginning()

    async def bookmark(self, seq: int) -> Bookmark:
        for place in (self._position(), self._reader.position):
            if place is not None and place.seq == seq:
                at = (place.segment.first_seq, place.frame_offset, place.offset)
                return Bookmark(seq, place.at, place.digest, at)
        raise StorageError(f"this handle on {self.path} does not stand at sequence number {seq}")

    async def save_snapshot(self, bookmark: Bookmark, parts: AsyncIterable[bytes]) -> None:
        # Also with durability="os": a state must not outlive the events that it is of.
        await self._sync(bookmark.seq)
        journal_id = self._position().segment.header.journal_id
        with system_errors(f"cannot write a snapshot of {self.path}"):
            await self._history.snapshots.save(journal_id, bookmark, parts)

    async def snapshot_seq(self) -> int:
        self._check()
        with system_errors(f"cannot look for the snapshots of {self.path}"):
            return max(self._history.snapshots.seqs(), default=0)

    async def load_snapshot(self, before: int | None = None) -> Snapshot | None:
        end = self._position()
        with system_errors(f"cannot read the snapshots of {self.path}"):
            snapshot = await self._thread.run(
                lambda: self._history.load(before, set_aside=not self.read_only)
            )
            if snapshot is not None:
                first = self._history.segment_of(snapshot.bookmark)
                segment = self._segments.open(first, end)
                self._reader.position = self._history.place(snapshot.bookmark, segment)
        return snapshot

    async def drop_history(self, *, before: int, until: int) -> Head:
        with system_errors(f"cannot drop history of {self.path}"):
            firsts = await in_thread(lambda: self._history.droppable(before, until))
            # First what makes room, then what needs some.
            await in_thread(lambda: self._history.drop(firsts))
            async with self:
                if self._history.began_before(self._position().segment, before):
                    await self._sync(self._position().seq)
                    self._rotate()  # so that it can be dropped when all of it is as old
        return await self.beginning()

    async def seal(self, after: Head, *, number: int, before: int) -> Sealed | None:  # noqa: ARG002
        with system_errors(f"cannot read {self.path}"):
            return await in_thread(lambda: self._history.seal(after))
