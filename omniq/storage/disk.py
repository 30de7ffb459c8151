"""Every operation that file storage does on the disk, in one place that tests can replace.

A disk that loses un-synced writes, tears them or is full is a subclass of `Disk`; the code above
cannot tell. Descriptors are plain integers.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from omniq.errors import StorageError, StorageFull
from omniq.host import open_private, sync_directory, sync_file

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path

__all__ = ("Disk", "is_no_room", "missing_folder", "storage_error", "system_errors")

ROOM_BYTES = 256 * 1024  # that are written ahead at most, some 15 commits of a hundred tasks
LEAST_ROOM_BYTES = 4096  # a smaller room is a block of the file system, or less
LEAST_ROOM_FRAMES = 4  # for fewer, writing everything twice takes longer than a growing file

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Disk:
    """The real file system."""

    def list(self, folder: Path) -> list[str]:
        return os.listdir(folder)  # noqa: PTH208 - names are wanted, and a million paths cost

    def changed_at(self, folder: Path) -> int:
        """Return when a name in a folder last came or went, in nanoseconds; 0 if it is gone."""
        try:
            return os.stat(folder).st_mtime_ns  # noqa: PTH116 - each commit asks
        except FileNotFoundError:
            return 0

    def exists(self, path: Path) -> bool:
        return path.exists()

    def is_directory(self, path: Path) -> bool:
        return path.is_dir()

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700)

    def open(self, path: Path, flags: int) -> int:
        return open_private(path, flags)

    def duplicate(self, descriptor: int) -> int:
        return os.dup(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def room_ahead(self, end: int, length: int) -> int:
        """Return how many zeros to write behind a frame of this length, for later ones.

        Never more than a quarter of what is there up to its end: a small journal stays small.
        """
        room = min(ROOM_BYTES, end // 4)
        return room if room >= max(LEAST_ROOM_BYTES, LEAST_ROOM_FRAMES * length) else 0

    def size(self, descriptor: int) -> int:
        """Return how long a file is, which must still have a name.

        Each commit does without: once somebody has seen a file's times, Linux keeps that of the
        next write exactly (multigrain timestamps, since 6.13), and so has more to sync.
        """
        status = os.fstat(descriptor)
        if status.st_nlink == 0:  # what is written to it now, nobody will ever find again
            raise FileNotFoundError(errno.ENOENT, "The file was removed while it was open")
        return status.st_size

    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        return os.pread(descriptor, length, offset)

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> int:
        """Write some of `data`, as much as the system takes, and return how much that was."""
        return os.pwrite(descriptor, data, offset)

    def truncate(self, descriptor: int, length: int) -> None:
        os.ftruncate(descriptor, length)

    def sync(self, descriptor: int) -> None:
        sync_file(descriptor)

    def sync_directory(self, path: Path) -> None:
        sync_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def remove(self, path: Path) -> None:
        path.unlink()

    # Compounds of the above.

    def write_all(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of `data`, however many calls that takes."""
        written = self.write(descriptor, data, offset)
        while written < len(data):
            written += self.write(descriptor, memoryview(data)[written:], offset + written)

    def create(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Make a durable file with this content appear, whole or not at all."""
        temporary = path.with_name(f"{path.name}.tmp")
        descriptor = self.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            offset = 0
            for piece in pieces:
                self.write_all(descriptor, piece, offset)
                offset += len(piece)
            self.sync(descriptor)
        except OSError:
            with suppress(OSError):  # on a full disk, half a file is in everybody's way
                self.remove(temporary)
            raise
        finally:
            self.close(descriptor)
        self.rename(temporary, path)
        self.sync_directory(path.parent)


def is_no_room(error: OSError) -> bool:
    """Whether the disk is full, or the share of it that its owner may use."""
    return error.errno in _NO_ROOM


def storage_error(error: OSError, what: str) -> StorageError:
    """Return the error of the OmniQ tree for an error of the system."""
    reason = error.strerror or str(error)
    if is_no_room(error):
        return StorageFull(
            f"{what}: {reason}. The journal is valid and nothing was written. "
            "Next: make room; appends then work again"
        )
    return StorageError(f"{what}: {reason}")


@contextmanager
def missing_folder(path: Path) -> Generator[None]:
    """Say so if something cannot be created because the folder around it is not there."""
    try:
        yield
    except FileNotFoundError as error:
        if path.parent.exists():
            raise
        raise StorageError(
            f"cannot create {path}: there is no folder {path.parent}. Next: create it, or name "
            "another path"
        ) from error


@contextmanager
def system_errors(what: str) -> Generator[None]:
    """Turn errors of the system into errors of the OmniQ tree that say what was tried."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, what) from error
