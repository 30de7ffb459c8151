"""The journal's words: tags and fields that never change, and bytes that stay readable.

A failure here means that journals in the field would be read wrongly, or not at all. Fields may be
appended, with defaults; then append them here. Nothing else in the lists may change.
"""

import msgspec
import pytest

from omniq.core import events as ev
from omniq.core.projection import Projection
from omniq.core.retry import RetryRule
from omniq.errors import PayloadTooLarge
from omniq.storage import encoding
from omniq.storage.encoding import (
    MAX_COMMIT_BYTES,
    chain,
    decode_commit,
    decode_event,
    encode_commit,
    encode_events,
    joined,
)
from tests.core.language import BOOM, members

# Tag -> fields without a default | fields with one, in the order in which they are stored.
FIELDS = {
    "queue.paused": "queue |",
    "queue.resumed": "queue |",
    "result.expired": "task_ids |",
    "task.cancel_requested": "task_id | reason",
    "task.cancelled": "task_id | reason attempt worker",
    "task.enqueued": "task_id name queue payload | codec priority due_at timeout_us retry "
    "interval_us series_id result_ttl_us",
    "task.failed": "task_id attempt worker error |",
    "task.late": "task_id attempt worker outcome |",
    "task.progressed": "task_id attempt worker fraction | message",
    "task.released": "task_id attempt worker | reason due_at",
    "task.requeued": "task_id | reason",
    "task.retried": "task_id attempt worker error retry_at |",
    "task.started": "task_id attempt worker |",
    "task.succeeded": "task_id attempt worker result | codec",
    "worker.joined": "worker host pid boot lease_us | queues concurrency",
    "worker.left": "worker |",
    "worker.lost": "worker reason |",
    "worker.renewed": "worker lease_until |",
}
FIELDS_OF_PARTS = {
    ev.Commit: "first_seq at actor events |",
    ev.ErrorRecord: "error_type message | traceback retryable",
    RetryRule: "| max_retries base_delay_us factor max_delay_us jitter retry_on never_on",
}
# For each tag an event in which no field has its default, and the bytes that it had in version 0.1.
RULE = RetryRule(5, 2_000_000, 3.0, 60_000_000, 0.5, ("m:A",), ("m:B",))
EXAMPLES = {
    ev.kind_of(event): event
    for event in (
        ev.QueuePaused("q"),
        ev.QueueResumed("q"),
        ev.ResultExpired(("t", "u")),
        ev.TaskCancelRequested("t", "why"),
        ev.TaskCancelled("t", "why", 2, "w"),
        ev.TaskEnqueued("t", "f", "q", b"p", "cloudpickle", 3, 4, 5, RULE, 6, "s", 7),
        ev.TaskFailed("t", 1, "w", ev.ErrorRecord("E", "m", "tb", retryable=False)),
        ev.TaskLate("t", 1, "w", "task.failed"),
        ev.TaskProgressed("t", 1, "w", 0.5, "half"),
        ev.TaskReleased("t", 1, "w", "why", 2),
        ev.TaskRequeued("t", "why"),
        ev.TaskRetried("t", 1, "w", BOOM, 9),
        ev.TaskStarted("t", 1, "w"),
        ev.TaskSucceeded("t", 1, "w", b"r", "cloudpickle"),
        ev.WorkerJoined("w", "h", 1, "b", 2, ("q",), 3),
        ev.WorkerLeft("w"),
        ev.WorkerLost("w", "why"),
        ev.WorkerRenewed("w", 8),
    )
}
CLASSES = {kind.__struct_config__.tag: kind for kind in members(ev.Event)}
BYTES = {
    "queue.paused": "92ac71756575652e706175736564a171",
    "queue.resumed": "92ad71756575652e726573756d6564a171",
    "result.expired": "92ae726573756c742e6578706972656492a174a175",
    "task.cancel_requested": "93b57461736b2e63616e63656c5f726571756573746564a174a3776879",
    "task.cancelled": "95ae7461736b2e63616e63656c6c6564a174a377687902a177",
    "task.enqueued": (
        "9dad7461736b2e656e717565756564a174a166a171c40170ab636c6f75647069636b6c6503040597"
        "05ce001e8480cb4008000000000000ce03938700cb3fe000000000000091a36d3a4191a36d3a4206"
        "a17307"
    ),
    "task.failed": "95ab7461736b2e6661696c6564a17401a17794a145a16da27462c2",
    "task.late": "95a97461736b2e6c617465a17401a177ab7461736b2e6661696c6564",
    "task.progressed": "96af7461736b2e70726f67726573736564a17401a177cb3fe0000000000000a468616c66",
    "task.released": "96ad7461736b2e72656c6561736564a17401a177a377687902",
    "task.requeued": "93ad7461736b2e7265717565756564a174a3776879",
    "task.retried": (
        "96ac7461736b2e72657472696564a17401a17794aa56616c75654572726f72a4626f6f6da0c309"
    ),
    "task.started": "94ac7461736b2e73746172746564a17401a177",
    "task.succeeded": "96ae7461736b2e737563636565646564a17401a177c40172ab636c6f75647069636b6c65",
    "worker.joined": "98ad776f726b65722e6a6f696e6564a177a16801a1620291a17103",
    "worker.left": "92ab776f726b65722e6c656674a177",
    "worker.lost": "93ab776f726b65722e6c6f7374a177a3776879",
    "worker.renewed": "93ae776f726b65722e72656e65776564a17708",
}

