"""The SQLite journal alone: other people's databases, tampering, full disks, checkpoints."""

import asyncio
import os
import sqlite3
import threading
from contextlib import closing
from itertools import pairwise

import pytest

from omniq.core.events import ResultExpired, TaskEnqueued, WorkerLeft
from omniq.errors import (
    CorruptJournal,
    JournalConflict,
    PayloadTooLarge,
    StorageError,
    StorageFull,
    UnsupportedFormat,
)
from omniq.storage import database, encoding
from omniq.storage.database import CHECKPOINT_BYTES
from omniq.storage.sqlite import AT_ONCE_EVENTS, PAGE_BYTES, SQLiteStorage
from omniq.testing.virtual import settle
from tests.storage.language import append, names_in, names_of, opened, read_all

MANY = [f"{number}" for number in range(AT_ONCE_EVENTS + 1)]  # too many to be done at once


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.db"


async def write_journal(path, *commits):
    async with opened(SQLiteStorage(path)) as storage:
        for names in commits:
            await append(storage, *names)


def execute(path, *statements):
    """Change a database as somebody with a shell could, and leave it without side files."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for statement in statements:
            connection.execute(statement)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()


async def is_refused(path, *errors, match=None):
    """Assert that opening or reading fails, and the database stays as it was."""
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(errors, match=match):
            await names_in(SQLiteStorage(path, read_only=read_only))
        assert path.read_bytes() == before


# What is not ours.


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
async def test_database_of_someone_else_is_refused_and_kept(path, mode):
    execute(path, f"PRAGMA journal_mode = {mode}", "CREATE TABLE users (name)")
    await is_refused(path, UnsupportedFormat, match="something else")
    assert not path.with_name("jobs.db-omniq").exists()


async def test_database_of_someone_else_with_commits_in_its_log_is_kept(path):
    """Whoever closes a database last moves its log into it, unless told not to."""
    owner = sqlite3.connect(path, isolation_level=None)
    owner.execute("PRAGMA journal_mode = WAL")
    owner.execute("CREATE TABLE users (name)")
    owner.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
    owner.close()
    log = path.with_name("jobs.db-wal")
    before = log.read_bytes()
    assert before
    await is_refused(path, UnsupportedFormat)
    assert log.read_bytes() == before


@pytest.mark.parametrize(
    "statement", ["PRAGMA application_id = 7", "PRAGMA user_version = 3"], ids=str
)
async def test_empty_database_that_is_marked_by_someone_else_is_refused(path, statement):
    execute(path, statement)
    await is_refused(path, UnsupportedFormat)


async def test_empty_file_becomes_a_journal(path):
    """Whoever created it was killed before there was a table in it."""
    path.touch()
    await write_journal(path, "a")
    assert await names_in(SQLiteStorage(path)) == ["a"]


@pytest.mark.parametrize("size", [1, 99, 100, 512, 5000])
async def test_file_that_is_no_database_is_refused_and_kept(path, size):
    path.write_bytes(b"x" * size)
    await is_refused(path, UnsupportedFormat, match="no SQLite database")


async def test_journal_of_a_newer_version_is_refused_and_kept(path):
    await write_journal(path, "a")
    execute(path, "PRAGMA user_version = 2")
    await is_refused(path, UnsupportedFormat, match="format version 2")


@pytest.mark.parametrize("table", ["journal", "events"])
async def test_journal_without_one_of_its_tables_is_damaged(path, table):
    await write_journal(path, "a")
    execute(path, f"DROP TABLE {table}")
    await is_refused(path, CorruptJournal)


async def test_journal_without_its_id_is_damaged(path):
    await write_journal(path, "a")
    execute(path, "DELETE FROM journal")
    await is_refused(path, CorruptJournal)


# Tampering.


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM events WHERE seq = 1",
        "DELETE FROM events WHERE seq = 3",
        "DELETE FROM events WHERE seq = 4",
        "DELETE FROM events WHERE seq IN (3, 4)",
        "UPDATE events SET data = (SELECT data FROM events WHERE seq = 1) WHERE seq = 3",
        "UPDATE events SET data = substr(data, 1, length(data) - 1) WHERE seq = 3",
        "UPDATE events SET data = CAST('text' AS TEXT) WHERE seq = 3",
        "UPDATE events SET data = 7 WHERE seq = 3",
        "UPDATE events SET at = at + 1 WHERE seq IN (3, 4)",
        "UPDATE events SET at = 'noon' WHERE seq = 3",
        "UPDATE events SET actor = 'someone' WHERE seq = 3",
        "UPDATE events SET digest = NULL WHERE seq = 4",
        "UPDATE events SET digest = randomblob(32) WHERE seq = 2",
        "UPDATE events SET digest = randomblob(32) WHERE seq = 5",
        "UPDATE events SET digest = 'text' WHERE seq = 4",
        "UPDATE events SET digest = randomblob(32) WHERE seq = 3",
        "UPDATE events SET seq = seq + 1 WHERE seq = 5",
        "UPDATE events SET seq = CASE seq WHEN 3 THEN -3 ELSE -4 END WHERE seq IN (3, 4)",
    ],
)
async def test_tampering_is_found_by_whoever_reads(path, statement):
    await write_journal(path, "ab", "cd", "e")
    execute(path, statement)
    await is_refused(path, CorruptJournal)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET digest = NULL WHERE seq = 5",
        "UPDATE events SET digest = 'text' WHERE seq = 5",
        "UPDATE events SET at = 'noon' WHERE seq = 5",
        "DELETE FROM events WHERE seq = 5",
    ],
)
async def test_damaged_end_is_found_before_anything_is_appended_to_it(path, statement):
    await write_journal(path, "abc", "de")
    execute(path, statement)
    with pytest.raises(CorruptJournal):
        await SQLiteStorage(path).open()


async def test_history_of_a_task_is_verified_too(path):
    await write_journal(path, "ab", "cd")
    execute(path, "UPDATE events SET data = (SELECT data FROM events WHERE seq = 3) WHERE seq = 2")
    async with opened(SQLiteStorage(path)) as storage:
        assert [seq for seq, _, _ in await storage.read_task("c")] == [3]
        with pytest.raises(CorruptJournal):
            await storage.read_task("b")


async def test_unknown_event_is_of_a_newer_version(path):
    """Its digest is right, so nobody has tampered with it."""
    await write_journal(path, "a")
    data = b"\x92\xactask.dreamed\xa1x"
    digest = encoding.chain(bytes(32), encoding.joined(1, 1, "a", [data]))
    execute(path, f"UPDATE events SET data = x'{data.hex()}', digest = x'{digest.hex()}'")
    await is_refused(path, UnsupportedFormat, match=r"task\.dreamed")


async def test_history_has_the_expiry_of_this_task_only(path):
    async with opened(SQLiteStorage(path)) as storage:
        await append(storage, "a", "b")
        for names in (("b",), ("a", "b"), ("aa",)):
            await storage.append([ResultExpired(names)], at=1, actor="a")
        assert [seq for seq, _, _ in await storage.read_task("a")] == [1, 4]


# The disk, and death.


async def test_full_disk_is_said_and_work_goes_on_when_there_is_room(path):
    async with opened(SQLiteStorage(path)) as storage:
        await append(storage, "a")
        storage._database.connection.execute("PRAGMA max_page_count = 10").fetchall()
        for _ in range(2):
            with pytest.raises(StorageFull, match="make room"):
                await append(storage, *(f"{number:050}" for number in range(2000)))
        assert (await storage.head()).seq == 1
        storage._database.connection.execute("PRAGMA max_page_count = 100000").fetchall()
        await append(storage, "b")
        assert names_of(await read_all(storage)) == ["a", "b"]


async def test_checkpoint_that_fails_does_not_take_the_commit_back(path, monkeypatch, caplog):
    """The commit is in the log by then."""

    class NoCheckpoint:
        def __init__(self, connection):
            self._connection = connection

        def execute(self, sql, *parameters):
            if "wal_checkpoint" in sql:
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return self._connection.execute(sql, *parameters)

        def __getattr__(self, name):
            return getattr(self._connection, name)

    async with opened(SQLiteStorage(path)) as storage:
        storage._database.connection = NoCheckpoint(storage._database.connection)
        monkeypatch.setattr("omniq.storage.database.CHECKPOINT_BYTES", 0)
        await append(storage, "a")
        await append(storage, "b")
        assert names_of(await read_all(storage)) == ["a", "b"]
    assert {record.action for record in caplog.records} == {"checkpoint_failed"}


async def test_log_is_moved_to_the_database_now_and_then_and_not_with_each_commit(path):
    log = path.with_name("jobs.db-wal")
    names = [f"{number:0300}" for number in range(1000)]
    sizes = []
    async with opened(SQLiteStorage(path)) as storage:
        for _ in range(24):
            await append(storage, *names)
            sizes.append(log.stat().st_size)
    assert max(sizes) < 4 * CHECKPOINT_BYTES
    restarts = sum(later < earlier for earlier, later in pairwise(sizes))
    assert 2 <= restarts <= 12


async def test_large_commit_that_somebody_waits_for_is_durable_with_all_before_it(path):
    """Its row says so; a small one waits for the sync of the log, as one that nobody waits for."""
    end = len(MANY) + 2
    async with opened(SQLiteStorage(path)) as storage:
        await append(storage, "a", durable=True)
        assert storage.durable == 0
        await append(storage, *MANY, durable=True)
        assert storage.durable == end - 1
        await append(storage, "b", durable=True)
        assert storage.durable == end - 1
        await storage.sync(end)
        assert storage.durable == end
    query = "SELECT durable FROM events WHERE durable IS NOT NULL ORDER BY seq"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(query).fetchall() == [(0,), (1,), (0,)]


async def test_each_commit_is_synced_as_it_has_to_be_whatever_the_one_before_was(path):
    """The connection is told only what has changed."""
    normal, full = 1, 2
    async with opened(SQLiteStorage(path)) as storage:
        connection = storage._database.connection
        statements = []
        connection.set_trace_callback(statements.append)
        for names, durable, expected in (
            (["a"], True, normal),
            (["b"], False, normal),
            (MANY, True, full),
            (MANY, True, full),
            (MANY, False, normal),
        ):
            await append(storage, *names, durable=durable)
            assert connection.execute("PRAGMA synchronous").fetchone() == (expected,)
        told = [statement for statement in statements if "synchronous =" in statement]
        assert [statement.split()[-1] for statement in told] == ["NORMAL", "FULL", "NORMAL"]


async def test_name_of_the_log_is_durable_before_anything_in_it_is(path, monkeypatch):
    """SQLite syncs the folder with its own first sync of the log, and small commits have none."""
    synced = []
    log = path.with_name("jobs.db-wal")
    sync_directory = database.sync_directory
    monkeypatch.setattr(database, "sync_file", lambda _: synced.append("log"))
    monkeypatch.setattr(
        database,
        "sync_directory",
        lambda folder: (sync_directory(folder), synced.append((folder, log.exists()))),
    )
    async with opened(SQLiteStorage(path)) as storage:
        await append(storage, "a", durable=True)
        await storage.sync(1)
    assert synced == [(path.parent, True), "log"]


async def test_commit_of_another_process_is_durable_once_its_row_says_so(path):
    async with opened(SQLiteStorage(path)) as storage, opened(storage.sibling()) as other:
        await append(storage, "a")
        assert names_of(await read_all(other)) == ["a"]
        assert other.durable == 0, "whoever hands out what it tells has to sync first"
        await append(storage, *MANY, durable=True)
        assert names_of(await other.read(1)) == MANY
        assert other.durable == 1 + len(MANY)


async def test_log_is_written_over_and_does_not_grow_anew(path):
    """A log that grows costs half as much again a sync, for the file's new size."""
    log = path.with_name("jobs.db-wal")
    sizes = []
    async with opened(SQLiteStorage(path)) as storage:
        for number in range(4 * CHECKPOINT_BYTES // (2 * PAGE_BYTES)):
            await append(storage, f"{number}")
            sizes.append(log.stat().st_size)
    assert sizes == sorted(sizes)
    assert max(sizes) < 2 * CHECKPOINT_BYTES


async def state():
    yield b"state"


async def test_snapshot_that_was_not_removed_goes_with_the_history_that_it_is_of(path, monkeypatch):
    async with opened(SQLiteStorage(path)) as storage:
        with monkeypatch.context() as patched:
            patched.setattr(storage._snapshots, "prune", lambda _: None)  # it died before
            for number in range(9):
                commit = await append(storage, str(number), at=number)
                if number in (2, 5, 8):
                    await storage.save_snapshot(await storage.bookmark(commit.last_seq), state())
        assert (await storage.drop_history(before=100, until=100)).seq == 6
    with closing(sqlite3.connect(path)) as connection:
        kept = connection.execute("SELECT DISTINCT seq FROM snapshots ORDER BY seq").fetchall()
    assert kept == [(6,), (9,)]


async def test_commits_ask_for_no_status_of_the_log(path, monkeypatch):
    """Who asks for a file's times makes the next sync slower (Linux 6.13 and later)."""
    asked = []

    def stat(name, *args, **options):
        asked.append(name)
        return real(name, *args, **options)

    async with opened(SQLiteStorage(path)) as storage:
        await storage.sync((await append(storage, "a")).last_seq)
        real = os.stat
        monkeypatch.setattr(os, "stat", stat)
        for number in range(20):
            commit = await append(storage, str(number), durable=True)
            await storage.sync(commit.last_seq)
        assert f"{path}-wal" not in asked


async def test_commit_whose_writer_died_before_saying_so_is_found(path):
    """Who takes the lock next believes the hint, and finds out when it appends."""
    async with opened(SQLiteStorage(path)) as storage, opened(storage.sibling()) as other:
        await append(storage, "a")
        assert names_of(await read_all(other)) == ["a"]
        storage._rendezvous.publish = lambda _: None
        await append(storage, "b")
        async with other.exclusive():
            assert await other.read(1) == []
            with pytest.raises(JournalConflict):
                await append(other, "c", expected=1)
            assert names_of(await other.read(1)) == ["b"]
            await append(other, "c", expected=2)
        assert names_of(await read_all(storage)) == ["a", "b", "c"]


async def test_cancelled_append_keeps_the_section_until_it_has_ended(path):
    async with opened(SQLiteStorage(path)) as storage, opened(storage.sibling()) as other:
        appending = asyncio.create_task(append(storage, *MANY))
        while storage._owner is None:
            await asyncio.sleep(0)
        appending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await appending
        assert names_of(await read_all(other)) == MANY
        assert other._rendezvous.read_hint().seq == len(MANY)


async def test_small_commit_takes_no_turn_of_the_loop(path):
    async with opened(SQLiteStorage(path)) as storage, opened(storage.sibling()) as other:
        async with storage.exclusive():
            with pytest.raises(StopIteration):
                append(storage, "a").send(None)
        with pytest.raises(StopIteration) as found:
            other.read(0).send(None)
        assert names_of(found.value.value) == ["a"]


async def test_loop_goes_on_while_somebody_else_holds_the_database(path):
    async with opened(SQLiteStorage(path)) as storage:
        with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
            stranger.execute("BEGIN IMMEDIATE")
            appending = asyncio.create_task(append(storage, "a"))
            await settle()
            assert not appending.done()
            stranger.execute("ROLLBACK")
        await appending
        assert names_of(await read_all(storage)) == ["a"]


async def test_loop_goes_on_while_the_thread_is_at_work(path):
    async with opened(SQLiteStorage(path)) as storage:
        may_go_on = threading.Event()
        working = asyncio.create_task(storage._database.run(lambda _: may_go_on.wait()))
        await asyncio.sleep(0)
        appending = asyncio.create_task(append(storage, "a"))
        await settle()
        assert not appending.done()
        may_go_on.set()
        await asyncio.gather(working, appending)
        assert names_of(await read_all(storage)) == ["a"]


async def test_sync_of_what_was_not_seen_waits_for_its_turn(path):
    """Where the journal ends is known for sure only to who holds the lock."""
    lazy, storage = SQLiteStorage(path, durability="os"), SQLiteStorage(path)
    async with opened(lazy), opened(storage):
        async with lazy.exclusive():
            await append(lazy, "a")
            syncing = asyncio.create_task(storage.sync(1))
            await settle()
            assert not syncing.done()
        await syncing
        assert storage.durable == 1


async def test_commit_that_nobody_could_read_is_refused(path, monkeypatch):
    monkeypatch.setattr(encoding, "MAX_COMMIT_BYTES", 1000)
    async with opened(SQLiteStorage(path)) as storage:
        with pytest.raises(PayloadTooLarge, match="several calls"):
            await append(storage, "a" * 1000)
        await append(storage, "b")


async def test_journal_is_readable_with_plain_sql(path):
    async with opened(SQLiteStorage(path)) as storage:
        event = TaskEnqueued("t", "m:f", "q", b"")
        await storage.append([event, WorkerLeft("w")], at=5, actor="me")
    connection = sqlite3.connect(path)
    rows = connection.execute(
        "SELECT seq, at, actor, kind, task_id, queue, worker FROM events"
    ).fetchall()
    connection.close()
    assert rows == [
        (1, 5, "me", "task.enqueued", "t", "q", None),
        (2, 5, "me", "worker.left", None, None, "w"),
    ]


async def test_read_only_handle_follows_the_writers_and_changes_nothing(path):
    async with opened(SQLiteStorage(path)) as storage:
        await append(storage, "a")
        async with opened(SQLiteStorage(path, read_only=True)) as reader:
            assert names_of(await read_all(reader)) == ["a"]
            await append(storage, "b")
            await reader.wait(1)
            assert await reader.head() == await storage.head()
            for call in (append(reader, "x"), reader.hold_life("w")):
                with pytest.raises(StorageError, match="read-only"):
                    await call
            assert names_of(await read_all(reader)) == ["a", "b"]
