"""Whatever bytes are met where a journal should be, the answer is a value or an error of ours.

Bytes at random fail at the first checksum, so most of these give forged content the right
checksums: as somebody who knows the format would.
"""

import asyncio
import struct
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_type_hints
from uuid import UUID
from zlib import crc32

import msgspec
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from omniq import OmniqError, SerializationError
from omniq.core import commands as cmd
from omniq.core import events as ev
from omniq.core.decide import decide
from omniq.core.projection import Projection
from omniq.core.retry import RetryRule, backoff_us
from omniq.core.snapshot import Capture, restore
from omniq.errors import IllegalEvent, StorageError, UnsupportedFormat
from omniq.models import HistoryEvent, Task, TaskResult, Worker
from omniq.serialization import Codecs, Signature
from omniq.storage.base import GENESIS, Bookmark
from omniq.storage.encoding import MAX_AT, decode_commit, encode_commit
from omniq.storage.ends import find_end
from omniq.storage.file import FileStorage
from omniq.storage.framing import (
    FRAME_MAGIC,
    SEGMENT_MAGIC,
    BadBytes,
    NotASegment,
    SegmentHeader,
    pack_segment_header,
    seed_of,
    unpack_frame_header,
    unpack_segment_header,
)
from omniq.storage.segments import Position, Segment
from omniq.storage.snapshots import BadSnapshot, pieces_of, snapshot_of
from omniq.tools import replay
from omniq.tools.printing import event_lines, view_event
from omniq.worker import protocol
from tests.storage.language import names_in, segments, write_journal
from tests.storage.test_every_damage import Memory

JOURNAL_ID = bytes(range(16))
SEED = seed_of(JOURNAL_ID)

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
small = st.integers(0, 5)
digests = st.binary(min_size=32, max_size=32)

# Everything that MessagePack can say, as a value and as bytes that say too much.
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.datetimes(timezones=st.just(datetime.now().astimezone().tzinfo)),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)
said = values.map(msgspec.msgpack.encode)
bombs = st.sampled_from(
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 2**32 - 1
        b"\xdf\xff\xff\xff\xff",  # a map
        b"\xdb\xff\xff\xff\xff",  # a string
        b"\xc6\xff\xff\xff\xff",  # bytes
        b"\xc9\xff\xff\xff\xff\x05",  # an extension
        b"\x91" * 100_000,  # an array in an array in an array
        b"\x81\xa1a" * 50_000,
        b"\xa1\xff",  # a string that is no text
        b"\xd7\xff" + b"\xff" * 8,  # a timestamp that is none
        b"\xc7\x0c\xff" + b"\xff" * 12,
        b"\xc1",  # what MessagePack never uses
    ]
)
payloads = st.binary(max_size=60) | said | bombs | st.tuples(said, bombs).map(b"".join)


def array(items):
    return bytes((0x90 | len(items),)) + b"".join(items)


def encoded(*of):
    """Return what one of these is as bytes, or something that is no such thing."""
    return st.one_of(*[st.just(msgspec.msgpack.encode(value)) for value in of], said, bombs)


NESTED = b"\x91" * 100_000
TAGS = [kind.__struct_config__.tag for kind in ev.JournalEvent.__subclasses__()]
# What would be a commit but for one or the other part of it; a part too many is passed over.
almost_events = st.tuples(encoded(*TAGS), st.lists(encoded("a", 1, b""), max_size=8)).map(
    lambda event: array([event[0], *event[1]])
)
almost_commits = st.tuples(
    encoded(1),
    encoded(1),
    encoded("a"),
    st.lists(almost_events | bombs, max_size=3).map(array),
    st.lists(bombs | said, max_size=1),
).map(lambda commit: array([*commit[:4], *commit[4]]))


# Headers.


@given(st.binary(max_size=200) | st.binary(max_size=100).map(SEGMENT_MAGIC.__add__))
def test_segment_header_of_any_bytes(data):
    try:
        header = unpack_segment_header(data)
    except (BadBytes, NotASegment):
        return
    assert data.startswith(pack_segment_header(header))


