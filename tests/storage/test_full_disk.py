"""A full disk: said at every write, harmful at none, and with room left for outcomes."""

import errno
import resource
import sqlite3
from contextlib import contextmanager

import pytest

from omniq.errors import StorageError, StorageFull
from omniq.storage.database import Connection
from omniq.storage.file import FileStorage
from omniq.storage.framing import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES
from omniq.storage.reserve import RESERVE_BYTES, RESERVE_NAME, STEP_BYTES
from omniq.storage.sqlite import SQLiteStorage
from tests.storage.language import (
    SmallDisk,
    append,
    append_synced,
    names_in,
    names_of,
    opened,
    read_all,
    reboot,
    segments,
)

SMALL = 370  # bytes of a segment: a new one with about every third commit
SMALL_RESERVE = 200
NAMES = [letter * (1 if letter in "dh" else 30) for letter in "abcdefgh"]
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


def storage_on(disk, path):
    return FileStorage(path, disk=disk, segment_bytes=SMALL, reserve_bytes=SMALL_RESERVE)


# At every write.


async def state():
    yield b"a state that takes some room"


async def tell(storage, disk, acknowledged):
    """Write, and once there is no room, make some, and go on with the same handle."""
    full = 0

    async def insist(step):
        nonlocal full
        try:
            return await step()
        except StorageFull as error:
            full += 1
            assert "make room" in str(error)
            if disk.folder.exists() and segments(disk.folder):
                assert await names_in(FileStorage(disk.folder, read_only=True)) == acknowledged
        disk.capacity = 1 << 60
        return await step()

    await insist(storage.open)
    for name in NAMES:
        await insist(lambda name=name: append(storage, name))
        acknowledged.append(name)
    end = len(acknowledged)
    bookmark = await storage.bookmark(end)
    await insist(lambda: storage.save_snapshot(bookmark, state()))
    await insist(lambda: storage.drop_history(before=0, until=end))
    return full


@pytest.mark.parametrize("room", [0, 50], ids=["no room ahead", "room ahead"])
async def test_full_disk_at_any_byte_is_said_and_work_goes_on_with_the_same_handle(path, room):
    """Each length at which a frame, a header, a snapshot or the reserve itself can be cut short."""
    disk = SmallDisk(path, room=room)
    storage = storage_on(disk, path)
    assert await tell(storage, disk, []) == 0
    await storage.close()
    whole = disk.used()
    first_frame_ends = SEGMENT_HEADER_BYTES + SMALL_RESERVE + FRAME_HEADER_BYTES + 60
    for capacity in [*range(first_frame_ends), *range(first_frame_ends, whole, 13)]:
        journal = path.with_name(f"journal{capacity}")
        disk = SmallDisk(journal, capacity, NO_ROOM[capacity % len(NO_ROOM)], room)
        acknowledged = []
        storage = storage_on(disk, journal)
        full = await tell(storage, disk, acknowledged)
        assert full == 1 or (room and not full), capacity  # what is only missing ahead is not
        assert names_of(await read_all(storage)) == NAMES
        assert (await storage.load_snapshot()).parts == [b"a state that takes some room"]
        await storage.close()
        assert abs(disk.used() - whole) <= room, "nothing was left behind, the reserve is whole"
        if capacity % 8 == 0:
            reboot(journal)
            assert await names_in(FileStorage(journal)) == NAMES


async def test_dropping_history_makes_the_room_that_it_needs(path):
    disk = SmallDisk(path)
    async with opened(storage_on(disk, path)) as storage:
        for number, name in enumerate(NAMES):
            await append(storage, name, at=number)
            if number in (5, 6):
                await storage.save_snapshot(await storage.bookmark(number + 1), state())
        first = segments(path)[0]
        disk.fill()
        await storage.drop_history(before=100, until=100)
        assert not first.exists()
        assert (await storage.read(7))[-1].events[0].task_id == NAMES[-1]


# The reserve.


async def append_urgently(storage, *names):
    with storage.reserve():
        return await append(storage, *names)


async def test_outcomes_have_room_when_nothing_else_has(path):
    disk = SmallDisk(path)
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append(storage, "a")
        disk.fill()
        for number in range(100):
            with pytest.raises(StorageFull):
                await append(storage, "task")
            await append_urgently(storage, f"outcome {number}")
        assert (path / RESERVE_NAME).stat().st_size < RESERVE_BYTES
        names = ["a", *(f"outcome {number}" for number in range(100))]
        assert names_of(await read_all(storage)) == names
        assert disk.used() <= disk.capacity
    assert await names_in(FileStorage(path, read_only=True)) == names


