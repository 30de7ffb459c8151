"""`verify` reports every problem, with its place and extent, and goes on behind it."""

import asyncio
import json
import sqlite3
from collections.abc import Iterable

import msgspec
import pytest

from omniq.config import open_storage
from omniq.core import events as ev
from omniq.core.events import Commit
from omniq.core.projection import Projection
from omniq.core.snapshot import Capture
from omniq.storage.base import GENESIS, Head
from omniq.storage.disk import Disk
from omniq.storage.encoding import chain, encode_commit
from omniq.storage.framing import SEGMENT_HEADER_BYTES, pack_frame
from omniq.storage.segments import Segment
from omniq.tools.rows import SQLiteScan
from omniq.tools.scanning import FileScan, Problem
from omniq.tools.sources import find_source
from omniq.tools.verifying import Verification
from tests.tools.journals import CLIENT, LENGTH, NAMES, START, STORY, A, B, C, drop, rewrite


def check(scan) -> tuple[list[Problem], Verification]:
    verification = Verification(scan)
    return list(verification.problems(lambda _: None)), verification


def segments(folder):
    return sorted(folder.glob("*.seg"))


def kinds(problems: Iterable[Problem]) -> list[str]:
    return [problem.kind for problem in problems]


# Both backends.


def test_whole_journal_has_no_problems(journal, run):
    result = run("verify", journal)
    assert result.status == 0
    assert f"{journal}: no problems; {LENGTH} events in 8 commits" in result.out


def test_head_of_a_verified_journal_is_that_of_its_storage(journal, run, tmp_path, backend):
    head = rewrite(tmp_path / f"other-{NAMES[backend]}", STORY)
    report = json.loads(run("verify", journal, "--json").out)
    assert report["head"] == {"seq": head.seq, "digest": head.digest.hex()}


def test_each_event_that_cannot_follow_is_a_problem_once_a_task(tmp_path, backend, run):
    path = tmp_path / NAMES[backend]
    rewrite(path, [
        *STORY,
        (9, CLIENT, [
            ev.TaskStarted(C, 1, "w1"),
            ev.TaskStarted(C, 1, "w1"),  # the first problem
            ev.TaskStarted(C, 1, "w1"),
            ev.TaskSucceeded("unknown", 1, "w1", b"\xc0"),  # the second one
            ev.TaskSucceeded(C, 1, "w1", b"\xc0"),
        ]),
        (10, CLIENT, [ev.ResultExpired((B, C)), ev.ResultExpired((C,))]),
    ])  # fmt: skip
    result = run("verify", path, "--json")
    report = json.loads(result.out)
    assert result.status == 1
    found = [(p["kind"], p["first_seq"], p["last_seq"], p["found"]) for p in report["problems"]]
    assert found == [
        ("transition", LENGTH + 2, LENGTH + 2, "task.started"),
        ("transition", LENGTH + 4, LENGTH + 4, "task.succeeded"),
    ]
    assert report["unchecked_events"] == 2
    assert report["events"] == LENGTH + 7
    assert "2 problems" in run("verify", path).out


def test_damaged_journal_sends_the_other_commands_here(journal, backend, run):
    damage_middle(journal, backend)
    for command in ("summary", "state"):
        result = run(command, journal)
        assert (result.status, result.out) == (1, "")
        assert f"omniq.tools.replay verify {journal}" in result.err
    result = run("verify", journal)
    assert result.status == 1
    assert "1 problem;" in result.out


def damage_middle(path, backend):
    """Change one byte of the payload of the fourth commit."""
    if backend == "sqlite":
        connection = sqlite3.connect(path, isolation_level=None)
        ((data,),) = connection.execute("SELECT data FROM events WHERE seq = 6")
        data = data.replace(b"half", b"hald")
        connection.execute("UPDATE events SET data = ? WHERE seq = 6", (data,))
        connection.close()
        return
    (segment,) = segments(path)
    segment.write_bytes(segment.read_bytes().replace(b"half", b"hald"))


# A scan that is made up.


class Listed:
    """A scan over commits and problems that a test lists."""

    def __init__(self, *found):
        self.found = found
        self.seq, self.digest, self.torn = 0, GENESIS, None
        self.beginning, self.snapshots, self.displaced = Head(), [], []

    def __iter__(self):
        return iter(self.found)

    def surroundings(self):
        return iter(())

    def place(self):
        return "list", 3, 4