@given(u16, u32, st.binary(max_size=200))
def test_segment_header_that_says_anything_with_the_right_checksum(version, length, body):
    prefix = struct.pack("<8sHxxI", SEGMENT_MAGIC, version, length)
    data = prefix + body
    if len(prefix) + 4 <= length <= len(data):
        data = data[: length - 4] + struct.pack("<I", crc32(data[: length - 4])) + data[length:]
    try:
        header = unpack_segment_header(data)
    except (BadBytes, NotASegment):
        return
    assert (version, length) in ((0, 92), (1, 92))
    assert len(header.journal_id) == 16


@given(st.binary(max_size=200) | st.binary(max_size=80).map(FRAME_MAGIC.__add__))
def test_frame_header_of_any_bytes(data):
    with pytest.raises(BadBytes):
        unpack_frame_header(SEED, memoryview(data))


def frame(payload, *, length, crc, count, first_seq, durable, previous):
    header = struct.pack(
        "<4sIIIQQ32s", FRAME_MAGIC, length, crc, count, first_seq, durable, previous
    )
    return header + struct.pack("<I", crc32(header, SEED)) + payload


@given(
    payload=payloads | almost_commits,
    lies=st.fixed_dictionaries(
        {},
        optional={
            "length": u32,
            "crc": u32,
            "count": small | u32,
            "first_seq": small | u64,
            "durable": small | u64,
            "previous": digests,
        },
    ),
    at=small | u64,
    tail=st.binary(max_size=100),
)
def test_segment_with_one_frame_that_says_anything_with_the_right_checksums(
    payload, lies, at, tail
):
    """Its length may be 4 GiB, its number of events four thousand million."""
    truth = {
        "length": len(payload),
        "crc": crc32(payload, SEED),
        "count": 1,
        "first_seq": 1,
        "durable": 0,
        "previous": GENESIS,
    }
    header = pack_segment_header(SegmentHeader(JOURNAL_ID, 1, 1, at, GENESIS))
    data = header + frame(payload, **truth | lies) + tail
    try:
        segment = Segment(Memory(data), Path("journal"), 1, writable=False)
        position = Position.start_of(segment)
        find_end(position)
    except StorageError:
        return
    assert position.seq in (0, 1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the folder of a journal with a few events, and the bytes of its segment."""
    path = tmp_path_factory.mktemp("written") / "journal"
    asyncio.run(write_journal(path, 4))
    return path, segments(path)[0].read_bytes()


changes = st.lists(st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=4)), max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=changes, command=st.sampled_from(["summary", "events", "verify", "export"]))
def test_journal_with_any_bytes_in_any_place_is_read_or_refused(
    written, tmp_path_factory, changes, command, capsys
):
    """By the storage, which says a prefix or an error, and by the tools, which say more."""
    path, data = written
    damaged = bytearray(data)
    for offset, change in changes:
        damaged[offset : offset + len(change)] = change
    copy = tmp_path_factory.mktemp("copy") / "journal"
    copy.mkdir()
    (copy / segments(path)[0].name).write_bytes(damaged)
    try:
        names = asyncio.run(names_in(FileStorage(copy, read_only=True)))
    except StorageError:
        pass
    else:
        assert names == ["0", "1", "2", "3"][: len(names)]
    assert replay.main([command, str(copy)]) in (0, 1, 2)
    assert all(char.isprintable() or char == "\n" for char in "".join(capsys.readouterr()))


# Commits and events.


@settings(max_examples=300)
@given(payloads | almost_commits)
@example(array([b"\x01", b"\x01", b"\xa1a", b"\x90", NESTED]))
@example(array([b"\x01", b"\x01", b"\xa1\xff", b"\x90"]))
def test_commit_of_any_bytes(data):
    try:
        commit = decode_commit(data)
    except msgspec.DecodeError:
        return
    assert isinstance(commit, ev.Commit)


@given(st.integers(-1, 10), values, values, st.lists(st.lists(values, max_size=6), max_size=3))
def test_commit_that_holds_anything(first_seq, at, actor, events):
    try:
        commit = decode_commit(msgspec.msgpack.encode([first_seq, at, actor, events]))
    except msgspec.DecodeError:
        return
    assert commit.first_seq == first_seq


integers = small | st.sampled_from([-(2**63), -1, MAX_AT, 2**53, 2**63, 2**64 - 1])
numbers = st.floats() | st.sampled_from([0.0, 0.5, 1.0, -1.0, 1e308])
names = st.sampled_from(["", "q", "\0", "../x", "'; DROP TABLE events; --"]) | st.text(max_size=4)
rules = st.builds(
    RetryRule, integers, integers, numbers, integers, numbers, st.just(("builtins:Exception",))
)
FIELDS = {
    int: integers,
    float: numbers,
    str: names,
    bytes: st.binary(max_size=5) | said,
    bool: st.booleans(),
    ev.Codec: st.sampled_from(["msgpack", "cloudpickle"]),
    ev.ErrorRecord: st.builds(ev.ErrorRecord, names, names, names, st.booleans()),
    RetryRule | None: st.none() | rules,
    tuple[str, ...]: st.lists(names, max_size=2).map(tuple),
}
IDS = st.sampled_from(["a", "b", "c"])
SHARED = {
    "task_id": IDS,
    "series_id": st.just("") | IDS,
    "task_ids": st.lists(IDS, max_size=2).map(tuple),
    "worker": st.sampled_from(["w", "v"]),
    "attempt": small | integers,
}


def built(kind):
    hints = get_type_hints(kind)
    return st.builds(
        kind,
        **{name: SHARED.get(name, FIELDS.get(hints[name])) for name in kind.__struct_fields__},
    )


of_any_kind = st.one_of(*map(built, ev.JournalEvent.__subclasses__()))
likely = st.one_of(
    *map(built, (ev.TaskEnqueued, ev.WorkerJoined, ev.TaskStarted, ev.TaskRetried, ev.TaskFailed))
)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, MAX_AT), likely | of_any_kind), max_size=12))
def test_any_events_that_can_be_read_give_a_state_that_can_be_used(items):
    """Times beyond any calendar, delays without end, numbers that are none."""
    state = Projection()
    for at, event in items:
        commit = ev.Commit(state.seq + 1, max(at, state.at), "a", [event])
        assert decode_commit(encode_commit(commit)) is not None
        try:
            state.apply(commit)
        except IllegalEvent:
            continue
        HistoryEvent.of(1, commit, event)
        assert all(line.isprintable() for line in event_lines(view_event(1, commit, event)))
    show(state)
    go_on_with(state)
    parts = list(Capture(state).parts())
    (*_, again) = restore(parts)
    assert list(again.tasks) == list(state.tasks)


def show(state):
    for task in state.tasks.values():
        assert Task.of(task).id == task.id
        if task.is_finished:
            TaskResult.of(task, lambda _: None)
    for worker in state.workers.values():
        assert Worker.of(worker, ()).id == worker.id


def go_on_with(state):
    """Decide on every command that the state has an answer to; what follows can be written."""
    now = min(max(state.at, 10**15), MAX_AT)
    commands = [
        cmd.Claim("w", (), {"", "q"}, 10),
        cmd.CancelTask("a"),
        cmd.RequeueTask("b"),
        cmd.ExpireResults(10),
        cmd.DeclareLost("v", "gone"),
        cmd.Leave("w"),
    ]
    error = ev.ErrorRecord("E", "m")
    for task in state.tasks.values():
        claim = (task.id, task.attempt, task.run.worker)
        commands.append(cmd.Fail(*claim, error, ("builtins:Exception",), 0.5))
        commands.append(cmd.Succeed(*claim, b""))
    for command in commands:
        try:
            events = decide(state, command, now)
            encode_commit(ev.Commit(state.seq + 1, now, "a", events or [ev.QueuePaused("q")]))
        except OmniqError:
            continue


@given(rules, st.integers(1, 10**6), st.floats(0, 1))
def test_delay_of_any_rule_is_a_delay(rule, retry, drawn):
    assert 0 <= backoff_us(rule, retry, drawn) <= max(0, rule.max_delay_us)


# Snapshots.


@given(st.binary(max_size=300))
def test_snapshot_of_any_bytes(data):
    with pytest.raises(BadSnapshot):
        snapshot_of(JOURNAL_ID, data)


almost_headers = st.tuples(
    encoded(1),
    encoded(JOURNAL_ID),
    encoded((1, 1, GENESIS, (1, 92, 100))),
    st.lists(bombs | said, max_size=1),
).map(lambda header: array([*header[:3], *header[3]]))


@given(almost_headers, st.lists(payloads, max_size=3))
@example(array([b"\x01", b"\xc4\x10" + JOURNAL_ID, b"\x93\x01\x01\xc4\x00", NESTED]), [])
def test_snapshot_that_says_anything_with_the_right_digest(header, parts):
    from hashlib import blake2b

    fields = [header, *parts]
    content = b"OqSnap\r\n" + b"".join(struct.pack("<I", len(f)) + f for f in fields)
    try:
        snapshot = snapshot_of(JOURNAL_ID, content + blake2b(content, digest_size=32).digest())
    except BadSnapshot:
        return
    assert isinstance(snapshot.bookmark, Bookmark)
    assert snapshot.parts == parts


@given(st.lists(u32, max_size=3), st.binary(max_size=50))
def test_snapshot_whose_lengths_say_anything(lengths, rest):
    from hashlib import blake2b

    content = b"OqSnap\r\n" + b"".join(struct.pack("<I", length) for length in lengths) + rest
    with pytest.raises(BadSnapshot):
        snapshot_of(JOURNAL_ID, content + blake2b(content, digest_size=32).digest())


async def test_snapshot_is_what_these_tests_take_it_for():
    async def parts():
        yield b"part"

    pieces = [p async for p in pieces_of(JOURNAL_ID, Bookmark(1, 1, GENESIS, (1, 2)), parts())]
    assert snapshot_of(JOURNAL_ID, b"".join(pieces)).parts == [b"part"]


tagged = st.builds(
    lambda tag, fields: msgspec.msgpack.encode([tag, *fields]),
    st.sampled_from(["frame", "tasks", "ready", "later"]),
    st.lists(values | st.lists(integers, max_size=3), max_size=8),
)


@given(st.lists(payloads | tagged, max_size=4))
def test_state_of_any_parts(parts):
    try:
        for state in restore(parts):
            assert isinstance(state, Projection)
    except UnsupportedFormat:
        pass


# Arguments and results.


class Color(Enum):
    RED = "red"


class Tree(msgspec.Struct):
    children: "list[Tree]" = []


def plain(a, *rest, b=None, **more): ...
def typed(
    a: int, b: str, c: float, d: bytes, e: datetime, f: timedelta, g: UUID, h: Decimal, i: Path
): ...
def nested(a: list[dict[str, tuple[int, Color]]], b: set[str], c: Tree | None = None): ...


SIGNATURES = [Signature(function) for function in (plain, typed, nested)]
arguments = st.tuples(st.lists(values, max_size=9), st.dictionaries(names, values, max_size=3))
almost_arguments = st.lists(encoded(1, "a"), max_size=9).map(
    lambda args: array([array(args), b"\x80"])
)
codecs = Codecs("msgpack", 1_000_000)


@given(
    st.sampled_from(SIGNATURES),
    payloads | arguments.map(msgspec.msgpack.encode) | almost_arguments,
)
def test_arguments_of_any_bytes(signature, data):
    try:
        args, kwargs = codecs.decode_arguments(signature, data, "msgpack")
    except SerializationError as error:
        assert str(error).isprintable()
        return
    assert isinstance(args, list)
    assert isinstance(kwargs, dict)


@given(
    st.sampled_from([Any, int, str, list[int], dict[str, Tree], Color, datetime, NoneType, Path]),
    payloads,
)
def test_result_of_any_bytes(kind, data):
    try:
        codecs.decode_result(data, "msgpack", kind, "f")
    except SerializationError as error:
        assert str(error).isprintable()


@given(payloads)
def test_pickles_are_not_read_whatever_they_are(data):
    with pytest.raises(SerializationError, match="pickled"):
        codecs.decode_arguments(SIGNATURES[0], data, "cloudpickle")
    with pytest.raises(SerializationError, match="pickled"):
        codecs.decode_result(data, "cloudpickle", Any, "f")


# What a child process says.


@given(payloads)
def test_answer_of_any_bytes(data):
    with pytest.raises(ConnectionError):
        protocol.unpack_answer(data)


@given(st.binary(min_size=4, max_size=4))
def test_length_of_an_answer_is_bounded(header):
    length = int.from_bytes(header, "big")
    assume(length > protocol.MAX_MESSAGE_BYTES)
    with pytest.raises(ConnectionError):
        protocol.length_of(header)
