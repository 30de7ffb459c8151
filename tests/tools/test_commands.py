"""What the commands say, and how they say that they cannot."""

import asyncio
import io
import json
import os
import pickle
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import pytest

from omniq.core import events as ev
from omniq.tools import commands, reading, replay
from omniq.tools.printing import show_bytes, show_duration
from tests.tools.journals import CLIENT, LENGTH, NAMES, START, STORY, A, B, C, rewrite


def events_of(result):
    return [json.loads(line) for line in result.out.splitlines()]


# Which journal, which command.


def test_journal_alone_is_a_summary(journal, run):
    first, second = run(journal, "--json"), run("summary", journal, "--json")
    assert first.status == 0
    assert json.loads(first.out)["head"] == json.loads(second.out)["head"]


def test_url_names_a_journal_as_everywhere(journal, backend, run):
    slashes = "sqlite:///" if backend == "sqlite" else "file://"
    assert run("summary", f"{slashes}{journal}").status == 0


def test_what_is_there_counts_and_not_how_it_is_named(journal, backend, tmp_path, run):
    other = tmp_path / ("other.db" if backend == "file" else "other")
    journal.rename(other)
    if backend == "sqlite":
        (tmp_path / "journal.db-wal").rename(tmp_path / "other-wal")
    result = run("summary", other, "--json")
    assert json.loads(result.out)["backend"] == backend


@pytest.mark.parametrize("command", ["summary", "events", "state", "verify"])
@pytest.mark.parametrize("name", ["missing", "missing.db", "empty", "empty.db", "text", "text.db"])
def test_path_without_a_journal_is_an_error_of_usage_and_stays_as_it_is(
    command, name, tmp_path, run
):
    path = tmp_path / name
    if name == "empty":
        path.mkdir()
    elif name == "empty.db":
        path.touch()
    elif name.startswith("text"):
        path.write_text("Dear diary,\n" * 100)
    before = sorted(os.walk(tmp_path))
    result = run(command, path)
    assert (result.status, result.out) == (2, "")
    assert name in result.err
    assert sorted(os.walk(tmp_path)) == before


def test_database_of_something_else_is_an_error_of_usage(tmp_path, run):
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, what TEXT)")
    connection.close()
    for command in ("summary", "verify"):
        assert run(command, path).status == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["verfy", "JOURNAL"],
        ["summary"],
        ["memory://"],
        ["redis://host"],
        [""],
        ["task", "JOURNAL", "no-such-id"],
        ["state", "JOURNAL", "--at", "2026-05-28T20:26:41"],
        ["state", "JOURNAL", "--at", "yesterday"],
        ["state", "JOURNAL", "--at", str(LENGTH + 1)],
        ["events", "JOURNAL", "--kind", "task.exploded"],
        ["events", "JOURNAL", "--since", "2026-05-28"],
        ["events", "JOURNAL", "--limit", "-1"],
    ],
    ids=lambda words: " ".join(map(str, words))[:60],
)
def test_wrong_usage_has_status_two_and_a_reason(arguments, journal, run):
    result = run(*(str(journal) if word == "JOURNAL" else word for word in arguments))
    assert (result.status, result.out) == (2, "")
    assert result.err != ""


def test_naive_time_is_refused_with_what_to_write(journal, run):
    result = run("state", journal, "--at", "2026-05-28T20:26:41")
    assert "write 2026-05-28T20:26:41Z for UTC" in result.err


def test_help_is_no_error(run):
    result = run("--help")
    assert result.status == 0
    assert "verify" in result.out


# Events.


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], list(range(1, LENGTH + 1))),
        (["--limit", "0"], []),
        (["--limit", "2"], [1, 2]),
        (["--after", "1", "--limit", "2"], [2, 3]),
        (["--after", "5"], list(range(6, LENGTH + 1))),
        (["--after", str(LENGTH)], []),
        (["--after", str(LENGTH + 5)], []),
        (["--task", A], [1, 4, 7, 10, 11]),
        (["--task", A, "--after", "4"], [7, 10, 11]),
        (["--task", "no-such-id"], []),
        (["--kind", "task.started"], [4, 5, 10]),
        (["--kind", "task.failed", "--kind", "queue.paused"], [8, 14]),
        (["--worker", "w1", "--kind", "worker.joined"], [3]),
        (["--worker", "w2"], []),
        (["--since", "2026-05-28T20:26:47Z"], [11, 12, 13, 14]),
        (["--until", "2026-05-28T22:26:41+02:00"], [1, 2, 3]),
        (["--task", A, "--since", "2026-05-28T20:26:43Z", "--limit", "1"], [7]),
    ],
    ids=lambda words: " ".join(map(str, words))[:60],
)
def test_events_are_those_that_were_asked_for(filters, expected, journal, run):
    result = run("events", journal, "--json", *filters)
    assert result.status == 0
    assert [event["seq"] for event in events_of(result)] == expected


