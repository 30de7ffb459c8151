"""Damage to an SQLite journal, by a disk or by somebody: a right prefix or an error of ours.

SQLite itself takes damage in its write-ahead log for the log's end, so there the prefix may be
shorter than what was written. In the database it is what was written, or an error.
"""

import shutil
import sqlite3
from itertools import combinations, islice

import pytest

from omniq.core.events import Commit
from omniq.errors import CorruptJournal, StorageError, UnsupportedFormat
from omniq.storage.encoding import chain, encode_commit, encode_events, joined
from omniq.storage.sqlite import SQLiteStorage
from omniq.tools.rows import SQLiteScan
from omniq.tools.scanning import Problem
from tests.storage.language import append, names_in, names_of, opened, read_all, tasks
from tests.storage.test_sqlite import execute, write_journal

COMMITS = [[f"{number}-{n}" for n in range(1 + number % 3)] for number in range(12)]
NAMES = [name for names in COMMITS for name in names]

# Everything that SQLite can store, whatever the type of the column.
VALUES = [
    "NULL",
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "1.5",
    "9e999",
    "''",
    "'text'",
    "CAST(x'ff00fe' AS TEXT)",
    "x''",
    "x'c1'",
    "zeroblob(32)",
    "zeroblob(100000)",
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.db"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the bytes of a journal: all in the database, and half of it in the log."""
    return written_in(tmp_path_factory.mktemp("written") / "jobs.db")


def written_in(path):
    import asyncio

    asyncio.run(write_journal(path, *COMMITS))
    log = path.with_name("jobs.db-wal").read_bytes()
    in_log = (path.read_bytes(), log)
    execute(path)
    return path.read_bytes(), in_log


def put(path, database, log=None):
    """Make these the files of the journal, without what other handles left beside them."""
    for suffix in ("-wal", "-shm"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    shutil.rmtree(path.with_name(f"{path.name}-omniq"), ignore_errors=True)
    path.write_bytes(database)
    if log is not None:
        path.with_name(f"{path.name}-wal").write_bytes(log)


async def use(path, *, read_only):
    """Read a journal in every way there is; return what was read first, or the error's class."""
    try:
        async with opened(SQLiteStorage(path, read_only=read_only)) as storage:
            names = names_of(await read_all(storage))
            for name in (NAMES[0], NAMES[-1], "unknown"):
                history = await storage.read_task(name)
                assert {event.task_id for _, _, event in history} <= {name}
            beginning = await storage.beginning()
            await storage.load_snapshot()
            await storage.snapshot_seq()
            if not read_only:
                await storage.drop_history(before=2**60, until=10)
                await append(storage, "next", at=100)
                assert names_of(await storage.read((await storage.head()).seq - 1)) == ["next"]
                assert beginning.seq == 0
    except StorageError as error:
        return type(error)
    return names


async def is_as_written_or_refused(path, *, errors=(CorruptJournal,), at_least=None):
    for read_only in (True, False):
        used = await use(path, read_only=read_only)
        if isinstance(used, list):
            assert used == NAMES[: len(used)]
            assert at_least is None or len(used) >= at_least
        else:
            assert used in errors, used


# By the disk.


async def test_flipped_bits_of_the_database_give_what_was_written_or_an_error(path, written):
    database, _ = written
    for position in [*range(100), *range(100, len(database), 211)]:
        data = bytearray(database)
        data[position] ^= 1 << position % 8
        put(path, data)
        errors = (CorruptJournal,)
        if position < 100:  # the header: another format, another kind of database, read-only …
            errors = (CorruptJournal, UnsupportedFormat, StorageError)
        await is_as_written_or_refused(path, errors=errors, at_least=len(NAMES))


@pytest.mark.parametrize("fill", [b"\x00", b"\xff", b"\x81"])
async def test_lost_sectors_of_the_database_give_what_was_written_or_an_error(path, written, fill):
    database, _ = written
    for begin in range(512, len(database), 1536):
        put(path, database[:begin] + fill * 512 + database[begin + 512 :])
        await is_as_written_or_refused(path, at_least=len(NAMES))


async def test_database_that_was_cut_gives_what_was_written_or_an_error(path, written):
    database, _ = written
    errors = (CorruptJournal, UnsupportedFormat)
    for size in [2, 50, 99, 100, 101, 512, *range(4096 - 7, len(database), 4096 - 7)]:
        put(path, database[:size])
        await is_as_written_or_refused(path, errors=errors, at_least=len(NAMES))
    put(path, database[:8192])
    assert await use(path, read_only=True) in errors


async def test_log_that_was_cut_gives_a_prefix(path, written):
    """As after a power cut: SQLite takes the last whole transaction for the last one."""
    _, (database, log) = written
    lengths = set()
    for size in range(0, len(log), 2999):
        put(path, database, log[:size])
        await is_as_written_or_refused(path, errors=())
        put(path, database, log[:size])
        lengths.add(len(await use(path, read_only=True)))
    assert {0, 1, 3, 6} <= lengths


async def test_damage_in_the_log_gives_a_prefix(path, written):
    _, (database, log) = written
    for position in [*range(0, 32, 3), *range(32, len(log), 4127)]:
        data = bytearray(log)
        data[position] ^= 1 << position % 8
        put(path, database, data)
        await is_as_written_or_refused(path, errors=())


async def test_log_that_lost_its_end_is_said_if_the_machine_has_run_since(path, caplog):
    await write_journal(path, "ab", "c")
    log = path.with_name("jobs.db-wal")
    log.write_bytes(log.read_bytes()[:-1])
    assert await names_in(SQLiteStorage(path)) == ["a", "b"]
    (record,) = caplog.records
    assert (record.action, record.seq, record.known) == ("end_missing", 2, 3)


async def test_journal_that_lost_its_log_is_still_the_same_journal(path, written):
    """Its tables and its id are in the database from the start, so it is not begun anew."""
    _, (database, _) = written
    put(path, database)
    connection = sqlite3.connect(path)
    (journal_id,) = connection.execute("SELECT id FROM journal").fetchone()
    connection.close()
    assert await names_in(SQLiteStorage(path, read_only=True)) == []
    await write_journal(path, "a")
    assert await names_in(SQLiteStorage(path)) == ["a"]
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT id FROM journal").fetchone() == (journal_id,)
    connection.close()


async def test_table_that_leads_back_to_its_beginning_has_an_end(path):
    """A page that names a wrong page, before one that cannot be read: a circle for who goes on."""
    await write_journal(path, *([f"{number:0500}"] for number in range(40)))
    execute(path)
    connection = sqlite3.connect(path)
    query = "SELECT rootpage FROM sqlite_master WHERE name = 'events'"
    (root,) = connection.execute(query).fetchone()
    connection.close()
    data = bytearray(path.read_bytes())
    page = (root - 1) * 4096
    assert data[page] == 5, "an inner page of a table, whose cells begin with their child's number"
    cells = [
        page + int.from_bytes(data[at : at + 2], "big") for at in range(page + 12, page + 22, 2)
    ]
    unreadable = (int.from_bytes(data[cells[4] : cells[4] + 4], "big") - 1) * 4096
    data[unreadable : unreadable + 8] = bytes(8)
    data[cells[3] : cells[3] + 4] = data[cells[0] : cells[0] + 4]
    path.write_bytes(data)
    assert await use(path, read_only=True) is CorruptJournal
    assert await use(path, read_only=False) is CorruptJournal
    found = list(islice(SQLiteScan(path), 1000))
    assert len(found) < 100
    assert any(isinstance(item, Problem) for item in found)


# By somebody with a shell.

DIGESTED = ("seq", "at", "actor", "data", "digest")
COPIES = ("kind", "task_id", "queue", "worker", "durable")


@pytest.mark.parametrize("column", DIGESTED)
async def test_value_of_any_type_in_a_column_of_the_chain_is_found(path, written, column):
    """In the middle and at the end, in the first and in the last row of a commit."""
    database, _ = written
    for value in VALUES:
        for seq in (7, 8, 9, len(NAMES)):
            put(path, database)
            differs = f"seq = {seq} AND {column} IS NOT {value}"
            if try_to(path, f"UPDATE events SET {column} = {value} WHERE {differs}"):
                assert await use(path, read_only=True) is CorruptJournal, (value, seq)
                assert await use(path, read_only=False) is CorruptJournal, (value, seq)


@pytest.mark.parametrize("column", COPIES)
async def test_copies_for_queries_change_nothing_that_is_read(path, written, column):
    """The engine folds `data`; a history that is looked up by a copy may miss what it hides.

    Text that is none cannot be read at all.
    """
    database, _ = written
    for value in VALUES:
        put(path, database)
        if try_to(path, f"UPDATE events SET {column} = {value} WHERE seq IN (7, 8, 9)"):
            for read_only in (True, False):
                used = await use(path, read_only=read_only)
                assert used == NAMES or (used is CorruptJournal and "TEXT" in value), value


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal SET id = {}",
        "UPDATE journal SET synced = {}",
        "INSERT INTO beginning VALUES ({}, 1, zeroblob(32))",
        "INSERT INTO beginning VALUES (1, {}, zeroblob(32))",
        "INSERT INTO beginning VALUES (1, 1, {})",
        "INSERT INTO snapshots VALUES ({}, -1, zeroblob(100))",
        "INSERT INTO snapshots VALUES (9, {}, zeroblob(100))",
        "INSERT INTO snapshots VALUES (9, -1, {})",
        "INSERT INTO snapshots VALUES (9, -1, x'00'), (8, -1, x'01'), ({}, -1, x'02')",
    ],
)
async def test_value_of_any_type_in_the_other_tables_gives_no_wrong_state(path, written, statement):
    database, _ = written
    for value in VALUES:
        put(path, database)
        if try_to(path, statement.format(value)):
            for read_only in (True, False):
                used = await use(path, read_only=read_only)
                assert used in (NAMES, CorruptJournal, StorageError), (value, used)