async def test_room_that_an_outcome_was_given_is_not_taken_by_others(path):
    """Not by this process and not by another one, until the reserve is whole again."""
    disk = SmallDisk(path)
    async with opened(FileStorage(path, disk=disk)) as storage, opened(storage.sibling()) as other:
        await append(storage, "a")
        disk.fill()
        await append_urgently(storage, "outcome")
        assert disk.capacity - disk.used() > STEP_BYTES // 2, "so there is room, for outcomes"
        for handle in (storage, other):
            with pytest.raises(StorageFull, match="reserve"):
                await append(handle, "task")
        await append_urgently(other, "another outcome")
        disk.capacity += RESERVE_BYTES
        await append(other, "task")
        assert (path / RESERVE_NAME).stat().st_size == RESERVE_BYTES
        await append(storage, "task")
        assert names_of(await read_all(storage)) == [
            "a",
            "outcome",
            "another outcome",
            "task",
            "task",
        ]


async def test_reserve_ends(path):
    disk = SmallDisk(path)
    async with opened(FileStorage(path, disk=disk)) as storage:
        disk.fill()
        written = 0
        with pytest.raises(StorageFull):
            while written < 1000:
                await append_urgently(storage, "o" * 10_000)
                written += 1
        assert written > RESERVE_BYTES // 10_300
        assert len(await read_all(storage)) == written


async def test_outcome_has_room_for_a_new_segment_as_well(path):
    disk = SmallDisk(path)
    async with opened(
        FileStorage(path, disk=disk, segment_bytes=SMALL, reserve_bytes=10 * STEP_BYTES)
    ) as storage:
        disk.fill()
        for name in NAMES:
            await append_urgently(storage, name)
        assert len(segments(path)) > 2
        assert names_of(await read_all(storage)) == NAMES


async def test_reserve_that_was_removed_to_make_room_is_made_again(path):
    disk = SmallDisk(path)
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append(storage, "a")
        disk.fill()
        (path / RESERVE_NAME).unlink()
        await append_urgently(storage, "outcome")
        with pytest.raises(StorageFull):
            await append(storage, "b")
        disk.capacity += RESERVE_BYTES
        await append(storage, "c")
        assert (path / RESERVE_NAME).stat().st_size == RESERVE_BYTES
        assert names_of(await read_all(storage)) == ["a", "outcome", "c"]


async def test_journal_is_opened_on_a_full_disk_without_a_reserve(path):
    async with opened(FileStorage(path, reserve_bytes=0)) as storage:
        await append(storage, "a")
    disk = SmallDisk(path)
    disk.fill()
    async with opened(FileStorage(path, disk=disk)) as storage:
        assert names_of(await read_all(storage)) == ["a"]
        for attempt in (append, append_urgently):
            with pytest.raises(StorageFull):
                await attempt(storage, "b")
        disk.capacity = 1 << 60
        await append(storage, "c")


async def test_broken_disk_is_not_taken_for_a_full_one_by_the_reserve(path):
    disk = SmallDisk(path, error=errno.EIO)
    async with opened(FileStorage(path, reserve_bytes=0)) as storage:
        await append(storage, "a")
    disk.fill()
    with pytest.raises(StorageError, match="Input/output error") as raised:
        await FileStorage(path, disk=disk).open()
    assert not isinstance(raised.value, StorageFull)


# A torn end.


async def torn_journal(path, **options):
    """Write a journal with a torn end, as large as what a power cut may leave."""
    async with opened(FileStorage(path, **options)) as storage:
        await append_synced(storage, "a")
    (segment,) = segments(path)
    whole = segment.read_bytes()
    segment.write_bytes(whole + b"torn" * 100)
    reboot(path)
    return segment, whole


