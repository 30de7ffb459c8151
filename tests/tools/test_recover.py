"""`recover` keeps all that verifies, and what it reports as lost is exactly what is missing."""

import asyncio
import json
import shutil
import sqlite3
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omniq.config import open_storage
from omniq.core import commands as cmd
from omniq.core import events as ev
from omniq.core.projection import Projection
from omniq.core.retry import RetryRule
from omniq.errors import IllegalEvent
from omniq.storage.base import Head
from omniq.storage.disk import Disk
from omniq.storage.encoding import chain, joined
from omniq.storage.framing import SEGMENT_HEADER_BYTES
from omniq.tools.recovering import Recovery
from omniq.tools.scanning import FileScan
from tests.core.language import Life, task
from tests.core.language import joined as worker_joined
from tests.tools.journals import (
    CLIENT,
    LENGTH,
    NAMES,
    START,
    STORY,
    A,
    B,
    C,
    D,
    drop,
    read,
    rewrite,
)

BACKENDS = pytest.mark.parametrize("other", ["file", "sqlite"])


def recover(run, source, target, *options, status):
    """Recover, and return the report."""
    result = run("recover", source, target, "--json", *options)
    assert result.status == status, result
    assert result.err == ""
    return json.loads(result.out)


def lost_in(report):
    """Return the sequence numbers that a report calls lost."""
    return [
        seq for lost in report["lost"] for seq in range(lost["first_seq"], lost["last_seq"] + 1)
    ]


def left_out_in(report):
    return [event["seq"] for event in report["left_out"]]


def clean(run, target):
    """Check that a journal has no problems, and return what is in it."""
    result = run("verify", target)
    assert (result.status, result.err) == (0, ""), result.out
    return read(target)


# Without damage.


@BACKENDS
def test_whole_journal_is_the_same_in_any_backend_commit_by_commit(journal, other, tmp_path, run):
    target, back = tmp_path / f"new-{NAMES[other]}", tmp_path / f"back-{journal.name}"
    report = recover(run, journal, target, status=0)
    assert (report["lost"], report["left_out"], report["problems"]) == ([], [], [])
    assert (report["is_whole"], report["events"], report["commits"]) == (True, LENGTH, len(STORY))
    assert clean(run, target) == read(journal)
    assert report["head"] == report["shared"]
    recover(run, target, back, status=0)
    assert clean(run, back) == read(journal)


def test_recovered_journal_says_so_for_people(journal, tmp_path, run):
    target = tmp_path / "new"
    result = run("recover", journal, target)
    head = read(journal).head
    assert result.out.splitlines() == [
        f"{target}: {LENGTH} events in {len(STORY)} commits from {journal}; nothing was lost",
        f"head {head.seq}:{head.digest.hex()}",
    ]


@BACKENDS
def test_empty_journal_is_recovered(tmp_path, backend, other, run):
    source, target = tmp_path / NAMES[backend], tmp_path / f"new-{NAMES[other]}"
    rewrite(source, [])
    assert recover(run, source, target, status=0)["events"] == 0
    assert clean(run, target).head == Head()


def test_torn_end_is_a_note_and_no_loss(tmp_path, run):
    source, target = tmp_path / "journal", tmp_path / "new"
    rewrite(source, STORY)
    with (source / "00000000000000000001.seg").open("ab") as file:
        file.write(b"half a frame")
    report = recover(run, source, target, status=0)
    assert report["torn"]["bytes"] == 12
    assert clean(run, target).head.seq == LENGTH


def test_journal_of_many_segments_is_recovered(tmp_path, run):
    source, target = tmp_path / "journal", tmp_path / "new"
    rewrite(source, STORY, segment_bytes=1)
    recover(run, source, target, status=0)
    assert clean(run, target) == read(source)


