"""A disk that is full, slow to say so, broken, or gone: no false acknowledgement, no lost one."""

import asyncio
import errno
import os
import threading
from contextlib import suppress
from itertools import product

import pytest

from omniq.errors import CorruptJournal, JournalConflict, StorageClosed, StorageError, StorageFull
from omniq.storage.disk import Disk
from omniq.storage.file import FileStorage
from omniq.storage.framing import SEGMENT_HEADER_BYTES
from omniq.testing.virtual import settle
from tests.storage.language import (
    Died,
    FaultyDisk,
    MortalDisk,
    QuickDisk,
    append,
    append_synced,
    contents,
    names_in,
    names_of,
    opened,
    read_all,
    reboot,
    segments,
)
from tools.simulation.machine import ALL_LARGE

SMALL = 370  # bytes of a segment: a new one with about every third commit
# Where a long commit begins a segment, a short one would still fit into the one before it.
NAMES = [letter * (1 if letter in "dh" else 30) for letter in "abcdefgh"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


@pytest.fixture
def disk():
    return FaultyDisk()


@pytest.fixture(params=["small", "large"])
def _any_size(request, monkeypatch):
    """Have all commits written and read as those of more than a mebibyte are, too."""
    if request.param == "large":
        for name, value in ALL_LARGE.items():
            monkeypatch.setattr(name, value)


# A full disk.


@pytest.mark.parametrize("short", [0, 1, 67, 68, 80])
async def test_full_disk_is_said_and_work_goes_on_when_there_is_room(path, disk, short):
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append(storage, "a")
        before = contents(path)
        disk.fail("write", errno.ENOSPC, short=short, times=3)
        for _ in range(3):
            with pytest.raises(StorageFull, match="make room"):
                await append(storage, "b")
            assert contents(path) == before
        await append_synced(storage, "c")
        assert names_of(await read_all(storage)) == ["a", "c"]
    reboot(path)
    assert await names_in(FileStorage(path)) == ["a", "c"]


async def test_quota_is_a_full_disk_as_well(path, disk):
    async with opened(FileStorage(path, disk=disk)) as storage:
        disk.fail("write", errno.EDQUOT)
        with pytest.raises(StorageFull):
            await append(storage, "a")


async def test_no_room_for_a_new_segment_leaves_the_old_one_in_use(path, disk):
    async with opened(FileStorage(path, disk=disk, segment_bytes=SMALL)) as storage:
        for name in "abc":
            await append(storage, name)
        disk.fail("write", errno.ENOSPC)
        with pytest.raises(StorageFull):
            await append(storage, "d")
        assert len(segments(path)) == 1
        async with opened(storage.sibling()) as other:
            await append(other, "e")
            await append(storage, "f")
        assert names_of(await read_all(storage)) == ["a", "b", "c", "e", "f"]
    assert len(segments(path)) == 2


async def test_full_disk_for_the_head_hint_is_no_failed_append(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    async with opened(FileStorage(path)) as storage, opened(storage.sibling()) as other:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            patch.setattr(Disk, "write", _write_at)
            await append(storage, "a")
        await append(other, "b")
        assert names_of(await read_all(storage)) == ["a", "b"]


def _write_at(_, descriptor, data, offset):
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.write(descriptor, data)


async def test_write_that_takes_a_byte_at_a_time_is_whole(path):
    class Slow(QuickDisk):
        def write(self, descriptor, data, offset):
            return super().write(descriptor, data[:1], offset)

    async with opened(FileStorage(path, disk=Slow())) as storage:
        await append(storage, "a", "b")
        await append(storage, "c")
    reboot(path)
    assert await names_in(FileStorage(path)) == ["a", "b", "c"]


# Errors of the device.


async def test_failed_write_is_an_error_and_the_journal_stays_valid(path, disk):
    async with opened(FileStorage(path, disk=disk)) as storage:
        disk.fail("write", errno.EIO, short=30)
        with pytest.raises(StorageError, match="Input/output error") as raised:
            await append(storage, "a")
        assert not isinstance(raised.value, StorageFull)
        await append(storage, "b")
    assert await names_in(FileStorage(path)) == ["b"]


async def test_write_that_cannot_be_taken_back_finishes_the_handle(path, disk):
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append_synced(storage, "a")
        disk.fail("write", errno.ENOSPC, short=30)
        disk.fail("truncate", errno.EIO)
        with pytest.raises(StorageError) as raised:
            await append(storage, "b")
        assert not isinstance(raised.value, StorageFull)
        with pytest.raises(StorageClosed):
            await append(storage, "c")
        async with opened(storage.sibling()) as other:
            await append(other, "d")
        await storage.open()
        assert names_of(await read_all(storage)) == ["a", "d"]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
async def test_failed_sync_finishes_the_handle_until_it_is_opened_again(path, disk, error):
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append_synced(storage, "a")
        await append(storage, "b")
        disk.fail("sync", error)
        with pytest.raises(StorageError) as raised:
            await storage.sync(2)
        assert not isinstance(raised.value, StorageFull)
        assert storage._durable == 1
        for call in (
            lambda: storage.sync(2),
            lambda: storage.read(0),
            lambda: append(storage, "c"),
            storage.head,
            lambda: storage.wait(0),
        ):
            with pytest.raises(StorageClosed, match="open it again"):
                await call()
        await storage.open()
        assert names_of(await read_all(storage)) == ["a", "b"]
        await append_synced(storage, "c")


async def test_failed_sync_is_not_forgotten_if_its_caller_has_gone(path):
    began, may_end = threading.Event(), threading.Event()

    class Failing(QuickDisk):
        def sync(self, descriptor):
            if self.fails:
                began.set()
                may_end.wait()
                raise OSError(errno.EIO, "broken")

        fails = False

    disk = Failing()
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append(storage, "a")
        disk.fails = True
        syncing = asyncio.create_task(storage.sync(1))
        await asyncio.to_thread(began.wait)
        syncing.cancel()
        await settle()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await syncing
        with pytest.raises(StorageClosed):
            await storage.head()


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        *product(("sync", "sync_directory", "rename", "open", "write"), (errno.EIO, errno.ENOSPC)),
        *product(("read", "list", "size"), (errno.EIO,)),
        *product(("open", "duplicate"), (errno.EMFILE,)),
        ("write", errno.EDQUOT),
        ("write", errno.EFBIG),
    ],
)
@pytest.mark.usefixtures("_any_size")
async def test_any_single_failure_loses_nothing_that_was_acknowledged(
    path, disk, monkeypatch, operation, error
):
    """Fail the first such call, then the second, … until there are no more of them."""
    monkeypatch.setattr("omniq.storage.file.SYNC_AHEAD_BYTES", 0)
    attempts = 0
    while True:
        journal = path.with_name(f"journal{attempts}")
        disk.failed = 0
        disk.fail(operation, error, after=attempts, short=40)
        acknowledged = await _append_whatever_happens(journal, disk)
        assert await names_in(FileStorage(journal)) == acknowledged
        reboot(journal)
        assert await names_in(FileStorage(journal)) == acknowledged
        if not disk.failed:
            break
        attempts += 1
    assert attempts >= 3