def commit(first_seq, at, *events):
    return Commit(first_seq, at, CLIENT, list(events))


def enqueued(task_id):
    return ev.TaskEnqueued(task_id, "f", "q", b"\x92\x90\x80")


def test_time_that_decreases_is_a_problem():
    problems, verification = check(
        Listed(commit(1, 5, enqueued(A)), commit(2, 4, enqueued(B)), commit(3, 4, enqueued(C)))
    )
    assert [(p.kind, p.place, p.offset, p.bytes, p.first_seq) for p in problems] == [
        ("time", "list", 3, 4, 2)
    ]
    assert verification.events == 3


def test_what_damage_leaves_unknown_is_counted_and_not_accused():
    lost = Problem("frame", "list", 0, 9, 2, 5, "x", "y")
    problems, verification = check(
        Listed(
            commit(1, 1, enqueued(A)),
            lost,
            commit(6, 2, ev.TaskSucceeded(A, 1, "w", b"\xc0"), ev.TaskStarted(B, 1, "w")),
            commit(8, 3, enqueued(C)),
            commit(9, 4, ev.TaskSucceeded(C, 1, "w", b"\xc0")),
        )
    )
    assert problems[0] == lost
    assert [(p.kind, p.first_seq) for p in problems[1:]] == [("transition", 9)]
    assert verification.unchecked == 2


# A head that was noted elsewhere.


def heads(journal):
    """Return each commit's end as somebody may have noted it."""
    scan = find_source(str(journal)).make_scan()
    return [(found.last_seq, scan.digest.hex()) for found in scan]


def head_problems(run, journal, head):
    result = run("verify", journal, "--head", head, "--json")
    problems = json.loads(result.out)["problems"]
    assert (result.status, result.err) == (1 if problems else 0, "")
    return [(p["first_seq"], p["last_seq"], p["found"]) for p in problems if p["kind"] == "head"]


def test_every_head_on_the_way_is_found_with_and_without_its_number(journal, run):
    for seq, digest in [(0, "0" * 64), *heads(journal)]:
        for head in (digest, f"{seq}:{digest}", f"{seq}:{digest.upper()}"):
            assert head_problems(run, journal, head) == []


def test_summary_and_verify_print_the_head_that_verify_takes(journal, run):
    (line,) = [line for line in run("summary", journal).out.splitlines() if "head " in line]
    assert line.split() == ["head", f"{heads(journal)[-1][0]}:{heads(journal)[-1][1]}"]
    assert run("verify", journal).out.splitlines()[-1].split() == line.split()
    assert head_problems(run, journal, line.split()[1]) == []


def test_head_of_another_commit_or_of_none_is_a_problem(journal, run):
    (first, other), (seq, digest), *_, (last, end) = heads(journal)
    the_end = f"the journal's end is {last}:{end}"
    assert head_problems(run, journal, f"{seq}:{other}") == [
        (seq, seq, f"one with digest {digest}")
    ]
    assert head_problems(run, journal, f"1:{other}") == [(1, 1, f"none; {the_end}")]
    assert head_problems(run, journal, f"{last + 1}:{end}") == [
        (last + 1, last + 1, f"none so far behind; {the_end}")
    ]
    assert head_problems(run, journal, "ab" * 32) == [(1, 0, f"none; {the_end}")]
    assert first < seq


@pytest.mark.parametrize("change", ["changed", "removed", "reordered", "cut off"])
def test_noted_head_tells_of_every_change_of_the_past(journal, tmp_path, backend, change, run):
    """Also if whoever made it has written a whole new history, with digests that fit."""
    seq, digest = heads(journal)[-1]
    second, _actor, events = STORY[5]
    story = {
        "changed": [*STORY[:5], (second, "else", events), *STORY[6:]],
        "removed": [*STORY[:4], *STORY[5:]],
        "reordered": [*STORY[:1], (2, *STORY[2][1:]), (2, *STORY[1][1:]), *STORY[3:]],
        "cut off": STORY[:-1],
    }[change]
    forged = tmp_path / f"forged-{NAMES[backend]}"
    rewrite(forged, story)
    assert run("verify", forged).status == 0
    for head in (digest, f"{seq}:{digest}"):
        assert len(head_problems(run, forged, head)) == 1