def test_what_is_recovered_is_never_taken_for_a_torn_end(tmp_path, run):
    """Whatever bit of it rots: it was made durable before it had its name."""
    source, target = tmp_path / "journal", tmp_path / "new"
    rewrite(source, STORY)
    recover(run, source, target, status=0)
    segment = target / "00000000000000000001.seg"
    whole = segment.read_bytes()
    for position in range(SEGMENT_HEADER_BYTES, len(whole), 11):
        data = bytearray(whole)
        data[position] ^= 4
        segment.write_bytes(data)
        assert run("verify", target).status == 1


def test_events_that_an_older_version_wrote_keep_their_bytes(tmp_path, run):
    """New fields go to the end and have defaults; without them the digests would differ."""
    source, target, back = tmp_path / "old.db", tmp_path / "new", tmp_path / "back.db"
    rewrite(source, STORY[:1])
    before = read(source).head
    data = b"\x92\xaetask.cancelled" + bytes([0xD9, len(B)]) + B.encode()
    payload = joined(3, START, CLIENT, [data])
    digest = chain(before.digest, payload)
    connection = sqlite3.connect(source)
    connection.execute(
        "INSERT INTO events VALUES (3, ?, 'task.cancelled', ?, NULL, '', ?, ?, ?, 1)",
        (START, B, CLIENT, data, digest),
    )
    connection.commit()
    connection.close()
    assert read(source).commits[-1].events == [ev.TaskCancelled(B)]
    for one, other in ((source, target), (target, back)):
        report = recover(run, one, other, status=0)
        assert report["head"] == {"seq": 3, "digest": digest.hex()}
        assert clean(run, other).head.digest == digest


# Random lives.


@st.composite
def lives(draw):
    """A history of real decisions: tasks, workers, outcomes, deaths, pauses, expiry."""
    life = Life(worker_joined("w"), worker_joined("v", queues=("q",)))
    for number in range(draw(st.integers(1, 25))):
        running = [(w, t) for w, held in life.state.running.items() for t in held]
        step = draw(st.integers(0, 9))
        if step <= 2:
            rules = draw(
                st.sampled_from(
                    [
                        {},
                        {"priority": 3},
                        {"interval_us": 5, "series_id": f"t{number}"},
                        {"due_at": 40},
                        {"result_ttl_us": 2},
                        {"retry": RetryRule(0)},
                    ]
                )
            )
            payload = draw(st.binary(max_size=20))
            tasks = [task(f"t{number}", payload=payload, **rules)]
            tasks += [task(f"t{number}.{n}", queue="r") for n in range(draw(st.integers(0, 2)))]
            life.enqueue(*tasks)
        elif step <= 4:
            life.claim(draw(st.sampled_from("wv")), limit=draw(st.integers(1, 3)))
        elif step <= 6 and running:
            worker, task_id = draw(st.sampled_from(running))
            end = draw(st.sampled_from([life.succeed, life.fail]))
            end(task_id, worker=worker)
        elif step == 7 and life.state.tasks:
            life.cancel(draw(st.sampled_from(sorted(life.state.tasks))))
        elif step == 8:
            life.do(cmd.DeclareLost("v", "gone"))
            life.do(cmd.Join(worker_joined("v")))
        else:
            life.do(draw(st.sampled_from([cmd.PauseQueue("q"), cmd.ResumeQueue("q")])))
            life.do(cmd.ExpireResults(2), at=life.now + 3)
    return life


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(life=lives(), names=st.permutations(["file", "sqlite"]))
def test_any_journal_comes_back_as_it_was(tmp_path_factory, run, life, names):
    folder = tmp_path_factory.mktemp("lives")
    places = [folder / f"{n}-{NAMES[name]}" for n, name in enumerate([*names, names[0]])]
    asyncio.run(write_commits(places[0], life.commits))
    before = read(places[0])
    for source, target in pairwise(places):
        report = recover(run, source, target, status=0)
        assert report["is_whole"]
        after = clean(run, target)
        assert after == before
        assert after.state() == life.state.state()
    shutil.rmtree(folder)