async def test_rows_in_each_others_place_are_found(path, written):
    database, _ = written
    for one, other in combinations(range(1, 8), 2):
        put(path, database)
        execute(
            path,
            f"UPDATE events SET seq = -1 WHERE seq = {one}",
            f"UPDATE events SET seq = {one} WHERE seq = {other}",
            f"UPDATE events SET seq = {other} WHERE seq = -1",
        )
        assert await use(path, read_only=True) is CorruptJournal
        assert await use(path, read_only=False) is CorruptJournal


async def test_missing_rows_are_found_wherever_something_is_behind_them(path, written):
    database, _ = written
    last = len(NAMES)
    for seq in range(1, last):
        put(path, database)
        execute(path, f"DELETE FROM events WHERE seq = {seq}")
        assert await use(path, read_only=False) is CorruptJournal
    put(path, database)
    execute(path, f"DELETE FROM events WHERE seq > {last - len(COMMITS[-1])}")
    assert await use(path, read_only=True) == NAMES[: -len(COMMITS[-1])]


async def test_rows_that_are_all_gone_behind_a_dropped_history_are_missed(path, written):
    database, _ = written
    put(path, database)
    execute(
        path,
        "INSERT INTO beginning SELECT seq, at, digest FROM events WHERE seq = 9",
        "DELETE FROM events WHERE seq > 3",
    )
    assert await use(path, read_only=True) is CorruptJournal


