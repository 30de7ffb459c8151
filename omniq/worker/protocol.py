"""What a worker and its child processes say to each other: msgpack messages behind a length."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import msgspec

from omniq.core.events import Codec, ErrorRecord

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = (
    "HEADER_BYTES",
    "MAX_MESSAGE_BYTES",
    "Answer",
    "Begun",
    "Job",
    "News",
    "Progress",
    "Raised",
    "RaisedInChild",
    "Returned",
    "Setup",
    "WantsCancel",
    "WantsRetry",
    "interpreter_options",
    "length_of",
    "pack",
    "read_message",
    "setup",
    "unpack_answer",
)

HEADER_BYTES = 4
MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class Setup(msgspec.Struct, frozen=True):
    """What a child needs to import what its parent can, and find there what its parent did.

    Both are as the system has them, since not every argument or path is text.
    """

    path: list[bytes]
    arguments: list[bytes]

    def apply(self) -> None:
        """Make this process like its parent."""
        sys.path[:] = map(os.fsdecode, self.path)
        sys.argv[:] = map(os.fsdecode, self.arguments)


class Job(msgspec.Struct, frozen=True):
    """Run this task once: import and call the function at `target`, "module:qualname"."""

    target: str
    name: str
    payload: bytes
    codec: Codec
    serializer: Codec
    max_payload_bytes: int
    task_id: str
    queue: str
    attempt: int
    max_retries: int


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The function's module is imported and its arguments are read: it is called now."""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """The task reported progress."""

    fraction: float
    message: str


class Returned(msgspec.Struct, frozen=True, tag="returned"):
    """The task returned; `result` is encoded."""

    result: bytes


class Raised(msgspec.Struct, frozen=True, tag="raised"):
    """The task raised an exception."""

    error: ErrorRecord
    class_names: tuple[str, ...]


class WantsRetry(msgspec.Struct, frozen=True, tag="retry"):
    """The task raised `RetryLater`."""

    after_us: int
    reason: str


class WantsCancel(msgspec.Struct, frozen=True, tag="cancel"):
    """The task raised `Cancel`."""

    reason: str


class RaisedInChild(Exception):
    """The task raised an exception in the child, which is described, not rebuilt, here."""

    def __init__(self, raised: Raised) -> None:
        super().__init__(raised.error.message)
        self.raised = raised


type Answer = Returned | Raised | WantsRetry | WantsCancel
type News = Begun | Progress

_encoder = msgspec.msgpack.Encoder()
_answers: msgspec.msgpack.Decoder[Answer | News] = msgspec.msgpack.Decoder(
    Returned | Raised | WantsRetry | WantsCancel | Begun | Progress
)


def unpack_answer(body: bytes) -> Answer | News:
    """Return what a child said; raises ConnectionError if it is not what a child says."""
    try:
        return _answers.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConnectionError(f"this is no message of a child process: {error}") from None


def interpreter_options() -> list[str]:
    """Return the options with which this interpreter was started that its children share."""
    options = [f"-W{option}" for option in sys.warnoptions]
    return [*options, *(["-O"] * sys.flags.optimize)]


def setup() -> Setup:
    """Return what a child of this process needs."""
    path = [os.fsencode(entry or ".") for entry in sys.path]
    return Setup(path, [os.fsencode(argument) for argument in sys.argv])


def pack(message: msgspec.Struct) -> bytes:
    body = _encoder.encode(message)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def length_of(header: bytes) -> int:
    length = int.from_bytes(header, "big")
    if length > MAX_MESSAGE_BYTES:
        raise ConnectionError(f"a message of {length} bytes is longer than {MAX_MESSAGE_BYTES}")
    return length


def read_message(stream: BinaryIO) -> bytes | None:
    """Return the next message's body, or None at the end of the stream."""
    header = stream.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return None
    return stream.read(length_of(header))