async def write_commits(location, commits):
    storage = open_storage(location, durability="os")
    await storage.open()
    for commit in commits:
        await storage.append(commit.events, at=commit.at, actor=commit.actor)
    await storage.close()


# Damage to a file journal, all of it in memory but for the source.


class Kept:
    """A target that only remembers."""

    def __init__(self):
        self.head = Head()
        self.commits = []

    def begin(self, beginning):
        self.head = beginning

    def write(self, commit, events):
        assert [ev.kind_of(event) for event in commit.events] == [
            event[2 : 2 + (event[1] & 31)].decode() for event in events
        ]
        digest = chain(self.head.digest, joined(commit.first_seq, commit.at, commit.actor, events))
        self.head = Head(commit.last_seq, commit.at, digest)
        self.commits.append(commit)

    def keep(self, snapshot):
        raise AssertionError("there is none")


def recovered(make_scan, end=LENGTH):
    """Recover to memory; return the report and what was kept of the events up to `end`."""
    target = Kept()
    recovery = Recovery(make_scan, target)
    recovery.run(lambda _: None)
    check_exactness(recovery, target, end)
    return recovery, target


def check_exactness(recovery, target, end):
    """Every number of the source is kept, lost or left out, and what is kept can be folded."""
    numbers = Counter(range(1, end + 1))
    for lost in recovery.lost:
        last = end if lost.last_seq is None else lost.last_seq
        numbers.subtract(range(lost.first_seq, last + 1))
    numbers.subtract(event.seq for event in recovery.left_out)
    source = dict(enumerate((e for _, _, events in STORY for e in events), 1))
    kept = [event for commit in target.commits for event in commit.events]
    expected = [source[seq] for seq in +numbers]
    assert kept[: len(kept) - recovery.added] == expected
    assert min(numbers.values()) >= 0, "lost or left out twice"
    state = Projection()
    for commit in target.commits:
        state.apply(commit)
    assert set(state.running) <= set(state.workers), "a task that nobody could ever take"


def fold(commits):
    """Return what of these commits can follow, by folding them one event at a time."""
    state, kept = Projection(), []
    for commit in commits:
        state.at = commit.at
        for event in commit.events:
            before = state.seq
            try:
                state.apply_events((event,))
            except IllegalEvent:
                state.seq = before
            else:
                kept.append(event)
    return kept


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "journal"
    rewrite(path, STORY)
    return path


def frames(folder):
    """Return offset, length and commit of each frame of the only segment."""
    scan = FileScan(folder)
    return [(*scan.place()[1:], found) for found in scan]


def test_every_flipped_byte_loses_its_own_commit_and_no_other(folder):
    (segment,) = folder.glob("*.seg")
    whole, places = segment.read_bytes(), frames(folder)
    for flipped in range(0, len(whole), 5):  # `verify` is tried with every single one
        data = bytearray(whole)
        data[flipped] ^= 0x20
        segment.write_bytes(data)
        is_last = flipped >= places[-1][0]
        recovery, target = recovered(lambda: FileScan(folder), 11 if is_last else LENGTH)
        if flipped < SEGMENT_HEADER_BYTES:
            assert recovery.is_whole, flipped
            continue
        hit = next(n for n, (at, length, _) in enumerate(places) if at <= flipped < at + length)
        others = [commit for n, (_, _, commit) in enumerate(places) if n != hit]
        lost = [(lost.first_seq, lost.last_seq) for lost in recovery.lost]
        if hit == len(places) - 1:  # nothing says that it ever was durable
            assert (lost, recovery.scan.torn.bytes) == ([], places[hit][1])
        else:
            commit = places[hit][2]
            assert lost == [(commit.first_seq, commit.last_seq)], flipped
            assert not recovery.is_whole
        kept = [event for commit in target.commits for event in commit.events]
        assert kept[: len(kept) - recovery.added] == fold(others), flipped