async def test_head_is_read_before_anything_is_chained_to_it(path):
    """Else whoever only enqueues would go on behind a commit that nobody can read."""
    await write_journal(path, "ab", "cd")
    execute(path)
    for statement in (
        "UPDATE events SET digest = zeroblob(32) WHERE seq = 4",
        "UPDATE events SET data = x'00' WHERE seq = 3",
        "UPDATE events SET at = at + 1 WHERE seq = 4",
    ):
        before = path.read_bytes()
        execute(path, statement)
        for read_only in (True, False):
            with pytest.raises(CorruptJournal):
                await SQLiteStorage(path, read_only=read_only).open()
        put(path, before)


async def test_commit_without_an_end_is_not_collected_for_ever(path, monkeypatch):
    monkeypatch.setattr("omniq.storage.rows.MAX_COMMIT_BYTES", 1000)
    await write_journal(path, *([name] for name in "abcdefgh"))
    execute(path, "UPDATE events SET digest = NULL, data = zeroblob(400) WHERE seq < 8")
    with pytest.raises(CorruptJournal, match="commit's end within"):
        await SQLiteStorage(path).open()


@pytest.mark.parametrize(("at", "later"), [(5, 4), (5, -1), (5, 10**18)])
async def test_time_that_goes_back_or_ends_is_damage_though_its_digest_is_right(path, at, later):
    """Only a faulty writer gets there."""
    (event,) = tasks("x")
    await write_journal(path, "a")
    first = Commit(1, 1, "a", tasks("a"))
    digest = chain(bytes(32), encode_commit(first))
    rows = []
    for seq, when in enumerate((at, later), 2):
        data = encode_events([event])[0]
        digest = chain(digest, joined(seq, when, "a", [data]))
        rows.append(
            f"INSERT INTO events VALUES ({seq}, {when}, 'task.requeued', 'x', NULL, NULL, 'a',"
            f" x'{data.hex()}', x'{digest.hex()}', 1)"
        )
    execute(path, *rows)
    with pytest.raises(CorruptJournal, match="time"):
        await names_in(SQLiteStorage(path))


