"""A small language for tests of journals: write, cut, flip, read; and disks that misbehave."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from pathlib import Path

from omniq.core.events import TaskRequeued
from omniq.storage.disk import Disk
from omniq.storage.file import FileStorage
from omniq.storage.framing import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES

ROOT = Path(__file__).resolve().parents[2]


def tasks(*names):
    return [TaskRequeued(str(name)) for name in names]  # as short as an event can be


def names_of(commits):
    return [event.task_id for commit in commits for event in commit.events]


@asynccontextmanager
async def opened(storage):
    await storage.open()
    try:
        yield storage
    finally:
        await storage.close()


async def append(storage, *names, at=1, **options):
    return await storage.append(tasks(*names), at=at, actor="a", **options)


async def append_synced(storage, *names):
    commit = await append(storage, *names)
    await storage.sync(commit.last_seq)
    return commit


async def read_all(storage):
    commits = []
    while page := await storage.read(commits[-1].last_seq if commits else 0):
        commits += page
    check_numbers(commits)
    return commits


async def names_in(storage):
    """Open a handle, return what the journal holds, and close it."""
    async with opened(storage):
        names = names_of(await read_all(storage))
        assert (await storage.head()).seq == len(names)
        return names


def check_numbers(commits):
    seq, at = 0, 0
    for commit in commits:
        assert (commit.first_seq, commit.at >= at) == (seq + 1, True)
        seq, at = commit.last_seq, commit.at


# Files.


async def write_journal(path, frames, *, synced=True, **options):
    """Write a journal with a commit of one event for each number below `frames`."""
    async with opened(FileStorage(path, **options)) as storage:
        for number in range(frames):
            await (append_synced if synced else append)(storage, number)


def segments(path):
    return sorted(path.glob("*.seg"))


def frame_ends(data):
    """Return where each frame of a segment ends, beginning with the end of its header."""
    ends = [SEGMENT_HEADER_BYTES]
    while ends[-1] < len(data):
        length = int.from_bytes(data[ends[-1] + 4 : ends[-1] + 8], "little")
        ends.append(ends[-1] + FRAME_HEADER_BYTES + length)
    return ends


def flip(path, position, bit=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def contents(path):
    """Return all files below a folder that are the journal's own, with their bytes."""
    if not path.exists():
        return {}
    apart = {path / "journal.lock"}
    return {
        file.name: file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file not in apart
    }


def reboot(path):
    """Make the head hint unknown, as it is after a reboot."""
    (path / "journal.lock").unlink(missing_ok=True)


# Disks.


class RoomyDisk(Disk):
    """A disk that writes ahead also where a journal is small."""

    room = 300

    def room_ahead(self, end, length):
        return self.room


class QuickDisk(Disk):
    """A disk that does not sync, for tests that open a journal thousands of times."""

    def sync(self, descriptor):
        pass

    def sync_directory(self, path):
        pass


class FaultyDisk(Disk):
    """A disk one of whose operations fails once, or from then on."""

    def __init__(self):
        self.failing = {}
        self.failed = 0

    def fail(self, operation, error, *, after=0, short=0, times=1):
        """Fail at the call after the next `after` ones; a write first writes `short` bytes."""
        self.failing[operation] = [after, times, error, short]

    def _enter(self, operation):
        plan = self.failing.get(operation)
        if plan is None:
            return None
        plan[0] -= 1
        if plan[0] >= 0:
            return None
        plan[1] -= 1
        if plan[1] <= 0:
            del self.failing[operation]
        self.failed += 1
        return plan

    def _check(self, operation):
        if plan := self._enter(operation):
            raise OSError(plan[2], os.strerror(plan[2]))

    def write(self, descriptor, data, offset):
        if plan := self._enter("write"):
            super().write(descriptor, bytes(data)[: plan[3]], offset)
            raise OSError(plan[2], os.strerror(plan[2]))
        return super().write(descriptor, data, offset)

    def open(self, path, flags):
        self._check("open")
        return super().open(path, flags)

    def read(self, descriptor, length, offset):
        self._check("read")
        return super().read(descriptor, length, offset)

    def truncate(self, descriptor, length):
        self._check("truncate")
        super().truncate(descriptor, length)

    def sync(self, descriptor):
        self._check("sync")
        super().sync(descriptor)

    def duplicate(self, descriptor):
        self._check("duplicate")
        return super().duplicate(descriptor)

    def sync_directory(self, path):
        self._check("sync_directory")
        super().sync_directory(path)

    def rename(self, source, target):
        self._check("rename")
        super().rename(source, target)

    def remove(self, path):
        self._check("remove")
        super().remove(path)

    def list(self, folder):
        self._check("list")
        return super().list(folder)

    def size(self, descriptor):
        self._check("size")
        return super().size(descriptor)


