"""Room on the disk that is kept for when it is full, so that outcomes can still be recorded.

The room is a file beside the journal. An append that finds no room and may use it makes the file a
little shorter and tries again; any other append first makes it whole again, or fails. So what was
given up for an outcome is not eaten up by new tasks. The file's length is all there is to know:
every process sees it, under the journal's lock, and a crash changes nothing about it.

It holds random bytes, because a file system may store others in less room than they seem to take.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from omniq.errors import StorageFull
from omniq.host import random_bytes
from omniq.storage.disk import is_no_room, storage_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from omniq.storage.disk import Disk

__all__ = ("RESERVE_BYTES", "RESERVE_NAME", "Reserve")

RESERVE_NAME = "journal.reserve"
RESERVE_BYTES = 1024 * 1024  # some thousand outcomes in a file journal, some dozen in SQLite
STEP_BYTES = 64 * 1024  # what a file system needs besides the bytes themselves is less


class Reserve:
    """The file that keeps `size` bytes. Every method is called under the journal's lock."""

    def __init__(self, disk: Disk, folder: Path, size: int) -> None:
        self._disk = disk
        self._path = folder / RESERVE_NAME
        self._size = size
        self._descriptor = -1

    def open(self) -> None:
        """Make the file if there is room for it; if there is none, the next append will say so."""
        try:
            self._make_whole()
        except OSError as error:
            if not is_no_room(error):
                raise

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            self._disk.close(descriptor)

    def append[T](self, write: Callable[[], T], length: int, *, urgent: bool) -> T:
        """Call `write`, which appends about `length` bytes and raises `StorageFull` without room.

        If it is urgent, the room of the reserve is used for it. Else the reserve comes first.
        """
        if not urgent:
            try:
                self._make_whole()
            except OSError as error:
                raise storage_error(error, f"cannot keep a reserve in {self._path}") from error
            return write()
        while True:
            try:
                return write()
            except StorageFull:
                if not self._release(length):
                    raise

    def _make_whole(self) -> None:
        if not self._size:
            return
        length = self._length()
        if length < self._size:
            try:
                missing = random_bytes(self._size - length)
                self._disk.write_all(self._descriptor, missing, length)
            except OSError:
                self._disk.truncate(self._descriptor, length)
                raise

    def _release(self, length: int) -> bool:
        """Give up room for so many bytes, or all that is left; whether there was any left."""
        left = self._length() if self._size else 0
        if left:
            self._disk.truncate(self._descriptor, max(0, left - length - STEP_BYTES))
        return left > 0

    def _length(self) -> int:
        if self._descriptor >= 0:
            try:
                return self._disk.size(self._descriptor)
            except FileNotFoundError:  # somebody made room by hand
                self.close()
        try:
            self._descriptor = self._disk.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            self._descriptor = self._disk.open(self._path, os.O_RDWR | os.O_CREAT)
        return self._disk.size(self._descriptor)