async def _append_whatever_happens(journal, disk):
    acknowledged = []
    storage = FileStorage(journal, disk=disk, segment_bytes=SMALL)
    for name in NAMES:
        try:
            await storage.open()
            await append(storage, name, durable=name[0] in "bceh")
            acknowledged.append(name)
            assert await names_in(FileStorage(journal, read_only=True)) == acknowledged
            await storage.sync(len(acknowledged))
        except StorageError:
            continue
    with suppress(StorageError):
        await storage.open()
        end = len(acknowledged)
        await storage.save_snapshot(await storage.bookmark(end), pieces())
        await storage.drop_history(before=0, until=end)
    await storage.close()
    return acknowledged


async def pieces():
    yield b"a state"


async def test_unreadable_disk_is_a_storage_error(path, disk):
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append(storage, "a")
        disk.fail("read", errno.EIO)
        with pytest.raises(StorageError, match="cannot read"):
            await storage.read(0)
        assert names_of(await read_all(storage)) == ["a"]


# Death, and power cuts.


async def _live(disk, path, *, names, acknowledged):
    """Append until death, and note what was acknowledged as durable."""
    storage = FileStorage(path, disk=disk, segment_bytes=SMALL)
    try:
        await storage.open()
        for name in names:
            await append_synced(storage, name)
            acknowledged.append(name)
    except Died:
        return False
    finally:
        await storage.close()
    return True


@pytest.mark.usefixtures("_any_size")
async def test_death_between_any_two_operations_loses_nothing_acknowledged(path):
    """Whoever is alive goes on at once, and whoever comes later finds everything in order."""
    death = 0
    survived = False
    while not survived:
        journal = path.with_name(f"journal{death}")
        async with opened(FileStorage(journal, segment_bytes=SMALL, disk=QuickDisk())) as witness:
            acknowledged = []
            disk = MortalDisk(death)
            survived = await _live(disk, journal, names=NAMES, acknowledged=acknowledged)
            await append(witness, "z")
            names = names_of(await read_all(witness))
        assert names[: len(acknowledged)] == acknowledged
        assert names == [*NAMES[: len(names) - 1], "z"]
        assert await names_in(FileStorage(journal)) == names
        reboot(journal)
        assert await names_in(FileStorage(journal)) == names
        death += 1
    assert death > 25


