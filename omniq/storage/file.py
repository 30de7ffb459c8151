"""A journal as a directory of segment files, for one process or many on one host.

An append takes the journal's lock, writes one frame behind the last one and gives the lock up;
nobody waits for the disk under the lock, so that the next batch gathers and other processes append
while it syncs. The order of operations that survives a power cut between any two of
them is: write, sync the file, sync the directory, and only then build upon it.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from omniq.core.events import Commit
from omniq.errors import JournalConflict, StorageError
from omniq.host import make_private
from omniq.parts import PART_ITEMS
from omniq.storage.base import Head, find_task
from omniq.storage.disk import Disk, is_no_room, storage_error, system_errors
from omniq.storage.encoding import chain, encode_commit
from omniq.storage.ends import Tear, cut_off, ends_with_its_frame, find_end
from omniq.storage.folder import SegmentFolder, hint_of, position_of
from omniq.storage.framing import SEGMENT_HEADER_BYTES, SegmentHeader, pack_frame
from omniq.storage.history import History, SnapshottingFiles
from omniq.storage.reader import Reader
from omniq.storage.rendezvous import OWN_NAMES, Rendezvous
from omniq.storage.reserve import RESERVE_BYTES, RESERVE_NAME, Reserve
from omniq.storage.segments import (
    READ_BYTES,
    SEGMENT_BYTES,
    Position,
    Segment,
    make_room,
    segment_name,
    write_again,
)
from omniq.storage.threads import LoopThread

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from omniq.core.events import Event
    from omniq.storage.local import Durability

__all__ = ("FileStorage",)

# A larger commit takes so long to be hashed that the disk begins before that. Of a smaller one
# others hear first, as the thread that syncs needs the interpreter to begin, for about 0.1 ms.
SYNC_AHEAD_BYTES = 8192


class FileStorage(SnapshottingFiles):
    """The journal in the directory `path`, which is created if its parent is there.

    `durability="os"` acknowledges what the operating system has, which survives the death of the
    process but not power loss. `read_only` neither creates, locks, repairs nor changes anything.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "fsync",
        read_only: bool = False,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
        disk: Disk | None = None,
    ) -> None:
        super().__init__(path, durability=durability, read_only=read_only)
        self.torn: Tear | None = None  # behind the end, where there is no right or room to cut
        self._segment_bytes = segment_bytes
        self._reserve_bytes = reserve_bytes
        self.disk = disk or Disk()
        self._reserve = Reserve(self.disk, self.path, reserve_bytes)
        self._segments = SegmentFolder(self.disk, self.path, writable=not read_only)
        self._history = History(self.disk, self.path, self._segments)
        # Its own, as those of asyncio may all be busy, and others wait while this one has the lock.
        self._thread = LoopThread("omniq-disk")
        self._reader = Reader(self.disk, self._segments, self._thread)
        self._end: Position | None = None  # where the next frame goes

    @property
    def known(self) -> int:
        return self._furthest()[1]

    @property
    def durable(self) -> int:
        return self.known if self._durability == "os" else self._durable

    def sibling(self) -> FileStorage:
        return FileStorage(
            self.path,
            durability=self._durability,
            read_only=self.read_only,
            segment_bytes=self._segment_bytes,
            reserve_bytes=self._reserve_bytes,
            disk=self.disk,
        )

    # Opening.

    async def open(self) -> None:
        if not self._closed_because:
            return
        await self.close()  # a handle that has failed holds something
        try:
            with system_errors(f"cannot open the journal {self.path}"):
                await self._find_or_create()
        except BaseException:
            await self.close()
            raise
        self._closed_because = ""

    async def _find_or_create(self) -> None:
        self.torn = None
        if self.read_only:
            self._segments.check()
            self._end = await self._thread.run(self._find_end)
            return
        self._segments.prepare({*OWN_NAMES, RESERVE_NAME})
        if not self._segments.firsts():
            make_private(self.path)  # it is a journal's from now on
        self._rendezvous = rendezvous = Rendezvous(self.path)
        await rendezvous.enter()
        try:
            self._end = await self._thread.run(lambda: self._recover(rendezvous))
            await self._thread.run(self._reserve.open)
            rendezvous.publish(hint_of(self._end))
        finally:
            rendezvous.leave()

    def _recover(self, rendezvous: Rendezvous) -> Position:
        """Return the journal's end, by the hint if it can be trusted, else by looking."""
        if not self._segments.firsts():
            self._history.check_empty()
            self._segments.begin()
        last = self._segments.open_last()
        rendezvous.bind(last.header.journal_id)
        hint = rendezvous.hint_of_this_boot()
        is_suspect = rendezvous.is_suspect()
        if hint is not None and hint.segment == last.first_seq and not is_suspect:
            end = position_of(last, hint)
            if last.ends_at(hint.offset) and ends_with_its_frame(end):
                self._durable = end.durable
                return end
        # Whoever created the journal or its last segment may have died before that was durable.
        self.disk.sync_directory(self.path.parent)
        self.disk.sync_directory(self.path)
        end = self._find_end()
        self._cut_if_possible(end)
        rendezvous.miss(end.seq)
        if is_suspect:
            write_again(end)
            rendezvous.trust()
        return end

    def _cut_if_possible(self, end: Position) -> None:
        """Remove a torn end. If there is no room to keep its bytes, the next append does it."""
        try:
            self._cut(end)
        except OSError as error:
            if not is_no_room(error):
                raise

    def _cut(self, end: Position) -> None:
        if self.torn is not None:
            cut_off(end, self.torn)
        self.torn = None

    def _find_end(self) -> Position:
        """Walk the last segment to its end."""
        position = Position.start_of(self._segments.open_last())
        self.torn = find_end(position)
        self._durable = max(self._durable, position.durable)
        return position

    async def close(self) -> None:
        self._closed_because = "it was closed"
        self._close_rendezvous()
        await self._sync_thread.close()
        self._thread.shutdown(wait=False)
        self._end = None
        self._durable = 0
        self._reader.close()
        self._reserve.close()
        self._segments.close()

    # Appending.

    def _refresh(self, rendezvous: Rendezvous) -> None:
        end = self._position()
        hint, is_suspect = rendezvous.look()
        # A new segment may have begun and still be empty: its first frame could not be written.
        if hint is not None and (hint.seq, hint.segment) > (end.seq, end.segment.first_seq):
            segment = self._segments.open(hint.segment, end, self._reader.position)
            self._move_end(position_of(segment, hint))
            end = self._position()
        if hint is None or is_suspect or not end.segment.ends_at(end.offset):
            # A process wrote, or began a segment, and died or failed before it could say so.
            self.torn = self._follow()
            end = self._position()
            self._cut_if_possible(end)
            if is_suspect:
                self._write_again(end, rendezvous)
            rendezvous.publish(hint_of(end))

    def _write_again(self, end: Position, rendezvous: Rendezvous) -> None:
        try:
            write_again(end)
            self.disk.sync_directory(self.path)
        except OSError as error:
            raise self._sync_failed(end.segment, error) from error
        rendezvous.trust()

    def _follow(self) -> Tear | None:
        """Move the end behind everything that was written, in whatever segment."""
        end = self._position()
        end.durable = self._durable
        while True:
            tear = find_end(end)
            self._durable = max(self._durable, end.durable)
            if end.segment.first_seq == self._segments.firsts()[-1]:
                return tear
            if tear is not None:
                raise end.segment.corrupt(tear.offset, end.seq + 1, tear.expected, tear.found)
            start = self._segments.start_after(end, self._reader.position)
            if not self.read_only:
                self.disk.sync_directory(self.path)  # who created it may have died before
            self._move_end(start)
            end = start

    def _move_end(self, end: Position) -> None:
        # A segment is synced whole before the next one is created.
        self._durable = max(self._durable, end.segment.first_seq - 1)
        self._end = end

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
        end = self._position()
        if expected is not None and expected != end.seq:
            raise JournalConflict(expected, end.seq)
        commit = Commit(end.seq + 1, max(at, end.at), actor, list(events))
        if len(events) <= PART_ITEMS:
            payload = encode_commit(commit)
        else:
            payload = await self._thread.run(partial(encode_commit, commit))
        length, urgent = len(payload), self._is_urgent
        if self._needs_segment(length):
            await self._sync(end.seq)
        if length <= READ_BYTES:
            append = partial(self._append, commit, payload, durable=durable)
            self._reserve.append(append, length, urgent=urgent)
            return commit
        # Of a large one the thread has the bytes to write; what else is to be done, is done here.
        self._reserve.append(partial(self._prepare, length), SEGMENT_HEADER_BYTES, urgent=urgent)
        append = partial(self._append, commit, payload, durable=False)
        await self._thread.run(partial(self._reserve.append, append, length, urgent=urgent))
        if durable:
            self._sync_ahead()
        return commit

    def _needs_segment(self, length: int) -> bool:
        """Whether a commit of this length is to begin a new segment."""
        offset = self._position().offset
        return offset > SEGMENT_HEADER_BYTES and offset + length > self._segment_bytes

    def _prepare(self, length: int) -> None:
        """See that a commit of this length may be written at the journal's end."""
        end = self._position()
        if self.torn is not None:
            with system_errors(f"cannot cut off the torn end of {end.segment.path}"):
                self._cut(end)
        if self._needs_segment(length):
            self._rotate()

    def _append(self, commit: Commit, payload: bytes, *, durable: bool) -> None:
        read, before = self._reader.position, self._position().seq
        self._prepare(len(payload))
        end = self._position()
        self._write(end, commit, payload, durable=durable)
        self._rings = True
        if read is not None and read.seq == before:  # who wrote it need not read it
            self._reader.position = msgspec.structs.replace(end)

    def _write(self, end: Position, commit: Commit, payload: bytes, *, durable: bool) -> None:
        segment, rendezvous = end.segment, self._shared()
        frame = pack_frame(
            segment.seed,
            payload,
            count=len(commit.events),
            first_seq=commit.first_seq,
            durable=self._durable,
            previous=end.digest,
        )
        try:
            if self._durability == "fsync" and not self._is_urgent:
                make_room(end, len(frame), self._segment_bytes)
            self.disk.write_all(segment.descriptor, frame, end.offset)
        except OSError as error:
            self._take_back(end, error)
        end.pass_frame(commit, len(frame))
        if durable and len(payload) > SYNC_AHEAD_BYTES:
            self._sync_ahead()
        end.digest = chain(end.digest, payload)
        rendezvous.publish(hint_of(end))

    def _take_back(self, end: Position, error: OSError) -> None:
        """Remove what a failed write left, so that the journal stays valid; always raises."""
        try:
            end.segment.cut(end.offset)
        except OSError as second:
            self._fail(f"a failed write could not be taken back: {second}")
            raise StorageError(f"cannot append to {end.segment.path}: {error}, {second}") from error
        raise storage_error(error, f"cannot append to {end.segment.path}") from error

    def _rotate(self) -> None:
        """Begin a new segment; the caller has waited until everything before it is durable."""
        end, rendezvous = self._position(), self._shared()
        assert self._durable >= end.seq, "a segment is synced whole before the next one is created"
        before, path = end.segment.header, self.path / segment_name(end.seq + 1)
        header = SegmentHeader(
            before.journal_id, before.number + 1, end.seq + 1, end.at, end.digest
        )
        with system_errors(f"cannot begin the segment {path}"):
            # Nobody may append to the old segment once there is a new one. Without the hint they
            # look for it, even if this process dies the moment after it was created.
            rendezvous.withdraw()
            try:
                self._segments.create(header)
                segment = self._segments.open(end.seq + 1, end, self._reader.position)
                start = Position.start_of(segment)
            except OSError:
                if self.disk.exists(path):
                    self._fail(f"the segment {path} is there, but perhaps not durable")
                    rendezvous.suspect()
                else:
                    rendezvous.publish(hint_of(end))
                raise
        self._move_end(start)

    # Syncing.

    def _begin_sync(self) -> None:
        segment, known = self._furthest()
        # The descriptor is duplicated: the segment may be rotated away and closed meanwhile. In the
        # thread, closing it would wait for the interpreter again.
        try:
            descriptor = self.disk.duplicate(segment.descriptor)
        except OSError as error:
            raise storage_error(error, f"cannot sync {segment.path}") from error
        sync = partial(self._sync_now, segment, descriptor)
        self._sync_thread.begin(known, sync, then=partial(self.disk.close, descriptor))

    def _sync_ahead(self) -> None:
        """Have the disk begin to work for who will wait for what was just written."""
        if self._durability == "fsync" and not self._sync_thread.is_busy:
            with suppress(StorageError):  # who waits tries again, and is told
                self._begin_sync()

    def _furthest(self) -> tuple[Segment, int]:
        """Return the last place that this handle knows of."""
        end, read = self._position(), self._reader.position
        furthest = end if read is None or read.seq <= end.seq else read
        return furthest.segment, furthest.seq

    def _sync_now(self, segment: Segment, descriptor: int) -> None:
        try:
            self.disk.sync(descriptor)
        except OSError as error:
            raise self._sync_failed(segment, error) from error

    def _sync_failed(self, segment: Segment, error: OSError) -> StorageError:
        # The kernel reports a failed sync once and marks the pages clean, so trying again would
        # claim what is not so ("fsyncgate", and Rebello et al., ATC 2020).
        self._fail(f"syncing {segment.path} failed: {error}")
        if self._rendezvous is not None:
            self._rendezvous.suspect()
        return StorageError(
            f"cannot sync {segment.path}: {error.strerror}. What was acknowledged is safe; what "
            "was not may be lost. Next: open the journal again, which reads what is on the disk"
        )

    # Reading.

    async def read(self, after: int, limit: int = 4096) -> list[Commit]:
        end = self._position()
        if after == end.seq and self._inside:
            return []  # the lock's holder knows the end without looking
        with system_errors(f"cannot read the journal {self.path}"):
            commits = await self._reader.read(after, limit, end, self._known_end)
        self._durable = max(self._durable, self._reader.durable)
        return commits

    def _known_end(self) -> int:
        """Return how far the journal goes at least, as this handle or anyone else has said."""
        end, rendezvous = self._position(), self._rendezvous
        hint = None if rendezvous is None else rendezvous.read_hint()
        return end.seq if hint is None else max(end.seq, hint.seq)

    async def read_task(self, task_id: str) -> list[tuple[int, Commit, Event]]:
        self._check()
        reader = FileStorage(self.path, read_only=True, disk=self.disk)
        await reader.open()
        try:
            return await find_task(reader, task_id)
        finally:
            await reader.close()

    async def head(self) -> Head:
        if self.read_only:
            with system_errors(f"cannot find the end of {self.path}"):
                self.torn = self._follow()
        elif not self._inside:
            async with self:
                return await self.head()
        end = self._position()
        return Head(end.seq, end.at, end.digest)

    def _position(self) -> Position:
        self._check()
        assert self._end is not None, "an open handle knows the journal's end"
        return self._end