def test_tasks_that_the_damage_may_be_about_are_named(folder):
    (segment,) = folder.glob("*.seg")
    data = bytearray(segment.read_bytes())
    offset, length, _ = frames(folder)[2]  # both tasks are started
    data[offset + length - 1] ^= 1  # in a worker's name
    segment.write_bytes(data)
    recovery, _ = recovered(lambda: FileScan(folder))
    assert [problem.tasks for problem in recovery.problems] == [[A, B]]
    assert [(lost.first_seq, lost.unfinished_tasks) for lost in recovery.lost] == [(4, 2)]


def test_journal_cut_anywhere_keeps_every_whole_commit(folder):
    (segment,) = folder.glob("*.seg")
    whole, places = segment.read_bytes(), frames(folder)
    for size in range(SEGMENT_HEADER_BYTES, len(whole), 7):
        segment.write_bytes(whole[:size])
        target = Kept()
        recovery = Recovery(lambda: FileScan(folder), target)
        recovery.run(lambda _: None)
        assert target.commits == [commit for at, n, commit in places if at + n <= size]
        assert recovery.is_whole


def test_missing_end_of_which_a_watermark_tells_is_lost(folder):
    """Two frames are zero, the one behind them says that they were durable, and is half gone."""
    (segment,) = folder.glob("*.seg")
    data, places = segment.read_bytes(), frames(folder)
    first, last = places[4][0], places[7][0]
    segment.write_bytes(data[:first] + bytes(last - first) + data[last:-1])
    recovery, _ = recovered(lambda: FileScan(folder), 11)
    assert [(lost.first_seq, lost.last_seq) for lost in recovery.lost] == [(8, 11)]
    assert recovery.scan.torn.offset == last


@pytest.fixture
def many_segments(tmp_path):
    path = tmp_path / "journal"
    rewrite(path, STORY, segment_bytes=1)
    return path


def damaged_segments(name):
    """Return what is done to the third of eight segments."""

    def zero(path):
        path.write_bytes(bytes(path.stat().st_size))

    def copy(path):
        path.write_bytes(sorted(path.parent.glob("*.seg"))[3].read_bytes())

    def empty(path):
        path.write_bytes(b"")

    def short(path):
        path.write_bytes(path.read_bytes()[:-1])

    return {"zero": zero, "copy": copy, "empty": empty, "short": short}.get(
        name, lambda path: path.unlink()
    )


@pytest.mark.parametrize("damage", ["missing", "zero", "copy", "empty", "short"])
@pytest.mark.parametrize("number", range(8))
def test_each_lost_segment_is_lost_exactly(many_segments, damage, number, tmp_path, run):
    commits = read(many_segments).commits
    if damage == "copy" and number == 3:
        return  # onto itself
    damaged_segments(damage)(sorted(many_segments.glob("*.seg"))[number])
    is_unknown = number == 7 and damage in {"zero", "copy", "empty"}
    if number == 7 and damage in {"missing", "short"}:  # an end that nothing says there was
        assert recovered(lambda: FileScan(many_segments), 11)[0].is_whole
        return
    recovery, _ = recovered(lambda: FileScan(many_segments))
    gone = commits[number]
    assert [(lost.first_seq, lost.last_seq) for lost in recovery.lost] == [
        (gone.first_seq, None if is_unknown else gone.last_seq)
    ]
    target = tmp_path / "new.db"
    report = recover(run, many_segments, target, status=1)
    others = [commit for commit in commits if commit is not gone]
    after = clean(run, target)
    kept = [event for _, _, event in after.events()]
    assert kept[: len(kept) - report["added"]] == fold(others)
    before = {(commit.at, commit.actor) for commit in others}
    assert {(at, who) for at, who, _ in after.events() if who != "recover"} <= before


