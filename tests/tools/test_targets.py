"""A new journal has its name when it is whole and durable, replaces nothing, and leaves nothing."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import suppress

import pytest

from omniq.core.events import Commit
from omniq.errors import StorageError
from omniq.storage.base import Head
from omniq.storage.encoding import encode_events
from omniq.tools import naming, targets
from omniq.tools.targets import FileTarget, SQLiteTarget, new_journal
from tests.storage.language import Died, FaultyDisk, MortalDisk
from tests.tools.journals import NAMES, STORY, content_of, read, rewrite
from tests.tools.test_recover import Kept


@pytest.fixture(params=["file", "sqlite"])
def target(request, tmp_path):
    return tmp_path / f"new-{NAMES[request.param]}"


def everything(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(run, source, target, tmp_path):
    before = everything(tmp_path)
    result = run("recover", source, target)
    assert (result.status, result.out) == (2, "")
    assert everything(tmp_path) == before
    return result.err


def test_journal_that_is_there_stays(journal, target, tmp_path, run):
    rewrite(target, STORY[:2])
    assert "is there already, and stays" in refused(run, journal, target, tmp_path)


def test_file_or_folder_that_is_there_stays(journal, target, tmp_path, run):
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    assert "is there already, and stays" in refused(run, journal, target, tmp_path)
    other = tmp_path / f"other{target.suffix}"
    other.write_text("mine")
    assert "is there already, and stays" in refused(run, journal, other, tmp_path)


def test_link_that_leads_nowhere_stays(journal, target, tmp_path, run):
    target.symlink_to(tmp_path / "nowhere")
    assert "is there already, and stays" in refused(run, journal, target, tmp_path)


def test_source_is_no_target_and_neither_is_a_place_inside_of_it(journal, tmp_path, run):
    refused(run, journal, journal, tmp_path)
    if journal.is_dir():
        assert "is inside of" in refused(run, journal, journal / "new", tmp_path)
        assert "is inside of" in refused(run, journal, journal / "live" / "new.db", tmp_path)


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal", "-omniq"])
def test_what_an_older_database_left_is_never_mixed_with_the_new_one(journal, end, tmp_path, run):
    """SQLite would take the commits in such a log for its own."""
    (tmp_path / f"new.db{end}").write_bytes(b"left over")
    assert f"new.db{end} is there already" in refused(run, journal, tmp_path / "new.db", tmp_path)


def test_empty_folder_becomes_a_file_journal(journal, tmp_path, run):
    target = tmp_path / "new"
    target.mkdir()
    assert run("recover", journal, target).status == 0
    assert read(target) == read(journal)


def test_empty_folder_with_the_name_of_a_database_stays(journal, tmp_path, run):
    (tmp_path / "new.db").mkdir()
    refused(run, journal, tmp_path / "new.db", tmp_path)


@pytest.mark.parametrize("place", ["memory://", "redis://host", "missing/new", "missing/new.db"])
def test_place_where_there_can_be_no_journal_is_an_error_of_usage(
    journal, place, tmp_path, run, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert refused(run, journal, place, tmp_path) != ""


def test_new_journal_is_for_its_owner_alone(journal, target, run):
    run("recover", journal, target)
    assert target.stat().st_mode & 0o077 == 0
    assert [path for path in target.rglob("*") if path.stat().st_mode & 0o077] == []


def test_nothing_else_is_left(journal, target, tmp_path, run):
    before = set(tmp_path.iterdir())
    run("recover", journal, target)
    assert set(tmp_path.iterdir()) - before == {target}


def test_failure_leaves_nothing(journal, target, tmp_path):
    before = everything(tmp_path)
    with pytest.raises(ZeroDivisionError), new_journal(str(target), apart_from=journal) as new:
        new.begin(Head())
        raise ZeroDivisionError
    assert everything(tmp_path) == before


def test_journal_that_somebody_begins_meanwhile_stays(journal, target, tmp_path):
    with (
        pytest.raises(StorageError, match="cannot make the journal"),
        new_journal(str(target), apart_from=journal) as new,
    ):
        new.begin(Head())
        rewrite(target, STORY[:1])
    assert read(target).head.seq == 2
    assert sorted(tmp_path.glob("*.recovering*")) == []


def test_disk_without_links_is_no_obstacle(journal, tmp_path, run, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert run("recover", journal, tmp_path / "new.db").status == 0
    assert read(tmp_path / "new.db") == read(journal)


def test_name_is_made_durable_after_it_was_given(journal, target, run, monkeypatch):
    synced = []
    monkeypatch.setattr(naming, "sync_directory", lambda path: synced.append([*path.iterdir()]))
    assert run("recover", journal, target).status == 0
    assert [target in names for names in synced] == [True]
    assert [path for path in synced[0] if path.name.endswith(".recovering")] == []


def test_every_target_has_the_same_heads_behind_the_same_commits(tmp_path):
    """The one in memory that other tests use as well."""
    heads = []
    for target in (Kept(), FileTarget(tmp_path / "new"), SQLiteTarget(tmp_path / "new.db")):
        heads.append([])
        target.begin(Head(2, 0, b"d" * 32))
        for commit, events in encoded_story(first_seq=3):
            target.write(commit, events)
            heads[-1].append(target.head)
        if not isinstance(target, Kept):
            target.finish()
            target.close()
    assert heads[0] == heads[1] == heads[2]
    assert [head.seq for head in heads[0]] == [4, 5, 7, 9, 11, 12, 13, 16]
    for place in ("new", "new.db"):
        assert read(tmp_path / place).head == heads[0][-1]
        assert read(tmp_path / place).beginning == Head(2, 0, b"d" * 32)


# Power cuts, full disks, kills.


def make(disk, path):
    """Write the story to two segments, through a disk."""
    target = FileTarget(path, disk=disk, segment_bytes=1000)
    try:
        target.begin(Head())
        for commit, events in encoded_story():
            target.write(commit, events)
        target.finish()
    finally:
        target.close()


def encoded_story(first_seq=1):
    for second, actor, events in STORY:
        yield Commit(first_seq, second, actor, events), encode_events(events)
        first_seq += len(events)


def test_power_cut_at_any_moment_leaves_all_or_no_journal(tmp_path):
    """With all that was not synced gone, each time before another operation on the disk."""
    whole = MortalDisk()
    make(whole, tmp_path / "whole")
    operations = len(whole.log)
    assert operations > 10
    for death in range(operations + 1):
        path, disk = tmp_path / f"at-{death}", MortalDisk(death)
        with suppress(Died):
            make(disk, path)
        if path.exists():  # its own name is another matter
            disk._names[tmp_path] = {path.name: 0}
        disk.cut_power(path)
        names = [entry.name for entry in path.glob("*.seg")] if path.exists() else []
        if death == operations:
            assert read(path).commits == [commit for commit, _ in encoded_story()]
        else:
            assert names == []


def test_names_are_given_to_what_is_synced_the_first_segment_last(tmp_path):
    disk = MortalDisk()
    make(disk, tmp_path / "new")
    renames = [name for operation, name in disk.log if operation == "rename"]
    first = disk.log.index(("rename", renames[0]))
    synced = {name for operation, name in disk.log[:first] if operation == "sync"}
    assert synced == {f"{name}.tmp" for name in renames}
    assert renames == sorted(renames, reverse=True)
    assert disk.log[-1] == ("sync_directory", "new")


@pytest.mark.parametrize("operation", ["write", "sync", "rename", "sync_directory"])
def test_disk_that_fails_is_an_error_and_no_journal(tmp_path, operation):
    disk = FaultyDisk()
    disk.fail(operation, errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        make(disk, tmp_path / "new")
    if operation != "sync_directory":
        assert sorted((tmp_path / "new").glob("*1.seg")) == []


def test_full_disk_is_said_and_nothing_is_left(journal, target, tmp_path, run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(targets, "sync_file", full)
    monkeypatch.setattr("omniq.storage.disk.sync_file", full)
    assert "No space left on device. Nothing is left" in refused(run, journal, target, tmp_path)


def test_full_database_is_said_and_nothing_is_left(journal, tmp_path, run, monkeypatch):
    def full(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(targets.SQLiteTarget, "write", full)
    reason = refused(run, journal, tmp_path / "new.db", tmp_path)
    assert "database or disk is full. Nothing is left" in reason


STOP_AT = """
import sys
from omniq.tools import replay, targets

