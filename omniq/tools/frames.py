"""Reading the frames of a segment that may be damaged, and finding the next good one behind damage.

What the disk cannot read counts as zero bytes, which do not verify.
"""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec

from omniq.storage.encoding import MAX_COMMIT_BYTES, decode_commit
from omniq.storage.framing import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    BadBytes,
    FrameHeader,
    is_blank,
    unpack_frame_header,
    verify_payload,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omniq.storage.disk import Disk
    from omniq.storage.segments import Segment

__all__ = ("Frames", "Headless", "find_headless")

_READ_BYTES = 1 << 20
_BLOCK_BYTES = 4096  # what a disk reads at least, or fails to read
_MAGICS = 1000  # that are tried where no header says what to expect: bytes may be made to cost time


class Frames:
    """Reads one frame after another from a segment, through a buffer."""

    def __init__(self, segment: Segment | Headless) -> None:
        self.offset = SEGMENT_HEADER_BYTES
        self.seed = segment.seed
        self.failure: str | None = None  # of the disk, since somebody last looked
        self._segment = segment
        self._start = self.offset
        self._buffer = memoryview(b"")

    def next(self) -> tuple[FrameHeader, memoryview] | None:
        """Return the next frame, None if there is no other; raises `BadBytes` and stays there."""
        view = self._view(FRAME_HEADER_BYTES)
        try:
            header = unpack_frame_header(self.seed, view)
        except BadBytes:
            if is_blank(view[:FRAME_HEADER_BYTES]) and not self.rest():
                return None
            raise
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
        self.offset = max(self.offset, self._end())
        return None

    def named_tasks(self) -> list[str]:
        """Return the tasks that the frame here names, if it can be read, though it is damaged."""
        with suppress(BadBytes, msgspec.DecodeError):
            header = unpack_frame_header(self.seed, self._view(FRAME_HEADER_BYTES))
            size = FRAME_HEADER_BYTES + min(header.length, MAX_COMMIT_BYTES)
            events = decode_commit(self._view(size)[FRAME_HEADER_BYTES:size]).events
            named = (getattr(event, "task_id", "") for event in events)
            return list(dict.fromkeys(filter(None, named)))
        return []

    def rest(self) -> int:
        """Return how many bytes there are from here on, but for the room at the end."""
        return self._end() - self.offset

    def _end(self) -> int:
        """Return where the last byte ends that is not zero; what cannot be read may be none."""
        end = offset = self.offset
        while data := self._read(_READ_BYTES, offset):
            offset += len(data)
            if written := len(data) if self.failure else len(data.rstrip(b"\0")):
                end = offset - len(data) + written
        return end

    def highest_watermark(self) -> int:
        """Return the highest durable watermark from here on."""
        return max((header.durable for _, header in self._headers_from(self.offset)), default=0)

    def forget(self) -> None:
        """Read the file anew from here on."""
        self._buffer = memoryview(b"")

    def _headers_from(self, begin: int) -> Iterator[tuple[int, FrameHeader]]:
        """Yield each frame header from `begin` on that verifies, with its offset.

        What lies behind one, as far as its length says, is its payload: arguments that look like
        a frame are none.
        """
        following = begin
        for offset, view in self.magics(begin):
            if offset < following:
                continue
            with suppress(BadBytes):
                header = unpack_frame_header(self.seed, view)
                if header.durable < header.first_seq:  # or no writer ever meant it
                    yield offset, header
                    following = offset + FRAME_HEADER_BYTES + header.length

    def magics(self, begin: int) -> Iterator[tuple[int, memoryview]]:
        """Yield everything from `begin` on that begins like a frame header, with its offset."""
        while data := self._read(_READ_BYTES, begin):
            view = memoryview(data)
            at = data.find(FRAME_MAGIC)
            while 0 <= at <= len(data) - FRAME_HEADER_BYTES:
                yield begin + at, view[at : at + FRAME_HEADER_BYTES]
                at = data.find(FRAME_MAGIC, at + 1)
            if len(data) < _READ_BYTES:
                return
            begin += len(data) - FRAME_HEADER_BYTES + 1  # a header may lie across the border

    def _view(self, size: int) -> memoryview:
        """Return what lies from here on, at least `size` bytes of it if the file has them."""
        view = self._buffer[self.offset - self._start :]
        if len(view) < size:
            self._start = self.offset
            self._buffer = memoryview(self._read(max(size, _READ_BYTES), self.offset))
            view = self._buffer
        return view

    def _read(self, length: int, offset: int) -> bytes:
        """Return bytes of the segment; those that the disk cannot read are zero, and noted."""
        try:
            return self._segment.read(length, offset)
        except OSError:
            end = min(offset + length, self._segment.size())
        blocks: list[bytes] = []
        while offset < end:
            size = min(_BLOCK_BYTES - offset % _BLOCK_BYTES, end - offset)
            try:
                blocks.append(self._segment.read(size, offset))
            except OSError as error:
                self.failure = str(error)
                blocks.append(bytes(size))
            offset += size
        return b"".join(blocks)


class Headless:
    """An open segment whose header does not verify, and the seed that its first frame tells."""

    def __init__(self, disk: Disk, path: Path, first_seq: int) -> None:
        self.first_seq = first_seq
        self.seed = 0
        self.previous = b""  # the digest before the first frame, if that one verifies
        self._disk = disk
        self._descriptor = disk.open(path, os.O_RDONLY)

    def size(self) -> int:
        """Return how long the file is."""
        return self._disk.size(self._descriptor)

    def read(self, length: int, offset: int) -> bytes:
        """Return some of its bytes."""
        return self._disk.read(self._descriptor, length, offset)

    def close(self) -> None:
        """Give up the file."""
        self._disk.close(self._descriptor)


def find_headless(disk: Disk, path: Path, first_seq: int) -> Headless | None:
    """Return a segment whose header cannot be read, opened, if one of its frames can be.

    A frame is believed if both of its checksums start from the same seed.
    """
    segment = Headless(disk, path, first_seq)
    with suppress(OSError):
        for offset, view in islice(Frames(segment).magics(SEGMENT_HEADER_BYTES), _MAGICS):
            seed = _seed_before(view[:-4], int.from_bytes(view[-4:], "little"))
            header = unpack_frame_header(seed, view)
            if header.first_seq < first_seq or header.length > MAX_COMMIT_BYTES:
                continue
            payload = segment.read(header.length, offset + FRAME_HEADER_BYTES)
            with suppress(BadBytes):
                verify_payload(seed, header, memoryview(payload))
                segment.seed = seed
                segment.previous = header.previous if header.first_seq == first_seq else b""
                return segment
    segment.close()
    return None


def _seed_before(data: memoryview, checksum: int) -> int:
    """Return from which number the CRC-32 of `data` started, if it ended with `checksum`."""
    register = checksum ^ 0xFFFFFFFF
    for byte in reversed(data):
        index = _BY_TOP_BYTE[register >> 24]
        register = ((register ^ _TABLE[index]) << 8 & 0xFFFFFFFF) | (index ^ byte)
    return register ^ 0xFFFFFFFF


# What the checksum's register takes in with each byte; no two of them have the same top byte.
_TABLE = [crc32(bytes([index]), 0xFFFFFFFF) ^ 0xFFFFFFFF for index in range(256)]
_BY_TOP_BYTE = {step >> 24: index for index, step in enumerate(_TABLE)}