def test_bytes_that_the_disk_cannot_read_are_lost_and_no_others(folder):
    (offset, length, commit), *_ = frames(folder)[3:]

    class Broken(Disk):
        def read(self, descriptor, size, at):
            if at < offset + length and at + size > offset:
                raise OSError(5, "Input/output error")
            return super().read(descriptor, size, at)

    # One block of the disk holds all of this small journal, so blocks have to be small, too.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omniq.tools.frames._BLOCK_BYTES", 1)
        recovery, _ = recovered(lambda: FileScan(folder, disk=Broken()))
    assert [(p.kind, p.offset, p.bytes) for p in recovery.problems] == [("read", offset, length)]
    assert [(lost.first_seq, lost.last_seq) for lost in recovery.lost] == [
        (commit.first_seq, commit.last_seq)
    ]


def test_frames_that_come_again_are_kept_once(folder):
    (segment,) = folder.glob("*.seg")
    whole = segment.read_bytes()
    with segment.open("ab") as file:
        file.write(whole[frames(folder)[6][0] :])  # the last two commits once more
    recovery, target = recovered(lambda: FileScan(folder))
    assert {problem.kind for problem in recovery.problems} == {"repetition"}
    assert [commit.first_seq for commit in target.commits] == [1, 3, 4, 6, 8, 10, 11, 12]
    assert recovery.lost == []


def test_numbers_close_up_behind_a_loss_and_times_and_actors_stay(many_segments, tmp_path, run):
    sorted(many_segments.glob("*.seg"))[4].unlink()  # B fails, w1 is renewed
    target = tmp_path / "new"
    report = recover(run, many_segments, target, status=1)
    assert (lost_in(report), left_out_in(report)) == ([8, 9], [])
    after = clean(run, target)
    assert [commit.first_seq for commit in after.commits] == [1, 3, 4, 6, 8, 9, 10]
    kept = [commit for commit in read_story() if commit[0] != START + 4_000_000]
    assert after.events() == [(at, who, event) for at, who, events in kept for event in events]
    assert report["shared"]["seq"] == 7
    assert report["head"]["seq"] == LENGTH - 2
    out = run("recover", many_segments, tmp_path / "again").out
    assert "lost: sequence numbers 8 to 9 (2 events)" in out
    assert "2 events are lost" in out
    assert "the same as in the source up to 7:" in out


def read_story():
    return [(START + second * 1_000_000, who, events) for second, who, events in STORY]


def test_task_without_its_beginning_is_left_out_whole(many_segments, tmp_path, run):
    min(many_segments.glob("*.seg")).unlink()  # A and B are enqueued
    report = recover(run, many_segments, tmp_path / "new", status=1)
    assert lost_in(report) == [1, 2]
    assert left_out_in(report) == [4, 5, 6, 7, 8, 10, 11]
    assert {event["state"] for event in report["left_out"]} == {"unknown"}
    assert report["tasks"] == [
        {"id": A, "name": None, "status": None, "left_out": 4, "last_kind": "task.succeeded"},
        {"id": B, "name": None, "status": None, "left_out": 3, "last_kind": "task.failed"},
    ]
    out = run("recover", many_segments, tmp_path / "again").out
    assert f"task {A} is not in the new journal: 4 events of it can no longer follow" in out
    assert "2 events are lost and 7 were left out" in out


def test_task_whose_retry_is_lost_stands_where_it_stood_before(many_segments, tmp_path, run):
    sorted(many_segments.glob("*.seg"))[3].unlink()  # A is retried
    report = recover(run, many_segments, tmp_path / "new", status=1)
    assert (lost_in(report), left_out_in(report)) == ([6, 7], [10, 11])
    (fate,) = report["tasks"]
    assert (fate["id"], fate["name"], fate["status"]) == (A, "app:resize", "RUNNING")
    assert fate["last_kind"] == "task.succeeded"


# What a lost worker held.


