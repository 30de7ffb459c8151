"""Whatever bytes a journal holds: a typed error, in bounded memory, and never anything else."""

import asyncio
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from omniq.core.events import Commit, TaskEnqueued
from omniq.core.snapshot import restore
from omniq.errors import OmniqError, SerializationError, UnsupportedFormat
from omniq.serialization import Codecs, Signature
from omniq.storage.base import Head
from omniq.storage.encoding import decode_commit, encode_commit
from omniq.storage.file import FileStorage
from omniq.storage.framing import (
    SEGMENT_HEADER_BYTES,
    BadBytes,
    NotASegment,
    SegmentHeader,
    pack_frame,
    pack_segment_header,
    seed_of,
    unpack_frame_header,
    unpack_segment_header,
)
from omniq.storage.segments import segment_name
from omniq.storage.snapshots import BadSnapshot, snapshot_of
from omniq.storage.sqlite import SQLiteStorage
from omniq.tools import replay

ANY_BYTES = st.binary(max_size=600)
JOURNAL_ID = bytes(16)
SEED = seed_of(JOURNAL_ID)
HEADER = pack_segment_header(SegmentHeader(JOURNAL_ID, 1, 1, 0, bytes(32)))
COMMIT = Commit(1, 1, "a", [TaskEnqueued("t", "m:f", "q", b"\x92\x90\x80")])
FRAME = pack_frame(SEED, encode_commit(COMMIT), count=1, first_seq=1, durable=0, previous=bytes(32))
# MessagePack that promises more than there is, or nests deeper than anyone may read.
BOMBS = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 100_000 + b"\xc0",
    b"\x94\x01\x01\xa1a" + b"\xdd\xff\xff\xff\xff",
    b"\x94\x01\x01\xa1a\x91\x95\xadtask.enqueued" + b"\xdb\xff\xff\xff\xff",
    b"\x94\xcf" + b"\xff" * 8 + b"\x01\xa1a\x90",
]
often = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def mutated(data: bytes):
    """Return a strategy for bytes that are like these, but for some places."""
    edit = st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255))

    def change(edits):
        changed = bytearray(data)
        for place, value in edits:
            changed[place] = value
        return bytes(changed)

    return st.lists(edit, min_size=1, max_size=4).map(change)


@often
@given(st.one_of(ANY_BYTES, mutated(HEADER)))
def test_segment_headers(data):
    try:
        unpack_segment_header(data)
    except (BadBytes, NotASegment):
        return


@often
@given(st.one_of(ANY_BYTES, mutated(FRAME)))
def test_frame_headers(data):
    try:
        unpack_frame_header(SEED, memoryview(data))
    except BadBytes:
        return


@often
@given(st.one_of(ANY_BYTES, mutated(encode_commit(COMMIT))))
def test_commits_are_decoded_or_refused(data):
    try:
        decode_commit(data)
    except msgspec.DecodeError:
        return


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_bombs_take_no_more_memory_than_they_are_long(bomb, tmp_path):
    """Also inside of frames whose checksums are right, which anyone can compute."""
    frame = pack_frame(SEED, bomb, count=1, first_seq=1, durable=0, previous=bytes(32))
    (tmp_path / segment_name(1)).write_bytes(HEADER + frame)
    tracemalloc.start()
    try:
        with pytest.raises(OmniqError):
            asyncio.run(_read(FileStorage(tmp_path, read_only=True)))
        with pytest.raises(SerializationError):
            Codecs("msgpack", 10**6).decode_arguments(Signature(_function), bomb, "msgpack")
        with pytest.raises(UnsupportedFormat):
            list(restore([bomb]))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def _function(a: int = 0) -> None: ...


def test_header_that_claims_four_gigabytes_allocates_nothing(tmp_path):
    frame = bytearray(FRAME)
    header = pack_frame(SEED, b"", count=1, first_seq=1, durable=0, previous=bytes(32))
    assert len(header) <= len(frame)
    import struct
    from zlib import crc32

    claims = struct.pack("<4sIIIQQ32s", b"OqFr", 0xFFFFFFFF, 0, 1, 1, 0, bytes(32))
    claims += struct.pack("<I", crc32(claims, SEED))
    (tmp_path / segment_name(1)).write_bytes(HEADER + claims + b"x" * 1000)
    tracemalloc.start()
    try:
        assert asyncio.run(_read(FileStorage(tmp_path, read_only=True))) == []  # a torn end
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


async def _read(storage):
    await storage.open()
    try:
        seq, commits = 0, []
        while page := await storage.read(seq):
            commits += page
            seq = page[-1].last_seq
        return commits
    finally:
        await storage.close()


@often
@given(st.one_of(ANY_BYTES, mutated(HEADER + FRAME), ANY_BYTES.map(lambda rest: HEADER + rest)))
@example(b"")
def test_file_journals_are_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("journal")
    (folder / segment_name(1)).write_bytes(data)
    try:
        commits = asyncio.run(_read(FileStorage(folder, read_only=True)))
    except OmniqError:
        return
    assert commits in ([], [COMMIT])


@often
@given(ANY_BYTES)
def test_snapshots_are_read_or_refused(data):
    with pytest.raises(BadSnapshot):
        snapshot_of(JOURNAL_ID, data)


@often
@given(st.lists(ANY_BYTES, min_size=1, max_size=3))
@example([b"\x91\xa5\x80ther"])
def test_parts_of_snapshots_are_read_or_refused(parts):
    with pytest.raises(UnsupportedFormat):
        list(restore(parts))


@often
@given(ANY_BYTES, st.sampled_from(["msgpack", "cloudpickle", "nonsense"]))
@example(b"\x92\x91\xa1\x80\x80", "msgpack")
def test_arguments_and_results_are_decoded_or_refused(data, codec):
    codecs = Codecs("msgpack", 10**6)
    try:
        args, kwargs = codecs.decode_arguments(Signature(_function), data, codec)
        assert all(isinstance(value, int) for value in [*args, *kwargs.values()])
    except OmniqError:
        return


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(ANY_BYTES, st.sampled_from(["data", "digest", "kind", "actor"]))
def test_rows_of_a_database_are_read_or_refused(tmp_path_factory, data, column):
    path = tmp_path_factory.mktemp("db") / "jobs.db"
    asyncio.run(_write(SQLiteStorage(path)))
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"UPDATE events SET {column} = ?", (data,))
    try:
        commits = asyncio.run(_read(SQLiteStorage(path)))
    except OmniqError:
        return
    assert commits == [COMMIT]


async def _write(storage):
    await storage.open()
    await storage.append(COMMIT.events, at=COMMIT.at, actor=COMMIT.actor)
    assert (await storage.head()) != Head()
    await storage.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated(HEADER + FRAME * 2), st.sampled_from(["summary", "events", "verify", "export"]))
def test_replay_tool_reads_or_refuses(tmp_path_factory, data, command):
    folder: Path = tmp_path_factory.mktemp("journal")
    (folder / segment_name(1)).write_bytes(data[: SEGMENT_HEADER_BYTES + len(FRAME) * 2])
    assert replay.main([command, str(folder)]) in (0, 1, 2)
