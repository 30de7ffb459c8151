"""Whole segments of a journal elsewhere: at any URL that fsspec knows, compressed, verified.

    URL/00000000000000000001.seg.zst     a segment file as it was, compressed with zstandard

One URL is for one journal. A segment is written under another name, read back, compared, and only
then given its own: what is there under its name is whole. So shipping may be broken off anywhere
and begun again, by any process. `ArchiveDisk` shows an archive as the folder of a file journal,
alone or in front of what is left of the journal itself; everything that reads file journals reads
archives through it.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import io
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniq.errors import ConfigError, StorageError
from omniq.host import random_bytes
from omniq.storage.base import Head, find_task
from omniq.storage.disk import Disk
from omniq.storage.encoding import MAX_COMMIT_BYTES
from omniq.storage.ends import find_end
from omniq.storage.file import FileStorage
from omniq.storage.segments import SUFFIX, Position, Segment, segment_name

if TYPE_CHECKING:
    from collections.abc import Generator

    from omniq.core.events import Commit, Event
    from omniq.storage.base import BaseStorage

    type _Found = tuple[int, Commit, Event]

__all__ = ("ARCHIVED", "MAX_SEGMENT_BYTES", "Archive", "ArchiveDisk", "find_archived", "ship")

ARCHIVED = f"{SUFFIX}.zst"
# A segment is rotated before it is longer than its limit, but a single commit may be longer.
MAX_SEGMENT_BYTES = 4 * MAX_COMMIT_BYTES
_LEVEL = 3  # zstandard's own default


class Archive:
    """The segments at a URL. Every method blocks: call it in a thread."""

    def __init__(self, url: str) -> None:
        self.url = url
        with self._errors("open"):
            import zstandard  # noqa: PLC0415 - who has no archive needs neither

            self._zstandard = zstandard
            # Any: fsspec ships no types.
            core: Any = importlib.import_module("fsspec.core")
            self._files, self._root = core.url_to_fs(url)

    def names(self) -> list[str]:
        """Return the names of the segments, as they are in a journal, in order."""
        with self._errors("list"):
            self._files.invalidate_cache()
            if not self._files.exists(self._root):
                return []
            paths: list[str] = self._files.ls(self._root, detail=False)
        names = [path.rstrip("/").rpartition("/")[2] for path in paths]
        return sorted(name.removesuffix(".zst") for name in names if name.endswith(ARCHIVED))

    def get(self, name: str) -> bytes:
        """Return a segment's bytes; never more than `MAX_SEGMENT_BYTES` of them."""
        with self._errors(f"read {name} from"):
            compressed: bytes = self._files.cat_file(self._path(name))
            return self._decompressed(name, compressed)

    def put(self, name: str, data: bytes) -> None:
        """Keep a segment: it is there, and was read back, when this returns."""
        temporary = f"{self._path(name)}.{random_bytes(4).hex()}.tmp"
        compressed = self._zstandard.ZstdCompressor(level=_LEVEL).compress(data)
        with self._errors(f"write {name} to"):
            self._files.makedirs(self._root, exist_ok=True)
            try:
                self._files.pipe_file(temporary, compressed)
                self._check(name, self._files.cat_file(temporary), data)
                self._files.mv(temporary, self._path(name))
            except BaseException:
                with suppress(OSError):
                    self._files.rm_file(temporary)
                raise

    def _check(self, name: str, compressed: bytes, data: bytes) -> None:
        if self._decompressed(name, compressed) != data:
            raise StorageError(
                f"the archive {self.url} does not give back the segment {name} that was written to "
                "it. It is kept here. Next: look at that storage"
            )

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}.zst"

    def _decompressed(self, name: str, compressed: bytes) -> bytes:
        reader = self._zstandard.ZstdDecompressor().stream_reader(io.BytesIO(compressed))
        try:
            data = reader.read(MAX_SEGMENT_BYTES + 1)
        except self._zstandard.ZstdError as error:
            raise StorageError(
                f"the segment {name} of the archive {self.url} is damaged: {error}"
            ) from None
        if len(data) > MAX_SEGMENT_BYTES:
            raise StorageError(
                f"the segment {name} of the archive {self.url} has more than {MAX_SEGMENT_BYTES} "
                "bytes, which no segment has"
            )
        return data

    @contextmanager
    def _errors(self, what: str) -> Generator[None]:
        """Turn whatever a file system of fsspec raises into an error that says what was tried."""
        try:
            yield
        except StorageError:
            raise
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"archive_url={self.url!r} cannot be used: {error}. Next: install the package that "
                "fsspec needs for it, or name another URL"
            ) from error
        except Exception as error:
            raise StorageError(f"cannot {what} the archive {self.url}: {error}") from error


