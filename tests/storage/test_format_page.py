"""The page about the format shows what is written: its bytes, its tables, its example."""

import re
from pathlib import Path

import pytest

from omniq.core.events import Commit, QueuePaused, WorkerLeft
from omniq.storage.base import GENESIS, Head
from omniq.storage.encoding import encode_commit
from omniq.storage.file import FileStorage
from omniq.storage.framing import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    pack_frame,
    pack_segment_header,
    seed_of,
)
from omniq.storage.memory import MemoryStorage
from omniq.storage.rows import APPLICATION_ID, SCHEMA
from omniq.storage.sqlite import SQLiteStorage
from tests.storage.language import append, opened, read_all

PAGE = (Path(__file__).parents[2] / "docs/reference/journal-format.md").read_text(encoding="utf-8")
COMMIT = Commit(1, 1_800_000_000_000_000, "c1", [QueuePaused("mail"), WorkerLeft("w1")])
DIGEST = "003d7ebf7a501e288226221f0082fc143f479d46eb3df11b08f129df605e83d9"


def dump_on_the_page():
    lines = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)$", PAGE, re.MULTILINE)
    return bytes.fromhex(" ".join(lines))


def test_example_is_what_the_code_writes():
    journal_id = bytes(range(16))
    header = pack_segment_header(SegmentHeader(journal_id, 1, 1, 0, GENESIS))
    frame = pack_frame(
        seed_of(journal_id),
        encode_commit(COMMIT),
        count=2,
        first_seq=1,
        durable=0,
        previous=GENESIS,
    )
    assert header + frame == dump_on_the_page()


async def test_example_is_a_journal(tmp_path):
    path = tmp_path / "journal"
    path.mkdir()
    (path / "00000000000000000001.seg").write_bytes(dump_on_the_page())
    async with opened(FileStorage(path)) as storage:
        assert await read_all(storage) == [COMMIT]
        await append(storage, "next")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: FileStorage(path / "journal"),
        lambda path: SQLiteStorage(path / "journal.db"),
        lambda path: MemoryStorage(),
    ],
    ids=["file", "sqlite", "memory"],
)
async def test_digest_is_the_same_in_every_backend(tmp_path, make):
    assert DIGEST in PAGE
    async with opened(make(tmp_path)) as storage:
        await storage.append(COMMIT.events, at=COMMIT.at, actor=COMMIT.actor)
        assert await storage.head() == Head(2, COMMIT.at, bytes.fromhex(DIGEST))


@pytest.mark.parametrize(
    ("which", "size"), [("segment", SEGMENT_HEADER_BYTES), ("frame", FRAME_HEADER_BYTES)]
)
def test_fields_of_a_header_fill_it(which, size):
    part = PAGE.partition(f"The {which} header, {size} bytes:")[2]
    table = part.strip().partition("\n\n")[0]
    rows = [
        (int(offset), int(length))
        for offset, length in re.findall(r"^\| (\d+) \| (\d+) \|", table, re.MULTILINE)
    ]
    ends = [offset + length for offset, length in rows]
    assert [offset for offset, _ in rows] == [0, *ends[:-1]]
    assert ends[-1] == size


def test_tables_are_those_of_the_database():
    (shown,) = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    statements = re.findall(r"CREATE .*?;", SCHEMA, re.DOTALL)
    assert shown.split() == " ".join(statements).split()
    assert f"0x{APPLICATION_ID:X}" in PAGE
