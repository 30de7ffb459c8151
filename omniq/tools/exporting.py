"""Every event of a journal as a line of JSON that loses nothing: a journal can be made of it again.

Bytes are base64, times and durations are the stored integers, and the last event of each commit
carries the digest of the hash chain, so that whoever has the lines can check them. Fields that an
older version did not know yet are not in its events, and not in the lines either: with them, the
bytes would be others.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import msgspec

from omniq.core.events import kind_of
from omniq.tools.printing import iso
from omniq.tools.sources import undamaged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omniq.tools.sources import Source

__all__ = ("ExportedEvent", "export")

_decode = msgspec.msgpack.Decoder(tuple[int, int, str, list[list[Any]]]).decode


class ExportedEvent(msgspec.Struct, frozen=True):
    """One event. `commit` is its commit's first and last number, `digest` null but at its end."""

    seq: int
    at_us: int
    at: str | None
    actor: str
    kind: str
    commit: tuple[int, int]
    data: dict[str, object]
    digest: str | None


def export(source: Source) -> Iterator[ExportedEvent]:
    """Yield all events of a journal, in order; raises `CorruptJournal` where it is damaged."""
    scan = source.make_scan()
    for commit in undamaged(scan, source.location):
        stored = _decode(scan.payload)[3]
        digest = scan.digest.hex()
        for seq, event in enumerate(commit.events, commit.first_seq):
            yield ExportedEvent(
                seq=seq,
                at_us=commit.at,
                at=iso(commit.at),
                actor=commit.actor,
                kind=kind_of(event),
                commit=(commit.first_seq, commit.last_seq),
                data=_named(event, stored[seq - commit.first_seq][1:]),
                digest=digest if seq == commit.last_seq else None,
            )


def _named(value: msgspec.Struct, stored: list[Any]) -> dict[str, object]:
    """Return the fields that were stored, by name."""
    names = value.__struct_fields__[: len(stored)]
    return {
        name: _plain(getattr(value, name), item) for name, item in zip(names, stored, strict=False)
    }


def _plain(value: object, stored: Any) -> object:
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, msgspec.Struct):
        return _named(value, stored)
    return value
