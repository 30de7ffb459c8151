"""Task ids: UUIDv7 as text (RFC 9562, section 5.7), so that ids sort by the time they were made.

The 12 bits behind the millisecond hold the fraction of the millisecond (RFC 9562, section 6.2,
method 3), the rest is the caller's entropy.
"""

from __future__ import annotations

import hashlib

__all__ = ("ENTROPY_BYTES", "FRACTIONS", "millisecond_part", "next_run_id", "random_parts", "uuid7")

ENTROPY_BYTES = 8
# What follows, by the microseconds: formatting takes longer than all the rest of making an id.
FRACTIONS = tuple(f"-7{microseconds * 4096 // 1000:03x}-" for microseconds in range(1000))
_VARIANTS = bytes(0x80 | byte >> 6 << 4 | byte & 0x0F for byte in range(256))  # of a first byte

_RANDOM_PART = b"xxxx-xxxxxxxxxxxx "
_DIGITS = [place for place, sign in enumerate(_RANDOM_PART) if sign == ord("x")]


def uuid7(at_us: int, entropy: bytes) -> str:
    """Return the UUIDv7 for a time in microseconds and at least `ENTROPY_BYTES` of entropy."""
    milliseconds, microseconds = divmod(at_us, 1000)
    return millisecond_part(milliseconds) + FRACTIONS[microseconds] + random_parts(entropy)[0]


def millisecond_part(milliseconds: int) -> str:
    """Return the beginning of the ids of a millisecond."""
    text = f"{milliseconds:012x}"
    return f"{text[:8]}-{text[8:]}"


def random_parts(entropy: bytes) -> list[str]:
    """Return the ends of as many ids as there are times `ENTROPY_BYTES` of entropy."""
    count = len(entropy) // ENTROPY_BYTES
    parts = bytearray(entropy[: count * ENTROPY_BYTES])
    parts[::ENTROPY_BYTES] = parts[::ENTROPY_BYTES].translate(_VARIANTS)
    # All ids digit by digit, which takes half the time of putting together one after the other.
    digits, text = parts.hex().encode(), bytearray(_RANDOM_PART * count)
    for place, target in enumerate(_DIGITS):
        text[target :: len(_RANDOM_PART)] = digits[place :: len(_DIGITS)]
    return text.decode().split()


def next_run_id(previous_id: str, at_us: int) -> str:
    """Return the id of the run that follows `previous_id` in an interval's series.

    It is derived, not drawn: whoever decides the next run, now or in a replay, names the same one.
    """
    return uuid7(at_us, hashlib.blake2b(previous_id.encode(), digest_size=ENTROPY_BYTES).digest())
