"""The bytes of a journal's segment files: constants, headers, checksums. Nothing here does I/O.

The specification, with the reasons and a worked example, is docs/reference/journal-format.md.

    segment  = segment header, frame*, room
    frame    = frame header (68 bytes), payload
    payload  = one encoded commit (see `encoding`)
    room     = zero bytes, any number of them

Both headers end in a CRC-32 of their own bytes, so a damaged length is told from a torn end. All
checksums start from the journal's id: a frame of another journal, and bytes that are zero, do not
verify. `durable` in a frame header says that all events below and up to that sequence number were
on the disk when the frame was written: what is damaged at or before it is rot, what is damaged
after it may be an end that a power cut tore.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

import msgspec

from omniq.errors import OmniqError

__all__ = (
    "FORMAT_VERSION",
    "FRAME_HEADER_BYTES",
    "FRAME_MAGIC",
    "SEGMENT_HEADER_BYTES",
    "SEGMENT_MAGIC",
    "BadBytes",
    "FrameHeader",
    "NotASegment",
    "SegmentHeader",
    "is_blank",
    "pack_frame",
    "pack_segment_header",
    "seed_of",
    "unpack_frame_header",
    "unpack_segment_header",
    "verify_payload",
)

FORMAT_VERSION = 1

# The carriage return and the control-Z show a transfer that took the file for text (as in PNG).
SEGMENT_MAGIC = b"OmniQ\r\n\x1a"
# magic, version, header length; these three keep their place and meaning in every version.
_SEGMENT_PREFIX = struct.Struct("<8sHxxI")
# journal id, segment number, first sequence number, time and digest of the commit before it
_SEGMENT_BODY = struct.Struct("<16sQQQ32s")
_CRC = struct.Struct("<I")
SEGMENT_HEADER_BYTES = _SEGMENT_PREFIX.size + _SEGMENT_BODY.size + _CRC.size  # 16 + 72 + 4 = 92

FRAME_MAGIC = b"OqFr"
# magic, payload length, payload CRC, number of events, first sequence number, durable, digest
_FRAME = struct.Struct("<4sIIIQQ32s")
_WHOLE_FRAME = struct.Struct(f"{_FRAME.format}I")
FRAME_HEADER_BYTES = _FRAME.size + _CRC.size  # 64 + 4 = 68

_MAX_HEADER_BYTES = 4096  # what a newer version's segment header may take


class BadBytes(OmniqError):
    """Bytes that do not verify: what was expected and what was found."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected = expected
        self.found = found


class NotASegment(OmniqError):
    """The file is no segment of an OmniQ journal, or one of a newer version."""


class SegmentHeader(NamedTuple):
    """What a segment says of itself: it can be taken for no other segment of no other journal."""

    journal_id: bytes
    number: int
    first_seq: int
    at: int
    previous: bytes

    def __str__(self) -> str:
        return (
            f"segment {self.number} of journal {self.journal_id.hex()}, which begins with sequence "
            f"number {self.first_seq} behind digest {self.previous.hex()[:16]}…"
        )


class FrameHeader(msgspec.Struct, frozen=True, gc=False):
    """What stands before each commit."""

    length: int
    payload_crc: int
    events: int
    first_seq: int
    durable: int
    previous: bytes


def seed_of(journal_id: bytes) -> int:
    """Return the number from which all checksums of a journal start."""
    return crc32(journal_id)


def is_blank(data: bytes | memoryview) -> bool:
    """Whether these are zero bytes, of which no frame consists."""
    return not bytes(data).strip(b"\0")


def pack_segment_header(header: SegmentHeader) -> bytes:
    prefix = _SEGMENT_PREFIX.pack(SEGMENT_MAGIC, FORMAT_VERSION, SEGMENT_HEADER_BYTES)
    body = prefix + _SEGMENT_BODY.pack(*header)
    return body + _CRC.pack(crc32(body))


def unpack_segment_header(data: bytes) -> SegmentHeader:
    """Return the header at the start of `data`, of which 4,096 bytes are always enough.

    Raises `NotASegment` if the file was never one of ours or is of a newer version, `BadBytes` if
    it was one of ours and is damaged.
    """
    if is_blank(data):
        raise BadBytes("a segment header", f"{len(data)} zero bytes")
    if not data.startswith(SEGMENT_MAGIC[: len(data)]):
        raise NotASegment("it does not begin like a segment of an OmniQ journal")
    if len(data) < _SEGMENT_PREFIX.size:
        raise BadBytes("a segment header", f"{len(data)} bytes")
    _, version, length = _SEGMENT_PREFIX.unpack_from(data)
    if not _SEGMENT_PREFIX.size + _CRC.size <= length <= min(len(data), _MAX_HEADER_BYTES):
        raise BadBytes("a segment header's length", str(length))
    (stored,) = _CRC.unpack_from(data, length - _CRC.size)
    computed = crc32(data[: length - _CRC.size])
    if stored != computed:
        raise BadBytes(f"segment header checksum {computed:08x}", f"{stored:08x}")
    if version > FORMAT_VERSION:
        raise NotASegment(
            f"it has format version {version}; this OmniQ reads up to {FORMAT_VERSION}. "
            "Next: install the OmniQ that wrote it, or a newer one"
        )
    if length != SEGMENT_HEADER_BYTES:
        raise BadBytes(f"a segment header of {SEGMENT_HEADER_BYTES} bytes", f"one of {length}")
    return SegmentHeader(*_SEGMENT_BODY.unpack_from(data, _SEGMENT_PREFIX.size))


def pack_frame(
    seed: int, payload: bytes, *, count: int, first_seq: int, durable: int, previous: bytes
) -> bytes:
    header = _FRAME.pack(
        FRAME_MAGIC, len(payload), crc32(payload, seed), count, first_seq, durable, previous
    )
    return b"".join((header, _CRC.pack(crc32(header, seed)), payload))


def unpack_frame_header(seed: int, data: memoryview) -> FrameHeader:
    """Return the frame header at the start of `data`; raises `BadBytes` if it does not verify."""
    if len(data) < FRAME_HEADER_BYTES:
        raise BadBytes(f"a frame header of {FRAME_HEADER_BYTES} bytes", f"{len(data)} bytes")
    magic, *fields, stored = _WHOLE_FRAME.unpack_from(data)
    computed = crc32(data[: _FRAME.size], seed)
    if stored != computed or magic != FRAME_MAGIC:
        raise BadBytes(f"frame header checksum {computed:08x}", f"{stored:08x}")
    return FrameHeader(*fields)


def verify_payload(seed: int, header: FrameHeader, payload: memoryview) -> None:
    """Raise `BadBytes` unless `payload` is what was written behind `header`."""
    if len(payload) < header.length:
        raise BadBytes(f"a payload of {header.length} bytes", f"{len(payload)} bytes")
    computed = crc32(payload, seed)
    if computed != header.payload_crc:
        raise BadBytes(f"payload checksum {header.payload_crc:08x}", f"{computed:08x}")