@BACKENDS
def test_worker_of_which_nothing_is_known_loses_its_tasks(tmp_path, other, run):
    source, target = tmp_path / "journal", tmp_path / f"new-{NAMES[other]}"
    rewrite(source, [
        (0, CLIENT, [
            ev.TaskEnqueued(A, "f", "q", b"\x92\x90\x80"),
            ev.TaskEnqueued(B, "f", "q", b"\x92\x90\x80", retry=RetryRule(0)),
        ]),
        (1, "w1@h:1", [ev.WorkerJoined("w1", "h", 1, "boot", 30)]),
        (2, "w1@h:1", [ev.TaskStarted(A, 1, "w1"), ev.TaskStarted(B, 1, "w1")]),
    ], segment_bytes=1)  # fmt: skip
    (source / "00000000000000000003.seg").unlink()
    report = recover(run, source, target, status=1)
    assert lost_in(report) == [3]
    assert report["workers"] == [{"id": "w1", "tasks": [A, B]}]
    assert report["added"] == 3
    commit = clean(run, target).commits[-1]
    assert (commit.actor, commit.at) == ("recover", START + 2_000_000)
    assert [ev.kind_of(event) for event in commit.events] == [
        "worker.lost",
        "task.retried",
        "task.failed",  # it may run once only, and perhaps it did
    ]


def test_worker_without_a_beginning_stays_in_a_journal_that_is_whole(tmp_path, backend, run):
    source, target = tmp_path / NAMES[backend], tmp_path / "new"
    rewrite(source, [
        (0, CLIENT, [ev.TaskEnqueued(A, "f", "q", b"\x92\x90\x80")]),
        (1, CLIENT, [ev.TaskStarted(A, 1, "w9")]),
    ])  # fmt: skip
    assert recover(run, source, target, status=0)["workers"] == []
    assert read(target) == read(source)


# Damage to a database.


def change(path, *statements):
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "lost"),
    [
        ("UPDATE events SET data = CAST(data || 'x' AS BLOB) WHERE seq = 4", [4, 5]),
        ("UPDATE events SET data = 'text' WHERE seq = 6", [6, 7]),
        ("UPDATE events SET data = 7 WHERE seq = 6", [6, 7]),
        ("UPDATE events SET at = at + 1 WHERE seq = 4", [4, 5]),
        ("UPDATE events SET at = 'noon' WHERE seq = 4", [4, 5]),
        ("UPDATE events SET actor = 'someone' WHERE seq = 4", [4, 5]),
        ("UPDATE events SET actor = x'ff' WHERE seq = 4", [4, 5]),
        ("UPDATE events SET digest = zeroblob(32) WHERE seq = 14", [12, 13, 14]),
        ("UPDATE events SET digest = NULL WHERE seq = 14", [12, 13, 14]),
        ("UPDATE events SET digest = NULL WHERE seq = 5", [4, 5, 6, 7]),
        ("DELETE FROM events WHERE seq = 5", [4, 5, 6, 7]),
        # Behind a gap, only the digest before a commit could tell that it is as it was.
        ("DELETE FROM events WHERE seq = 4", [4, 5]),
        ("DELETE FROM events WHERE seq IN (4, 5)", [4, 5, 6, 7]),
        ("DELETE FROM events WHERE seq <= 2", [1, 2, 3]),
        ("DELETE FROM events WHERE seq = 13", [12, 13, 14]),
        ("DELETE FROM events WHERE seq = 14", [12, 13]),
        ("UPDATE events SET seq = 20 WHERE seq = 3", [3, *range(4, 6), 20]),
    ],
)
def test_what_a_changed_database_loses(tmp_path, statement, lost, run):
    source, target = tmp_path / "journal.db", tmp_path / "new"
    rewrite(source, STORY)
    commits = read(source).commits
    change(source, statement)
    report = recover(run, source, target, status=1)
    assert sorted(set(lost_in(report)) & {*range(15), 20}) == lost
    others = [commit for commit in commits if commit.first_seq not in lost]
    kept = [event for _, _, event in clean(run, target).events()]
    assert kept[: len(kept) - report["added"]] == fold(others)
    assert set(left_out_in(report)) & set(lost) == set()