def test_event_is_one_line_for_people(journal, run):
    lines = run("events", journal).out.splitlines()
    assert len(lines) == LENGTH
    assert (
        lines[0].split()
        == (
            f"1 2026-05-28 20:26:40.000000 task.enqueued {A} name=app:resize queue=images "
            'payload=[["a.png"],{"width":400}] timeout_us=60000000 by c1@host:10'
        ).split()
    )
    assert lines[7].endswith('error="ValueError: bad header"  by w1@host:11')


# A task's story.


def test_story_tells_each_attempt_who_when_how_long_and_why(journal, run):
    out = run("task", journal, A).out
    told = [
        (
            "attempt 1: started 2026-05-28 20:26:42.000000 by worker w1 (host, pid 11) "
            "after 2.0 s of waiting"
        ),
        "  retried 2026-05-28 20:26:43.000000 after 1.0 s, due again 2026-05-28 20:26:45.000000",
        "  ValueError: bad header",
        "      File 1",
        (
            "attempt 2: started 2026-05-28 20:26:46.000000 by worker w1 (host, pid 11) "
            "after 1.0 s of waiting"
        ),
        "  succeeded 2026-05-28 20:26:47.000000 after 1.0 s",
    ]
    lines = out.splitlines()
    assert [line for line in told if line not in lines] == []


def test_story_goes_on_after_expiry_and_names_cancels_and_releases(tmp_path, backend, run):
    path = tmp_path / NAMES[backend]
    rewrite(path, [
        (0, CLIENT, [ev.TaskEnqueued(A, "app:f", "q", b"\x92\x90\x80")]),
        (1, CLIENT, [ev.TaskStarted(A, 1, "w9")]),
        (2, CLIENT, [ev.TaskReleased(A, 1, "w9", "its worker stopped", START)]),
        (3, CLIENT, [ev.TaskStarted(A, 1, "w8")]),
        (4, CLIENT, [ev.TaskCancelRequested(A, "why not")]),
        (5, CLIENT, [ev.TaskCancelled(A, "why not", 1, "w8")]),
        (6, CLIENT, [ev.TaskLate(A, 1, "w9", "task.succeeded")]),
        (7, CLIENT, [ev.ResultExpired((A, B))]),
    ])  # fmt: skip
    story = json.loads(run("task", path, A, "--json").out)
    assert [attempt["outcome"] for attempt in story["attempts"]] == [
        "task.released",
        "task.cancelled",
    ]
    assert [attempt["reason"] for attempt in story["attempts"]] == [
        "its worker stopped",
        "why not",
    ]
    assert {attempt["host"] for attempt in story["attempts"]} == {None}
    assert story["task"]["status"] == "CANCELLED"
    assert story["expired_at"] == "2026-05-28T20:26:47.000000Z"
    assert [event["seq"] for event in story["events"]] == list(range(1, 9))
    assert "expired" in run("task", path, A).out


def test_story_of_what_cannot_be_is_told_with_status_one(tmp_path, backend, run):
    path = tmp_path / NAMES[backend]
    rewrite(path, [*STORY, (9, CLIENT, [ev.TaskStarted(A, 3, "w1")])])
    result = run("task", path, A)
    assert result.status == 1
    assert f"cannot follow: sequence {LENGTH + 1}: task.started" in result.out


# The state at a point.


@pytest.mark.parametrize(
    ("point", "statuses"),
    [
        ("0", {}),
        ("1", {A: "PENDING"}),
        ("4", {B: "PENDING", A: "RUNNING"}),
        ("2026-05-28T20:26:39Z", {}),
        ("2026-05-28T20:26:43Z", {B: "RUNNING", A: "RETRYING"}),
        ("2026-05-28T20:26:43.999999Z", {B: "RUNNING", A: "RETRYING"}),
    ],
)
def test_state_is_that_of_the_point(point, statuses, journal, run):
    report = json.loads(run("state", journal, "--at", point, "--json").out)
    assert {task["id"]: task["status"] for task in report["listed"]} == statuses


