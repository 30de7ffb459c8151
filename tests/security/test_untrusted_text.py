"""Names and texts in a journal are data: no SQL, no path, nothing that steers a terminal."""

import asyncio
import logging
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from omniq import AsyncOmniQ, OmniqError, TaskCancelled, TaskFailed, TaskStatus
from omniq.core import commands as cmd
from omniq.core import events as ev
from omniq.errors import CorruptJournal, IllegalEvent, StorageError, UnsupportedFormat
from omniq.host import boot_id, host_name
from omniq.models import TaskError
from omniq.storage.encoding import chain, joined
from omniq.storage.file import FileStorage
from omniq.storage.sqlite import SQLiteStorage
from tests.app import jobs
from tests.storage.language import append, names_in, opened

NASTY = [
    "'; DROP TABLE events; --",
    '" OR 1=1 --',
    "../../../precious",
    "/etc/passwd",
    "a/b",
    "",
    ".",
    "..",
    "\0",
    "a\0b",
    "line\nbreak\r",
    "\x1b[2J\x1b]0;title\a",
    "\x9b31m",
    "\u202egnp.exe",
    "%s%n{0}{self}",
    "x" * 10_000,
    "é\N{SNOWMAN}\U0001f600",
]
BACKENDS = {"journal": FileStorage, "jobs.db": SQLiteStorage}
each_backend = pytest.mark.parametrize("name", BACKENDS)
TERMINAL = "\x1b]0;owned\a\x9b2J"


def is_tame(text: str) -> bool:
    return all(char.isprintable() or char in "\n\t" for char in text)


@each_backend
async def test_odd_names_are_stored_and_found_and_do_nothing_else(tmp_path: Path, name) -> None:
    """As ids, tasks, queues, workers, actors and series, forged by somebody with a journal."""
    precious = tmp_path / "precious"
    precious.write_text("mine", encoding="utf-8")
    path = tmp_path / "inside" / name
    path.parent.mkdir()
    async with opened(BACKENDS[name](path)) as storage:
        for at, text in enumerate(NASTY):
            joined_ = ev.WorkerJoined(text, host_name(), 1, boot_id(), 1000, (text,))
            task = ev.TaskEnqueued(f"id{text}", text, text, b"\x92\x90\x80", series_id=text)
            await storage.append([joined_, task, ev.QueuePaused(text)], at=at, actor=text)
            await storage.append([ev.TaskStarted(f"id{text}", 1, text)], at=at, actor=text)
        for text in NASTY:
            assert len(await storage.read_task(f"id{text}")) == 2
            assert not storage.is_dead(text), "what is no name is nobody's"
            with pytest.raises(StorageError):
                await storage.hold_life(text)
    async with AsyncOmniQ(path) as oq:
        await oq.worker(lease=0.1).drain()
        for text in NASTY:
            assert (await oq.get_task(f"id{text}")).queue == text
            assert len(await oq.handle(f"id{text}").history()) >= 2
            if 0 < len(text) <= 200:  # others are refused before anything is done
                await oq.resume(text)
            await oq.handle(f"id{text}").cancel(text)
            assert await oq.list_tasks(queue=text, limit=1)
        assert len(await oq.list_tasks(limit=1000)) == len(NASTY)
    assert precious.read_text(encoding="utf-8") == "mine"
    assert {item.name for item in tmp_path.iterdir()} == {"precious", "inside"}
    allowed = {name, f"{name}-wal", f"{name}-shm", f"{name}-omniq"}
    assert {item.name for item in path.parent.iterdir()} <= allowed


@each_backend
async def test_log_holds_nothing_that_steers_a_terminal(tmp_path: Path, name, caplog) -> None:
    caplog.set_level(logging.DEBUG, "omniq")
    forged = f"tests.app.jobs:{TERMINAL}"
    async with opened(BACKENDS[name](tmp_path / name)) as storage:
        tasks = [
            ev.TaskEnqueued(TERMINAL, forged, TERMINAL, b"\x92\x90\x80"),
            ev.TaskEnqueued("p", "tests.app.jobs:add", "q", b"", codec="cloudpickle"),
            ev.TaskEnqueued("a", "tests.app.jobs:add", "q", b"\x92\x91\xa1\x1b\x80"),
        ]
        await storage.append(tasks, at=1, actor=TERMINAL)
    async with AsyncOmniQ(tmp_path / name, task_modules=("tests.app",)) as oq:
        await oq.worker().drain()
        await (await oq.engine()).storage.append([ev.TaskRequeued(TERMINAL)], at=1, actor=TERMINAL)
        with pytest.raises(IllegalEvent) as caught:
            await oq.stats()
    said = [record.getMessage() for record in caplog.records]
    assert any("left alone" in text for text in said)
    assert any("journal_failed" in record.action for record in caplog.records)
    for text in [*said, str(caught.value)]:
        assert is_tame(text), text


