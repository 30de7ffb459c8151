"""A run is cut short between any two of its operations, and every disk that may be left is opened.

What a power cut may leave: of each file any combination of the sectors that were not synced, of
each folder any combination of the names (tools/simulation/disk.py). Each is opened, read, appended
to, and opened again; some are cut short once more while they are recovered.
"""

import asyncio
import copy
import itertools
import random
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from omniq.storage import snapshots
from omniq.storage.file import FileStorage
from tests.storage.language import check_numbers, names_of, tasks
from tools.simulation.disk import SimulatedDisk
from tools.simulation.loop import SimulatedLoop

SEGMENT = 1600  # bytes: a dozen commits
MOST_CHOICES = 8  # that are combined in every way; those before them are made all alike
NESTED = 40  # every so many states, recovery is cut short as well


class Died(BaseException):
    """The power is gone."""


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    yield path
    shutil.rmtree(path)


class At:
    """Dies at the operation with this number; without one, counts them."""

    def __init__(self, number=None):
        self.number = number
        self.count = 0

    def __call__(self, _operation):
        if self.count == self.number:
            raise Died
        self.count += 1


def live(work):
    """Run something on a loop without threads, to its end or its death."""
    loop = SimulatedLoop(random.Random(0))
    loop._rng.choice = lambda options: options[0]
    loop.set_exception_handler(lambda _loop, _context: None)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


def reboot(folder):
    (folder / "journal.lock").unlink(missing_ok=True)


def new_disk(folder, room):
    disk = SimulatedDisk()
    disk.room = room
    disk.folders.add(folder.parent)
    disk.durable_folders.add(folder.parent)
    return disk


async def state():
    yield b"state"
    yield b"more of it"


class Story:
    """What is written, and how much of it was acknowledged."""

    def __init__(self, folder):
        self.folder = folder
        self.commits = []
        self.acknowledged = 0

    async def tell(self, disk):
        storage = FileStorage(self.folder, segment_bytes=SEGMENT, reserve_bytes=0, disk=disk)
        try:
            await storage.open()
            for number in range(21):
                names = [f"{number}.{part}" for part in range(1 + number % 2)]
                durable = number in (3, 10, 14)  # a sync begins within the append
                commit = await storage.append(tasks(*names), at=number, actor="me", durable=durable)
                self.commits.append(commit)
                if number == 2:
                    await self.sync(storage, commit)
                if number in (9, 11, 13):
                    await storage.save_snapshot(await storage.bookmark(commit.last_seq), state())
                    self.acknowledged = len(self.commits)
                if number == 14:
                    await storage.drop_history(before=8, until=100)
            await self.sync(storage, commit)
        finally:
            release(storage)

    async def sync(self, storage, commit):
        await storage.sync(commit.last_seq)
        self.acknowledged = len(self.commits)


def release(storage):
    """Give up what the kernel takes back from a dead process."""
    rendezvous = storage._rendezvous
    if rendezvous is not None:
        rendezvous.close()
        storage._rendezvous = None
    storage._sync_thread._thread.shutdown()


def choices(disk):
    """Return everything that a power cut may or may not keep, one by one."""
    found = [
        ("name", path)
        for path in sorted({*disk.names, *disk.durable_names})
        if disk.names.get(path) is not disk.durable_names.get(path)
    ]
    files = {id(file): file for file in [*disk.names.values(), *disk.durable_names.values()]}
    for file in files.values():
        for operation in file.pending:
            found += [("sector", file, sector) for sector in operation.sectors()]
    if disk.folders != disk.durable_folders:
        found.append(("folders",))
    return found


def states(disk):
    """Yield a disk for every combination of what may be left."""
    found = choices(disk)
    earlier, last = found[:-MOST_CHOICES], found[-MOST_CHOICES:]
    for kept in itertools.product((False, True), repeat=len(last)):
        for others in (True, False) if earlier else (True,):
            yield left(
                disk, earlier if others else [], [c for c, k in zip(last, kept, strict=True) if k]
            )


