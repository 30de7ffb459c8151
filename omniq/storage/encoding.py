"""How commits become bytes, the same in every backend, so that the hash chain is the same too.

A commit is the msgpack array [first sequence number, time, actor, [event, …]]; an event is an
array that begins with its wire tag. The digest of a commit is the BLAKE2b-256 of the digest
before it and these bytes: whoever holds a digest can tell that nothing before it was changed,
removed or put in another order.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from omniq.core.events import Commit, Event
from omniq.errors import PayloadTooLarge, SerializationError
from omniq.parts import PART_ITEMS

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = (
    "MAX_COMMIT_BYTES",
    "chain",
    "check_readable",
    "decode_commit",
    "decode_event",
    "encode_commit",
    "encode_events",
    "joined",
    "misplaced",
)

MAX_COMMIT_BYTES = 64 * 1024 * 1024  # a commit is read whole, so its length is bounded
AT_ONCE_BYTES = 1024 * 1024  # are decoded within some milliseconds
MAX_AT = 253_402_300_799_999_999  # the last microsecond of the year 9999
_UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError)  # what msgspec raises


class _Outline(msgspec.Struct, array_like=True, gc=False):
    """A commit whose events are not decoded yet."""

    first_seq: int
    at: int
    actor: str
    events: list[msgspec.Raw]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Commit)
_outline_decoder = msgspec.msgpack.Decoder(_Outline)
_event_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)

decode_event = _event_decoder.decode


def encode_commit(commit: Commit) -> bytes:
    """Return the bytes of a commit; raises `SerializationError` if nobody could read them."""
    if len(commit.events) > PART_ITEMS:  # event by event, as in `decode_commit`
        events = encode_events(commit.events)
        payload = joined(commit.first_seq, commit.at, commit.actor, events)
    else:
        try:
            payload = _encoder.encode(commit)
        except _UNWRITABLE as error:
            raise _unwritable(error) from error
    check_readable(payload, len(commit.events))
    return payload


def encode_events(events: Iterable[Event]) -> list[bytes]:
    """Return the bytes of each event of a commit; raises `SerializationError`, too."""
    try:
        return [_encoder.encode(event) for event in events]
    except _UNWRITABLE as error:
        raise _unwritable(error) from error


def check_readable(payload: bytes, count: int) -> None:
    """Raise `SerializationError` unless a commit's bytes can be read.

    A value of a wrong type can be encoded, and would make the journal unreadable from there on.
    Reading back costs about 0.13 microseconds an event.
    """
    size = len(payload)
    try:
        decode_commit(payload)
    except _UNWRITABLE as error:
        raise _unwritable(error) from error
    if size > MAX_COMMIT_BYTES:
        raise PayloadTooLarge(
            f"{count} events of {size} bytes are more than one commit may have "
            f"({MAX_COMMIT_BYTES} bytes). Next: enqueue in several calls"
        )


def _unwritable(error: Exception) -> SerializationError:
    return SerializationError(
        f"an event cannot be written as the journal's format has it: {error}. Nothing was written"
    )


def joined(first_seq: int, at: int, actor: str, events: list[bytes]) -> bytes:
    """Return what `encode_commit` would, from events that are encoded already."""
    count = len(events)
    if count < 16:  # noqa: PLR2004 - msgpack: fixarray, array 16, array 32
        header = bytes((0x90 | count,))
    elif count < 1 << 16:
        header = b"\xdc" + count.to_bytes(2, "big")
    else:
        header = b"\xdd" + count.to_bytes(4, "big")
    encode = _encoder.encode
    return b"".join((b"\x94", encode(first_seq), encode(at), encode(actor), header, *events))


def decode_commit(payload: bytes | memoryview) -> Commit:
    """Return the commit; raises `msgspec.DecodeError` for anything else.

    Of a large one event by event, so that a thread does not keep the interpreter for all of it.
    """
    try:
        if len(payload) <= AT_ONCE_BYTES:
            return _decoder.decode(payload)
        outline = _outline_decoder.decode(payload)
        events = [decode_event(event) for event in outline.events]
        return Commit(outline.first_seq, outline.at, outline.actor, events)
    except (UnicodeDecodeError, RecursionError) as error:  # what msgspec lets through
        raise msgspec.DecodeError(str(error)) from None


def misplaced(commit: Commit, seq: int, at: int, count: int) -> tuple[str, str] | None:
    """Return what is expected and what is found, unless a commit can stand where it was found.

    Before it is sequence number `seq`, at the time `at`; whatever holds it says that it has
    `count` events. Every checksum of it is right, so only a faulty writer gets here.
    """
    if commit.first_seq != seq + 1 or len(commit.events) != count or not count:
        return (
            f"a commit of {count} events from sequence number {seq + 1} on",
            f"one of {len(commit.events)} from {commit.first_seq} on",
        )
    if not at <= commit.at <= MAX_AT:
        return f"a time from {at} on and before the year 10000", str(commit.at)
    return None


def chain(previous: bytes, payload: bytes | memoryview) -> bytes:
    """Return the digest of a commit from the digest before it and the commit's bytes."""
    digest = hashlib.blake2b(previous, digest_size=32)
    digest.update(payload)
    return digest.digest()
