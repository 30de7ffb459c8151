"""Task ids: UUIDv7 as text (RFC 9562, section 5.7), so that ids sort by the time they were made.

The 12 bits behind the millisecond hold the fraction of the millisecond (RFC 9562, section 6.2,
method 3), the rest is the caller's entropy.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

__all__ = ("ENTROPY_BYTES", "next_run_id", "random_parts", "time_part", "uuid7")

ENTROPY_BYTES = 8
_VARIANTS = dict(zip("0123456789abcdef", "88889999aaaabbbb", strict=True))  # the first digit
# Formatting takes longer than all the rest of making an id.
_FRACTIONS = [f"-7{microseconds * 4096 // 1000:03x}-" for microseconds in range(1000)]


def uuid7(at_us: int, entropy: bytes) -> str:
    """Return the UUIDv7 for a time in microseconds and at least `ENTROPY_BYTES` of entropy."""
    return time_part(at_us) + random_parts(entropy)[0]


def time_part(at_us: int) -> str:
    """Return the beginning of the ids of a microsecond."""
    milliseconds, microseconds = divmod(at_us, 1000)
    return _of_millisecond(milliseconds) + _FRACTIONS[microseconds]


@lru_cache(maxsize=16)
def _of_millisecond(milliseconds: int) -> str:
    text = f"{milliseconds:012x}"
    return f"{text[:8]}-{text[8:]}"


def random_parts(entropy: bytes) -> list[str]:
    """Return the ends of as many ids as there are times `ENTROPY_BYTES` of entropy."""
    text = entropy.hex()
    return [
        f"{_VARIANTS[text[n]]}{text[n + 1 : n + 4]}-{text[n + 4 : n + 16]}"
        for n in range(0, len(text) - 15, 16)
    ]


def next_run_id(previous_id: str, at_us: int) -> str:
    """Return the id of the run that follows `previous_id` in an interval's series.

    It is derived, not drawn: whoever decides the next run, now or in a replay, names the same one.
    """
    return uuid7(at_us, hashlib.blake2b(previous_id.encode(), digest_size=ENTROPY_BYTES).digest())