def test_head_of_what_was_dropped_is_the_last_of_it(tmp_path, backend, run):
    path = tmp_path / NAMES[backend]
    rewrite(path, STORY, **({"segment_bytes": 1} if backend == "file" else {}))
    known = dict(heads(path))
    asyncio.run(drop(path, 3, (7, 9)))
    assert head_problems(run, path, f"3:{known[3]}") == []
    assert len(head_problems(run, path, f"2:{known[2]}")) == 1


@pytest.mark.parametrize("head", ["", "14", "xy", "14:", f"x:{'0' * 64}", "0" * 63, "0" * 66])
def test_text_that_is_no_head_is_an_error_of_usage(journal, head, run):
    result = run("verify", journal, "--head", head)
    assert (result.status, result.out) == (2, "")
    assert "is no head" in result.err or "is no number" in result.err


# Snapshots.


@pytest.fixture
def snapshotted(tmp_path, backend):
    path = tmp_path / NAMES[backend]
    rewrite(path, STORY)
    asyncio.run(drop(path, 0, (7, 9)))
    return path


def test_snapshots_are_compared_with_the_fold(snapshotted, run):
    report = json.loads(run("verify", snapshotted, "--json").out)
    assert (report["snapshots"], report["problems"]) == (2, [])


def test_snapshot_that_is_damaged_is_a_problem(snapshotted, run):
    if snapshotted.is_dir():
        path = min(snapshotted.glob("*.snapshot"))
        path.write_bytes(path.read_bytes()[:-1])
    else:
        change(snapshotted, "UPDATE snapshots SET data = x'00' WHERE seq = 7 AND part = 0")
    report = json.loads(run("verify", snapshotted, "--json").out)
    assert report["snapshots"] == 1
    assert [(p["kind"], p["first_seq"]) for p in report["problems"]] == [("snapshot", 7)]


def test_snapshot_of_another_state_is_a_problem(tmp_path, backend, run):
    """Though its checksum is right: whoever wrote it had another state than the events make."""
    path = tmp_path / NAMES[backend]
    rewrite(path, STORY[:3])

    async def save():
        storage = open_storage(path)
        await storage.open()
        await storage.read(0)

        async def parts():
            for part in Capture(Projection()).parts():
                yield part

        await storage.save_snapshot(await storage.bookmark(5), parts())
        await storage.close()

    asyncio.run(save())
    (problem,) = json.loads(run("verify", path, "--json").out)["problems"]
    assert (problem["kind"], problem["last_seq"]) == ("snapshot", 5)


# A file journal.


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "journal"
    rewrite(path, STORY)
    return path


def frames(folder):
    """Return offset, length, first and last sequence number of each frame of the only segment."""
    places = []
    scan = FileScan(folder)
    for found in scan:
        _, offset, length = scan.place()
        places.append((offset, length, found.first_seq, found.last_seq))
    return places


def test_every_flipped_byte_is_found_where_it_is(folder):
    (segment,) = segments(folder)
    whole = segment.read_bytes()
    places = frames(folder)
    for flipped in range(len(whole)):
        data = bytearray(whole)
        data[flipped] ^= 0x10
        segment.write_bytes(data)
        if flipped < SEGMENT_HEADER_BYTES:  # the frames verify without it
            problems, verification = check(FileScan(folder))
            assert [(p.kind, p.offset, p.bytes) for p in problems] == [
                ("segment", 0, SEGMENT_HEADER_BYTES)
            ], flipped
            assert verification.events == LENGTH
            continue
        problems, verification = check(FileScan(folder))
        offset, length, first, last = next(p for p in places if p[0] <= flipped < p[0] + p[1])
        if (offset, length) == places[-1][:2]:  # nothing says that the last frame was durable
            assert problems == []
            torn = verification.scan.torn
            assert (torn.offset, torn.bytes) == (offset, length)
        else:
            (problem,) = problems
            extent = (problem.offset, problem.bytes, problem.first_seq, problem.last_seq)
            assert (problem.kind, *extent) == ("frame", offset, length, first, last), flipped
        assert verification.events == LENGTH - (last - first + 1)