def test_state_is_shown_with_counts_workers_and_the_newest_tasks(journal, run):
    out = run("state", journal, "--limit", "2").out
    words = [line.split() for line in out.splitlines()]
    assert ["images", "(paused)", "2", "0", "0", "1", "0", "0", "3"] in words
    assert ["all", "2", "0", "0", "1", "1", "0", "4"] in words
    assert ["tasks,", "newest", "first", "(2", "of", "4)"] in words
    assert A not in out


def test_state_stops_at_an_event_that_cannot_follow(tmp_path, backend, run):
    path = tmp_path / NAMES[backend]
    rewrite(path, [*STORY, (9, CLIENT, [ev.TaskRequeued(C)])])
    for command in ("summary", "state"):
        result = run(command, path)
        assert (result.status, result.out) == (1, "")
        assert "task.requeued" in result.err
    assert run("state", path, "--at", str(LENGTH)).status == 0


# A summary.


def test_summary_names_what_is_in_the_journal(journal, backend, run):
    words = [line.split() for line in run("summary", journal).out.splitlines()]
    workers = [line[:5] for line in words]
    assert ["journal", str(journal), f"({backend})"] in words
    assert ["events", str(LENGTH), "in", "8", "commits"] in words
    assert ["until", "2026-05-28", "20:26:48.000000"] in words
    assert ["task.started", "3"] in words
    assert ["w1", "host", "11", "images,default", "0/2"] in workers


def test_empty_journal_has_a_summary(tmp_path, backend, run):
    path = tmp_path / NAMES[backend]
    rewrite(path, [])
    for command in ("summary", "events", "state", "verify"):
        assert run(command, path).status == 0
    assert json.loads(run(path, "--json").out)["first_at"] is None


# What a journal holds cannot harm who looks at it.

NASTY = "\x1b[31mred\x9b2J\a\u202eevil\r\n\x00 é\u2028"


@pytest.fixture
def nasty_journal(tmp_path, backend):
    path = tmp_path / NAMES[backend]
    error = ev.ErrorRecord(NASTY, NASTY, f"{NASTY}\n{NASTY}")
    payload = msgspec.msgpack.encode(([NASTY], {}))
    rewrite(path, [
        (0, NASTY, [ev.TaskEnqueued(NASTY, NASTY, NASTY, payload, series_id=NASTY)]),
        (1, NASTY, [ev.WorkerJoined(NASTY, NASTY, 1, NASTY, 1, (NASTY,))]),
        (2, NASTY, [ev.TaskStarted(NASTY, 1, NASTY), ev.TaskCancelRequested(NASTY, NASTY)]),
        (3, NASTY, [ev.TaskFailed(NASTY, 1, NASTY, error)]),
        (4, NASTY, [ev.QueuePaused(NASTY)]),
        (5, NASTY, [ev.TaskStarted(NASTY, 2, NASTY)]),
    ])  # fmt: skip
    return path


@pytest.mark.parametrize(
    "command",
    [
        ["events"],
        ["task", NASTY],
        ["state", "--at", "6"],
        ["verify"],
        ["explain", NASTY, "--at", "6"],
        ["explain", NASTY, "--at", "4"],
        ["explain", NASTY, "--at", "1"],
        ["diff", "--at", "4", "--to", "6"],
        ["export"],
        ["recover", "TARGET"],
    ],
    ids=lambda words: " ".join(words).replace(NASTY, "ID"),
)
def test_nothing_in_a_journal_steers_the_terminal(command, nasty_journal, tmp_path, run):
    name, *rest = [tmp_path / "new" if word == "TARGET" else word for word in command]
    result = run(name, nasty_journal, *rest)
    if name == "recover":
        rest = [tmp_path / "again"]
    assert result.out != ""
    assert [line for line in result.out.split("\n") if not line.isprintable()] == []
    printed = run(name, nasty_journal, *rest, "--json").out
    assert printed.isascii()
    assert [line for line in printed.split("\n") if not line.isprintable()] == []


class Bomb:
    def __reduce__(self):
        return (os._exit, (3,))


