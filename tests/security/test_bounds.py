"""What bytes claim to hold is not allocated; what they hold costs a bounded multiple of itself."""

import os
import sqlite3
import struct
import tracemalloc
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest

from omniq import AsyncOmniQ, PayloadTooLarge, SerializationError, TaskFailed
from omniq.core.events import Commit, TaskEnqueued
from omniq.errors import CorruptJournal, StorageError, UnsupportedFormat
from omniq.serialization import Codecs, Signature
from omniq.storage.base import GENESIS
from omniq.storage.encoding import MAX_COMMIT_BYTES, encode_commit
from omniq.storage.file import FileStorage
from omniq.storage.framing import (
    FRAME_MAGIC,
    SEGMENT_MAGIC,
    SegmentHeader,
    pack_frame,
    pack_segment_header,
    seed_of,
)
from omniq.storage.snapshots import MAX_SNAPSHOT_BYTES, SnapshotFolder
from omniq.storage.sqlite import SQLiteStorage
from tests.app import jobs
from tests.storage.language import append, names_in, opened, reboot, segments

MIB = 1 << 20
JOURNAL_ID = b"j" * 16
SEGMENT = "00000000000000000001.seg"
HEADER = pack_segment_header(SegmentHeader(JOURNAL_ID, 1, 1, 0, GENESIS))