each_tag = pytest.mark.parametrize("tag", FIELDS)


def fields_of(kind):
    fields = msgspec.structs.fields(kind)
    required = [field.encode_name for field in fields if field.required]
    optional = [field.encode_name for field in fields if not field.required]
    return f"{' '.join(required)} | {' '.join(optional)}".strip()


def as_array(value):
    """Return what stands in the journal, as plain data."""
    return msgspec.msgpack.decode(encode_events([value])[0])


def as_event(array):
    return decode_event(msgspec.msgpack.encode(array))


def commit_of(count, first_seq=1, at=1, actor="a"):
    return ev.Commit(first_seq, at, actor, [ev.QueuePaused("q")] * count)


class TestFrozen:
    def test_tags_are_the_documented_ones(self):
        assert sorted(CLASSES) == sorted(FIELDS) == sorted(EXAMPLES) == sorted(BYTES)

    def test_every_event_has_its_place_in_the_projection(self):
        assert Projection._reactions.keys() == set(CLASSES.values())

    @each_tag
    def test_fields_have_their_order_and_only_new_ones_may_be_left_out(self, tag):
        assert fields_of(CLASSES[tag]) == FIELDS[tag]

    @pytest.mark.parametrize("part", FIELDS_OF_PARTS, ids=lambda part: part.__name__)
    def test_parts_have_their_order_too(self, part):
        assert fields_of(part) == FIELDS_OF_PARTS[part]

    @each_tag
    def test_bytes_are_those_of_the_first_version(self, tag):
        assert encode_events([EXAMPLES[tag]])[0].hex() == BYTES[tag]
        assert decode_event(bytes.fromhex(BYTES[tag])) == EXAMPLES[tag]

    def test_defaults_mean_what_their_absence_meant(self):
        assert as_event(["task.enqueued", "t", "f", "q", b"p"]) == ev.TaskEnqueued(
            "t", "f", "q", b"p", "msgpack", 0, 0, 0, None, 0, "", 0
        )
        assert as_event(["task.succeeded", "t", 1, "w", b"r"]).codec == "msgpack"
        assert as_event(["task.cancelled", "t"]) == ev.TaskCancelled("t", "", 0, "")
        assert as_event(["task.released", "t", 1, "w"]) == ev.TaskReleased("t", 1, "w", "", 0)
        joined = as_event(["worker.joined", "w", "h", 1, "b", 2])
        assert (joined.queues, joined.concurrency) == ((), 1)
        error = as_event(["task.failed", "t", 1, "w", ["E", "m"]]).error
        assert error == ev.ErrorRecord("E", "m", "", retryable=True)


