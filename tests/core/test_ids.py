"""Ids are UUIDs of version 7, and sort by the time they were made."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from omniq.core.ids import ENTROPY_BYTES, next_run_id, uuid7

TIMES = st.integers(0, (1 << 48) * 1000 - 1)  # up to the year 10889
ENTROPY = st.binary(min_size=ENTROPY_BYTES, max_size=2 * ENTROPY_BYTES)
NOW = 1_767_225_600_123_456


@given(TIMES, ENTROPY)
def test_id_is_a_valid_uuid_of_version_7(at, entropy):
    text = uuid7(at, entropy)
    parsed = uuid.UUID(text)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert str(parsed) == text


@given(TIMES, ENTROPY)
def test_id_carries_its_time_to_the_microsecond(at, entropy):
    number = uuid.UUID(uuid7(at, entropy)).int
    milliseconds, fraction = number >> 80, number >> 64 & 0xFFF
    assert milliseconds * 1000 + -(-fraction * 1000 // 4096) == at


@given(TIMES, TIMES, ENTROPY, ENTROPY)
def test_ids_sort_by_time_as_text(at, other, entropy, other_entropy):
    one, two = uuid7(at, entropy), uuid7(other, other_entropy)
    if at != other:
        assert (one < two) == (at < other)


def test_ids_of_each_microsecond_sort_too():
    made = [uuid7(NOW + step, bytes(8)) for step in range(3000)]
    assert sorted(set(made)) == made


def test_62_bits_of_the_entropy_make_a_difference():
    base = uuid7(NOW, bytes(8))
    others = {uuid7(NOW, (1 << bit).to_bytes(8, "big")) for bit in range(64)} - {base}
    assert len(others) == 62


def test_example():
    made = uuid7(NOW, bytes.fromhex("0123456789abcdef"))
    assert made == "019b76da-a87b-774b-8123-456789abcdef"


def test_next_run_is_named_by_the_run_before_it_and_the_time():
    first = next_run_id("a", NOW)
    assert next_run_id("a", NOW) == first
    assert len({first, next_run_id("b", NOW), next_run_id("a", NOW + 1)}) == 3
    assert uuid.UUID(first).int >> 80 == NOW // 1000


def test_next_run_has_the_same_id_in_every_version():
    assert next_run_id("019b76da-a87b-774b-9123-456789abcdef", NOW) == (
        "019b76da-a87b-774b-ae44-59c61ad9db21"
    )