async def ship(archive: Archive, storage: BaseStorage, *, before: int) -> int:
    """Bring whole segments to the archive; return up to which number it has everything.

    `before` is a time: what is older is shipped although its segment is not full, where the
    backend can do so. Raises `StorageError` if the archive is another journal's.
    """
    names = await asyncio.to_thread(archive.names)
    end = await asyncio.to_thread(_end_of, archive, names) if names else None
    if end is None:
        end = await storage.beginning()
    while (sealed := await storage.seal(end, number=len(names) + 1, before=before)) is not None:
        name = segment_name(end.seq + 1)
        await asyncio.to_thread(archive.put, name, sealed.data)
        names.append(name)
        end = sealed.end
    return end.seq


def _end_of(archive: Archive, names: list[str]) -> Head:
    """Return where the last segment of an archive ends, by reading all of it."""
    disk, folder = ArchiveDisk(archive), Path(archive.url)
    segment = Segment(disk, folder, int(names[-1].removesuffix(SUFFIX)), writable=False)
    try:
        position = Position.start_of(segment)
        if find_end(position) is not None:
            raise position.damage(None)
    finally:
        segment.close()
    return Head(position.seq, position.at, position.digest)


async def find_archived(archive: Archive, task_id: str, until: int) -> list[_Found]:
    """Return the events of one task up to a sequence number, by reading all of an archive."""
    disk = await asyncio.to_thread(ArchiveDisk, archive)
    reader = FileStorage(archive.url, read_only=True, disk=disk)
    await reader.open()
    try:
        found = await find_task(reader, task_id)
    finally:
        await reader.close()
    return [entry for entry in found if entry[0] <= until]


class ArchiveDisk(Disk):
    """A disk that shows an archive's segments in a folder, before those that are really there.

    For reading: what only the archive has is in memory while it is open, and cannot be written.
    """

    def __init__(self, archive: Archive, disk: Disk | None = None) -> None:
        self._archive = archive
        self._disk = disk
        self._opened: dict[int, bytes] = {}
        self._next = -2  # of the descriptors that no file of the system can have

    def list(self, folder: Path) -> list[str]:
        here = [] if self._disk is None else self._disk.list(folder)
        return [*(set(self._archive.names()) - set(here)), *here]

    def exists(self, path: Path) -> bool:
        return (
            self._disk is not None and self._disk.exists(path)
        ) or path.name in self._archive.names()

    def is_directory(self, path: Path) -> bool:
        return True if self._disk is None else self._disk.is_directory(path)

    def open(self, path: Path, flags: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "An archive is only read", str(path))
        if self._disk is not None:
            with suppress(FileNotFoundError):
                return self._disk.open(path, flags)
        if path.name not in self._archive.names():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        descriptor, self._next = self._next, self._next - 1
        self._opened[descriptor] = self._archive.get(path.name)
        return descriptor

    def close(self, descriptor: int) -> None:
        if self._opened.pop(descriptor, None) is None:
            super().close(descriptor)

    def size(self, descriptor: int) -> int:
        data = self._opened.get(descriptor)
        return super().size(descriptor) if data is None else len(data)

    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        data = self._opened.get(descriptor)
        if data is None:
            return super().read(descriptor, length, offset)
        return data[offset : offset + length]
