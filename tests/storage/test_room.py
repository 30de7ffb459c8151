"""Room for frames is written ahead, so that a sync has no growing file to record."""

import errno
import os

import pytest

from omniq.core.events import TaskRequeued
from omniq.errors import StorageError
from omniq.storage.disk import LEAST_ROOM_BYTES, ROOM_BYTES, Disk
from omniq.storage.file import FileStorage
from omniq.tools.scanning import FileScan
from tests.storage.language import (
    FaultyDisk,
    RoomyDisk,
    append,
    append_synced,
    names_in,
    names_of,
    opened,
    read_all,
    reboot,
    segments,
)

LARGE = "x" * 3000


class CountingDisk(Disk):
    """A disk that counts how often it is asked for a file's size, and notes what is written."""

    def __init__(self):
        self.sizes = 0
        self.writes = []

    def size(self, descriptor):
        self.sizes += 1
        return super().size(descriptor)

    def write(self, descriptor, data, offset):
        self.writes.append((offset, len(data)))
        return super().write(descriptor, data, offset)


class FaultyRoomyDisk(RoomyDisk, FaultyDisk):
    """A disk that writes ahead, and one of whose operations fails."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


def size_of(path):
    return sum(segment.stat().st_size for segment in segments(path))


async def test_small_journal_takes_only_what_is_written(path):
    async with opened(FileStorage(path)) as storage:
        while storage._end.offset < 3 * LEAST_ROOM_BYTES:
            await append_synced(storage, LARGE)
            assert size_of(path) == storage._end.offset


async def test_file_grows_seldom_and_by_no_more_than_a_quarter(path):
    async with opened(FileStorage(path)) as storage:
        sizes = set()
        for number in range(1000):
            await append(storage, f"{number}{LARGE}")
            sizes.add(size := size_of(path))
            assert size <= storage._end.offset + min(storage._end.offset // 4, ROOM_BYTES)
    assert 10 < len(sizes) < 50
    assert len(await names_in(FileStorage(path))) == 1000
    reboot(path)
    assert len(await names_in(FileStorage(path))) == 1000
    assert not list(path.glob("*.torn"))


async def test_room_ends_with_the_segment(path):
    async with opened(FileStorage(path, segment_bytes=40_000)) as storage:
        for number in range(30):
            await append(storage, f"{number}{LARGE}")
    assert len(segments(path)) == 3
    assert all(segment.stat().st_size <= 40_000 for segment in segments(path))
    assert names_of(FileScan(path)) == [f"{number}{LARGE}" for number in range(30)]


async def test_commits_and_their_readers_ask_for_no_status_of_the_file(path):
    """Who asks for a file's times makes the next sync slower (Linux 6.13 and later)."""
    async with opened(FileStorage(path)) as storage:
        while storage._end.offset < 1 << 20:
            await append(storage, *[LARGE] * 10)
        disk = CountingDisk()
        async with (
            opened(FileStorage(path, disk=disk, reserve_bytes=0)) as writer,
            opened(FileStorage(path, disk=disk, reserve_bytes=0)) as reader,
        ):
            await append_synced(writer, "makes room, unless there is some")
            seq = (await reader.head()).seq
            disk.sizes = 0
            for number in range(50):
                commit = await append_synced(writer, str(number))
                assert await reader.read(seq) == [commit]
                seq = commit.last_seq
            assert disk.sizes == 0


async def test_large_commits_make_no_room(path):
    """They would write everything twice, which takes longer than what it saves."""
    disk = CountingDisk()
    async with opened(FileStorage(path, disk=disk, reserve_bytes=0)) as storage:
        for _ in range(20):
            await append(storage, *[LARGE] * 30)
        assert size_of(path) == storage._end.offset


async def test_room_that_one_handle_made_is_used_by_others(path):
    one, other = CountingDisk(), CountingDisk()
    async with opened(FileStorage(path, disk=one)) as storage:
        while storage._end.offset < 1 << 20:
            await append(storage, *[LARGE] * 10)
        async with opened(FileStorage(path, disk=other, reserve_bytes=0)) as sibling:
            for number in range(20):
                await append(sibling, str(number))
    assert len(other.writes) == 20
    assert max(length for _, length in other.writes) < LEAST_ROOM_BYTES


