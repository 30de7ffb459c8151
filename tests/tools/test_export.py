"""`export` loses nothing: the journal, with its digests, can be made of the lines again."""

import base64
import json
import sqlite3

import msgspec
import pytest

from omniq.core import events as ev
from omniq.storage.base import GENESIS, Head
from omniq.storage.encoding import chain, joined
from tests.tools.journals import CLIENT, LENGTH, NAMES, START, STORY, A, B, read, rewrite

EVENTS = {str(kind.__struct_config__.tag): kind for kind in ev.JournalEvent.__subclasses__()}


def rebuilt(lines):
    """Make commits of exported lines, with nothing but what the reference says, and return both."""
    commits, digest, events, encoded = [], GENESIS, [], []
    for line in map(json.loads, lines):
        first, last = line["commit"]
        assert line["seq"] == first + len(events)
        array = [line["kind"], *as_stored(EVENTS[line["kind"]], line["data"])]
        encoded.append(msgspec.msgpack.encode(array))
        events.append(msgspec.msgpack.decode(encoded[-1], type=EVENTS[line["kind"]]))
        if line["seq"] == last:
            payload = joined(first, line["at_us"], line["actor"], encoded)
            digest = chain(digest, payload)
            assert line["digest"] == digest.hex()
            commits.append(ev.Commit(first, line["at_us"], line["actor"], events))
            events, encoded = [], []
        else:
            assert line["digest"] is None
    return commits, digest


def as_stored(kind, data):
    """Return the fields in the order in which they are stored."""
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    assert list(data) == list(kind.__struct_fields__)[: len(data)]
    return [value(types[name], item) for name, item in data.items()]


def value(kind, item):
    if kind is bytes:
        return base64.b64decode(item)
    if isinstance(item, dict):
        (struct,) = [
            one
            for one in getattr(kind, "__args__", [kind])
            if isinstance(one, type) and issubclass(one, msgspec.Struct)
        ]
        return as_stored(struct, item)
    return item


def test_journal_can_be_made_of_its_export(journal, run):
    result = run("export", journal)
    assert (result.status, result.err) == (0, "")
    commits, digest = rebuilt(result.out.splitlines())
    content = read(journal)
    assert (commits, digest) == (content.commits, content.head.digest)


@pytest.mark.parametrize("kind", EVENTS)
def test_every_kind_of_event_is_exported_whole(kind, tmp_path, backend, run):
    """With a value that no field has by default, strange text and bytes included."""
    made = {
        str: "é\u2028\x00",
        int: 1 << 62,
        float: 0.1,
        bytes: bytes(range(256)),
        bool: False,
        ev.ErrorRecord: ev.ErrorRecord("E", "é", "t", retryable=False),
        tuple[str, ...]: ("a", "é"),
        ev.Codec: "cloudpickle",
        ev.RetryRule | None: ev.RetryRule(7, factor=0.3, never_on=("x",)),
    }
    fields = msgspec.structs.fields(EVENTS[kind])
    event = EVENTS[kind](**{field.name: made[field.type] for field in fields})
    path = tmp_path / NAMES[backend]
    rewrite(path, [(0, "é\x1b", [event])])
    result = run("export", path)
    assert result.out.isascii()
    commits, digest = rebuilt(result.out.splitlines())
    assert (commits[0].events, digest) == ([event], read(path).head.digest)


def test_fields_that_were_not_stored_are_not_exported(tmp_path, run):
    path = tmp_path / "old.db"
    rewrite(path, STORY[:1])
    before = read(path).head
    data = b"\x92\xaetask.cancelled" + bytes([0xD9, len(B)]) + B.encode()
    digest = chain(before.digest, joined(3, START, CLIENT, [data]))
    connection = sqlite3.connect(path)
    connection.execute(
        "INSERT INTO events VALUES (3, ?, 'task.cancelled', ?, NULL, '', ?, ?, ?, 1)",
        (START, B, CLIENT, data, digest),
    )
    connection.commit()
    connection.close()
    lines = run("export", path).out.splitlines()
    assert json.loads(lines[-1])["data"] == {"task_id": B}
    assert rebuilt(lines)[1] == digest == read(path).head.digest


def test_export_goes_to_a_new_file_for_its_owner_alone(journal, tmp_path, run):
    file = tmp_path / "events.jsonl"
    result = run("export", journal, "--output", file)
    assert (result.status, result.out, result.err) == (0, "", "")
    assert file.read_text() == run("export", journal).out
    assert file.stat().st_mode & 0o077 == 0


def test_file_that_is_there_stays(journal, tmp_path, run):
    for there in (tmp_path / "mine.txt", journal):
        if there != journal:
            there.write_text("mine")
        result = run("export", journal, "--output", there)
        assert (result.status, result.out) == (2, "")
        assert "is there already, and stays" in result.err
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert run("verify", journal).status == 0


def test_export_that_fails_leaves_no_file(tmp_path, run):
    path, file = tmp_path / "journal", tmp_path / "events.jsonl"
    rewrite(path, STORY)
    segment = path / f"{1:020}.seg"
    data = bytearray(segment.read_bytes())
    data[-250] ^= 1
    data[600] ^= 1
    segment.write_bytes(data)
    result = run("export", path, "--output", file)
    assert (result.status, result.out) == (1, "")
    assert "is damaged" in result.err
    assert sorted(tmp_path.iterdir()) == [path]


def test_empty_journal_has_an_empty_export(tmp_path, backend, run):
    path = tmp_path / NAMES[backend]
    rewrite(path, [])
    assert run("export", path) == (0, "", "")
    assert read(path).head == Head()


def test_one_task_can_be_followed_through_an_export(journal, run):
    lines = [json.loads(line) for line in run("export", journal).out.splitlines()]
    assert len(lines) == LENGTH
    assert [line["seq"] for line in lines if line["data"].get("task_id") == A] == [1, 4, 7, 10, 11]