async def test_torn_end_on_a_full_disk_is_cut_once_there_is_room(path, caplog):
    """Its bytes are kept beside the journal, and that takes room. Until then it can be read."""
    segment, whole = await torn_journal(path, reserve_bytes=0)
    disk = SmallDisk(path)
    disk.fill()
    storage = FileStorage(path, disk=disk, reserve_bytes=0)
    async with opened(storage), opened(storage.sibling()) as other:
        for handle in (storage, other):
            assert names_of(await read_all(handle)) == ["a"]
            assert (await handle.head()).seq == 1
            await handle.sync(1)
            with pytest.raises(StorageFull, match="torn end"):
                await append(handle, "b")
        assert segment.read_bytes() == whole + b"torn" * 100
        assert not list(path.glob("*.torn*"))
        disk.capacity = 1 << 60
        await append(other, "c")
        assert names_of(await read_all(storage)) == ["a", "c"]
    (aside,) = path.glob("*.torn")
    assert aside.read_bytes() == b"torn" * 100
    assert [record.action for record in caplog.records] == ["torn_end_cut"]


async def test_torn_end_does_not_keep_an_outcome_from_being_written(path):
    await torn_journal(path)
    disk = SmallDisk(path)
    disk.fill()
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append_urgently(storage, "outcome")
        assert names_of(await read_all(storage)) == ["a", "outcome"]
    (aside,) = path.glob("*.torn")
    assert aside.read_bytes() == b"torn" * 100


# SQLite.


class FullConnection:
    """A connection whose commits fail as on a full disk, if the folder is at its limit by then."""

    def __init__(self, connection, folder):
        self._connection = connection
        self._folder = folder
        self.capacity = 1 << 60

    def used(self):
        return sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file())

    def execute(self, sql, *parameters):
        if sql == "COMMIT" and self.used() + 4 * 4096 > self.capacity:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self._connection.execute(sql, *parameters)

    def transaction(self, *, synced):
        return Connection.transaction(self, synced=synced)  # with this one's `execute`

    def __getattr__(self, name):
        return getattr(self._connection, name)


async def test_outcomes_have_room_in_a_database_when_nothing_else_has(tmp_path):
    path = tmp_path / "jobs.db"
    reserve = tmp_path / "jobs.db-omniq" / RESERVE_NAME
    async with opened(SQLiteStorage(path)) as storage:
        await append(storage, "a")
        storage._database.connection = full = FullConnection(storage._database.connection, tmp_path)
        full.capacity = full.used()
        names = ["a"]
        for number in range(30):
            with pytest.raises(StorageFull):
                await append(storage, "task")
            await append_urgently(storage, f"{number}")
            names.append(f"{number}")
        assert reserve.stat().st_size < RESERVE_BYTES
        with pytest.raises(StorageFull):
            while True:
                await append_urgently(storage, "o")
                names.append("o")
        full.capacity = 1 << 60
        await append(storage, "b")
        assert reserve.stat().st_size == RESERVE_BYTES
        assert names_of(await read_all(storage)) == [*names, "b"]


@contextmanager
def files_no_larger_than(size):
    """Let the system refuse to make any file larger than this (EFBIG), as at a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_write_that_the_system_refuses_leaves_a_database_to_go_on_with(tmp_path):
    """Wherever in its log it is: SQLite takes the transaction back."""
    path = tmp_path / "jobs.db"
    log = path.with_name("jobs.db-wal")
    async with opened(SQLiteStorage(path)) as storage:
        names = []
        for more in [*range(0, 4096 * 5, 1361), 24, 4096 + 24, 4096 + 48]:
            await append(storage, "before")
            size = log.stat().st_size
            with files_no_larger_than(size + more), pytest.raises(StorageError):
                for number in range(20):
                    await append(storage, f"{more}-{number}" * 100)
                    names.append(f"{more}-{number}")
            await append(storage, "after")
            read = [name for name in names_of(await read_all(storage)) if "-" in name]
            assert [name[: len(name) // 100] for name in read] == names
    assert await names_in(SQLiteStorage(path))


async def test_real_limit_of_the_system_is_a_full_disk_for_files(path):
    async with opened(FileStorage(path, reserve_bytes=0)) as storage:
        await append(storage, "a")
        (segment,) = segments(path)
        size = segment.stat().st_size
        for more in range(0, 170, 7):
            with files_no_larger_than(size + more), pytest.raises(StorageFull):
                await append(storage, "b" * 100)
            assert segment.stat().st_size == size
        await append(storage, "c")
        assert names_of(await read_all(storage)) == ["a", "c"]
        assert segment.stat().st_size > size