@pytest.mark.parametrize("value", ["'x'", "7", "x'ff'", "CAST(x'ff41' AS TEXT)"])
@pytest.mark.parametrize("column", ["task_id", "queue", "worker", "kind"])
def test_columns_that_only_queries_use_lose_nothing(tmp_path, column, value, run):
    source, target = tmp_path / "journal.db", tmp_path / "new.db"
    rewrite(source, STORY)
    change(source, f"UPDATE events SET {column} = {value} WHERE seq = 5")
    report = recover(run, source, target, status=0)
    assert [problem["kind"] for problem in report["problems"]] == ["column"]
    assert "column" in run("recover", source, tmp_path / "again").out
    clean(run, target)


def test_rows_name_the_tasks_that_the_damage_may_be_about(tmp_path, run):
    source = tmp_path / "journal.db"
    rewrite(source, STORY)
    change(source, "UPDATE events SET data = zeroblob(9) WHERE seq = 4")
    report = recover(run, source, tmp_path / "new", status=1)
    assert report["problems"][0]["tasks"] == [A, B]
    assert f"tasks    {A}, {B}" in run("recover", source, tmp_path / "again").out


def test_pages_that_are_garbage_lose_their_rows_and_no_others(tmp_path, run):
    source, target = tmp_path / "journal.db", tmp_path / "new.db"
    events = [ev.TaskEnqueued(f"task-{n}", "f", "q", b"\x92\x90\x80") for n in range(1000)]
    rewrite(source, [(0, CLIENT, [event]) for event in events])
    change(source, "PRAGMA wal_checkpoint(TRUNCATE)")
    connection = sqlite3.connect(source)
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    whole = source.read_bytes()
    page = whole.rindex(b"task-500") // size
    source.write_bytes(whole[: page * size] + b"\xff" * size + whole[(page + 1) * size :])
    report = recover(run, source, target, status=1)
    lost = lost_in(report)
    assert 501 in lost
    assert len(lost) < 60
    kept = [event for _, _, event in clean(run, target).events()]
    assert kept == [event for seq, event in enumerate(events, 1) if seq not in lost]


# History that was dropped.


@pytest.fixture
def shortened(tmp_path, backend):
    """A journal that begins behind 3, with snapshots behind 7 and 9."""
    path = tmp_path / NAMES[backend]
    rewrite(path, STORY, **({"segment_bytes": 1} if backend == "file" else {}))
    assert asyncio.run(drop(path, 3, (7, 9))).seq == 3
    return path


def end_state(run, path):
    result = run("state", path, "--json")
    assert result.status == 0, result
    return json.loads(result.out) | {"journal": "", "seq": 0}


@BACKENDS
def test_journal_that_begins_with_a_snapshot_keeps_numbers_digests_and_state(
    shortened, other, tmp_path, run
):
    target, back = tmp_path / f"new-{NAMES[other]}", tmp_path / f"back-{shortened.name}"
    before = read(shortened)
    assert (before.beginning.seq, before.head.seq) == (3, LENGTH)
    for source, copy in ((shortened, target), (target, back)):
        recover(run, source, copy, status=0)
        assert clean(run, copy) == before
        assert end_state(run, copy) == end_state(run, shortened)


def damage_before_the_snapshot(path):
    if path.is_dir():
        segment = path / "00000000000000000004.seg"
        segment.write_bytes(segment.read_bytes()[:-1])
    else:
        change(path, "UPDATE events SET data = zeroblob(3) WHERE seq = 4")


