"""Real processes on one journal: they take turns, wake each other, and die at any moment."""

import asyncio
import os
import signal

import pytest

from omniq.errors import StorageError
from omniq.storage.file import FileStorage
from omniq.storage.sqlite import SQLiteStorage
from omniq.testing.virtual import settle
from tests.storage.language import (
    names_in,
    names_of,
    opened,
    read_all,
    reboot,
    segments,
    start,
    tasks,
)

# The child appends names of its own until it is done, and says so of each that is durable.
CHILD = """
import asyncio, os, sys
from omniq.core.events import TaskEnqueued
from omniq.storage.{module} import {storage}

async def main(path, name, count):
    journal = {storage}(path{options})
    await journal.open()
    for number in range(int(count)):
        event = TaskEnqueued(f"{{name}}{{number}}", "m:f", "q", b"")
        commit = await journal.append([event] * (1 + number % 3), at=number, actor=name)
        if number % 5 == 0 or number == int(count) - 1:
            await journal.sync(commit.last_seq)
            os.write(1, b"%d\\n" % number)
    await journal.close()

asyncio.run(main(*sys.argv[1:]))
"""
FOREVER = 1_000_000


def make_file(path):
    return FileStorage(path, segment_bytes=4000)


def make_sqlite(path):
    return SQLiteStorage(path)


KINDS = {
    "file": (
        make_file,
        CHILD.format(module="file", storage="FileStorage", options=", segment_bytes=4000"),
    ),
    "sqlite": (
        make_sqlite,
        CHILD.format(module="sqlite", storage="SQLiteStorage", options=""),
    ),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


@pytest.fixture
def start_writer(kind, path):
    """Start a process that appends; none outlives the test."""
    children = []

    def start_one(name, count=FOREVER):
        children.append(start(kind[1], path, name, count))
        return children[-1]

    yield start_one
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def acknowledged(child, at_least):
    """Read what the child has said to be durable, once it has said so this often."""
    return [int(child.stdout.readline()) for _ in range(at_least)]


def kill(child):
    """Kill the child, and return what it had said before."""
    child.send_signal(signal.SIGKILL)
    child.wait()
    return [int(line) for line in child.stdout.read().splitlines() if line]


def runs(names):
    """Return for each writer the numbers of its commits, in order, checking that each is whole."""
    found = {}
    position = 0
    while position < len(names):
        name = names[position]
        writer, number = name[0], int(name[1:])
        size = 1 + number % 3
        assert names[position : position + size] == [name] * size
        found.setdefault(writer, []).append(number)
        position += size
    return found


async def test_two_processes_append_at_once_and_nothing_is_lost(kind, path, start_writer):
    writers = [start_writer(name, 500) for name in "ab"]
    for writer in writers:
        await asyncio.to_thread(writer.wait)
        assert writer.returncode == 0
    names = await names_in(kind[0](path))
    assert runs(names) == {"a": list(range(500)), "b": list(range(500))}
    if path.is_dir():
        reboot(path)
        assert await names_in(kind[0](path)) == names
        assert len(segments(path)) > 10


async def test_killed_process_leaves_what_it_acknowledged_and_blocks_nobody(
    kind, path, start_writer
):
    done = {}
    survivor = start_writer("s")
    acknowledged(survivor, 1)
    for round_, name in enumerate("abcd"):
        victim = start_writer(name)
        acknowledged(victim, 1 + 2 * round_)
        numbers = kill(victim)
        done[name] = max(numbers, default=0)
        acknowledged(survivor, 3)
    done["s"] = max(kill(survivor), default=0)
    names = await names_in(kind[0](path))
    found = runs(names)
    for name, last in done.items():
        assert found[name] == list(range(len(found[name])))
        assert found[name][-1] >= last
    if path.is_dir():
        reboot(path)
        assert await names_in(kind[0](path)) == names


async def test_append_in_another_process_ends_a_wait(kind, path, start_writer):
    async with opened(kind[0](path)) as storage:
        waiting = asyncio.create_task(storage.wait(0))
        start_writer("a", 1)
        await waiting
        assert names_of(await read_all(storage)) == ["a0"]


async def test_stopped_process_holds_others_up_only_until_it_goes_on(kind, path, start_writer):
    """Wherever the stop hits it, its commits stay whole and the others' as well."""
    writer = start_writer("a")
    acknowledged(writer, 3)
    writer.send_signal(signal.SIGSTOP)
    storage = kind[0](path)
    opening = asyncio.create_task(storage.open())
    await settle()
    writer.send_signal(signal.SIGCONT)
    await opening
    await storage.append(tasks("z0"), at=1, actor="z")
    await storage.close()
    kill(writer)
    found = runs(await names_in(kind[0](path)))
    assert found["a"] == list(range(len(found["a"])))
    assert found["z"] == [0]


async def test_processes_that_create_a_journal_at_once_share_it(tmp_path, kind):
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        writers = [start(kind[1], folder / "journal", name, 3) for name in "abcd"]
        for writer in writers:
            assert writer.wait() == 0
            writer.stdout.close()
        found = runs(await names_in(kind[0](folder / "journal")))
        assert found == {name: [0, 1, 2] for name in "abcd"}


async def test_death_of_a_process_is_seen_by_its_lock(kind, path):
    code = """
import asyncio, sys
from omniq.storage.{} import {} as Storage

async def main():
    storage = Storage(sys.argv[1])
    await storage.open()
    await storage.hold_life("w1")
    print("alive", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    async with opened(kind[0](path)) as storage:
        module = "file" if path.is_dir() else "sqlite"
        name = type(storage).__name__
        child = start(code.format(module, name), path)
        try:
            assert child.stdout.readline() == b"alive\n"
            assert not storage.is_dead("w1")
            child.kill()
            child.wait()
            assert storage.is_dead("w1")
            assert storage.is_dead("w1")
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


async def test_handle_refuses_to_append_in_a_forked_child(kind, path, monkeypatch):
    """The child's lock would be its parent's: two processes in one section."""
    async with opened(kind[0](path)) as storage:
        await storage.append(tasks("a"), at=1, actor="a")
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: 1)
            with pytest.raises(StorageError, match="forked"):
                await storage.append(tasks("b"), at=1, actor="a")
    assert await names_in(kind[0](path)) == ["a"]