def test_journal_cut_anywhere_is_torn_or_damaged_and_never_whole(folder):
    (segment,) = segments(folder)
    whole = segment.read_bytes()
    places = frames(folder)
    ends = {SEGMENT_HEADER_BYTES, *(offset + length for offset, length, _, _ in places)}
    for size in range(SEGMENT_HEADER_BYTES, len(whole)):
        segment.write_bytes(whole[:size])
        problems, verification = check(FileScan(folder))
        assert problems == []
        torn = verification.scan.torn
        end = max(end for end in ends if end <= size)
        assert (None if torn is None else (torn.offset, torn.bytes)) == (
            None if size == end else (end, len(whole[end:size].rstrip(b"\0")))
        )


def test_torn_end_is_a_note_and_no_problem(folder, run):
    (segment,) = segments(folder)
    with segment.open("ab") as file:
        file.write(b"half a frame")
    report = json.loads(run("verify", folder, "--json").out)
    offset = segment.stat().st_size - 12
    assert report["torn"] == {"place": segment.name, "offset": offset, "bytes": 12}
    result = run("verify", folder)
    assert result.status == 0
    assert "note: 12 bytes behind the end" in result.out
    assert json.loads(run("summary", folder, "--json").out)["torn_bytes"] == 12
    assert "torn end  12 bytes" in run("summary", folder).out


def test_several_problems_are_all_reported(folder):
    (segment,) = segments(folder)
    data = bytearray(segment.read_bytes())
    places = frames(folder)
    data[places[1][0]] ^= 1  # a header
    data[places[2][0] + places[2][1] - 1] ^= 1  # the end of a payload
    data[places[5][0] + 30] ^= 1  # a header
    segment.write_bytes(data)
    problems, verification = check(FileScan(folder))
    assert [(p.offset, p.bytes, p.first_seq, p.last_seq) for p in problems] == [
        places[1],
        places[2],
        places[5],
    ]
    assert verification.commits == 5


@pytest.fixture
def many_segments(tmp_path):
    """A journal of one commit a segment."""
    path = tmp_path / "journal"
    rewrite(path, STORY, segment_bytes=1)
    assert len(segments(path)) == len(STORY)
    return path


def test_journal_of_many_segments_has_no_problems(many_segments):
    assert check(FileScan(many_segments))[0] == []


def test_missing_segment_is_a_gap(many_segments):
    segments(many_segments)[2].unlink()
    problems, verification = check(FileScan(many_segments))
    assert [(p.kind, p.first_seq, p.last_seq) for p in problems] == [("gap", 4, 5)]
    assert verification.events == LENGTH - 2


def test_missing_first_segment_is_a_gap(many_segments):
    segments(many_segments)[0].unlink()
    assert [(p.kind, p.first_seq, p.last_seq) for p in check(FileScan(many_segments))[0]] == [
        ("gap", 1, 2)
    ]


def test_segment_that_is_zero_is_lost_as_a_whole(many_segments):
    segment = segments(many_segments)[2]
    size = segment.stat().st_size
    segment.write_bytes(bytes(size))
    (problem,) = check(FileScan(many_segments))[0]
    assert (problem.kind, problem.place, problem.bytes) == ("segment", segment.name, size)
    assert (problem.first_seq, problem.last_seq) == (4, 5)


def test_segment_of_another_journal_is_a_problem(many_segments, tmp_path):
    other = tmp_path / "other"
    rewrite(other, STORY, segment_bytes=1)
    (segments(many_segments)[2]).write_bytes(segments(other)[2].read_bytes())
    problems, _ = check(FileScan(many_segments))
    assert kinds(problems) == ["segment", "segment"]
    assert "journal" in problems[0].expected


def test_copy_of_one_segment_over_another_is_a_problem(many_segments):
    first, second = segments(many_segments)[2:4]
    second.write_bytes(first.read_bytes())
    (problem,) = check(FileScan(many_segments))[0]
    assert (problem.kind, problem.first_seq, problem.last_seq) == ("segment", 6, 7)


def test_end_of_a_sealed_segment_is_never_torn(many_segments):
    segment = segments(many_segments)[2]
    size = segment.stat().st_size
    segment.write_bytes(segment.read_bytes()[:-1])
    (problem,) = check(FileScan(many_segments))[0]
    assert (problem.kind, problem.offset) == ("frame", SEGMENT_HEADER_BYTES)
    assert problem.bytes == size - 1 - SEGMENT_HEADER_BYTES
    assert (problem.first_seq, problem.last_seq) == (4, 5)