def test_damage_before_the_snapshot_harms_no_task(shortened, tmp_path, run):
    before, target = end_state(run, shortened), tmp_path / "new"
    damage_before_the_snapshot(shortened)
    report = recover(run, shortened, target, status=1)
    assert (lost_in(report), left_out_in(report)) == ([4, 5, 6, 7], [])
    assert clean(run, target).beginning.seq == 7
    assert end_state(run, target) == before


def test_damage_behind_the_snapshot_is_lost_and_the_rest_goes_on(shortened, tmp_path, run):
    target = tmp_path / "new.db"
    if shortened.is_dir():
        (shortened / "00000000000000000010.seg").unlink()
    else:
        change(shortened, "UPDATE events SET data = zeroblob(3) WHERE seq = 10")
    report = recover(run, shortened, target, status=1)
    assert (lost_in(report), left_out_in(report)) == ([10], [11])  # A is started again, succeeds
    assert clean(run, target).beginning.seq == 3
    assert {task["id"] for task in end_state(run, target)["listed"]} == {A, B, C, D}


def test_header_of_the_last_segment_may_be_damaged_too(tmp_path, run):
    source, target = tmp_path / "journal", tmp_path / "new"
    rewrite(source, STORY, segment_bytes=1)
    asyncio.run(drop(source, 9, (9, 11)))
    before, segment = read(source), max(source.glob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[32] ^= 1  # the segment's number
    segment.write_bytes(data)
    report = recover(run, source, target, status=0)
    assert "segment" in {problem["kind"] for problem in report["problems"]}
    assert clean(run, target).commits == before.commits


def test_without_a_snapshot_only_what_comes_later_can_be_kept(shortened, tmp_path, run):
    target = tmp_path / "new"
    if shortened.is_dir():
        for path in shortened.glob("*.snapshot"):
            path.write_bytes(b"nothing")
    else:
        change(shortened, "UPDATE snapshots SET data = x'00'")
    report = recover(run, shortened, target, status=1)
    assert lost_in(report) == [1, 2, 3]
    assert left_out_in(report) == [4, 5, 6, 7, 8, 10, 11]
    assert clean(run, target).head.seq == 4  # w1 is renewed, C and D are enqueued, a pause


def test_no_state_before_the_snapshot_can_be_restored(shortened, tmp_path, run):
    for point in ("4", "2026-05-28T20:26:41.5Z"):
        result = run("recover", shortened, tmp_path / "new", "--until", point)
        assert (result.status, result.out) == (2, "")
        assert "Next: ask for that or later" in result.err
    assert not (tmp_path / "new").exists()


# Points in time.


@pytest.mark.parametrize(
    ("point", "end"),
    [
        ("0", 0),
        ("1", 0),  # in the middle of a commit, which is all or nothing
        ("2", 2),
        ("9", 9),
        ("13", 11),
        ("14", 14),
        ("2026-05-28T20:26:39Z", 0),
        ("2026-05-28T20:26:43Z", 7),
        ("2026-05-28T20:26:43.9Z", 7),
        ("2040-01-01T00:00:00Z", 14),
    ],
)
def test_journal_is_restored_as_it_was_at_a_point(journal, point, end, tmp_path, run):
    target = tmp_path / "new"
    report = recover(run, journal, target, "--until", point, status=0)
    after = clean(run, target)
    assert report["until"] == after.head.seq == end
    assert after.commits == [commit for commit in read(journal).commits if commit.last_seq <= end]
    if end:
        assert run("diff", journal, target, "--at", end).status == 0


def test_damage_behind_the_point_is_none_of_its_business(many_segments, tmp_path, run):
    sorted(many_segments.glob("*.seg"))[6].unlink()
    recover(run, many_segments, tmp_path / "new", "--until", "9", status=0)


def test_point_behind_the_end_is_an_error_of_usage(journal, tmp_path, run):
    result = run("recover", journal, tmp_path / "new", "--until", "15")
    assert result.status == 2
    assert "the journal ends at 14" in result.err
    assert sorted(tmp_path.glob("new*")) == []