def stop(*_):
    print("here", flush=True)
    sys.stdin.read()

owner, name, journal, target = sys.argv[1:]
setattr(getattr(targets, owner, targets), name, stop)
replay.main(["recover", journal, target])
"""


@pytest.mark.parametrize("place", ["finish", "give_name"])
def test_killed_recovery_leaves_no_journal_of_that_name_and_can_be_repeated(
    journal, target, place, tmp_path, run
):
    kind = "FileTarget" if target.suffix == "" else "SQLiteTarget"
    owner = kind if place == "finish" else ""
    process = subprocess.Popen(
        [sys.executable, "-c", STOP_AT, owner, place, str(journal), str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"here\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert not target.exists()
    (left,) = tmp_path.glob(f"{target.name}.*.recovering")
    if place == "finish":  # it is not whole, and nobody takes it for a journal
        assert run("summary", left).status == 2
    assert run("recover", journal, target).status == 0
    assert read(target) == read(journal)


async def test_recovered_journal_takes_appends(journal, target, run):
    import asyncio

    from omniq.config import open_storage
    from omniq.core import events as ev

    assert (await asyncio.to_thread(run, "recover", journal, target)).status == 0
    before = (await content_of(target)).head
    storage = open_storage(target)
    await storage.open()
    commit = await storage.append([ev.QueuePaused("q")], at=before.at, actor="me")
    await storage.close()
    assert commit.first_seq == before.seq + 1
    assert (await asyncio.to_thread(run, "verify", target)).status == 0
