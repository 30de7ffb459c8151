"""`diff` finds where the events of two journals part, and which tasks are not the same."""

import asyncio
import json

import pytest

from omniq.core import events as ev
from tests.tools.journals import (
    CLIENT,
    LENGTH,
    NAMES,
    STORY,
    A,
    B,
    C,
    D,
    drop,
    read,
    rewrite,
)


def diff(run, *arguments, status):
    result = run("diff", *arguments, "--json")
    assert (result.status, result.err) == (status, ""), result
    return json.loads(result.out)


def head_of(path):
    head = read(path).head
    return {"seq": head.seq, "digest": head.digest.hex()}


def tasks_in(report):
    return {task["id"]: (task["status_a"], task["status_b"]) for task in report["listed"]}


@pytest.mark.parametrize("other", ["file", "sqlite"])
def test_same_events_are_the_same_journal_in_any_backend(journal, other, tmp_path, run):
    copy = tmp_path / f"copy-{NAMES[other]}"
    rewrite(copy, STORY)
    report = diff(run, journal, copy, status=0)
    assert (report["same"], report["difference"], report["parted_at"]) == (True, None, None)
    assert report["common"] == head_of(journal)
    assert report["a"]["digest"] == report["b"]["digest"] == head_of(journal)["digest"]
    assert "no difference" in run("diff", journal, copy).out


def test_journal_is_the_same_as_itself(journal, run):
    assert diff(run, journal, status=0)["same"]


def test_journal_that_goes_on_is_said(journal, tmp_path, backend, run):
    longer = tmp_path / f"longer-{NAMES[backend]}"
    rewrite(longer, [*STORY, (9, CLIENT, [ev.QueueResumed("images"), ev.TaskCancelled(C)])])
    report = diff(run, journal, longer, status=1)
    assert (report["difference"], report["parted_at"]) == ("end", LENGTH + 1)
    assert (report["event_a"], report["event_b"]["kind"]) == (None, "queue.resumed")
    assert report["common"] == head_of(journal)
    assert tasks_in(report) == {C: ("PENDING", "CANCELLED")}
    assert "B goes on where the other ends, with 2 events" in run("diff", journal, longer).out
    assert "A goes on where the other ends, with 2 events" in run("diff", longer, journal).out


def test_first_event_that_differs_is_shown_from_both(journal, tmp_path, backend, run):
    other = tmp_path / f"other-{NAMES[backend]}"
    story = [*STORY[:4], (4, "w1@host:11", [ev.TaskSucceeded(B, 1, "w1", b"\xc0")]), *STORY[5:]]
    rewrite(other, story)
    report = diff(run, journal, other, status=1)
    assert (report["difference"], report["parted_at"], report["common"]["seq"]) == ("event", 8, 7)
    assert (report["event_a"]["kind"], report["event_b"]["kind"]) == (
        "task.failed",
        "task.succeeded",
    )
    assert tasks_in(report) == {B: ("FAILED", "SUCCESS")}
    assert report["listed"][0]["fields"] == ["status", "result", "error"]
    out = run("diff", journal, other).out
    assert "another event stands at sequence number 8" in out
    assert "in common up to 7:" in out


@pytest.mark.parametrize("change", ["time", "actor"])
def test_time_and_actor_belong_to_an_event(journal, tmp_path, backend, change, run):
    other = tmp_path / f"other-{NAMES[backend]}"
    second, actor, events = STORY[-1]
    last = (second + 1, actor, events) if change == "time" else (second, "else", events)
    rewrite(other, [*STORY[:-1], last])
    report = diff(run, journal, other, status=1)
    assert (report["difference"], report["parted_at"]) == ("event", 12)


def test_groups_of_commits_belong_to_a_journal(journal, tmp_path, backend, run):
    other = tmp_path / f"other-{NAMES[backend]}"
    second, actor, events = STORY[-1]
    rewrite(other, [*STORY[:-1], (second, actor, events[:1]), (second, actor, events[1:])])
    report = diff(run, journal, other, status=1)
    assert (report["difference"], report["parted_at"], report["differing"]) == ("commits", None, 0)
    assert report["common"]["seq"] == 11
    assert "committed in other groups" in run("diff", journal, other).out


