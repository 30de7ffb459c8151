"""Journals that a version of OmniQ wrote stay readable for ever, to the same state.

The files are never made anew: their digests stand in golden/SHA256SUMS, and a line of it never
changes. A new format version gets a folder of its
own, by tools/make_golden.py, and the old ones stay.
"""

import asyncio
import hashlib
import json
import shutil
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from omniq.core.events import JournalEvent
from omniq.core.projection import Projection
from omniq.storage.file import FileStorage
from omniq.storage.sqlite import SQLiteStorage
from omniq.tools import replay
from omniq.upkeep import restored
from tests.golden.story import STORY
from tests.storage.language import opened, read_all, tasks
from tools.make_golden import JOURNAL_ID, SEGMENT_BYTES, main, write

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
HEAD = "23bfc75e1491a79247b2eaf80d4e6ae1a3a9c5614ad507e7d0350dfc324424d9"
STORAGES = {"journal": FileStorage, "journal.db": SQLiteStorage}
each = pytest.mark.parametrize("name", STORAGES)


def test_no_golden_file_was_changed_or_made_anew():
    found = {
        str(path.relative_to(GOLDEN)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in GOLDEN.rglob("v*/**/*")
        if path.is_file()
    }
    sums = (GOLDEN / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    assert found == {name: digest for digest, name in (line.split("  ") for line in sums)}


def test_they_are_not_written_over(capsys):
    assert main() == 1
    assert "stays" in capsys.readouterr().err


def test_every_kind_of_event_is_in_them():
    kinds = {type(event) for _, _, events in STORY for event in events}
    assert kinds == set(JournalEvent.__subclasses__())


def copy(name, tmp_path):
    source = GOLDEN / "v1" / name
    if source.is_dir():
        return shutil.copytree(source, tmp_path / name)
    return shutil.copy(source, tmp_path / name)


def state_of(projection):
    """Return a state as JSON has it."""
    return json.loads(msgspec.json.encode(projection.state(), order="sorted"))


@each
@pytest.mark.parametrize("read_only", [True, False])
async def test_golden_journal_has_the_state_that_it_had(name, read_only, tmp_path):
    golden = json.loads((GOLDEN / "v1" / "state.json").read_text(encoding="utf-8"))
    async with opened(STORAGES[name](copy(name, tmp_path), read_only=read_only)) as storage:
        commits = await read_all(storage)
        assert [(c.actor, c.events) for c in commits] == [(a, e) for _, a, e in STORY]
        assert (await storage.head()).digest.hex() == HEAD
        folded, tail = Projection(), await restored(storage)
        assert 0 < tail.seq < commits[-1].last_seq
        for commit in commits:
            folded.apply(commit)
            if commit.first_seq > tail.seq:
                tail.apply(commit)
        assert state_of(folded) == golden
        assert tail.state() == folded.state()
        if not read_only:
            assert (await storage.append(tasks("new"), at=1, actor="me")).last_seq == folded.seq + 1


@each
def test_golden_journal_verifies(name, tmp_path, capsys):
    assert replay.main(["verify", str(copy(name, tmp_path)), "--head", HEAD]) == 0
    capsys.readouterr()


def test_the_same_commits_have_the_same_bytes_today(tmp_path):
    storage = FileStorage(tmp_path / "journal", segment_bytes=SEGMENT_BYTES)
    with mock.patch("omniq.storage.folder.random_bytes", return_value=JOURNAL_ID):
        asyncio.run(write(storage, snapshot=True))
    names = {path.name for path in (GOLDEN / "v1" / "journal").iterdir()}
    assert len([name for name in names if name.endswith(".seg")]) > 2
    for name in names:
        written = (tmp_path / "journal" / name).read_bytes()
        assert written == (GOLDEN / "v1" / "journal" / name).read_bytes(), name