# Code that comes with a database.


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM events WHERE seq = 1; END",
        "CREATE TRIGGER t AFTER UPDATE ON journal BEGIN DELETE FROM events; END",
        "CREATE VIEW mine AS SELECT * FROM events WHERE kind = 'task.failed'",
        "CREATE TABLE mine (name)",
        "CREATE INDEX mine ON events (queue)",
    ],
)
async def test_what_somebody_added_to_the_database_does_nothing(path, written, statement):
    put(path, written[0])
    execute(path, statement)
    assert await use(path, read_only=False) == NAMES
    async with opened(SQLiteStorage(path, durability="os")) as storage:
        await append(storage, "more", at=200)
        await storage.save_snapshot(await storage.bookmark(len(NAMES) + 2), pieces())
        assert names_of(await read_all(storage)) == [*NAMES, "next", "more"]


async def pieces():
    yield b"state"


@pytest.mark.parametrize(
    "statements",
    [
        ("ALTER TABLE events RENAME TO e", "CREATE VIEW events AS SELECT * FROM e"),
        ("ALTER TABLE events ADD COLUMN more",),
        ("ALTER TABLE events RENAME COLUMN queue TO line",),
        ("DROP INDEX events_by_task",),
        ("DROP INDEX events_by_task", "CREATE INDEX events_by_task ON events (task_id)"),
        ("DROP TABLE beginning",),
        ("DROP TABLE journal", "CREATE TABLE journal (id, synced)"),
    ],
)
async def test_table_that_is_not_as_it_was_made_is_damage(path, written, statements):
    put(path, written[0])
    execute(path, *statements)
    for read_only in (True, False):
        with pytest.raises(CorruptJournal, match="CREATE"):
            await SQLiteStorage(path, read_only=read_only).open()


def try_to(path, statement):
    """Change the database if SQLite lets anybody do that, and say whether it did."""
    before = path.read_bytes()
    try:
        execute(path, statement)
    except sqlite3.IntegrityError:
        return False
    return path.read_bytes() != before