@pytest.mark.parametrize(
    ("points", "parted", "tasks"),
    [
        (["--at", "5", "--to", "9"], 6, {A: ("RUNNING", "RETRYING"), B: ("RUNNING", "FAILED")}),
        (["--at", "9", "--to", "5"], 6, {A: ("RETRYING", "RUNNING"), B: ("FAILED", "RUNNING")}),
        (["--at", "1"], 2, {A: ("PENDING", "SUCCESS"), B: (None, "FAILED"), C: (None, "PENDING"),
                            D: (None, "PENDING")}),
        (["--at", "0", "--to", "1"], 1, {A: (None, "PENDING")}),
        (["--to", "2026-05-28T20:26:47Z"], 12, {C: ("PENDING", None), D: ("PENDING", None)}),
        (["--at", "7", "--to", "2026-05-28T20:26:43Z"], None, {}),
    ],
)  # fmt: skip
def test_one_journal_is_compared_with_itself_at_two_points(journal, points, parted, tasks, run):
    report = diff(run, journal, *points, status=0 if parted is None else 1)
    assert (report["parted_at"], tasks_in(report)) == (parted, tasks)


def test_point_in_the_middle_of_a_commit_has_no_digest(journal, run):
    report = diff(run, journal, "--at", "4", "--to", "5", status=1)
    assert (report["a"]["seq"], report["a"]["digest"]) == (4, None)
    assert (report["difference"], report["parted_at"], report["common"]["seq"]) == ("end", 5, 3)


def test_as_many_tasks_are_listed_as_asked_for(journal, run):
    report = diff(run, journal, "--at", "0", "--limit", "1", status=1)
    assert (report["differing"], len(report["listed"])) == (4, 1)
    assert "tasks that differ (1 of 4)" in run("diff", journal, "--at", "0", "--limit", "1").out


def test_point_behind_the_end_is_an_error_of_usage(journal, run):
    for option in ("--at", "--to"):
        result = run("diff", journal, option, "15")
        assert (result.status, result.out) == (2, "")
        assert "ends at 14" in result.err


def test_damaged_journal_is_not_compared(journal, tmp_path, run):
    copy = tmp_path / "copy"
    rewrite(copy, STORY)
    segment = copy / f"{1:020}.seg"
    data = bytearray(segment.read_bytes())
    data[300] ^= 1
    segment.write_bytes(data)
    result = run("diff", journal, copy)
    assert (result.status, result.out) == (1, "")
    assert "is damaged" in result.err


# History that was dropped.


@pytest.fixture
def shortened(tmp_path, backend):
    path = tmp_path / f"short-{NAMES[backend]}"
    rewrite(path, STORY, **({"segment_bytes": 1} if backend == "file" else {}))
    asyncio.run(drop(path, 3, (7, 9)))
    return path


def test_journal_is_the_same_as_what_is_left_of_it(journal, shortened, run):
    for pair in ((journal, shortened), (shortened, journal), (shortened, shortened)):
        assert diff(run, *pair, status=0)["common"] == head_of(journal)


def test_journals_that_differ_before_what_is_left_of_one_are_told_apart(
    shortened, tmp_path, backend, run
):
    other = tmp_path / f"other-{NAMES[backend]}"
    rewrite(other, [(0, "else", STORY[0][2]), *STORY[1:]])
    report = diff(run, shortened, other, status=1)
    assert (report["difference"], report["common"]) == ("beginning", None)
    assert "they differ before" in run("diff", shortened, other).out


def test_no_point_before_the_snapshot_can_be_compared(shortened, run):
    result = run("diff", shortened, "--at", "5")
    assert result.status == 2
    assert "Next: ask for that or later" in result.err
