"""Reading a file journal in order: one commit after another, in whatever segment they are."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import msgspec

from omniq.storage.segments import LargeCommit, Position, Segment

if TYPE_CHECKING:
    from collections.abc import Callable

    from omniq.core.events import Commit
    from omniq.storage.disk import Disk
    from omniq.storage.folder import SegmentFolder
    from omniq.storage.framing import BadBytes
    from omniq.storage.threads import LoopThread

    type _Found = tuple[Position, list[Commit], BadBytes | None]

__all__ = ("Reader",)


class Reader:
    """Reads on from where the last `read` stopped; what is large, in a thread."""

    def __init__(self, disk: Disk, segments: SegmentFolder, thread: LoopThread) -> None:
        self.position: Position | None = None  # where the last `read` stopped
        self.durable = 0  # up to where what was read says that it is on the disk
        self._disk = disk
        self._segments = segments
        self._thread = thread

    def close(self) -> None:
        self.position = None
        self.durable = 0

    async def read(
        self, after: int, limit: int, end: Position, known_end: Callable[[], int]
    ) -> list[Commit]:
        """Return about `limit` events' commits behind `after`.

        `end` is the journal's end as its handle knows it, `known_end` where it is at least by now,
        as anyone has said.
        """
        place = self._at(after, end)
        looks_again = False
        while True:
            place, commits, problem = await self._read_at(place, limit, after)
            self.durable = max(self.durable, place.durable)
            if commits:
                return commits
            if problem is None and self._segments.has_after(place):
                self.position = place = self._segments.start_after(place, end)
                self.durable = max(self.durable, place.seq)
                looks_again = False
            elif place.seq >= known_end():
                return []
            elif not self._segments.goes_back_to(place.seq):
                raise self._segments.dropped(place.seq)
            elif looks_again:
                raise place.damage(problem)
            else:
                # By now the journal goes on here: that was written after the look, or is damaged.
                looks_again = True

    async def _read_at(self, place: Position, limit: int, after: int) -> _Found:
        """Read on from a position, which moves; in a thread if a large commit is there."""
        try:
            return place, *place.read(limit, skip_until=after, large=False)
        except LargeCommit:
            apart = msgspec.structs.replace(place)  # the handle's is left alone meanwhile
            found = await self._thread.run(lambda: self._read_apart(apart, limit, after))
            if self.position is place:
                self.position = apart
            return found

    def _read_apart(self, place: Position, limit: int, after: int) -> _Found:
        # On a descriptor of its own, as the handle may close the other one meanwhile.
        shared = place.segment
        own = Segment(self._disk, shared.folder, shared.first_seq, writable=False)
        place.segment = own
        try:
            return place, *place.read(limit, skip_until=after)
        finally:
            place.segment = shared
            own.close()

    def _at(self, after: int, end: Position) -> Position:
        """Return a reading position at `after`, or before it at the beginning of its segment."""
        place = self.position
        if place is not None and place.seq == after:
            return place
        if end.seq == after:
            place = msgspec.structs.replace(end)
        else:
            if not self._segments.goes_back_to(after):
                raise self._segments.dropped(after)
            firsts = self._segments.firsts()
            first = firsts[bisect_right(firsts, after + 1) - 1]
            place = Position.start_of(self._segments.open(first, end))
        self.position = place
        return place
