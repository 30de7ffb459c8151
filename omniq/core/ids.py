"""Task ids: UUIDv7 as text (RFC 9562, section 5.7), so that ids sort by the time they were made.

The 12 bits behind the millisecond hold the fraction of the millisecond (RFC 9562, section 6.2,
method 3), the rest is the caller's entropy. Of ids that are made together, as those of a commit
are, the last 12 bits count (method 1): drawing and formatting entropy takes longer than all the
rest of making an id, and ids of one commit sort in its order.
"""

from __future__ import annotations

import hashlib

__all__ = (
    "COUNTS",
    "ENTROPY_BYTES",
    "block_of",
    "next_run_id",
    "uuid7",
)

ENTROPY_BYTES = 8
COUNTS = tuple(f"{count:03x}" for count in range(1 << 12))  # the ends of the ids of a block


def uuid7(at_us: int, entropy: bytes) -> str:
    """Return the UUIDv7 for a time in microseconds and at least `ENTROPY_BYTES` of entropy."""
    milliseconds, microseconds = divmod(at_us, 1000)
    time = f"{milliseconds:012x}"
    fraction = microseconds * 4096 // 1000
    first, digits = entropy[0], entropy.hex()
    variant = 0x80 | first >> 6 << 4 | first & 0x0F
    return f"{time[:8]}-{time[8:]}-7{fraction:03x}-{variant:02x}{digits[2:4]}-{digits[4:16]}"


def block_of(at_us: int, entropy: bytes) -> str:
    """Return what the ids of a block begin with, all but their count; 50 bits are random."""
    return uuid7(at_us, entropy)[:-3]


def next_run_id(previous_id: str, at_us: int) -> str:
    """Return the id of the run that follows `previous_id` in an interval's series.

    It is derived, not drawn: whoever decides the next run, now or in a replay, names the same one.
    """
    return uuid7(at_us, hashlib.blake2b(previous_id.encode(), digest_size=ENTROPY_BYTES).digest())
