"""Places in a journal as people write them: a sequence number, a time, a head."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import NamedTuple

from omniq.models import MICROSECOND
from omniq.tools.verifying import WantedHead

__all__ = ("Point", "count", "moment", "point", "wanted_head")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGEST_BYTES = 32


class Point(NamedTuple):
    """A place in a journal: behind a sequence number, or behind a time in microseconds."""

    seq: int | None = None
    at: int | None = None


END = Point()


def count(text: str) -> int:
    """Return a number from 0 up."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 up")
    return int(text)


def moment(text: str) -> int:
    """Return a time in microseconds since 1970 UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no ISO 8601 time, such as 2026-01-31T12:00:00Z"
        ) from None
    if found.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} has no time zone, so it means another moment on another machine; "
            f"write {text}Z for UTC"
            if "T" in text or " " in text
            else f"{text!r} has no time zone; write {text}T00:00:00Z for UTC"
        )
    return (found - _EPOCH) // MICROSECOND


def point(text: str) -> Point:
    """Return the place that a sequence number or a time means."""
    if text.isascii() and text.isdigit():
        return Point(seq=int(text))
    return Point(at=moment(text))


def wanted_head(text: str) -> WantedHead:
    """Return a head as `summary` prints it: SEQ:DIGEST, or the digest alone."""
    seq, _, digest = text.rpartition(":")
    try:
        found = WantedHead(count(seq) if seq else None, bytes.fromhex(digest))
    except ValueError:
        found = WantedHead(None, b"")
    if len(found.digest) != _DIGEST_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no head; write SEQ:DIGEST as `summary` prints it, or the 64 hexadecimal "
            "digits alone"
        )
    return found
