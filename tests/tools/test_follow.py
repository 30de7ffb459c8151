"""`events --follow` shows what comes as it comes, and Ctrl-C ends it and every other long work."""

import json
import os
import signal
import subprocess
import sys

import pytest

from omniq.config import open_storage
from omniq.core import events as ev
from omniq.errors import CorruptJournal
from omniq.storage.file import FileStorage
from omniq.tools import reading
from tests.tools.journals import CLIENT, LENGTH, START, STORY, A, B, C, rewrite, write
from tests.tools.test_untouched import everything

LATE = START + 60_000_000


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "omniq.tools.replay", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(process, count):
    return [process.stdout.readline() for _ in range(count)]


def seqs_of(process, count):
    return [json.loads(line)["seq"] for line in lines_of(process, count)]


def interrupted(process):
    """Press Ctrl-C, and return what is printed after that."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
    return out


async def test_events_are_shown_as_they_are_appended(journal):
    process = start("events", journal, "--follow", "--json")
    assert seqs_of(process, LENGTH) == list(range(1, LENGTH + 1))
    storage = open_storage(journal)
    await storage.open()
    for number in range(3):
        seq = LENGTH + 2 * number + 1
        events = [ev.QueueResumed("images"), ev.QueuePaused("images")]
        await storage.append(events, at=LATE, actor=CLIENT)
        assert seqs_of(process, 2) == [seq, seq + 1]
    await storage.close()
    assert interrupted(process) == ""


async def test_filters_and_the_limit_count_for_what_comes(journal):
    process = start(
        "events", journal, "--follow", "--json", "--task", A, "--after", 4, "--limit", 4
    )
    assert seqs_of(process, 3) == [7, 10, 11]
    storage = open_storage(journal)
    await storage.open()
    await storage.append([ev.TaskCancelled(C), ev.QueuePaused("q")], at=LATE, actor=CLIENT)
    await storage.append([ev.ResultExpired((B, A)), ev.QueuePaused("q")], at=LATE, actor=CLIENT)
    assert seqs_of(process, 1) == [LENGTH + 3]
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")
    await storage.close()


async def test_following_ends_behind_the_time_that_was_asked_for(journal):
    process = start(
        "events", journal, "--follow", "--after", LENGTH, "--until", "2040-01-01T00:00Z"
    )
    storage = open_storage(journal)
    await storage.open()
    await storage.append([ev.QueuePaused("q")], at=LATE, actor=CLIENT)
    await storage.append([ev.QueuePaused("q")], at=2 * LATE, actor=CLIENT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, len(out.splitlines()), err) == (0, 1, "")
    await storage.close()


async def test_segments_that_are_begun_meanwhile_are_followed(tmp_path):
    path = tmp_path / "journal"
    await write(path, STORY)
    process = start("events", path, "--follow", "--json", "--after", LENGTH)
    storage = FileStorage(path, segment_bytes=1)
    await storage.open()
    for seq in range(LENGTH + 1, LENGTH + 5):
        await storage.append([ev.QueuePaused("q")], at=LATE, actor=CLIENT)
        assert seqs_of(process, 1) == [seq]
    await storage.close()
    assert interrupted(process) == ""


def test_follower_is_no_writer(journal, tmp_path):
    before = everything(tmp_path)
    process = start("events", journal, "--follow")
    lines_of(process, LENGTH)
    assert everything(tmp_path) == before
    interrupted(process)
    assert everything(tmp_path) == before


def test_journal_that_is_removed_ends_the_following_of_its_files(tmp_path):
    path = tmp_path / "journal"
    rewrite(path, STORY)
    process = start("events", path, "--follow")
    lines_of(process, LENGTH)
    (path / f"{1:020}.seg").unlink()
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert err != ""


async def test_damage_to_what_comes_is_an_error_and_not_waited_for(tmp_path):
    path = tmp_path / "journal"
    await write(path, STORY)
    async with reading.opened(str(path)) as journal:
        following = journal.followed(LENGTH)
        segment = path / f"{1:020}.seg"
        damaged = segment.stat().st_size + 80
        await write(path, [(9, CLIENT, [ev.QueuePaused("q")])] * 3)
        data = bytearray(segment.read_bytes())
        data[damaged] ^= 1
        segment.write_bytes(data)
        with pytest.raises(CorruptJournal, match=f"from sequence {LENGTH + 1}"):
            await anext(following)


# Ctrl-C, whatever is going on.

BUSY = """
import sys
from omniq.core.projection import Projection
from omniq.tools import replay

def apply(self, commit):
    print("busy", flush=True)
    while True:
        pass

Projection.apply = Projection.apply_events = apply
sys.exit(replay.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["verify", "recover", "diff"])
def test_ctrl_c_ends_long_work_at_once(journal, command, tmp_path):
    arguments = {"recover": [tmp_path / "new"]}.get(command, [])
    before = everything(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, command, journal, *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout.readline() == b"busy\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert everything(tmp_path) == before
