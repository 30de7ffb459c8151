"""Task ids: UUIDv7 as text (RFC 9562, section 5.7), so that ids sort by the time they were made.

The 12 bits behind the millisecond hold the fraction of the millisecond (RFC 9562, section 6.2,
method 3), the rest is the caller's entropy.
"""

from __future__ import annotations

import hashlib

__all__ = ("ENTROPY_BYTES", "next_run_id", "uuid7")

ENTROPY_BYTES = 8


def uuid7(at_us: int, entropy: bytes) -> str:
    """Return the UUIDv7 for a time in microseconds and at least `ENTROPY_BYTES` of entropy."""
    milliseconds, microseconds = divmod(at_us, 1000)
    time = f"{milliseconds:012x}"
    fraction = microseconds * 4096 // 1000
    tail = entropy[:8].hex()
    variant = "89ab"[entropy[0] >> 6]
    return f"{time[:8]}-{time[8:]}-7{fraction:03x}-{variant}{tail[1:4]}-{tail[4:]}"


def next_run_id(previous_id: str, at_us: int) -> str:
    """Return the id of the run that follows `previous_id` in an interval's series.

    It is derived, not drawn: whoever decides the next run, now or in a replay, names the same one.
    """
    return uuid7(at_us, hashlib.blake2b(previous_id.encode(), digest_size=ENTROPY_BYTES).digest())
