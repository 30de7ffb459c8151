"""The tool reads archives like journals, and recovers what a journal dropped from its archive."""

import asyncio
import json

import pytest

from omniq.config import open_storage
from omniq.storage.archive import ARCHIVED, Archive, ship
from omniq.storage.base import Head
from tests.tools.journals import LENGTH, NAMES, STORY, A, drop, read, rewrite
from tests.tools.test_recover import change, clean, lost_in, recover


@pytest.fixture
def whole(journal):
    """What the journal had before anything was dropped."""
    return read(journal)


@pytest.fixture
def shipped(journal, backend, whole, tmp_path, monkeypatch):
    """An archive of the first segments of a journal, which has dropped them; and the journal."""
    monkeypatch.setattr("omniq.storage.snapshot_rows.SEGMENT_BYTES", 300)
    if backend == "file":
        for path in (*journal.rglob("*.seg"),):
            path.unlink()
        for path in journal.glob("*.lock"):
            path.unlink()
        rewrite(journal, STORY, segment_bytes=300)
    archive = tmp_path / "archive"

    async def shipping():
        storage = open_storage(journal)
        await storage.open()
        try:
            return await ship(Archive(str(archive)), storage, before=0)
        finally:
            await storage.close()

    until = asyncio.run(shipping())
    assert 7 <= until < LENGTH
    beginning = asyncio.run(drop(journal, 7, (9, 11)))
    assert 3 <= beginning.seq <= 7
    return archive, journal


@pytest.mark.parametrize(
    "command", [["summary"], ["events"], ["verify"], ["export"], ["task", A], ["state"]]
)
def test_archive_is_read_like_a_journal(shipped, command, run):
    archive, _ = shipped
    name, *rest = command
    for place in (archive, f"file://{archive}"):
        result = run(name, place, *rest, "--json")
        assert (result.status, result.err) == (0, "")


def test_archive_is_recovered_like_a_journal(shipped, whole, tmp_path, run):
    archive, _ = shipped
    report = recover(run, archive, tmp_path / "new.db", status=0)
    commits = clean(run, tmp_path / "new.db").commits
    assert 0 < len(commits) < len(whole.commits)
    assert commits == whole.commits[: len(commits)]
    assert report["is_whole"]


@pytest.mark.parametrize("other", ["file", "sqlite"])
def test_journal_and_its_archive_together_are_all_of_it(shipped, whole, other, tmp_path, run):
    archive, journal = shipped
    target = tmp_path / f"new-{NAMES[other]}"
    report = recover(run, journal, target, "--archive", archive, status=0)
    assert report["is_whole"]
    assert clean(run, target) == whole
    assert whole.beginning == Head()
    early = json.loads(run("state", target, "--at", "2", "--json").out)
    assert early["tasks"]["PENDING"] == 2


def test_damage_to_what_the_archive_has_as_well_is_no_loss(shipped, whole, tmp_path, run):
    archive, journal = shipped
    if journal.is_dir():
        first = min(journal.glob("*.seg"))
        first.write_bytes(first.read_bytes()[:-1])
    else:
        change(journal, "UPDATE events SET data = zeroblob(3) WHERE seq = 8")
    assert run("verify", journal).status == 1
    target = tmp_path / "new"
    recover(run, journal, target, "--archive", archive, status=0)
    assert clean(run, target) == whole


def test_archived_segment_that_is_damaged_is_lost_exactly(shipped, whole, tmp_path, run):
    archive, _ = shipped
    segments = sorted(archive.glob(f"*{ARCHIVED}"))
    damaged = segments[1]
    first, end = int(damaged.name[:20]), int(segments[2].name[:20])
    damaged.write_bytes(damaged.read_bytes()[:-9])
    report = recover(run, archive, tmp_path / "new", status=1)
    assert lost_in(report) == list(range(first, end))


def test_archive_of_another_journal_is_refused(shipped, tmp_path, run):
    archive, journal = shipped
    other = tmp_path / f"other-{journal.name}"
    rewrite(other, [(0, "else", STORY[0][2]), *STORY[1:]])
    for path in (journal, other):
        target = tmp_path / f"new-{path.name}"
        result = run("recover", path, target, "--archive", archive)
        assert result.status == (0 if path == journal else 2)
        assert target.exists() == (path == journal)
    assert "is not the beginning of the journal" in result.err


def test_archive_that_is_not_there_is_an_error_of_usage(journal, tmp_path, run):
    result = run("recover", journal, tmp_path / "new", "--archive", tmp_path / "nowhere")
    assert (result.status, result.out) == (2, "")
    assert "there is no archive" in result.err