def test_payloads_are_never_unpickled(tmp_path, backend, run):
    path = tmp_path / NAMES[backend]
    bomb = pickle.dumps(Bomb())
    rewrite(path, [
        (0, CLIENT, [
            ev.TaskEnqueued(A, "f", "q", bomb, "cloudpickle"),
            ev.TaskEnqueued(B, "f", "q", bomb, "msgpack"),
        ]),
        (1, CLIENT, [ev.TaskStarted(A, 1, "w")]),
        (2, CLIENT, [ev.TaskSucceeded(A, 1, "w", bomb, "cloudpickle")]),
    ])  # fmt: skip
    for command in (["summary"], ["events"], ["state"], ["verify"], ["task", A], ["task", B]):
        assert run(command[0], path, *command[1:]).status == 0
    assert f"payload=<{len(bomb)} bytes of cloudpickle>" in run("events", path).out


@pytest.mark.parametrize(
    "payload",
    [
        b"\x91" * 60_000,
        b"\xc1",
        b"\xc7\x04\x05abcd",
        msgspec.msgpack.encode("long " * 1000),
        msgspec.msgpack.encode("long " * 100_000),
        msgspec.msgpack.encode({1: {2.5: b"\x00\xff"}}),
    ],
    ids=["deep", "invalid", "extension", "long", "too long", "odd keys"],
)
def test_any_payload_is_shown_within_bounds(payload, tmp_path, backend, run):
    path = tmp_path / NAMES[backend]
    rewrite(path, [(0, CLIENT, [ev.TaskEnqueued(A, "f", "q", payload)])])
    for command in (["events"], ["task", A], ["events", "--json"], ["task", A, "--json"]):
        result = run(command[0], path, *command[1:])
        assert result.status == 0
        assert len(result.out) < 3000


# How it ends.


def test_closed_pipe_ends_quietly(tmp_path, backend):
    path = tmp_path / NAMES[backend]
    ids = [f"task-{number}" for number in range(3000)]
    rewrite(path, [(0, CLIENT, [ev.TaskEnqueued(i, "f", "q", b"\x92\x90\x80") for i in ids])])
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "omniq.tools.replay", "events", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().split()[0] == "1"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 0


def test_ctrl_c_has_the_status_of_ctrl_c(journal, run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "summarize", interrupt)
    assert run("summary", journal) == (130, "", "")


def test_long_work_shows_how_far_it_is_on_a_terminal(monkeypatch):
    now = 0.0
    monkeypatch.setattr(reading, "time", SimpleNamespace(monotonic=lambda: now))
    terminal, no_terminal = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True
    for stream in (terminal, no_terminal):
        now = 0.0
        progress = reading.Progress(2000, stream)
        progress.at(10)
        assert stream.getvalue() == ""
        now = 1.5
        progress.at(500)
        progress.done()
    seen = io.StringIO()
    seen.isatty = lambda: True
    now = 0.0
    with reading.Progress(2000, seen, seen=True) as progress:
        now = 1.5
        progress.at(500)
    assert seen.getvalue() == "", "what is printed to the terminal shows it already"
    assert "read 500 of 2,000 events, 25 %" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert no_terminal.getvalue() == ""


def test_output_is_ascii_where_the_terminal_is(journal):
    process = subprocess.run(
        [sys.executable, "-m", "omniq.tools.replay", "task", str(journal), A],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "0 µs"),
        (999, "999 µs"),
        (1200, "1.2 ms"),
        (-1200, "-1.2 ms"),
        (1_000_000, "1.0 s"),
        (61_000_000, "1 min 1 s"),
        (3_660_000_000, "1 h 1 min"),
        (90_000_000_000, "1 d 1 h"),
    ],
)
def test_durations_are_shown_in_the_unit_that_fits(us, text):
    assert show_duration(us) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_are_shown_in_the_unit_that_fits(count, text):
    assert show_bytes(count) == text


def test_time_before_and_after_all_calendars_is_shown_as_a_number(tmp_path, run):
    path = tmp_path / "journal"
    rewrite(path, [(0, CLIENT, [ev.TaskEnqueued(A, "f", "q", b"\x92\x90\x80", due_at=1 << 62)])])
    assert str(1 << 62) in run("events", path).out


def test_the_tool_runs_in_an_event_loop_of_its_own(journal):
    async def inside():
        return await asyncio.to_thread(replay.main, ["summary", str(journal)])

    assert asyncio.run(inside()) == 0