@pytest.mark.usefixtures("_any_size")
async def test_power_cut_between_any_two_operations_loses_nothing_acknowledged(path):
    """At worst, everything that was not synced is gone: bytes, and names in folders."""
    death = 0
    survived = False
    while not survived:
        journal = path.with_name(f"journal{death}")
        acknowledged = []
        disk = MortalDisk(death)
        survived = await _live(disk, journal, names=NAMES, acknowledged=acknowledged)
        disk.cut_power(journal)
        names = await names_in(FileStorage(journal, disk=QuickDisk()))
        assert names[: len(acknowledged)] == acknowledged
        assert names == NAMES[: len(names)]
        death += 1
    assert death > 25


@pytest.mark.parametrize("was_there", [False, True], ids=["a new process", "a witness"])
async def test_power_cut_after_a_death_loses_nothing_acknowledged(path, was_there):
    """Others build upon what the dead one had not synced yet, names in folders too."""
    death = 0
    survived = False
    while not survived:
        journal = path.with_name(f"journal{death}")
        disk, acknowledged, later = MortalDisk(), [], []
        other = FileStorage(journal, disk=disk, segment_bytes=SMALL)
        if was_there:
            await other.open()
        disk.death = len(disk.log) + death
        survived = await _live(disk, journal, names=NAMES, acknowledged=acknowledged)
        disk.death = None
        await other.open()
        for name in "xyz":
            await append_synced(other, name)
            later.append(name)
        await other.close()
        disk.cut_power(journal)
        names = await names_in(FileStorage(journal, disk=QuickDisk()))
        assert names[: len(acknowledged)] == acknowledged
        assert names[-3:] == later
        death += 1


async def test_power_cut_during_recovery_loses_nothing_acknowledged(path):
    """A torn end, and a power cut between any two operations that remove it."""
    death = 0
    survived = False
    while not survived:
        journal = path.with_name(f"journal{death}")
        disk = MortalDisk()
        assert await _live(disk, journal, names="abc", acknowledged=[])
        reboot(journal)
        (segment,) = segments(journal)
        whole = segment.read_bytes()
        segment.write_bytes(whole + b"OqFr, and then the power went")
        disk._contents[segment.stat().st_ino] = segment.read_bytes()
        disk.death = len(disk.log) + death
        survived = await _live(disk, journal, names="d", acknowledged=[])
        disk.cut_power(journal)
        names = await names_in(FileStorage(journal, disk=QuickDisk()))
        assert names[:3] == ["a", "b", "c"]
        assert names[3:] in ([], ["d"])
        death += 1
    assert death > 8


@pytest.mark.parametrize("cuts", [(False, True), (True, True)], ids=str)
async def test_deaths_during_a_recovery_and_during_the_next_one_lose_nothing(path, cuts):
    """A torn end in the second segment; each death is followed by a power cut, or by none."""
    names, torn, survivors = list("abcde"), b"OqFr, and then the power went", set()
    for deaths in product(range(13), repeat=2):
        journal = path.with_name("journal{}-{}".format(*deaths))
        disk = MortalDisk()
        assert await _live(disk, journal, names=names, acknowledged=[])
        last = segments(journal)[-1]
        last.write_bytes(last.read_bytes() + torn)
        disk._contents[last.stat().st_ino] = last.read_bytes()
        for death, cut in zip(deaths, cuts, strict=True):
            reboot(journal)
            disk.death = len(disk.log) + death
            if await _live(disk, journal, names=[], acknowledged=[]):
                survivors.add(death)
            if cut:
                disk.cut_power(journal)
        disk.death = None
        reboot(journal)
        assert await names_in(FileStorage(journal, disk=disk)) == names
        assert [file.read_bytes() for file in journal.glob("*.torn")] == [torn]
    assert 12 in survivors, "there is nothing more to be cut short"
    assert 1 not in survivors


# The order of operations.


