"""Every damage to a segment that can be listed, each judged as an oracle does.

The oracle knows what was written: which bytes belong to which frame, and what each frame says was
durable. From that follows, for any damage, the one right answer: the commits before it, or the
error that names it. The code knows only the bytes. The segment lies in memory, so that tens of
thousands of cases take seconds; test_torn_and_rotten.py has the same questions on a real disk.
"""

import os
from bisect import bisect_right
from collections.abc import Set as AbstractSet
from itertools import chain, combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from omniq.core.events import Commit, TaskEnqueued
from omniq.errors import CorruptJournal, UnsupportedFormat
from omniq.storage.base import GENESIS
from omniq.storage.disk import Disk
from omniq.storage.encoding import chain as chained
from omniq.storage.encoding import encode_commit
from omniq.storage.ends import Tear, find_end
from omniq.storage.framing import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC,
    SegmentHeader,
    pack_frame,
    pack_segment_header,
    seed_of,
)
from omniq.storage.segments import Position, Segment
from tests.storage.language import tasks

FRAMES = 60
FOLDER = Path("journal")
JOURNAL_ID = bytes(range(16))
SECTOR = 512

# After which frames the journal was synced.
NEVER, ALWAYS, SOMETIMES = frozenset(), frozenset(range(FRAMES)), frozenset(range(0, FRAMES, 7))
each_way_of_syncing = pytest.mark.parametrize(
    "synced", [NEVER, ALWAYS, SOMETIMES], ids=["never", "always", "now and then"]
)


class Frame(NamedTuple):
    begin: int
    end: int
    first_seq: int
    last_seq: int
    durable: int
    digest: bytes  # of the journal behind this frame


class Written(NamedTuple):
    """A segment, and all that its writer knows about it."""

    data: bytes
    frames: list[Frame]

    def answer(self, begin: int, headers_lost: AbstractSet[int] = frozenset()) -> tuple[str, int]:
        """Return what is right if the bytes from `begin` on are the first that are damaged.

        `headers_lost` are the frames behind that whose headers are damaged, too.
        """
        if begin < SEGMENT_HEADER_BYTES:
            return ("damaged", 1)
        first = self.frame_at(begin)
        said = [
            frame.durable
            for number, frame in enumerate(self.frames)
            if number < first or number not in headers_lost
        ]
        if first < len(self.frames) and self.frames[first].first_seq <= max(said, default=0):
            return ("damaged", self.frames[first].first_seq)
        return ("torn", self.frames[first - 1].last_seq if first else 0)

    def damaged(self, data: bytes) -> tuple[list[int], set[int]]:
        """Return the frames that are not in `data` as they were written, and whose headers."""

        def differs(begin: int, end: int) -> bool:
            return data[begin:end] != self.data[begin:end]

        frames = [n for n, frame in enumerate(self.frames) if differs(frame.begin, frame.end)]
        starts = {n: self.frames[n].begin for n in frames}
        headers = {n for n, at in starts.items() if differs(at, at + FRAME_HEADER_BYTES)}
        return frames, headers

    def frame_at(self, offset: int) -> int:
        return bisect_right([frame.end for frame in self.frames], offset)


def write(synced: frozenset[int], *, frames: int = FRAMES, size: int = 1) -> Written:
    """Write a segment of commits with one to three events, of about `size` bytes each."""
    header = SegmentHeader(JOURNAL_ID, 1, 1, 0, GENESIS)
    data, seed = pack_segment_header(header), seed_of(JOURNAL_ID)
    seq, durable, digest, written = 0, 0, GENESIS, []
    for number in range(frames):
        names = [f"{number}{'x' * size}" for _ in range(1 + number % 3)]
        commit = Commit(seq + 1, number, "a", tasks(*names))
        payload = encode_commit(commit)
        frame = pack_frame(
            seed, payload, count=len(names), first_seq=seq + 1, durable=durable, previous=digest
        )
        digest = chained(digest, payload)
        begin, data = len(data), data + frame
        written.append(Frame(begin, len(data), seq + 1, commit.last_seq, durable, digest))
        seq = commit.last_seq
        durable = seq if number in synced else durable
    return Written(data, written)