class SmallDisk(RoomyDisk, QuickDisk):
    """A disk that has room for so many bytes in the files of one folder, and then is full."""

    def __init__(self, folder, capacity=1 << 60, error=errno.ENOSPC, room=0):
        self.folder = folder
        self.capacity = capacity
        self.error = error
        self.room = room

    def used(self):
        names = [entry for entry in os.scandir(self.folder) if entry.name != "journal.lock"]
        return sum(entry.stat().st_size for entry in names if entry.is_file())

    def fill(self):
        self.capacity = self.used()

    def write(self, descriptor, data, offset):
        grows = max(0, offset + len(data) - os.fstat(descriptor).st_size)
        fits = len(data) - max(0, grows - (self.capacity - self.used()))
        if fits <= 0 < len(data):
            raise OSError(self.error, os.strerror(self.error))
        return super().write(descriptor, bytes(data)[:fits], offset)


class Died(BaseException):
    """The process is no more: nothing of it runs, not even an error handler."""


class MortalDisk(Disk):
    """A disk whose process dies before the operation with number `death`.

    It records each operation, and what a power cut would leave if it takes everything that was
    not synced: for each file the bytes when it was last synced, for each folder its names.
    """

    COUNTED = ("make_directory", "open", "write", "truncate", "sync", "sync_directory", "rename")

    def __init__(self, death=None):
        self.death = death
        self.log = []
        self._paths = {}
        self._contents = {}
        self._names = {}
        self._lock = threading.Lock()

    def _count(self, operation, path):
        with self._lock:
            if self.death is not None and len(self.log) >= self.death:
                raise Died
            self.log.append((operation, path.name))

    def make_directory(self, path):
        if path.exists():
            raise FileExistsError(errno.EEXIST, "it is there", str(path))
        self._count("make_directory", path)
        super().make_directory(path)

    def open(self, path, flags):
        if flags & os.O_CREAT:
            self._count("create", path)
        descriptor = super().open(path, flags)
        self._paths[descriptor] = path
        return descriptor

    def duplicate(self, descriptor):
        copy = super().duplicate(descriptor)
        self._paths[copy] = self._paths[descriptor]
        return copy

    def write(self, descriptor, data, offset):
        self._count("write", self._paths[descriptor])
        return super().write(descriptor, data, offset)

    def truncate(self, descriptor, length):
        self._count("truncate", self._paths[descriptor])
        super().truncate(descriptor, length)

    def sync(self, descriptor):
        self._count("sync", self._paths[descriptor])
        status = os.fstat(descriptor)
        self._contents[status.st_ino] = self._paths[descriptor].read_bytes()

    def sync_directory(self, path):
        self._count("sync_directory", path)
        self._names[path] = {entry.name: entry.inode() for entry in os.scandir(path)}

    def rename(self, source, target):
        self._count("rename", target)
        super().rename(source, target)

    def cut_power(self, path):
        """Leave of the journal at `path` what is certain to have survived."""
        if path.name not in self._names.get(path.parent, ()):
            shutil.rmtree(path, ignore_errors=True)
            return
        for file in path.iterdir():
            if file.is_file():
                file.unlink()
        kept = self._names.get(path, {})
        contents = {name: self._contents.get(inode, b"") for name, inode in kept.items()}
        for name, content in contents.items():
            if name.endswith((".seg", ".tmp", ".torn")):
                (path / name).write_bytes(content)
                kept[name] = (path / name).stat().st_ino
                self._contents[kept[name]] = content


# Processes.


def start(code, *arguments, **options):
    """Start another Python that runs `code`; its standard output is a pipe."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        **options,
    )