async def test_new_journal_is_durable_before_it_is_used(path):
    disk = MortalDisk()
    async with opened(FileStorage(path, disk=disk)) as storage:
        name = "00000000000000000001.seg"
        assert disk.log == [
            ("make_directory", "journal"),
            ("create", f"{name}.tmp"),
            ("write", f"{name}.tmp"),
            ("sync", f"{name}.tmp"),
            ("rename", name),
            ("sync_directory", "journal"),
            ("sync_directory", path.parent.name),
            ("sync_directory", "journal"),
            ("create", "journal.reserve"),  # which nothing depends on
            ("write", "journal.reserve"),
        ]
        disk.log.clear()
        await append_synced(storage, "a")
        assert disk.log == [("write", name), ("sync", name)]


async def test_segment_is_durable_before_the_next_one_exists(path):
    disk = MortalDisk()
    async with opened(FileStorage(path, disk=disk, segment_bytes=SMALL)) as storage:
        for name in "abc":
            await append(storage, name)
        disk.log.clear()
        await append(storage, "d")
    first, second = (segment.name for segment in segments(path))
    assert disk.log == [
        ("sync", first),
        ("create", f"{second}.tmp"),
        ("write", f"{second}.tmp"),
        ("sync", f"{second}.tmp"),
        ("rename", second),
        ("sync_directory", "journal"),
        ("write", second),
    ]


async def test_torn_end_is_kept_aside_before_it_is_cut(path):
    async with opened(FileStorage(path)) as storage:
        await append_synced(storage, "a")
    (segment,) = segments(path)
    size = segment.stat().st_size
    segment.write_bytes(segment.read_bytes() + b"torn")
    disk = MortalDisk()
    async with opened(FileStorage(path, disk=disk)):
        aside = f"{segment.stem}.{size}.torn"
        assert disk.log == [
            ("sync_directory", path.parent.name),
            ("sync_directory", "journal"),
            ("create", f"{aside}.tmp"),
            ("write", f"{aside}.tmp"),
            ("sync", f"{aside}.tmp"),
            ("rename", aside),
            ("sync_directory", "journal"),
            ("truncate", segment.name),
            ("sync", segment.name),
        ]


async def test_journal_that_was_closed_in_order_is_opened_without_a_write(path):
    async with opened(FileStorage(path)) as storage:
        await append_synced(storage, "a")
    disk = MortalDisk()
    async with opened(FileStorage(path, disk=disk)):
        assert disk.log == []


async def test_time_goes_on_behind_an_empty_last_segment(path):
    """A writer died after it had begun a segment; its last commit's time is in the header."""
    disk = FaultyDisk()
    async with opened(FileStorage(path, disk=disk, segment_bytes=SMALL)) as storage:
        for name in "abc":
            await append(storage, name, at=500)
        disk.fail("write", errno.ENOSPC, after=1)
        with pytest.raises(StorageFull):
            await append(storage, "d", at=600)
    assert segments(path)[1].stat().st_size == SEGMENT_HEADER_BYTES
    reboot(path)
    async with opened(FileStorage(path)) as storage:
        assert (await append(storage, "e", at=100)).at == 500


# Reading while others write.


async def test_frame_that_is_just_being_written_is_not_there_yet(path):
    async with opened(FileStorage(path)) as storage, opened(storage.sibling()) as reader:
        await append_synced(storage, "a")
        assert names_of(await read_all(reader)) == ["a"]
        (segment,) = segments(path)
        whole = segment.read_bytes()
        for size in range(1, 60):
            segment.write_bytes(whole + b"OqFr" + bytes(size))
            assert await reader.read(1) == []
        segment.write_bytes(whole)


async def test_frame_that_ends_while_it_is_read_is_no_damage(path):
    class Behind(Disk):
        """Sees the file without its last bytes, as it was a moment ago."""

        looks = 0

        def read(self, descriptor, length, offset):
            data = super().read(descriptor, length, offset)
            self.looks -= 1
            return data[:-20] if self.looks >= 0 else data

    async with opened(FileStorage(path)) as storage:
        await append(storage, "a")
        disk = Behind()
        async with opened(FileStorage(path, disk=disk)) as reader:
            assert names_of(await read_all(reader)) == ["a"]
            for number, looks in enumerate(range(2)):
                commit = await append(storage, str(number))
                disk.looks = looks
                seen = await reader.read(commit.first_seq - 1)
                disk.looks = 0
                assert seen in ([], [commit])
                assert await reader.read(commit.first_seq - 1) == [commit]


async def state():
    yield b"state"


