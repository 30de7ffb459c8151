"""Every event of a journal as a line of JSON that loses nothing: a journal can be made of it again.

Bytes are base64, times and durations are the stored integers, and the last event of each commit
carries the digest of the hash chain, so that whoever has the lines can check them.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import msgspec

from omniq.core.events import kind_of
from omniq.storage.encoding import chain, encode_commit
from omniq.tools.printing import iso

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from omniq.core.events import Event
    from omniq.tools.reading import Journal

__all__ = ("ExportedEvent", "export")


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


async def export(journal: Journal) -> AsyncIterator[ExportedEvent]:
    """Yield all events of a journal, in order."""
    digest = journal.beginning.digest
    async for batch in journal.commits():
        for commit in batch:
            digest = chain(digest, encode_commit(commit))
            for seq, event in enumerate(commit.events, commit.first_seq):
                yield ExportedEvent(
                    seq=seq,
                    at_us=commit.at,
                    at=iso(commit.at),
                    actor=commit.actor,
                    kind=kind_of(event),
                    commit=(commit.first_seq, commit.last_seq),
                    data=_fields(event),
                    digest=digest.hex() if seq == commit.last_seq else None,
                )


def _fields(value: Event | msgspec.Struct) -> dict[str, object]:
    return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, msgspec.Struct):
        return _fields(value)
    return value
