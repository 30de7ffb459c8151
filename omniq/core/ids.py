"""Task ids: UUIDv7 as text (RFC 9562, section 5.7), so that ids sort by the time they were made.

The 12 bits behind the millisecond hold the fraction of the millisecond (RFC 9562, section 6.2,
method 3), the rest is the caller's entropy. Of ids that are made together, the last 12 bits count
(method 1): drawing and formatting entropy takes longer than all the rest of making an id, and ids
of one call sort in its order.
"""

from __future__ import annotations

import hashlib

__all__ = (
    "COUNTS",
    "ENTROPY_BYTES",
    "FRACTIONS",
    "block_of",
    "millisecond_part",
    "next_run_id",
    "uuid7",
)

ENTROPY_BYTES = 8
# What follows the milliseconds, by the microseconds: formatting them took most of an id's time.
FRACTIONS = tuple(f"-7{microseconds * 4096 // 1000:03x}-" for microseconds in range(1000))
COUNTS = tuple(f"{count:03x}" for count in range(1 << 12))  # the ends of the ids of a block


def uuid7(at_us: int, entropy: bytes) -> str:
    """Return the UUIDv7 for a time in microseconds and at least `ENTROPY_BYTES` of entropy."""
    milliseconds, microseconds = divmod(at_us, 1000)
    return millisecond_part(milliseconds) + FRACTIONS[microseconds] + _random_part(entropy)


def millisecond_part(milliseconds: int) -> str:
    """Return the beginning of the ids of a millisecond."""
    text = f"{milliseconds:012x}"
    return f"{text[:8]}-{text[8:]}"


def block_of(entropy: bytes) -> str:
    """Return what stands between the time and the count in the ids of a block, 50 bits of it."""
    return _random_part(entropy)[:-3]


def _random_part(entropy: bytes) -> str:
    first, digits = entropy[0], entropy.hex()
    return f"{0x80 | first >> 6 << 4 | first & 0x0F:02x}{digits[2:4]}-{digits[4:16]}"


def next_run_id(previous_id: str, at_us: int) -> str:
    """Return the id of the run that follows `previous_id` in an interval's series.

    It is derived, not drawn: whoever decides the next run, now or in a replay, names the same one.
    """
    return uuid7(at_us, hashlib.blake2b(previous_id.encode(), digest_size=ENTROPY_BYTES).digest())