def test_bytes_that_the_disk_cannot_read_are_a_problem(many_segments):
    broken = segments(many_segments)[2].name

    class Broken(Disk):
        def __init__(self):
            self.names = {}

        def open(self, path, flags):
            descriptor = super().open(path, flags)
            self.names[descriptor] = path.name
            return descriptor

        def read(self, descriptor, length, offset):
            if self.names[descriptor] == broken and offset:
                raise OSError(5, "Input/output error")
            return super().read(descriptor, length, offset)

    (problem,) = check(FileScan(many_segments, disk=Broken()))[0]
    assert (problem.kind, problem.place, problem.first_seq, problem.last_seq) == (
        "read",
        broken,
        4,
        5,
    )


def forge(folder, payload, *, events, first_seq=LENGTH + 1, previous=None):
    """Append a frame with good checksums, as a newer or an evil writer would."""
    scan = FileScan(folder)
    assert not [found for found in scan if isinstance(found, Problem)]
    (path,) = segments(folder)
    segment = Segment(Disk(), folder, 1, writable=False)
    previous = scan.digest if previous is None else previous
    frame = pack_frame(
        segment.seed,
        payload,
        count=events,
        first_seq=first_seq,
        durable=LENGTH,
        previous=previous,
    )
    segment.close()
    with path.open("ab") as file:
        file.write(frame)
    return chain(previous, payload)


def test_intact_commit_that_cannot_be_decoded_is_a_problem(folder, run):
    payload = msgspec.msgpack.encode([LENGTH + 1, START, CLIENT, [["task.exploded", A]]])
    digest = forge(folder, payload, events=1)
    result = run("verify", folder, "--json")
    report = json.loads(result.out)
    assert result.status == 1
    assert [(p["kind"], p["first_seq"], p["last_seq"]) for p in report["problems"]] == [
        ("decode", LENGTH + 1, LENGTH + 1)
    ]
    assert report["head"] == {"seq": LENGTH + 1, "digest": digest.hex()}


def test_frame_that_says_something_else_than_its_commit_is_a_problem(folder):
    payload = encode_commit(commit(LENGTH + 1, START * 2, enqueued("x"), enqueued("y")))
    forge(folder, payload, events=1)
    assert kinds(check(FileScan(folder))[0]) == ["decode"]


def test_frame_that_is_not_chained_is_a_problem(folder):
    payload = encode_commit(commit(LENGTH + 1, START * 2, enqueued("x")))
    forge(folder, payload, events=1, previous=bytes(32))
    (problem,) = check(FileScan(folder))[0]
    assert (problem.kind, problem.found, problem.last_seq) == ("chain", "00" * 32, LENGTH + 1)


@pytest.mark.parametrize(
    ("first_seq", "kind", "extent"),
    [(LENGTH + 3, "gap", (LENGTH + 1, LENGTH + 2)), (LENGTH, "repetition", (LENGTH, LENGTH))],
)
def test_numbers_that_jump_are_a_problem(folder, first_seq, kind, extent):
    payload = encode_commit(commit(first_seq, START * 2, enqueued("x")))
    forge(folder, payload, events=1, first_seq=first_seq)
    (problem,) = check(FileScan(folder))[0]
    assert (problem.kind, (problem.first_seq, problem.last_seq)) == (kind, extent)


# An SQLite journal.


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "journal.db"
    rewrite(path, STORY)
    return path


