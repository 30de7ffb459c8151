"""The bytes of a snapshot, the same in every backend, and the files of the file storage's.

    snapshot = magic (8 bytes), length and header, (length, part)*, BLAKE2b-256 of all before it

The header says which journal's state it is and at which place: the sequence number, time and
digest of a commit, and what the backend needs to find the journal's next byte. A snapshot that
does not verify, or whose place is not in the journal, is as good as none.
"""

from __future__ import annotations

import hashlib
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from omniq.errors import OmniqError, StorageError
from omniq.host import random_bytes
from omniq.storage.base import Bookmark, Snapshot
from omniq.storage.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator
    from pathlib import Path

    from omniq.storage.disk import Disk

__all__ = ("KEPT", "BadSnapshot", "SnapshotFolder", "pieces_of", "snapshot_of")

KEPT = 2  # if the newest does not verify, there is the one before it
MAX_SNAPSHOT_BYTES = 2 * 1024 * 1024 * 1024  # of about ten million tasks; larger are not read
WRITE_BYTES = 1024 * 1024  # at a time: each write is a hop to a thread
SUFFIX = ".snapshot"

_MAGIC = b"OqSnap\r\n"
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
_DIGITS = 20


class BadSnapshot(OmniqError):
    """Bytes that are no snapshot of this journal, and why."""


class _Header(msgspec.Struct, frozen=True, array_like=True):
    version: Literal[1]
    journal_id: bytes
    bookmark: Bookmark


_FORMAT: Final = 1
_header_decoder = msgspec.msgpack.Decoder(_Header)


async def pieces_of(
    journal_id: bytes, bookmark: Bookmark, parts: AsyncIterable[bytes]
) -> AsyncIterator[bytes]:
    """Yield a snapshot's bytes, piece by piece; raises `StorageError` if they are too many."""
    digest, size = hashlib.blake2b(digest_size=_DIGEST_BYTES), 0
    header = msgspec.msgpack.encode(_Header(_FORMAT, journal_id, bookmark))
    first = b"".join((_MAGIC, _LENGTH.pack(len(header)), header))
    digest.update(first)
    yield first
    async for part in parts:
        piece = _LENGTH.pack(len(part)) + part
        if (size := size + len(piece)) > MAX_SNAPSHOT_BYTES:
            raise StorageError(
                f"the state at sequence number {bookmark.seq} takes more than the "
                f"{MAX_SNAPSHOT_BYTES} bytes that a snapshot may have. Next: keep results for a "
                "shorter time (result_ttl), or pass references instead of large arguments"
            )
        digest.update(piece)
        yield piece
    yield digest.digest()


def snapshot_of(journal_id: bytes, data: bytes) -> Snapshot:
    """Return the snapshot that these bytes are; raises `BadSnapshot` if they are none."""
    view = memoryview(data)
    content, stored = view[:-_DIGEST_BYTES], view[-_DIGEST_BYTES:]
    if hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest() != bytes(stored):
        raise BadSnapshot(f"its {len(data)} bytes do not have the digest at their end")
    if not data.startswith(_MAGIC):
        raise BadSnapshot("it does not begin like a snapshot")
    fields = _split(content[len(_MAGIC) :])
    try:
        header = _header_decoder.decode(fields[0])
    except (IndexError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSnapshot(f"its header cannot be read ({error})") from None
    if header.journal_id != journal_id:
        raise BadSnapshot(f"it is of the journal {header.journal_id.hex()}")
    return Snapshot(header.bookmark, [bytes(field) for field in fields[1:]])


def _split(content: memoryview) -> list[memoryview]:
    fields: list[memoryview] = []
    offset = 0
    while offset + _LENGTH.size <= len(content):
        (length,) = _LENGTH.unpack_from(content, offset)
        offset += _LENGTH.size
        fields.append(content[offset : offset + length])
        offset += length
    if offset != len(content):
        raise BadSnapshot("its parts do not fill it")
    return fields


class SnapshotFolder:
    """The snapshots among the files of a journal; every method works on the disk at once."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self.disk = disk
        self.path = path

    def seqs(self) -> list[int]:
        """Return the sequence numbers of all snapshots, in order."""
        return sorted(
            int(name[:_DIGITS])
            for name in self.disk.list(self.path)
            if name.endswith(SUFFIX) and name[:_DIGITS].isdigit() and len(name) == len(_name(0))
        )

    def file(self, seq: int) -> Path:
        return self.path / _name(seq)

    def read(self, seq: int) -> bytes:
        descriptor = self.disk.open(self.file(seq), os.O_RDONLY)
        try:
            size = self.disk.size(descriptor)
            if size > MAX_SNAPSHOT_BYTES:
                raise BadSnapshot(f"it has {size} bytes; {MAX_SNAPSHOT_BYTES} are the limit")
            data = self.disk.read(descriptor, size, 0)
        finally:
            self.disk.close(descriptor)
        return data

    async def save(
        self, journal_id: bytes, bookmark: Bookmark, parts: AsyncIterable[bytes]
    ) -> None:
        """Write a snapshot, durable and whole, and remove those that it makes needless."""
        await in_thread(lambda: self._remove_unfinished(bookmark.seq))
        file, is_whole = _SnapshotFile(self.disk, self.file(bookmark.seq)), False
        try:
            async for piece in pieces_of(journal_id, bookmark, parts):
                if file.gather(piece) >= WRITE_BYTES:
                    await in_thread(file.write)
            await in_thread(file.finish)
            is_whole = True
        finally:
            file.close(remove=not is_whole)
        await in_thread(self.remove_old)

    def remove_old(self) -> None:
        """Remove all but the newest."""
        for seq in self.seqs()[:-KEPT]:
            with suppress(FileNotFoundError):  # somebody else did the same
                self.disk.remove(self.file(seq))

    def _remove_unfinished(self, until: int) -> None:
        """Remove what others began and did not finish, most likely because they died."""
        for name in self.disk.list(self.path):
            if (
                SUFFIX in name
                and name.endswith(".tmp")
                and name[:_DIGITS] <= _name(until)[:_DIGITS]
            ):
                with suppress(FileNotFoundError):
                    self.disk.remove(self.path / name)


class _SnapshotFile:
    """A snapshot that is being written, under a name that nobody reads."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path
        self._temporary = path.with_name(f"{path.name}.{random_bytes(4).hex()}.tmp")
        self._descriptor = disk.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._offset = 0
        self._gathered = bytearray()

    def gather(self, piece: bytes) -> int:
        """Keep a piece for the next write, and return how many bytes that will have."""
        self._gathered += piece
        return len(self._gathered)

    def write(self) -> None:
        data, self._gathered = bytes(self._gathered), bytearray()
        self._disk.write_all(self._descriptor, data, self._offset)
        self._offset += len(data)

    def finish(self) -> None:
        """Make it durable, and only then give it its name."""
        self.write()
        self._disk.sync(self._descriptor)
        with suppress(FileNotFoundError):  # who began a newer one has removed it
            self._disk.rename(self._temporary, self._path)
            self._disk.sync_directory(self._path.parent)

    def close(self, *, remove: bool) -> None:
        self._disk.close(self._descriptor)
        if remove:
            with suppress(OSError):  # it is in nobody's way, and the next one will try, too
                self._disk.remove(self._temporary)


def _name(seq: int) -> str:
    return f"{seq:0{_DIGITS}}{SUFFIX}"
