"""A disk in memory that loses what was not synced, tears writes, is full, or fails.

Each file and each folder has two views: what processes see, and what would survive a power cut
for certain. Between them lies what was done since the last sync, of which a power cut keeps any
part: of a write any of its sectors, of the names in a folder any. A sync that fails leaves what it
should have written clean and not durable, as Linux does (Rebello et al., ATC 2020).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from omniq.storage.disk import Disk

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ("SECTOR", "File", "Pending", "SimulatedDisk")

SECTOR = 512  # bytes that a device writes whole, or not at all


class Pending(NamedTuple):
    """Something that was done to a file and not yet synced: a write, or a cut if `data` is None."""

    offset: int
    data: bytes | None

    def sectors(self) -> Iterator[Pending]:
        """Yield the parts of a write that can survive one without the other."""
        if self.data is None:
            yield self
            return
        start = 0
        while start < len(self.data):
            length = SECTOR - (self.offset + start) % SECTOR
            yield Pending(self.offset + start, self.data[start : start + length])
            start += length

    def apply(self, content: bytearray) -> None:
        """Do it to a content; what lies between the old end and a write behind it is zero."""
        if len(content) < self.offset:
            content.extend(bytes(self.offset - len(content)))
        if self.data is None:
            del content[self.offset :]
            return
        content[self.offset : self.offset + len(self.data)] = self.data


class File:
    """A file, whatever names it has."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.durable = bytearray()
        self.pending: list[Pending] = []
        self.names = 0

    def do(self, operation: Pending) -> None:
        """Do something that the next sync makes durable."""
        operation.apply(self.seen)
        self.pending.append(operation)

    def sync(self) -> None:
        """Make durable what was done since the last sync."""
        for operation in self.pending:
            operation.apply(self.durable)
        self.pending.clear()


class SimulatedDisk(Disk):
    """The disk of a machine. Files are known by their paths; folders are made, never removed."""

    def __init__(self) -> None:
        self.names: dict[Path, File] = {}
        self.durable_names: dict[Path, File] = {}
        self.folders: set[Path] = set()
        self.durable_folders: set[Path] = set()
        self.before: Callable[[str], None] = _nothing  # called with the name of each operation
        self.limit: Callable[[str, int], int] = _all_of_it  # how many bytes a write may take
        self.room = 0  # how many bytes are written ahead
        self.changes = 0
        self._open: dict[int, File] = {}
        self._opening: dict[int, int] = {}  # descriptor -> the opening that it is of, or a copy of
        self._unreported: set[int] = set()  # openings whose next sync fails, too
        self._next = 1000

    # What a process does.

    def list(self, folder: Path) -> list[str]:
        self.before("list")
        if folder not in self.folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        return [path.name for path in self.names if path.parent == folder]

    def changed_at(self, folder: Path) -> int:
        del folder
        self.changes += 1  # whoever asks has to look
        return self.changes

    def exists(self, path: Path) -> bool:
        return path in self.names or path in self.folders

    def is_directory(self, path: Path) -> bool:
        return path in self.folders

    def make_directory(self, path: Path) -> None:
        if path in self.folders:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        self.before("make_directory")
        self.folders.add(path)

    def open(self, path: Path, flags: int) -> int:
        self.before("open")
        file = self.names.get(path)
        if file is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            file = self._name(path, File())
        elif flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        elif flags & os.O_TRUNC:
            file.do(Pending(0, None))
        return self._describe(file)

    def duplicate(self, descriptor: int) -> int:
        return self._describe(self._open[descriptor], self._opening[descriptor])

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        self._opening.pop(descriptor, None)

    def room_ahead(self, end: int, length: int) -> int:
        del end, length
        return self.room

    def size(self, descriptor: int) -> int:
        file = self._open[descriptor]
        if not file.names:
            raise FileNotFoundError(errno.ENOENT, "The file was removed while it was open")
        return len(file.seen)

    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        self.before("read")
        return bytes(self._open[descriptor].seen[offset : offset + length])

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> int:
        self.before("write")
        count = self.limit("write", len(data))
        self._open[descriptor].do(Pending(offset, bytes(data[:count])))
        return count

    def truncate(self, descriptor: int, length: int) -> None:
        self.before("truncate")
        self._open[descriptor].do(Pending(length, None))

    def sync(self, descriptor: int) -> None:
        file, opening = self._open[descriptor], self._opening[descriptor]
        if opening in self._unreported:
            self._unreported.discard(opening)
            raise OSError(errno.EIO, "A sync of this file has failed meanwhile")
        try:
            self.before("sync")
        except OSError:
            file.pending.clear()  # clean from now on, and not durable
            # Linux tells it once to everyone who has the file open (errseq_t, since 4.13).
            others = {self._opening[other] for other, its in self._open.items() if its is file}
            self._unreported |= others - {opening}
            raise
        file.sync()

    def sync_directory(self, path: Path) -> None:
        self.before("sync_directory")
        for name in {*self.names, *self.durable_names}:
            if name.parent == path:
                _set(self.durable_names, name, self.names.get(name))
        self.durable_folders |= {folder for folder in self.folders if folder.parent == path}

    def rename(self, source: Path, target: Path) -> None:
        if source not in self.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        self.before("rename")
        file = self.names.pop(source)
        file.names -= 1
        self._unname(target)
        self._name(target, file)

    def remove(self, path: Path) -> None:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self.before("remove")
        self._unname(path)

    def _name(self, path: Path, file: File) -> File:
        self.names[path] = file
        file.names += 1
        return file

    def _unname(self, path: Path) -> None:
        if (file := self.names.pop(path, None)) is not None:
            file.names -= 1

    def _describe(self, file: File, opening: int | None = None) -> int:
        self._next += 1
        self._open[self._next] = file
        self._opening[self._next] = self._next if opening is None else opening
        return self._next

    # What a power cut does.

    def crash(self, rng: random.Random) -> None:
        """Cut the power: what was not synced survives in parts that chance decides about."""
        keep = rng.choice((0.0, 0.5, 0.9, 1.0))
        names = dict(self.durable_names)
        for path in sorted({*self.names, *self.durable_names}):
            if self.names.get(path) is not names.get(path) and rng.random() < keep:
                _set(names, path, self.names.get(path))
        for file in {id(file): file for file in names.values()}.values():
            content = bytearray(file.durable)
            for operation in file.pending:
                for sector in operation.sectors():
                    if rng.random() < keep:
                        sector.apply(content)
            if len(content) < len(file.seen) and rng.random() < keep / 2:
                content.extend(bytes(len(file.seen) - len(content)))  # the size, not the data
            file.seen, file.durable, file.pending = content, bytearray(content), []
        self.restart(names, keep_folders=rng.random() < keep)

    def restart(self, names: dict[Path, File], *, keep_folders: bool) -> None:
        """Go on with these files, as after a restart of the machine."""
        for file in self.names.values():
            file.names = 0
        self.folders = set(self.folders if keep_folders else self.durable_folders)
        self.names = {path: file for path, file in names.items() if path.parent in self.folders}
        for file in self.names.values():
            file.names = 0
        for file in self.names.values():
            file.names += 1
        self.durable_names, self.durable_folders = dict(self.names), set(self.folders)
        self._open.clear()
        self._opening.clear()
        self._unreported.clear()


def _set(names: dict[Path, File], path: Path, file: File | None) -> None:
    if file is None:
        names.pop(path, None)
    else:
        names[path] = file


def _nothing(_operation: str) -> None:
    return


def _all_of_it(_operation: str, length: int) -> int:
    return length
