"""The simulation finds nothing, is the same for the same seed, and its disk is like a real one."""

import asyncio
import errno
import gc
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from omniq.storage.disk import Disk
from tools.simulate import STEPS, bury, run_seed
from tools.simulation.disk import SECTOR, SimulatedDisk
from tools.simulation.loop import SimulatedLoop
from tools.simulation.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 80
# Seeds that found something, and what.
FOUND = {
    17: "a worker without a free slot span while something was due",
    1474: "after a failed sync others built upon what was not on the disk",
    7559: "a full disk behind a rotation left others in the old segment",
    2382177298: "a snapshot that could not be removed outlived the history that it was of",
}


@pytest.mark.parametrize("seed", FOUND)
def test_seed_that_found_something_is_well(seed):
    assert run_seed(seed, STEPS) is None


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
def test_lives_drawn_from_seeds_break_no_promise(first):
    for seed in range(first, first + 10):
        failure = run_seed(seed, STEPS)
        assert failure is None, failure


def test_same_seed_is_the_same_life_whatever_hashes_are():
    code = "from tools.simulate import Simulation; print(*(Simulation(n).run() for n in range(5)))"
    lives = set()
    for hash_seed in ("0", "1", "random"):
        ran = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        lives.add(ran.stdout)
    assert len(lives) == 1
    assert len(set(lives.pop().split())) == 5  # and other seeds are other lives


# The disk.


def test_what_waits_in_a_dead_process_is_not_left_to_the_garbage_collector():
    """It would end it in any thread, where nothing works that asks for the event loop."""
    loop = SimulatedLoop(random.Random(1))
    machine = Machine(loop, random.Random(1))
    ended = []

    async def hang():
        try:
            await loop.create_future()
        finally:
            try:
                await loop.create_future()
            finally:
                ended.append(True)

    async def life():
        process = machine.start()
        process.spawn(hang())
        await asyncio.sleep(0)
        machine.kill(process)
        await asyncio.sleep(0)

    try:
        loop.run_until_complete(life())
        gc.collect()
        assert ended == []
        loop.run_until_complete(bury())
        assert ended == [True]
    finally:
        loop.close()
        machine.remove()


@pytest.mark.parametrize("seed", range(20))
def test_disk_without_faults_is_like_the_real_one(tmp_path, seed):
    """Random operations give the same answers, and leave the same files."""
    rng = random.Random(seed)
    real, simulated = Disk(), SimulatedDisk()
    simulated.folders.add(tmp_path)
    descriptors = []
    for _ in range(200):
        path = tmp_path / rng.choice("abc")
        other = tmp_path / rng.choice("abc")
        flags = rng.choice(
            (
                os.O_RDWR,
                os.O_RDWR | os.O_CREAT,
                os.O_RDWR | os.O_CREAT | os.O_EXCL,
                os.O_RDWR | os.O_CREAT | os.O_TRUNC,
            )
        )
        kinds = ["open", "open", "list", "exists", "rename", "remove"]
        if descriptors:
            kinds += ["write"] * 6 + ["read", "truncate", "size", "sync", "duplicate", "close"]
        kind = rng.choice(kinds)
        pair = rng.choice(descriptors) if descriptors else (0, 0)
        offset, data = rng.randrange(2000), rng.randbytes(rng.randrange(1200))
        arguments = {
            "open": (path, flags),
            "list": (tmp_path,),
            "exists": (path,),
            "rename": (path, other),
            "remove": (path,),
            "write": (data, offset),
            "read": (len(data), offset),
            "truncate": (offset,),
        }.get(kind, ())
        answers = []
        for disk, descriptor in zip((real, simulated), pair, strict=True):
            of_a_file = kind in ("write", "read", "truncate", "size", "sync", "duplicate", "close")
            try:
                answer = getattr(disk, kind)(*([descriptor] if of_a_file else []), *arguments)
            except OSError as error:
                answer = errno.errorcode[error.errno]
            answers.append(sorted(answer) if kind == "list" else answer)
        if kind in ("open", "duplicate"):
            assert isinstance(answers[0], int) == isinstance(answers[1], int)
            if isinstance(answers[0], int):
                descriptors.append(tuple(answers))
        else:
            assert answers[0] == answers[1], kind
        if kind == "close":
            descriptors.remove(pair)
    for descriptor, _ in descriptors:
        os.close(descriptor)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert files == {path: bytes(file.seen) for path, file in simulated.names.items()}


def test_power_cut_keeps_what_was_synced_and_any_part_of_the_rest():
    survivors = set()
    for seed in range(300):
        disk, folder = SimulatedDisk(), Path("/j")
        disk.folders |= {folder}
        disk.durable_folders |= {folder}
        descriptor = disk.open(folder / "a", os.O_RDWR | os.O_CREAT)
        disk.write(descriptor, b"s" * SECTOR, 0)
        disk.sync(descriptor)
        disk.sync_directory(folder)
        disk.write(descriptor, b"1" * SECTOR + b"2" * SECTOR, SECTOR)
        disk.open(folder / "b", os.O_RDWR | os.O_CREAT)
        disk.crash(random.Random(seed))
        content = bytes(disk.names[folder / "a"].seen)
        assert content[:SECTOR] == b"s" * SECTOR
        survivors.add((content[SECTOR::SECTOR], folder / "b" in disk.names))
    contents = {content for content, _ in survivors}
    assert contents == {b"", b"1", b"12", b"\0" + b"2", b"\0" * 2, b"1\0"}
    assert {named for _, named in survivors} == {True, False}


def test_failed_sync_leaves_the_data_clean_and_not_durable():
    disk, folder = SimulatedDisk(), Path("/j")
    disk.folders |= {folder}
    disk.durable_folders |= {folder}
    first = disk.open(folder / "a", os.O_RDWR | os.O_CREAT)
    second = disk.open(folder / "a", os.O_RDWR)
    disk.sync_directory(folder)
    disk.write(first, b"lost", 0)

    def fail(_operation):
        raise OSError(errno.EIO, "no")

    disk.before = fail
    with pytest.raises(OSError, match="no"):
        disk.sync(first)
    disk.before = lambda _operation: None
    disk.sync(first)
    with pytest.raises(OSError, match="failed meanwhile"):
        disk.sync(disk.duplicate(second))
    disk.sync(second)
    assert disk.read(first, 4, 0) == b"lost"
    disk.crash(random.Random(0))
    assert bytes(disk.names[folder / "a"].seen) == b""