async def test_snapshot_that_could_not_be_removed_goes_with_the_history_that_it_is_of(path):
    disk = FaultyDisk()
    async with opened(FileStorage(path, segment_bytes=SMALL, disk=disk)) as storage:
        for number in range(30):
            commit = await append(storage, str(number), at=number)
            if number in (4, 24):
                await storage.save_snapshot(await storage.bookmark(commit.last_seq), state())
        disk.fail("remove", errno.EIO)
        with pytest.raises(StorageError):
            await storage.save_snapshot(await storage.bookmark(commit.last_seq), state())
        assert len(list(path.glob("*.snapshot"))) == 3
        assert (await storage.drop_history(before=100, until=100)).seq > 5
    assert len(list(path.glob("*.snapshot"))) == 2


async def test_idle_handle_follows_through_many_segments(path):
    storage = FileStorage(path, segment_bytes=SMALL, disk=QuickDisk())
    async with opened(storage), opened(storage.sibling()) as idle:
        names = ["first", *map(str, range(30))]
        await append(storage, "first")
        assert names_of(await read_all(idle)) == ["first"]
        for name in names[1:]:
            await append(storage, name)
        assert len(segments(path)) > 8
        with pytest.raises(JournalConflict):
            await append(idle, "x", expected=1)
        assert names_of(await read_all(idle)) == names
        assert await idle.read_task("17") == await storage.read_task("17") != []


async def test_read_only_handle_follows_the_writers(path):
    async with opened(FileStorage(path, segment_bytes=SMALL)) as storage:
        await append(storage, "a")
        async with opened(FileStorage(path, read_only=True)) as reader:
            for name in "bcdefgh":
                commit = await append(storage, name)
                await reader.wait(commit.first_seq - 1)
                assert await reader.head() == await storage.head()
                assert (await reader.read(commit.first_seq - 1))[-1] == commit
            for call in (append(reader, "x"), reader.hold_life("w")):
                with pytest.raises(StorageError, match="read-only"):
                    await call
            assert reader.sibling().read_only


async def test_missing_beginning_is_said(path):
    async with opened(FileStorage(path, segment_bytes=SMALL)) as storage:
        for name in "abcdefgh":
            await append(storage, name)
        segments(path)[0].unlink()
        async with opened(storage.sibling()) as other:
            with pytest.raises(StorageError, match="begins with sequence number 4"):
                await other.read(0)
            with pytest.raises(CorruptJournal, match="1 to 3 were dropped, found none"):
                await other.load_snapshot()


async def test_a_full_disk_just_behind_a_rotation_leaves_one_journal(path):
    """Whoever rotated cannot write its first frame: the others must go on in the new segment."""
    disk = FaultyDisk()
    async with opened(FileStorage(path, segment_bytes=SMALL, disk=disk)) as first:
        second = first.sibling()
        await second.open()
        names = []
        while len(segments(path)) == 1:
            await append(first, len(names))
            names.append(str(len(names)))
        await second.head()
        while len(segments(path)) == 2:
            async with second:  # it knows the end, and will have to notice the new segment
                pass
            disk.fail("write", errno.ENOSPC, after=1)  # the segment's header, and not the frame
            try:
                await append(first, len(names))
            except StorageFull:
                continue
            disk.failing.clear()
            names.append(str(len(names)))
        async with first:
            pass  # says where the journal ends, as it does before its next try
        for _ in range(10):
            await append(second, len(names))
            names.append(str(len(names)))
            await append(first, len(names))
            names.append(str(len(names)))
        await second.close()
    assert await names_in(FileStorage(path)) == names


async def test_after_a_failed_sync_everything_is_written_again(path):
    """What the system took for clean may not be on the disk: nobody builds upon it."""

    class Forgets(FaultyDisk):
        """A disk whose failed sync leaves the pages clean, so that no later one writes them."""

        def __init__(self):
            super().__init__()
            self.written = []

        def write(self, descriptor, data, offset):
            self.written.append((offset, bytes(data)))
            return super().write(descriptor, data, offset)

    disk = Forgets()
    async with opened(FileStorage(path, disk=disk)) as first:
        await append_synced(first, "a")
        second = FileStorage(path, disk=disk)  # open before the failure
        await second.open()
        await append(first, "b")
        disk.fail("sync", errno.EIO)
        with pytest.raises(StorageError, match="cannot sync"):
            await first.sync(2)
        disk.written.clear()
        await append(second, "c")
        assert (
            b"".join(data for _, data in disk.written[:1])
            == segments(path)[0].read_bytes()[: disk.written[1][0]]
        )
        disk.written.clear()
        await append(second, "d")
        assert len(disk.written) == 1  # once is enough
        await second.close()
    assert await names_in(FileStorage(path)) == list("abcd")