class TestReading:
    @each_tag
    def test_every_event_is_read_as_it_was_written(self, tag):
        event = EXAMPLES[tag]
        assert decode_event(encode_events([event])[0]) == event
        assert as_array(event)[0] == ev.kind_of(event) == tag

    @each_tag
    def test_commit_without_the_newer_fields_is_read(self, tag):
        event = EXAMPLES[tag]
        required, optional = (part.split() for part in FIELDS[tag].split("|"))
        defaults = {field.name: field.default for field in msgspec.structs.fields(CLASSES[tag])}
        whole = as_array(event)
        for kept in range(len(optional) + 1):
            old = whole[: 1 + len(required) + kept]
            missing = {name: defaults[name] for name in optional[kept:]}
            assert as_event(old) == msgspec.structs.replace(event, **missing)

    @each_tag
    def test_event_without_a_required_field_is_refused(self, tag):
        required = FIELDS[tag].split("|")[0].split()
        for kept in range(1, 1 + len(required)):
            with pytest.raises(msgspec.ValidationError):
                as_event(as_array(EXAMPLES[tag])[:kept])

    @each_tag
    def test_fields_of_a_newer_version_are_passed_over(self, tag):
        assert as_event([*as_array(EXAMPLES[tag]), "new", 1]) == EXAMPLES[tag]

    def test_event_of_a_newer_version_is_refused(self):
        with pytest.raises(msgspec.ValidationError):
            as_event(["task.dreamt", "t"])

    @pytest.mark.parametrize("damage", [b"", b"\x90", b"\xc1", b"\x94\x01\x01\xa1a", b"\x80"])
    def test_what_is_no_commit_is_refused(self, damage):
        with pytest.raises(msgspec.DecodeError):
            decode_commit(damage)

    def test_commit_cut_at_any_byte_is_refused(self):
        whole = encode_commit(ev.Commit(1, 2, "a", list(EXAMPLES.values())))
        assert decode_commit(memoryview(whole)) == ev.Commit(1, 2, "a", list(EXAMPLES.values()))
        for length in range(len(whole)):
            with pytest.raises(msgspec.DecodeError):
                decode_commit(whole[:length])


class TestCommit:
    @pytest.mark.parametrize("count", [1, 2, 100])
    def test_events_are_numbered_without_gaps(self, count):
        assert commit_of(count, first_seq=7).last_seq == 6 + count

    @pytest.mark.parametrize("count", [*range(21), 65535, 65536, 70_000])
    def test_events_that_are_encoded_already_make_the_same_bytes(self, count):
        commit = commit_of(count)
        events = encode_events(commit.events)
        assert joined(1, 1, "a", events) == encode_commit(commit)

    @pytest.mark.parametrize("number", [0, 127, 128, 255, 256, 65535, 65536, 2**32, 2**63 - 1])
    @pytest.mark.parametrize("actor", ["", "a" * 31, "a" * 32, "é" * 200, "a" * 70_000])
    def test_any_header_makes_the_same_bytes(self, number, actor):
        commit = commit_of(1, first_seq=number, at=number, actor=actor)
        assert joined(number, number, actor, encode_events(commit.events[:1])) == encode_commit(
            commit
        )

    def test_commit_that_nobody_could_read_is_refused(self, monkeypatch):
        commit = commit_of(3)
        size = len(encode_commit(commit))
        monkeypatch.setattr(encoding, "MAX_COMMIT_BYTES", size)
        assert len(encode_commit(commit)) == size
        monkeypatch.setattr(encoding, "MAX_COMMIT_BYTES", size - 1)
        with pytest.raises(PayloadTooLarge, match=f"3 events of {size} bytes"):
            encode_commit(commit)

    def test_largest_commit_has_64_mib(self):
        assert MAX_COMMIT_BYTES == 2**26


class TestChain:
    def test_digest_is_frozen(self):
        assert chain(bytes(32), b"commit").hex() == (
            "bc39bf8d46dc24ea517f7ea018f99501c88c4e734b3698d90ba1c04ff9def33b"
        )

    def test_digest_covers_the_bytes_and_all_digests_before(self):
        one, two = chain(bytes(32), b"one"), chain(bytes(32), b"two")
        found = {one, two, chain(one, b"two"), chain(two, b"one"), chain(one, b"one")}
        assert len(found) == 5
        assert chain(bytes(32), memoryview(b"one")) == one
