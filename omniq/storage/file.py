"""A journal as a directory of segment files, for one process or many on one host.

An append takes the journal's lock, writes one frame behind the last one and gives the lock up;
syncing comes after that, outside the lock, so that the next batch gathers and other processes
append while the disk works. The order of operations that survives a power cut between any two of
them is: write, sync the file, sync the directory, and only then build upon it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from omniq.core.events import Commit
from omniq.errors import (
    JournalConflict,
    PayloadTooLarge,
    StorageClosed,
    StorageError,
    UnsupportedFormat,
)
from omniq.storage.base import GENESIS, Head, events_of
from omniq.storage.disk import Disk, storage_error, system_errors
from omniq.storage.encoding import MAX_COMMIT_BYTES, chain, encode_commit
from omniq.storage.framing import (
    SEGMENT_HEADER_BYTES,
    BadBytes,
    SegmentHeader,
    pack_frame,
    pack_segment_header,
)
from omniq.storage.local import Durability, LocalStorage
from omniq.storage.rendezvous import OWN_NAMES, HeadHint, Rendezvous
from omniq.storage.segments import (
    Position,
    Segment,
    Tear,
    ends_with_its_frame,
    find_end,
    list_segments,
    segment_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omniq.core.events import Event

__all__ = ("FileStorage",)

SEGMENT_BYTES = 64 * 1024 * 1024  # etcd's WAL segments have this size

_log = logging.getLogger(__name__)


class FileStorage(LocalStorage):
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
        disk: Disk | None = None,
    ) -> None:
        super().__init__(durability)
        self.path = Path(path)
        self.read_only = read_only
        self.torn: Tear | None = None  # what a read-only handle found behind the last frame
        self._segment_bytes = segment_bytes
        self._disk = disk or Disk()
        self._segments: dict[int, Segment] = {}
        self._end: Position | None = None  # where the next frame goes
        self._cursor: Position | None = None  # where the last `read` stopped
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="omniq-sync")

    @property
    def location(self) -> str:
        return str(self.path)

    @property
    def durable(self) -> int:
        return self._position().seq if self._durability == "os" else self._durable

    def sibling(self) -> FileStorage:
        return FileStorage(
            self.path,
            durability=self._durability,
            segment_bytes=self._segment_bytes,
            disk=self._disk,
        )

    # Opening.

    async def open(self) -> None:
        if self._end is not None:
            return
        self._failure = ""
        with system_errors(f"cannot open the journal {self.path}"):
            if self.read_only:
                self._check_directory()
                self._end = await asyncio.to_thread(self._find_end)
                return
            self._prepare_directory()
            rendezvous = Rendezvous(self.path)
            try:
                await rendezvous.enter()
                try:
                    if not list_segments(self._disk, self.path):
                        self._create_journal()
                    self._end = await asyncio.to_thread(self._recover, rendezvous)
                    rendezvous.publish(_hint_of(self._end))
                finally:
                    rendezvous.leave()
            except BaseException:
                rendezvous.close()
                self._forget_segments()
                raise
        self._rendezvous = rendezvous

    def _check_directory(self) -> None:
        if not self.path.is_dir():
            what = "is not a directory" if self._disk.exists(self.path) else "does not exist"
            raise UnsupportedFormat(f"{self.path} {what}, so there is no journal to read")
        if not list_segments(self._disk, self.path):
            raise UnsupportedFormat(f"{self.path} holds no segment of an OmniQ journal")

    def _prepare_directory(self) -> None:
        try:
            self._disk.make_directory(self.path)
        except FileExistsError:
            if not self.path.is_dir():
                raise UnsupportedFormat(
                    f"{self.path} is a file, and a file journal is a directory. It was not "
                    "touched. Next: name another path, or one that ends in .db for SQLite"
                ) from None
            names = {name for name in self._disk.list(self.path) if not name.endswith(".tmp")}
            if names - OWN_NAMES and not list_segments(self._disk, self.path):
                raise UnsupportedFormat(
                    f"{self.path} holds other files and no journal. It was not touched. "
                    "Next: name an empty or a new directory"
                ) from None
        else:
            self._disk.sync_directory(self.path.parent)

    def _create_journal(self) -> None:
        header = SegmentHeader(os.urandom(16), number=1, first_seq=1, previous=GENESIS)
        self._disk.create(self.path / segment_name(1), pack_segment_header(header))

    def _recover(self, rendezvous: Rendezvous) -> Position:
        """Return the journal's end, by the hint if it can be trusted, else by looking."""
        last = self._segment(list_segments(self._disk, self.path)[-1])
        rendezvous.bind(last.header.journal_id)
        hint = rendezvous.read_hint()
        if hint is not None and hint.segment == last.first_seq:
            end = _position_of(last, hint)
            if last.size() == hint.offset and ends_with_its_frame(end):
                self._durable = end.durable
                return end
        end = self._find_end()
        if self.torn is not None:
            self._cut(end, self.torn)
            self.torn = None
        return end

    def _find_end(self) -> Position:
        """Walk the last segment to its end."""
        last = self._segment(list_segments(self._disk, self.path)[-1])
        position = Position.start_of(last)
        self.torn = find_end(position)
        self._durable = max(self._durable, position.durable)
        return position

    def _cut(self, end: Position, tear: Tear) -> None:
        """Remove a torn end, keeping its bytes beside the segment."""
        segment = end.segment
        aside = segment.path.with_suffix(f".{tear.offset}.torn")
        self._disk.create(aside, segment.read(tear.length, tear.offset))
        self._disk.truncate(segment.descriptor, tear.offset)
        self._disk.sync(segment.descriptor)
        _log.warning(
            "the end of %s was torn: %d bytes behind sequence number %d were moved to %s",
            segment.path,
            tear.length,
            end.seq,
            aside.name,
            extra={"action": "torn_end_cut", "bytes": tear.length, "seq": end.seq},
        )

    async def close(self) -> None:
        self._close_rendezvous()
        self._syncer.shutdown()
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="omniq-sync")
        self._end = self._cursor = None
        self._forget_segments()

    def _segment(self, first_seq: int) -> Segment:
        """Return an open segment, and close those that neither end nor cursor are in."""
        segment = self._segments.get(first_seq)
        if segment is None:
            segment = Segment(self._disk, self.path, first_seq, writable=not self.read_only)
            used = {place.segment.first_seq for place in (self._end, self._cursor) if place}
            for other in set(self._segments) - used:
                self._segments.pop(other).close()
            self._segments[first_seq] = segment
        return segment

    def _forget_segments(self) -> None:
        while self._segments:
            self._segments.popitem()[1].close()

    # Appending.

    def _refresh(self, rendezvous: Rendezvous) -> None:
        end = self._position()
        hint = rendezvous.read_hint()
        if hint is not None and hint.seq > end.seq:
            self._move_end(_position_of(self._segment(hint.segment), hint))
            end = self._position()
        if hint is None or end.segment.size() != end.offset:
            self._adopt(rendezvous, end)

    def _adopt(self, rendezvous: Rendezvous, end: Position) -> None:
        """Take in what a process wrote that died before it could say so, or cut it if torn."""
        end.durable = self._durable
        tear = find_end(end)
        while tear is None and self._has_segment_after(end):
            self._move_end(Position.start_of(self._segment(end.seq + 1)))
            end = self._position()
            tear = find_end(end)
        if tear is not None:
            self._cut(end, tear)
        rendezvous.publish(_hint_of(end))

    def _has_segment_after(self, place: Position) -> bool:
        following = place.seq + 1
        return following != place.segment.first_seq and self._disk.exists(
            self.path / segment_name(following)
        )

    def _move_end(self, end: Position) -> None:
        # A segment is synced whole before the next one is created.
        self._durable = max(self._durable, end.segment.first_seq - 1)
        self._end = end

    async def append(
        self, events: Sequence[Event], *, at: int, actor: str, expected: int | None = None
    ) -> Commit:
        if not self._inside:
            async with self:
                return await self.append(events, at=at, actor=actor, expected=expected)
        end = self._position()
        if expected is not None and expected != end.seq:
            raise JournalConflict(expected, end.seq)
        commit = Commit(end.seq + 1, max(at, end.at), actor, list(events))
        payload = encode_commit(commit)
        if len(payload) > MAX_COMMIT_BYTES:
            raise PayloadTooLarge(
                f"{len(events)} events of {len(payload)} bytes are more than one commit may have "
                f"({MAX_COMMIT_BYTES} bytes). Next: enqueue in several calls"
            )
        if end.offset > SEGMENT_HEADER_BYTES and end.offset + len(payload) > self._segment_bytes:
            end = self._rotate()
        self._write(end, commit, payload)
        self._rings = True
        return commit

    def _write(self, end: Position, commit: Commit, payload: bytes) -> None:
        segment = end.segment
        frame = pack_frame(
            segment.seed,
            payload,
            count=len(commit.events),
            first_seq=commit.first_seq,
            durable=self._durable,
            previous=end.digest,
        )
        try:
            self._disk.write_all(segment.descriptor, frame, end.offset)
        except OSError as error:
            self._take_back(end, error)
        end.digest = chain(end.digest, payload)
        end.frame_offset = end.offset
        end.offset += len(frame)
        end.seq = commit.last_seq
        end.at = commit.at
        self._shared().publish(_hint_of(end))

    def _take_back(self, end: Position, error: OSError) -> None:
        """Remove what a failed write left, so that the journal stays valid; always raises."""
        try:
            self._disk.truncate(end.segment.descriptor, end.offset)
        except OSError as second:
            self._fail(f"a failed write could not be taken back: {second}")
        raise storage_error(error, f"cannot append to {end.segment.path}") from error

    def _rotate(self) -> Position:
        """Begin a new segment, once everything before it is durable; return the new end."""
        end = self._position()
        before = end.segment.header
        with system_errors(f"cannot begin a new segment in {self.path}"):
            try:
                self._disk.sync(end.segment.descriptor)
            except OSError as error:
                self._fail(f"syncing failed: {error}")
                raise
            header = SegmentHeader(before.journal_id, before.number + 1, end.seq + 1, end.digest)
            self._disk.create(self.path / segment_name(end.seq + 1), pack_segment_header(header))
            start = Position.start_of(self._segment(header.first_seq))
        start.at = end.at
        self._move_end(start)
        return start

    # Syncing.

    async def sync(self, seq: int) -> None:
        if seq <= self.durable:
            return
        end = self._position()
        segment, known = end.segment, end.seq
        cursor = self._cursor
        if cursor is not None and cursor.seq > known:
            segment, known = cursor.segment, cursor.seq
        loop = asyncio.get_running_loop()
        # The descriptor is duplicated: the segment may be rotated away and closed meanwhile.
        descriptor = self._disk.duplicate(segment.descriptor)
        try:
            await loop.run_in_executor(self._syncer, self._disk.sync, descriptor)
        except OSError as error:
            # The kernel reports a failed sync once and marks the pages clean, so trying again
            # would claim what is not so ("fsyncgate", and Rebello et al., ATC 2020).
            self._fail(f"syncing {segment.path} failed: {error}")
            raise storage_error(error, f"cannot sync {segment.path}") from error
        finally:
            self._disk.close(descriptor)
        self._durable = max(self._durable, known)
        if seq > known:
            raise StorageError(f"sequence number {seq} is not in the journal, which ends at {known}")

    # Reading.

    async def read(self, after: int, limit: int = 4096) -> list[Commit]:
        cursor = self._cursor_at(after)
        while True:
            commits, problem = cursor.read(limit, skip_until=after)
            self._durable = max(self._durable, cursor.durable)
            if problem is not None and not commits:
                self._judge(cursor, problem)
            if commits or problem is not None or not self._next_segment(cursor):
                return commits

    def _cursor_at(self, after: int) -> Position:
        """Return a reading position at `after`, or before it at the beginning of its segment."""
        end, cursor = self._position(), self._cursor
        if cursor is not None and cursor.seq == after:
            return cursor
        if end.seq == after:
            cursor = msgspec.structs.replace(end)
        else:
            firsts = list_segments(self._disk, self.path)
            if not firsts or firsts[0] > after + 1:
                raise StorageError(
                    f"the journal {self.path} has no events between {after + 1} and its first "
                    f"segment, {segment_name(firsts[0]) if firsts else 'which is gone'}"
                )
            first = firsts[bisect_right(firsts, after + 1) - 1]
            cursor = Position.start_of(self._segment(first))
        self._cursor = cursor
        return cursor

    def _next_segment(self, cursor: Position) -> bool:
        """Move the cursor from the end of one segment to the next, if there is one."""
        if not self._has_segment_after(cursor):
            return False
        first_seq, before = cursor.seq + 1, cursor.segment.header
        segment = self._segment(first_seq)
        wanted = SegmentHeader(before.journal_id, before.number + 1, first_seq, cursor.digest)
        if segment.header != wanted:
            raise segment.corrupt(0, first_seq, f"{wanted}", f"{segment.header}")
        self._durable = max(self._durable, cursor.seq)
        start = Position.start_of(segment)
        start.at = cursor.at
        cursor.segment, cursor.offset, cursor.frame_offset = segment, start.offset, 0
        return True

    def _judge(self, cursor: Position, problem: BadBytes) -> None:
        """Raise `CorruptJournal` if bytes that do not verify belong to the journal.

        Behind the end they may be a frame that another process is just writing.
        """
        end = self._position()
        known = end.seq
        if self._rendezvous is not None and (hint := self._rendezvous.read_hint()) is not None:
            known = max(known, hint.seq)
        if cursor.seq < known:
            raise cursor.segment.corrupt(
                cursor.offset, cursor.seq + 1, problem.expected, problem.found
            )

    async def read_task(self, task_id: str) -> list[tuple[int, Commit, Event]]:
        reader = FileStorage(self.path, read_only=True, disk=self._disk)
        found: list[tuple[int, Commit, Event]] = []
        await reader.open()
        try:
            seq = 0
            while commits := await reader.read(seq):
                seq = commits[-1].last_seq
                for commit in commits:
                    found.extend(events_of(commit, task_id))
                await asyncio.sleep(0)
        finally:
            await reader.close()
        return found

    async def head(self) -> Head:
        if self.read_only:
            end = self._position()
            return Head(end.seq, end.at, end.digest)
        async with self:
            end = self._position()
            return Head(end.seq, end.at, end.digest)

    def _position(self) -> Position:
        self._check()
        if self._end is None:
            raise StorageClosed(f"the journal {self.path} is not open")
        return self._end


def _hint_of(end: Position) -> HeadHint:
    return HeadHint(
        end.segment.header.first_seq, end.frame_offset, end.offset, end.seq, end.at, end.digest
    )


def _position_of(segment: Segment, hint: HeadHint) -> Position:
    return Position(segment, hint.offset, hint.seq, hint.digest, hint.at, hint.frame_offset)