class Memory(Disk):
    """A disk that holds one file."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def open(self, path: Path, flags: int) -> int:
        return 7

    def close(self, descriptor: int) -> None:
        pass

    def size(self, descriptor: int) -> int:
        return len(self.data)

    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        return self.data[offset : offset + length]


def judge(data: bytes, written: Written) -> tuple[str, int]:
    """Return what the code says of a segment with these bytes."""
    try:
        segment = Segment(Memory(data), FOLDER, 1, writable=False)
        position = Position.start_of(segment)
        tear = find_end(position)
    except CorruptJournal as error:
        return ("damaged", error.sequence)
    except UnsupportedFormat:
        return ("unsupported", 0)
    expected = {frame.last_seq: frame.digest for frame in written.frames} | {0: GENESIS}
    assert position.digest == expected[position.seq], "what was read is what was written"
    behind = data[position.offset :].rstrip(b"\0")
    if tear is None:
        assert not behind
        return ("whole", position.seq)
    assert (tear.offset, tear.length) == (position.offset, len(behind))
    return ("torn", position.seq)


def all_of(written: Written) -> tuple[str, int]:
    return ("whole", written.frames[-1].last_seq)


@each_way_of_syncing
def test_segment_is_what_was_written(synced):
    written = write(synced)
    assert judge(written.data, written) == all_of(written)


@each_way_of_syncing
def test_cut_at_any_byte(synced):
    """What was cut away can say nothing, so it is a torn end wherever it is."""
    written = write(synced)
    ends = {SEGMENT_HEADER_BYTES: 0} | {frame.end: frame.last_seq for frame in written.frames}
    for size in range(len(written.data)):
        if size < SEGMENT_HEADER_BYTES:
            answer = ("damaged", 1)  # it was durable before the file had its name
        elif size in ends:
            answer = ("whole", ends[size])
        else:
            answer = ("torn", max(seq for end, seq in ends.items() if end < size))
        assert judge(written.data[:size], written) == answer, size


@each_way_of_syncing
def test_flip_of_any_bit_of_the_first_frames(synced):
    written = write(synced)
    for position in range(written.frames[2].end):
        answer = written.answer(position)
        for bit in range(8):
            data = bytearray(written.data)
            data[position] ^= 1 << bit
            judged = judge(bytes(data), written)
            if position < len(SEGMENT_MAGIC) and judged[0] == "unsupported":
                continue  # it does not even look like a segment
            assert judged == answer, (position, bit)


@each_way_of_syncing
def test_flip_in_any_byte_of_all_frames(synced):
    written = write(synced)
    for position in range(SEGMENT_HEADER_BYTES, len(written.data), 1 if synced is SOMETIMES else 5):
        data = bytearray(written.data)
        data[position] ^= 1 << position % 8
        assert judge(bytes(data), written) == written.answer(position), position


@pytest.mark.parametrize("length", [0, 1, 2**26, 2**26 + 1, 2**31, 2**32 - 1])
@each_way_of_syncing
def test_changed_length_of_any_frame_is_no_torn_end(synced, length):
    """Without a checksum of its own, a length leads behind the end of the file."""
    written = write(synced)
    for frame in written.frames:
        data = bytearray(written.data)
        data[frame.begin + 4 : frame.begin + 8] = length.to_bytes(4, "little")
        assert judge(bytes(data), written) == written.answer(frame.begin), frame


def sectors_of(written: Written, first: int) -> list[tuple[int, int]]:
    """Return the sectors that hold the frames from `first` on, and nothing before them."""
    begin, end = written.frames[first].begin, len(written.data)
    borders = [begin, *range((begin // SECTOR + 1) * SECTOR, end, SECTOR), end]
    return list(pairwise(borders))


def subsets(items):
    return chain.from_iterable(combinations(items, count) for count in range(1, len(items) + 1))


@pytest.mark.parametrize("fill", [0x00, 0xFF])
@pytest.mark.parametrize("last_synced", range(8))
def test_any_of_the_last_sectors_may_be_missing(last_synced, fill):
    """Un-synced frames reach the disk in any order, with holes. What is durable does not have any.

    So every set of sectors of the frames behind the last sync may be lost, and is a torn end, and
    never anything else; if one of a durable frame is among them, and a later frame is left that
    says so, it is damage.
    """
    written = write(frozenset(range(last_synced + 1)), frames=9, size=270)
    for lost in subsets(sectors_of(written, 4)):
        data = bytearray(written.data)
        for begin, end in lost:
            data[begin:end] = bytes([fill]) * (end - begin)
        damaged, headers_lost = written.damaged(data)
        answer = written.answer(written.frames[damaged[0]].begin, headers_lost)
        if damaged[0] > last_synced:
            assert answer[0] == "torn"
        if not any(data[written.frames[damaged[0]].begin :]):
            answer = ("whole", answer[1])  # as if it had never been written
        assert judge(bytes(data), written) == answer, lost


LENGTHS = [*range(1, 1500), 4096, 70_000, 3 << 20]


@pytest.mark.parametrize("fill", [0x4F, 0xFF])
def test_end_of_any_length_that_was_never_written_is_torn(fill):
    """A file may be longer than what was written to it."""
    written = write(ALWAYS, frames=3)
    for length in LENGTHS:
        data = written.data + bytes([fill]) * length
        assert judge(data, written) == ("torn", written.frames[-1].last_seq), length


def test_room_of_any_length_is_an_end():
    written = write(ALWAYS, frames=3)
    for length in LENGTHS:
        assert judge(written.data + bytes(length), written) == all_of(written), length


def test_room_with_anything_in_it_is_torn_and_with_a_durable_frame_behind_it_damage():
    written = write(ALWAYS, frames=4)
    third, fourth = written.frames[2:]
    for length in (1, FRAME_HEADER_BYTES, 4096, 3 << 20):
        assert judge(written.data + bytes(length) + b"?", written)[0] == "torn", length
        before, last = written.data[: third.begin], written.data[fourth.begin :]
        assert judge(before + bytes(length) + last, written) == ("damaged", third.first_seq), length
        assert judge(before + bytes(length), written) == ("whole", third.first_seq - 1), length


def test_older_bytes_of_the_journal_behind_the_end_are_torn():
    """A block may hold what it held in another file: frames that verify, in the wrong place."""
    written = write(ALWAYS)
    for first in range(FRAMES):
        stale = written.data[written.frames[first].begin :]
        assert judge(written.data + stale, written) == ("torn", written.frames[-1].last_seq)


def test_frame_that_was_lost_is_damage_though_all_that_is_left_verifies():
    written = write(ALWAYS)
    for number, frame in enumerate(written.frames[:-1]):
        data = written.data[: frame.begin] + written.data[frame.end :]
        assert judge(data, written) == ("damaged", frame.first_seq), number


def test_arguments_that_look_like_a_frame_do_not_make_a_torn_end_damage():
    """A frame whose header verifies is its own witness of where its arguments are."""
    seed = seed_of(JOURNAL_ID)
    forged = pack_frame(seed, b"", count=1, first_seq=2, durable=1, previous=GENESIS)
    header = pack_segment_header(SegmentHeader(JOURNAL_ID, 1, 1, 0, GENESIS))
    event = TaskEnqueued("t", "m:f", "q", forged)
    payload = encode_commit(Commit(1, 1, "a", [event]))
    frame = pack_frame(seed, payload, count=1, first_seq=1, durable=0, previous=GENESIS)
    for position in range(FRAME_HEADER_BYTES, len(frame)):
        torn = bytearray(header + frame)
        torn[len(header) + position] ^= 1
        assert judge(bytes(torn), Written(b"", [])) == ("torn", 0)


def test_watermark_that_no_writer_could_have_meant_is_no_evidence():
    """A frame is never durable before it is written."""
    written = write(NEVER, frames=2)
    seed, seq = seed_of(JOURNAL_ID), all_of(written)[1]
    for durable in (seq + 2, seq + 5, 2**64 - 1):
        odd = pack_frame(seed, b"", count=1, first_seq=seq + 2, durable=durable, previous=GENESIS)
        assert judge(written.data + b"?" + odd, written) == ("torn", seq)


def test_random_bytes_never_give_a_wrong_state():
    for size in range(0, 400, 3):
        written = write(ALWAYS, frames=3)
        for data in (os.urandom(size), written.data[:size] + os.urandom(200)):
            judged = judge(data, written)
            assert judged[0] in ("damaged", "unsupported", "torn")


def test_tear_names_what_it_found():
    written = write(ALWAYS, frames=2)
    segment = Segment(Memory(written.data + b"x"), FOLDER, 1, writable=False)
    tear = find_end(Position.start_of(segment))
    expected = f"a frame header of {FRAME_HEADER_BYTES} bytes"
    assert tear == Tear(len(written.data), 1, expected, "1 bytes")