def left(disk, *kept):
    """Return a copy of a disk as a power cut leaves it that keeps these of the choices."""
    memo = {}
    twin = copy.deepcopy(disk, memo)
    names = dict(twin.durable_names)
    keep_folders = False
    for choice in itertools.chain(*kept):
        if choice[0] == "folders":
            keep_folders = True
        elif choice[0] == "name":
            if choice[1] in twin.names:
                names[choice[1]] = twin.names[choice[1]]
            else:
                names.pop(choice[1], None)
    for file in {id(file): file for file in names.values()}.values():
        content = bytearray(file.durable)
        for choice in itertools.chain(*kept):
            if choice[0] == "sector" and memo.get(id(choice[1])) is file:
                choice[2].apply(content)
        file.seen, file.durable, file.pending = content, bytearray(content), []
    twin.restart(names, keep_folders=keep_folders)
    twin.before = lambda _operation: None
    return twin


async def reopened(folder, disk, story):
    """Open what is left, check it, go on with it, and check that, too."""
    for more in ("x", "y"):
        storage = FileStorage(folder, segment_bytes=SEGMENT, reserve_bytes=0, disk=disk)
        try:
            await storage.open()
            await check_what_is_left(storage, story, more)
            if (await storage.beginning()).seq:
                assert (await storage.load_snapshot()).parts == [b"state", b"more of it"]
            commit = await storage.append(tasks(more), at=99, actor="me")
            await storage.sync(commit.last_seq)
        finally:
            release(storage)


async def check_what_is_left(storage, story, more):
    beginning = seq = (await storage.beginning()).seq
    kept = []
    while page := await storage.read(seq):
        kept += page
        seq = page[-1].last_seq
    check(story, kept, beginning, more)


def check(story, kept, beginning, more):
    """What is left is a part of what was written, without a gap, with all that was promised."""
    names = [name for commit in kept if (name := names_of([commit])) not in (["x"], ["y"])]
    written = [names_of([commit]) for commit in story.commits if commit.first_seq > beginning]
    assert names == written[: len(names)]
    promised = [c for c in story.commits[: story.acknowledged] if c.first_seq > beginning]
    assert len(names) >= len(promised)
    if more == "y":
        assert names_of(kept)[-1] == "x"
    if not beginning:
        check_numbers(kept)


@pytest.mark.timeout(600)  # thousands of disks, about a minute on a slow machine
@pytest.mark.parametrize("room", [0, 600], ids=["file that grows", "room ahead"])
def test_every_disk_that_a_crash_may_leave_is_a_right_prefix(folder, room, monkeypatch):
    monkeypatch.setattr(snapshots, "WRITE_BYTES", 1)  # a snapshot of several writes
    monkeypatch.setattr("omniq.storage.file.SYNC_AHEAD_BYTES", 0)
    counter = At()
    disk = new_disk(folder, room)
    disk.before = counter
    live(Story(folder).tell(disk))
    number_of_states = 0
    for number in range(counter.count + 1):
        reboot(folder)
        story, disk = Story(folder), new_disk(folder, room)
        disk.before = At(number)
        with suppress(Died):
            live(story.tell(disk))
        for twin in states(disk):
            number_of_states += 1
            if number_of_states % NESTED == 0:
                recover_in_vain(folder, twin, story)
            reboot(folder)
            try:
                live(reopened(folder, twin, story))
            except BaseException as error:
                error.add_note(f"the run was cut short at operation {number}")
                raise
    assert number_of_states > 800  # so that it cannot become a test of nothing


def recover_in_vain(folder, disk, story):
    """Cut the recovery of a disk short at each of its operations, and look at what that leaves."""
    number = 0
    while True:
        reboot(folder)
        twin = copy.deepcopy(disk)
        twin.before = at = At(number)
        with suppress(Died):
            live(reopened(folder, twin, story))
        if at.count < number:
            return
        for kept in (choices(twin), []):
            reboot(folder)
            live(reopened_once(folder, left(twin, kept), story))
        number += 1


async def reopened_once(folder, disk, story):
    storage = FileStorage(folder, segment_bytes=SEGMENT, reserve_bytes=0, disk=disk)
    try:
        await storage.open()
        await check_what_is_left(storage, story, "")
    finally:
        release(storage)