async def test_attempt_that_is_given_up_is_named_tamely(
    tmp_path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("omniq.worker.attempt.GRACE_SECONDS", 0.01)
    release = asyncio.Event()
    async with AsyncOmniQ(tmp_path / "journal") as oq:

        @oq.task(name="stubborn")
        async def stubborn() -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        task = ev.TaskEnqueued(TERMINAL, "stubborn", "q", b"\x92\x90\x80", timeout_us=10_000)
        await (await oq.engine()).execute(cmd.Enqueue((task,)))
        given_up = asyncio.Event()

        def notice(_record: logging.LogRecord) -> bool:
            given_up.set()
            return True

        with caplog.filtering(notice):
            async with oq.worker():
                await asyncio.wait_for(given_up.wait(), 5)
                release.set()
    assert [record.action for record in caplog.records] == ["attempt_given_up", "task_retried"]
    for record in caplog.records:
        assert is_tame(record.getMessage())
        assert "owned" in record.getMessage()


def test_errors_show_what_a_journal_says_and_do_not_obey_it() -> None:
    error = TaskError("E", TERMINAL, None, f"line\n\t{TERMINAL}")  # type: ignore[arg-type]
    for raised in (
        TaskFailed(TERMINAL, error),
        TaskCancelled(TERMINAL, TERMINAL),
        IllegalEvent(TERMINAL, "task.started", "PENDING"),
        UnsupportedFormat(TERMINAL),
        CorruptJournal(
            TERMINAL, segment=TERMINAL, offset=0, sequence=1, expected=TERMINAL, found=TERMINAL
        ),
    ):
        text = "\n".join([str(raised), *getattr(raised, "__notes__", ())])
        assert is_tame(text), text
        assert "owned" in text
    assert "line\n\t" in TaskFailed("t", error).__notes__[0]


async def test_unknown_event_is_named_tamely(tmp_path: Path) -> None:
    """Its tag is whatever a newer version, or somebody else, has written."""
    path = tmp_path / "jobs.db"
    async with opened(SQLiteStorage(path)) as storage:
        await append(storage, "a")
    tag = TERMINAL.encode()
    data = b"\x92" + bytes((0xA0 | len(tag),)) + tag + b"\xa1x"
    digest = chain(bytes(32), joined(1, 1, "a", [data]))
    connection = sqlite3.connect(path)
    connection.execute("UPDATE events SET data = ?, digest = ?", (data, digest))
    connection.commit()
    connection.close()
    with pytest.raises(UnsupportedFormat) as caught:
        await names_in(SQLiteStorage(path))
    assert "owned" in str(caught.value)
    assert is_tame(str(caught.value))


async def test_damaged_name_in_a_database_is_said_tamely(tmp_path: Path) -> None:
    """SQLite repeats it in its own message."""
    path = tmp_path / "jobs.db"
    async with opened(SQLiteStorage(path)) as storage:
        await append(storage, "a")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    data = path.read_bytes()
    assert b"CREATE INDEX events_of_expiry" in data
    path.write_bytes(
        data.replace(b"CREATE INDEX events_of_expiry", b"CREATE \x1b]0;own\x07 xyz_expiry")
    )
    for read_only in (True, False):
        with pytest.raises(OmniqError) as caught:
            await SQLiteStorage(path, read_only=read_only).open()
        assert is_tame(str(caught.value)), str(caught.value)


@pytest.mark.parametrize("command", ["verify", "summary", "events", "export", "recover"])
@each_backend
async def test_tools_print_nothing_that_steers_a_terminal(tmp_path: Path, name, command) -> None:
    path = tmp_path / name
    async with opened(BACKENDS[name](path)) as storage:
        for text in [TERMINAL, *NASTY]:
            task = ev.TaskEnqueued(text, text, text, b"\xa1\x1b", series_id=text)
            await storage.append([task, ev.TaskLate(text, 1, text, text)], at=1, actor=text)
    more = [str(tmp_path / "target")] if command == "recover" else []
    ran = subprocess.run(
        [sys.executable, "-m", "omniq.tools.replay", command, str(path), *more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout
    assert is_tame(ran.stdout + ran.stderr)


async def test_command_line_says_what_is_wrong_tamely(tmp_path: Path) -> None:
    path = tmp_path / f"x{TERMINAL}"
    path.mkdir(mode=0o700)
    (path / "mine").touch()
    ran = subprocess.run(
        [sys.executable, "-m", "omniq.tools.replay", "verify", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "owned" in ran.stderr
    assert is_tame(ran.stderr)


async def test_result_of_a_task_that_ends_well_is_as_it_was(tmp_path: Path) -> None:
    """Escaping is for messages; values are nobody's to change."""
    async with AsyncOmniQ(tmp_path / "journal") as oq:

        @oq.task
        async def echo(text: str) -> str:
            return text

        handles = await echo.enqueue_many([(text,) for text in NASTY])
        add = await oq.enqueue(jobs.add, 1)
        await oq.worker().drain()
        assert [await handle.result() for handle in handles] == NASTY
        assert await add.status() is TaskStatus.SUCCESS