@contextmanager
def allocating_at_most(limit: int):
    """Assert that no more than this much memory is in use at any moment of the block."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak <= limit, f"{peak / MIB:.1f} MiB"


def frame_header(length: int, count: int = 1) -> bytes:
    header = struct.pack("<4sIIIQQ32s", FRAME_MAGIC, length, 0, count, 1, 0, GENESIS)
    return header + struct.pack("<I", crc32(header, seed_of(JOURNAL_ID)))


def journal_of(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "journal"
    path.mkdir(mode=0o700)
    (path / SEGMENT).write_bytes(data)
    return path


async def read(path: Path) -> None:
    with suppress(StorageError):
        await names_in(FileStorage(path, read_only=True))


@pytest.mark.parametrize("length", [MAX_COMMIT_BYTES, MAX_COMMIT_BYTES + 1, 2**31, 2**32 - 1])
async def test_frame_that_claims_to_be_huge_costs_nothing(tmp_path: Path, length: int) -> None:
    path = journal_of(tmp_path, HEADER + frame_header(length, count=2**32 - 1) + b"x" * 1000)
    with allocating_at_most(3 * MIB):
        await read(path)


async def test_segment_header_that_claims_to_be_huge_costs_nothing(tmp_path: Path) -> None:
    data = struct.pack("<8sHxxI", SEGMENT_MAGIC, 1, 2**32 - 1) + b"x" * 1000
    path = journal_of(tmp_path, data)
    with allocating_at_most(3 * MIB), pytest.raises(CorruptJournal):
        await FileStorage(path).open()


@pytest.mark.parametrize(
    "claim",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
)
async def test_commit_that_claims_to_hold_four_thousand_million_of_something(
    tmp_path: Path, claim: bytes
) -> None:
    """In the place of the actor, of the events, and of something that no version has."""
    for payload in (b"\x94\x01\x01" + claim, b"\x94\x01\x01\xa1a" + claim, b"\x95\x01\x01" + claim):
        frame = pack_frame(
            seed_of(JOURNAL_ID), payload, count=1, first_seq=1, durable=0, previous=GENESIS
        )
        path = journal_of(tmp_path, HEADER + frame)
        with allocating_at_most(3 * MIB), pytest.raises(UnsupportedFormat):
            await FileStorage(path).open()
        (path / SEGMENT).unlink()
        for file in path.rglob("*"):
            if file.is_file():
                file.unlink()
        for folder in path.iterdir():
            folder.rmdir()
        path.rmdir()


async def test_torn_end_of_any_size_is_looked_through_and_kept_piece_by_piece(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal"
    async with opened(FileStorage(path)) as storage:
        await append(storage, "a")
    (segment,) = segments(path)
    size = segment.stat().st_size
    os.truncate(segment, size + 200 * MIB - 1)
    with segment.open("ab") as file:
        file.write(b"?")
    reboot(path)
    with allocating_at_most(8 * MIB):
        assert await names_in(FileStorage(path)) == ["a"]
    (aside,) = path.glob("*.torn")
    assert aside.stat().st_size == 200 * MIB
    assert segment.stat().st_size == size


async def test_snapshot_file_that_is_larger_than_any_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with opened(FileStorage(path)) as storage:
        await append(storage, "a")
        file = SnapshotFolder(storage.disk, path).file(1)
        file.touch(mode=0o600)
        os.truncate(file, MAX_SNAPSHOT_BYTES + 1)  # it takes no room on the disk
        with allocating_at_most(MIB):
            assert await storage.load_snapshot() is None


async def test_rows_of_a_database_are_not_collected_without_end(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(SQLiteStorage(path)) as storage:
        for _ in range(4):
            await append(storage, "a")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE events SET digest = NULL, data = zeroblob(30000000) WHERE seq < 4")
    connection.commit()
    connection.close()
    with allocating_at_most(2 * MAX_COMMIT_BYTES), pytest.raises(CorruptJournal):
        await SQLiteStorage(path).open()


# Arguments and results.


def anything(value: Any = None) -> Any:
    return value


NILS = 1_000_000
CODECS = Codecs("msgpack", MIB)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x92\xdd\xff\xff\xff\xff",
        b"\x92\x90\xdf\xff\xff\xff\xff",
        b"\x92\x91\xc6\xff\xff\xff\xff",
        b"\x92\x91" + b"\x91" * (MIB - 10),
    ],
    ids=["arguments", "names", "bytes", "nesting"],
)
def test_arguments_that_claim_to_be_huge_cost_nothing(payload: bytes) -> None:
    with allocating_at_most(2 * MIB), pytest.raises(SerializationError):
        CODECS.decode_arguments(Signature(anything), payload, "msgpack")


def test_arguments_cost_a_bounded_multiple_of_their_length() -> None:
    """The worst that a payload within the limit can do: a byte an item, eight in memory."""
    payload = b"\x92\x91\xdd" + NILS.to_bytes(4, "big") + b"\xc0" * NILS + b"\x80"
    with allocating_at_most(20 * MIB):
        (value,), _ = CODECS.decode_arguments(Signature(anything), payload, "msgpack")
    assert len(value) == NILS


def test_payloads_above_the_limit_are_not_read() -> None:
    """Whoever wrote them may have had another limit, or none."""
    payload = b"\x92\x91\xc6" + (2 * MIB).to_bytes(4, "big") + bytes(2 * MIB) + b"\x80"
    with allocating_at_most(MIB):
        for codec in ("msgpack", "cloudpickle"):
            with pytest.raises(PayloadTooLarge, match="max_payload_bytes=1048576"):
                CODECS.decode_arguments(Signature(anything), payload, codec)
            with pytest.raises(PayloadTooLarge):
                CODECS.decode_result(payload, codec, Any, "f")


async def test_worker_fails_a_task_whose_arguments_are_above_its_limit(tmp_path: Path) -> None:
    async with AsyncOmniQ(tmp_path / "journal", max_payload_bytes=MIB) as producer:
        handle = await producer.enqueue(jobs.add, 1, b=2)
        like = TaskEnqueued("", "tests.app.jobs:add", "default", b"")
        arguments = msgspec.msgpack.encode(([1, 2], {}))
        (large,) = await (await producer.engine()).enqueue(like, (arguments,))
    async with AsyncOmniQ(tmp_path / "journal", max_payload_bytes=4) as worker:
        worker.task(jobs.add)
        await worker.worker().drain()
        with pytest.raises(TaskFailed, match="max_payload_bytes=4") as caught:
            await worker.handle(large.task_id).result()
        assert not caught.value.error.is_retryable
        with pytest.raises(TaskFailed):
            await worker.handle(handle.id).result()


def test_commit_that_nobody_would_read_is_not_written() -> None:
    events = [TaskEnqueued("t", "m:f", "q", bytes(MAX_COMMIT_BYTES))]
    with pytest.raises(PayloadTooLarge):
        encode_commit(Commit(1, 1, "a", events))