async def test_who_does_not_wait_for_the_disk_makes_no_room(path):
    async with opened(FileStorage(path, durability="os", disk=RoomyDisk())) as storage:
        await append(storage, "a")
        assert size_of(path) == storage._end.offset


@pytest.mark.parametrize("short", [0, 1, 100, 350])
async def test_disk_without_room_ahead_takes_commits_as_long_as_they_fit(path, short):
    disk = FaultyRoomyDisk()
    async with opened(FileStorage(path, disk=disk)) as storage:
        for name in "ab":
            disk.fail("write", errno.ENOSPC, short=short)  # of the zeros
            await append(storage, name)
            assert disk.failed
            assert size_of(path) == storage._end.offset
        await append(storage, "c")
        assert size_of(path) == storage._end.offset + disk.room
    assert await names_in(FileStorage(path)) == ["a", "b", "c"]


@pytest.mark.parametrize("short", [0, 1, 100, 350])
async def test_write_ahead_that_fails_for_another_reason_refuses_the_commit(path, short):
    disk = FaultyRoomyDisk()
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append(storage, "a")
        storage._end.segment.room_until = 0
        os.truncate(segments(path)[0], storage._end.offset)
        disk.fail("write", errno.EIO, short=short)
        with pytest.raises(StorageError, match="cannot append"):
            await append(storage, "b")
        await append(storage, "c")
        assert names_of(await read_all(storage)) == ["a", "c"]
    reboot(path)
    assert await names_in(FileStorage(path)) == ["a", "c"]


@pytest.mark.parametrize("short", [0, 1, 67, 68, 80])
async def test_frame_that_is_cut_short_in_the_room_is_taken_back_or_cut_off(path, short):
    """By the process itself if it lives, else by the next one."""
    disk = FaultyRoomyDisk()
    async with (
        opened(FileStorage(path, disk=disk)) as storage,
        opened(FileStorage(path, disk=RoomyDisk())) as other,
    ):
        await append(storage, "a")
        disk.fail("write", errno.EIO, short=short)
        with pytest.raises(StorageError):
            await append(storage, "b")
        assert size_of(path) == storage._end.offset
        await append(storage, "c")
        end = storage._end.offset
        with segments(path)[0].open("r+b") as file:
            file.seek(end)
            file.write(b"OqFr and the rest"[:short])
        await append(other, "d")
        assert names_of(await read_all(storage)) == ["a", "c", "d"]
        assert len(list(path.glob(f"*.{end}.torn"))) == (1 if short else 0)
    assert await names_in(FileStorage(path)) == ["a", "c", "d"]


async def test_file_that_was_cut_behind_our_back_is_not_written_to(path):
    async with opened(FileStorage(path, disk=RoomyDisk())) as storage:
        for name in "ab":
            await append(storage, name)
        os.truncate(segments(path)[0], storage._end.offset - 1)
        with pytest.raises(StorageError):
            await append(storage, "c")


async def test_room_is_no_problem_for_who_verifies_and_bytes_in_it_are_a_torn_end(path):
    async with opened(FileStorage(path, disk=RoomyDisk())) as storage:
        await append(storage, "a")
        end = storage._end.offset
    scan = FileScan(path)
    assert names_of(scan) == ["a"]
    assert scan.torn is None
    with segments(path)[0].open("r+b") as file:
        file.seek(end + 100)
        file.write(b"?")
    scan = FileScan(path)
    assert names_of(scan) == ["a"]
    assert (scan.torn.offset, scan.torn.bytes) == (end, 101)


async def test_payload_that_ends_in_zeros_is_told_from_room(path):
    async with opened(FileStorage(path, disk=RoomyDisk())) as storage:
        for name in ("a", "a" + "\0" * 200):
            await storage.append([TaskRequeued("t", name)], at=1, actor="a")
    reboot(path)
    async with opened(FileStorage(path)) as storage:
        assert [commit.events[0].reason for commit in await read_all(storage)] == [
            "a",
            "a" + "\0" * 200,
        ]
