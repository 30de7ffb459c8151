"""Reading never changes a journal, also while somebody writes to it."""

import asyncio
import contextlib
import io
import json
import shutil
import sqlite3

import pytest

from omniq.config import open_storage
from omniq.core import events as ev
from omniq.tools import reading, replay
from omniq.tools.rows import SQLiteScan
from tests.tools.journals import CLIENT, LENGTH, START, STORY, A, C, content_of, rewrite

COMMANDS = [
    ["summary"],
    ["events"],
    ["events", "--task", A],
    ["task", A],
    ["state", "--at", "5"],
    ["verify"],
    ["diff"],
    ["explain", C],
    ["export"],
]
each_command = pytest.mark.parametrize("command", COMMANDS, ids=" ".join)


def everything(folder):
    """Return name, content and time of all that is in a folder.

    SQLite's shared-memory file is no part of the journal: it is what the connections of the
    moment know of the log, and is made anew from it.
    """
    return {
        path.relative_to(folder): (
            path.read_bytes() if path.is_file() else None,
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith("-shm")
    }


@each_command
def test_command_changes_nothing_and_leaves_nothing(command, journal, tmp_path, run):
    before, names = everything(tmp_path), sorted(tmp_path.rglob("*"))
    name, *rest = command
    assert run(name, journal, *rest).status == 0
    assert everything(tmp_path) == before
    assert sorted(tmp_path.rglob("*")) == names


def test_verify_leaves_even_the_shared_memory_of_a_database_alone(journal, tmp_path, run):
    shared = [(path, path.read_bytes()) for path in tmp_path.glob("*-shm")]
    assert run("verify", journal).status == 0
    assert [(path, path.read_bytes()) for path, _ in shared] == shared


@each_command
def test_journal_without_permission_to_write_can_be_read(command, journal, tmp_path, run):
    paths = [journal, *journal.rglob("*")] if journal.is_dir() else [journal]
    for path in paths:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        name, *rest = command
        assert run(name, journal, *rest).status == 0
    finally:
        for path in paths:
            path.chmod(0o700)


def call(*arguments):
    """Run the tool where pytest's capturing of output is not at hand: in a thread."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = replay.main([str(argument) for argument in arguments])
    return status, out.getvalue()


async def test_journal_is_read_while_it_is_open_for_writing(tmp_path, backend):
    path = tmp_path / ("journal" if backend == "file" else "journal.db")
    storage = open_storage(path)
    await storage.open()
    try:
        for number in range(3):
            event = ev.TaskEnqueued(f"task-{number}", "f", "q", b"\x92\x90\x80")
            await storage.append([event], at=START, actor=CLIENT)
            async with storage.exclusive():  # a writer holds the lock, and stays undisturbed
                for command in ("summary", "state", "verify", "events", "diff", "export"):
                    status, out = await asyncio.to_thread(call, command, path, "--json")
                    assert status == 0
                    assert f'"seq":{number + 1}' in out
                target = tmp_path / f"recovered-{number}"
                status, _ = await asyncio.to_thread(call, "recover", path, target)
                assert status == 0
                assert (await content_of(target)).head == await storage.head()
        assert (await storage.append([ev.QueuePaused("q")], at=START, actor=CLIENT)).last_seq == 4
    finally:
        await storage.close()


def test_report_is_of_the_moment_at_which_the_journal_was_opened(journal):
    async def read():
        async with reading.opened(str(journal)) as opened:
            writer = open_storage(journal)
            await writer.open()
            await writer.append([ev.QueueResumed("images")], at=START, actor=CLIENT)
            await writer.close()
            return [commit.last_seq async for batch in opened.commits() for commit in batch]

    assert asyncio.run(read())[-1] == LENGTH


def test_database_without_its_log_is_read_without_making_one(tmp_path, run):
    path = tmp_path / "journal.db"
    rewrite(path, STORY)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    copy = tmp_path / "elsewhere" / "copy.db"
    copy.parent.mkdir()
    shutil.copyfile(path, copy)
    before = everything(copy.parent)
    assert sum(len(commit.events) for commit in SQLiteScan(copy)) == LENGTH
    assert everything(copy.parent) == before
    assert json.loads(run("summary", copy, "--json").out)["events"] == LENGTH