def change(path, *statements):
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "kind", "extent"),
    [
        ("UPDATE events SET data = CAST(data || 'x' AS BLOB) WHERE seq = 4", "chain", (4, 5)),
        ("UPDATE events SET data = zeroblob(9) WHERE seq = 6", "chain", (6, 7)),
        ("UPDATE events SET data = 'text' WHERE seq = 6", "row", (6, 7)),
        ("UPDATE events SET data = 7 WHERE seq = 6", "row", (6, 7)),
        ("UPDATE events SET at = at + 1 WHERE seq = 4", "chain", (4, 5)),
        ("UPDATE events SET actor = 'someone' WHERE seq = 4", "chain", (4, 5)),
        ("UPDATE events SET digest = zeroblob(32) WHERE seq = 14", "chain", (12, 14)),
        ("UPDATE events SET digest = NULL WHERE seq = 14", "row", (12, 14)),
        ("UPDATE events SET digest = 'text' WHERE seq = 14", "chain", (12, 14)),
        ("UPDATE events SET at = at + 1 WHERE seq = 5", "column", (5, 5)),
        ("UPDATE events SET kind = 'task.failed' WHERE seq = 5", "column", (5, 5)),
        ("UPDATE events SET task_id = NULL WHERE seq = 5", "column", (5, 5)),
        ("UPDATE events SET queue = 'x' WHERE seq = 5", "column", (5, 5)),
        ("UPDATE events SET worker = 'x' WHERE seq = 3", "column", (3, 3)),
        ("DELETE FROM events WHERE seq = 11", "gap", (11, 11)),
        ("DELETE FROM events WHERE seq <= 2", "gap", (1, 2)),
        ("DELETE FROM events WHERE seq = 4", "gap", (4, 4)),
        ("DELETE FROM events WHERE seq = 13", "row", (12, 14)),
        ("DELETE FROM events WHERE seq = 14", "row", (12, 13)),
    ],
)
def test_changed_row_is_found_where_it_is(database, statement, kind, extent):
    change(database, statement)
    problem, *_ = check(SQLiteScan(database))[0]
    assert (problem.kind, (problem.first_seq, problem.last_seq)) == (kind, extent)
    assert (problem.place, problem.offset, problem.bytes) == ("table events", None, None)


def test_digest_that_was_made_to_fit_a_changed_row_is_found_at_the_next_commit(database):
    scan = SQLiteScan(database)
    before = [scan.digest for _ in scan][1]  # behind the second commit
    forged = encode_commit(
        Commit(4, START + 2_000_000, "w1@host:11", [ev.TaskStarted(A, 1, "w1"), enqueued("x")])
    )
    digest = chain(before, forged).hex()
    event = msgspec.msgpack.encode(enqueued("x")).hex()
    change(
        database,
        f"UPDATE events SET data = x'{event}', digest = x'{digest}', task_id = 'x', "
        "kind = 'task.enqueued', queue = 'q', worker = NULL WHERE seq = 5",
    )
    problem, *_ = check(SQLiteScan(database))[0]
    assert (problem.kind, problem.first_seq, problem.last_seq) == ("chain", 6, 7)


def test_event_that_cannot_be_decoded_is_a_problem_in_a_database(database):
    scan = SQLiteScan(database)
    assert len(list(scan)) == len(STORY)
    event = msgspec.msgpack.encode(["task.exploded", A])
    payload = msgspec.msgpack.encode([LENGTH + 1, START, CLIENT, [msgspec.Raw(event)]])
    change(
        database,
        f"INSERT INTO events VALUES ({LENGTH + 1}, {START}, 'task.exploded', '{A}', NULL, NULL, "
        f"'{CLIENT}', x'{event.hex()}', x'{chain(scan.digest, payload).hex()}', 1)",
    )
    assert kinds(check(SQLiteScan(database))[0]) == ["decode"]


def test_pages_that_are_garbage_are_a_problem_and_the_rest_is_still_checked(tmp_path):
    path = tmp_path / "journal.db"
    ids = [f"task-{number}" for number in range(1000)]
    rewrite(path, [(0, CLIENT, [enqueued(i)]) for i in ids])
    change(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    connection = sqlite3.connect(path)
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    whole = path.read_bytes()
    page = whole.rindex(b"task-500") // size  # the index, with its copy of the ids, comes before
    path.write_bytes(whole[: page * size] + b"\xff" * size + whole[(page + 1) * size :])
    problems, verification = check(SQLiteScan(path))
    assert kinds(problems)[0] == "database"
    first, last = problems[0].first_seq, problems[0].last_seq
    assert first <= 501 <= last
    # The first commit behind them cannot be verified: the digest before it is lost.
    assert [(p.kind, p.first_seq, p.last_seq) for p in problems[1:2]] == [
        ("chain", last + 1, last + 1)
    ]
    assert verification.events == 1000 - (last - first + 1) - 1
