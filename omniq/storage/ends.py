"""Where a journal ends: a torn end, which may be cut, is told from damage, which may not.

An un-synced frame may reach the disk with holes, and the one behind it whole, so that a frame is
the last one says nothing. Each frame's header says up to where everything was durable when it was
written: what does not verify above all that anything says is a `Tear`, else it is `CorruptJournal`.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from omniq.storage.encoding import chain
from omniq.storage.framing import (
    FRAME_HEADER_BYTES,
    BadBytes,
    unpack_frame_header,
    verify_payload,
)
from omniq.storage.segments import READ_BYTES, Position, Segment, headers_from

__all__ = ("Tear", "cut_off", "ends_with_its_frame", "find_end")

_log = logging.getLogger(__name__)


class Tear(NamedTuple):
    """The end of the last segment does not verify, and nothing says that it ever was durable."""

    offset: int
    length: int
    expected: str
    found: str


def find_end(position: Position) -> Tear | None:
    """Walk to the segment's last frame that verifies.

    What lies behind it is a tear if it begins above every durable watermark that can be found,
    those of frames behind it included: un-synced frames may reach the disk with holes between.
    Otherwise raises `CorruptJournal`.
    """
    while (problem := _walk(position)) is not None:
        segment, offset = position.segment, position.offset
        length = segment.written_until(offset) - offset
        if position.seq >= max(position.durable, _highest_watermark(segment, offset)):
            return Tear(offset, length, problem.expected, problem.found)
        # Somebody may have been writing just here when this was read: look again.
        problem = _walk(position)
        if position.offset == offset and problem is not None:
            raise position.damage(problem)
    return None


def _walk(position: Position) -> BadBytes | None:
    """Move behind the last frame that verifies, and return what is wrong with the next one."""
    segment = position.segment
    if (size := segment.size()) < position.offset:
        raise segment.corrupt(
            size, position.seq, f"a file of at least {position.offset} bytes", f"{size} bytes"
        )
    while True:
        commits, problem = position.read(limit=4096)
        if commits:
            continue
        if problem is None and segment.written_until(position.offset) > position.offset:
            # Unless it was written since, what lies in the room came to the disk without the start.
            commits, problem = position.read(limit=4096)
            problem = problem or BadBytes("a frame header", f"{FRAME_HEADER_BYTES} zero bytes")
        if not commits:
            return problem


def _highest_watermark(segment: Segment, offset: int) -> int:
    """Return the highest durable watermark of any frame header that verifies from here on."""
    return max((header.durable for _, header in headers_from(segment, offset)), default=0)


def cut_off(end: Position, tear: Tear) -> None:
    """Remove a torn end, keeping its bytes beside the segment."""
    segment = end.segment
    aside = segment.path.with_suffix(f".{tear.offset}.torn")
    begins = range(tear.offset, tear.offset + tear.length, READ_BYTES)
    segment.disk.create(aside, (segment.read(READ_BYTES, begin) for begin in begins))
    segment.cut(tear.offset)
    segment.disk.sync(segment.descriptor)
    _log.warning(
        "the end of %s was torn: %d bytes behind sequence number %d were moved to %s",
        segment.path,
        tear.length,
        end.seq,
        aside.name,
        extra={"action": "torn_end_cut", "bytes": tear.length, "seq": end.seq},
    )


def ends_with_its_frame(position: Position) -> bool:
    """Whether the frame before a position verifies and ends just there, with its digest."""
    segment = position.segment
    if not position.frame_offset:
        start = Position.start_of(segment)
        return (position.offset, position.seq, position.digest) == (
            start.offset,
            start.seq,
            start.digest,
        )
    view = memoryview(segment.read(position.offset - position.frame_offset, position.frame_offset))
    try:
        header = unpack_frame_header(segment.seed, view)
        payload = view[FRAME_HEADER_BYTES:]
        verify_payload(segment.seed, header, payload)
    except BadBytes:
        return False
    position.durable = max(position.durable, header.durable)
    return (
        len(payload) == header.length
        and header.first_seq + header.events - 1 == position.seq
        and chain(header.previous, payload) == position.digest
    )
