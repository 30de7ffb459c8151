"""Write the golden journals of this format version into tests/golden; never over one that is there.

A golden journal is what a released version wrote, and every later version has to read. So it is
made once, when there is a new format version, and never again: this script refuses to touch a file
that exists, and a test refuses one that was changed.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from omniq.core.snapshot import Capture
from omniq.storage.file import FileStorage
from omniq.storage.sqlite import SQLiteStorage
from omniq.upkeep import restored
from tests.golden.story import SECOND, START, STORY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parents[1]
SEGMENT_BYTES = 900  # so that there are several
JOURNAL_ID = bytes(range(16))


async def write(storage: FileStorage | SQLiteStorage, *, snapshot: bool) -> None:
    """Write the story, and perhaps a snapshot in the middle of it."""
    await storage.open()
    for number, (second, actor, events) in enumerate(STORY):
        commit = await storage.append(events, at=START + second * SECOND, actor=actor)
        await storage.sync(commit.last_seq)
        if snapshot and number == len(STORY) // 2:
            await save_snapshot(storage)
    await storage.close()


async def save_snapshot(storage: FileStorage | SQLiteStorage) -> None:
    """Save the state as it is now."""
    state = await restored(storage)
    while commits := await storage.read(state.seq):
        for commit in commits:
            state.apply(commit)
    bookmark = await storage.bookmark(state.seq)
    assert bookmark is not None, "both keep snapshots"

    async def parts() -> AsyncIterator[bytes]:
        for part in Capture(state).parts():
            yield part

    await storage.save_snapshot(bookmark, parts())


def main() -> int:
    """Write what is not there yet."""
    folder = ROOT / "tests" / "golden" / "v1"
    for name in ("journal", "journal.db"):
        if (folder / name).exists():
            print(f"{name} is there already, and stays as it is", file=sys.stderr)
            return 1
    folder.mkdir(parents=True, exist_ok=True)
    files = FileStorage(folder / "journal", segment_bytes=SEGMENT_BYTES, reserve_bytes=0)
    with mock.patch("omniq.storage.folder.random_bytes", return_value=JOURNAL_ID):
        asyncio.run(write(files, snapshot=True))
    asyncio.run(write(SQLiteStorage(folder / "journal.db"), snapshot=True))
    with closing(sqlite3.connect(folder / "journal.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        database.execute("PRAGMA journal_mode = DELETE").fetchall()  # one file is all of it
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix not in (".seg", ".snapshot", ".db"):
            path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
