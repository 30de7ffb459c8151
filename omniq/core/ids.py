"""Task ids: UUIDv7 as text (RFC 9562, section 5.7), so that ids sort by the time they were made.

The 12 bits behind the millisecond hold the fraction of the millisecond (RFC 9562, section 6.2,
method 3), the rest is the caller's entropy.
"""

from __future__ import annotations

import hashlib

__all__ = ("ENTROPY_BYTES", "next_run_id", "random_part", "time_part", "uuid7")

ENTROPY_BYTES = 8


def uuid7(at_us: int, entropy: bytes) -> str:
    """Return the UUIDv7 for a time in microseconds and at least `ENTROPY_BYTES` of entropy."""
    return time_part(at_us) + random_part(entropy)


def time_part(at_us: int) -> str:
    """Return the beginning of the ids of a microsecond."""
    milliseconds, microseconds = divmod(at_us, 1000)
    text = f"{milliseconds:012x}"
    return f"{text[:8]}-{text[8:]}-7{microseconds * 4096 // 1000:03x}-"


def random_part(entropy: bytes) -> str:
    """Return the end of an id, which needs at least `ENTROPY_BYTES` of entropy."""
    text = entropy[:8].hex()
    return f"{'89ab'[entropy[0] >> 6]}{text[1:4]}-{text[4:]}"


def next_run_id(previous_id: str, at_us: int) -> str:
    """Return the id of the run that follows `previous_id` in an interval's series.

    It is derived, not drawn: whoever decides the next run, now or in a replay, names the same one.
    """
    return uuid7(at_us, hashlib.blake2b(previous_id.encode(), digest_size=ENTROPY_BYTES).digest())
