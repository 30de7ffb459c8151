"""A commit of thousands of events: it is one commit, and the event loop goes on meanwhile."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from omniq.core.events import Commit, TaskRequeued
from omniq.errors import CorruptJournal, SerializationError
from omniq.parts import PART_ITEMS
from omniq.storage.disk import Disk
from omniq.storage.encoding import AT_ONCE_BYTES, decode_commit, encode_commit
from omniq.storage.file import FileStorage
from omniq.storage.framing import SEGMENT_HEADER_BYTES
from omniq.storage.segments import READ_BYTES
from omniq.storage.sqlite import SQLiteStorage
from tests.storage.language import append, flip, names_of, opened, read_all, segments, tasks

PATIENCE_SECONDS = 10
NAMES = [f"{number:0600}" for number in range(PART_ITEMS + 1)]  # more than a mebibyte


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


class WatchedDisk(Disk):
    """Does what may take long only once the event loop has gone on meanwhile."""

    def __init__(self):
        self.loop = None  # that must go on
        self.waited = []  # for which operations it did

    def _wait(self, operation):
        if self.loop is not None:
            turned = threading.Event()
            self.loop.call_soon_threadsafe(turned.set)
            assert turned.wait(PATIENCE_SECONDS), f"{operation} holds the event loop up"
            self.waited.append(operation)

    def write(self, descriptor, data, offset):
        if len(data) > READ_BYTES:
            self._wait("write")
        return super().write(descriptor, data, offset)

    def read(self, descriptor, length, offset):
        if length > READ_BYTES:
            self._wait("read")
        return super().read(descriptor, length, offset)

    def sync(self, descriptor):
        if self.size(descriptor) > SEGMENT_HEADER_BYTES:
            self._wait("sync")
        super().sync(descriptor)


def test_large_commit_has_the_same_bytes_as_if_it_were_encoded_at_once():
    commit = Commit(7, 8, "me", tasks(*NAMES))
    payload = encode_commit(commit)
    assert payload == msgspec.msgpack.encode(commit)
    assert len(payload) > AT_ONCE_BYTES
    assert decode_commit(payload) == commit


@pytest.mark.parametrize("backend", [FileStorage, SQLiteStorage])
async def test_large_commit_that_nobody_could_read_is_refused(path, backend):
    bad = TaskRequeued(7)  # ids are text
    async with opened(backend(path)) as storage:
        await append(storage, "a")
        with pytest.raises(SerializationError, match="Nothing was written"):
            await storage.append([*tasks(*NAMES), bad], at=1, actor="me")
        await append(storage, "b")
        assert names_of(await read_all(storage)) == ["a", "b"]


def test_bytes_that_are_no_large_commit_are_a_decode_error():
    payload = encode_commit(Commit(7, 8, "me", tasks(*NAMES)))
    for bad in (payload[:-1], payload[:-601] + b"\xff" * 601, b"\x94" + bytes(AT_ONCE_BYTES)):
        with pytest.raises(msgspec.DecodeError):
            decode_commit(bad)


async def test_event_loop_goes_on_while_a_large_commit_is_written_and_read(path):
    disk = WatchedDisk()
    async with opened(FileStorage(path, disk=disk)) as storage:
        disk.loop = asyncio.get_running_loop()
        await append(storage, *NAMES)
        assert set(disk.waited) == {"write"}
        assert names_of(await read_all(storage)) == NAMES
        assert set(disk.waited) == {"write", "read"}


async def test_event_loop_goes_on_while_a_full_segment_is_synced(path):
    """It may have all that was written within a second, with durability="os"."""
    disk = WatchedDisk()
    async with opened(FileStorage(path, disk=disk, segment_bytes=100)) as storage:
        await append(storage, "a")
        disk.loop = asyncio.get_running_loop()
        await append(storage, "b")
        assert disk.waited == ["sync"]
    assert len(segments(path)) == 2


async def test_busy_threads_of_asyncio_keep_nobody_from_the_journal(path):
    """Else its lock would be held until some of them have ended, which nobody knows when."""
    loop, may_end = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, may_end.wait)
    try:
        async with opened(FileStorage(path)) as storage:
            await append(storage, *NAMES)
            assert names_of(await read_all(storage)) == NAMES
    finally:
        may_end.set()
        await busy


async def test_large_commits_go_on_from_segment_to_segment(path):
    async with (
        opened(FileStorage(path, segment_bytes=READ_BYTES)) as storage,
        opened(FileStorage(path)) as other,
    ):
        for part in ("a", *NAMES[:2], "b"):
            await append(storage, part)
            await append(storage, *NAMES)
        written = names_of(await read_all(storage))
        assert written == [name for part in ("a", *NAMES[:2], "b") for name in (part, *NAMES)]
        assert names_of(await read_all(other)) == written
    assert len(segments(path)) >= 4


async def test_two_who_read_a_large_commit_at_once_get_the_same(path):
    async with opened(FileStorage(path)) as storage:
        await append(storage, *NAMES)
        await append(storage, "b")
        first, second = await asyncio.gather(storage.read(0), storage.read(0))
        assert names_of(first) == names_of(second)
        assert names_of(await read_all(storage)) == [*NAMES, "b"]


@pytest.mark.parametrize("operation", ["append", "read"])
async def test_who_gives_a_large_commit_up_leaves_the_handle_in_order(path, operation):
    disk = WatchedDisk()
    async with opened(FileStorage(path, disk=disk)) as storage:
        await append(storage, "a")
        if operation == "read":
            await append(storage, *NAMES)
        disk.loop = asyncio.get_running_loop()
        work = append(storage, *NAMES) if operation == "append" else storage.read(1)
        working = asyncio.create_task(work)
        while not (disk.waited or working.done()):
            await asyncio.sleep(0)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        disk.loop = None
        await append(storage, "b")
        assert names_of(await read_all(storage)) == ["a", *NAMES, "b"]


async def test_damage_in_a_large_commit_is_said_with_its_place(path):
    async with opened(FileStorage(path)) as storage:
        await append(storage, "a")
        await append(storage, *NAMES)
        await append(storage, "b")
        await storage.sync(len(NAMES) + 2)
        await append(storage, "c")  # its header says what is durable
        (segment,) = segments(path)
        flip(segment, READ_BYTES // 2)
        await storage.read(0)
        with pytest.raises(CorruptJournal) as caught:
            await storage.read(1)
        assert (caught.value.sequence, caught.value.last_sequence) == (2, len(NAMES) + 1)
