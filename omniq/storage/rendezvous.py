"""Where the processes that share a journal on one host meet: a folder of locks and sockets.

    journal.lock   held while appending; its content is the head hint
    wake/          a socket for each process that waits for news
    live/          a file for each worker, locked as long as its process lives

A byte behind the hint says that a sync has failed, and nobody has written anew what it was about.

The head hint says where the journal ended when the lock was last given up, so that whoever takes
the lock next need not look. It is a cache: checksummed, never synced, ignored after a reboot, and
never a reason to remove anything.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from omniq.errors import StorageClosed, StorageError
from omniq.host import (
    EVERYBODY,
    Bell,
    FileLock,
    WakeListener,
    boot_id,
    exposure,
    network_file_system,
    processor_time,
    random_bytes,
    tells_boots_apart,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("LOCK_NAME", "OWN_NAMES", "HeadHint", "Rendezvous", "check_privacy")

LOCK_NAME = "journal.lock"
WAKE_FOLDER = "wake"
LIVE_FOLDER = "live"
OWN_NAMES = frozenset({LOCK_NAME, WAKE_FOLDER, LIVE_FOLDER})

# The holder of the lock is mostly done within 0.1 ms; a commit to SQLite takes a sync longer.
_TRIES_AT_ONCE = 30
_RETRY_SECONDS = 0.001
_TRIES_BEFORE_WARNING = 5000  # about 5 s
_PATIENCE_SECONDS = 5.0
_NAME_LIMIT = 64

_log = logging.getLogger(__name__)


class HeadHint(NamedTuple):
    """The journal's end: its place in the files, and what the next commit is chained to."""

    segment: int  # first sequence number of the segment, which names its file
    frame_offset: int  # where the last frame begins; 0 if the segment has none
    offset: int  # where the next frame begins
    seq: int
    at: int
    digest: bytes


_HINT = struct.Struct("<QQQQQ32s")
_CRC = struct.Struct("<I")
_SUSPECT_OFFSET = _HINT.size + _CRC.size  # a byte behind the hint


def check_privacy(path: Path) -> None:
    """Refuse a file or folder that everybody may change, and warn of one that somebody else may.

    A group or another owner may be meant; everybody never is.
    """
    exposed = exposure(path)
    if exposed is None:
        return
    who, command = exposed
    if who == EVERYBODY:
        raise StorageError(
            f"{path} may be changed by everybody, and who can change a journal chooses what its "
            f"workers run. It was not touched. Next: {command}, or name a folder in it"
        )
    _log.warning(
        "%s may be changed by %s, and who can change a journal chooses what its workers run. "
        "Next, unless that is meant: %s",
        path,
        who,
        command,
        extra={"action": "journal_exposed"},
    )


class Rendezvous:
    """One process' handle on the meeting place in `folder`, which exists."""

    def __init__(self, folder: Path, journal_id: bytes = b"") -> None:
        self.folder = folder
        if (kind := network_file_system(folder)) is not None:
            _log.warning(
                "the journal in %s is on a network file system (%s), where locks and syncs may "
                "not hold what OmniQ promises. Next: move it to a local disk",
                folder,
                kind,
                extra={"action": "network_file_system"},
            )
        check_privacy(folder)
        for name in (WAKE_FOLDER, LIVE_FOLDER):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        self._lock = FileLock(folder / LOCK_NAME)
        self._turn = asyncio.Lock()  # a file lock does not keep the tasks of one handle apart
        self._is_closed = False
        self._bell = Bell(folder / WAKE_FOLDER)
        self._listener: WakeListener | None = None
        self._lives: dict[str, FileLock] = {}
        self._owner = os.getpid()
        self.bind(journal_id)

    def bind(self, journal_id: bytes) -> None:
        """Name the journal whose head the hints are about."""
        self._seed = crc32(boot_id().encode(), crc32(journal_id))

    async def enter(self) -> None:
        """Take the journal's lock."""
        if os.getpid() != self._owner:
            raise StorageError(
                f"the journal in {self.folder} was opened by process {self._owner}, which forked; "
                "open it again in the child"
            )
        await self._turn.acquire()
        try:
            await self._take_lock()
        except BaseException:
            self._turn.release()
            raise

    async def _take_lock(self) -> None:
        """Try until the lock is ours, and let the event loop go on between the tries.

        A thread that waits in the kernel would be simpler, and much slower: between getting the
        lock and telling the loop it needs the interpreter's lock, which a busy loop gives up
        every 5 ms only, while everybody else waits for the file's.
        """
        tries = 0
        while True:
            self._check_open()
            if self._lock.try_acquire():
                return
            tries += 1
            if tries == _TRIES_BEFORE_WARNING:
                self._warn_of_holder()
            if tries < _TRIES_AT_ONCE or self._listener is None:
                await asyncio.sleep(0 if tries < _TRIES_AT_ONCE else _RETRY_SECONDS)
            else:  # the holder rings when it leaves
                await self._listener.wait_briefly(_RETRY_SECONDS)

    def _warn_of_holder(self) -> None:
        """Say who keeps everyone waiting: a dead process cannot, but one that is stopped can."""
        holder = self._lock.holder()
        _log.warning(
            "the lock of the journal in %s is held for seconds by process %s. "
            "Next: if that process is stopped (SIGSTOP, a debugger), continue it or kill it",
            self.folder,
            holder,
            extra={"action": "lock_held_long", "pid": holder},
        )

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageClosed(f"the journal in {self.folder} was closed meanwhile")

    def leave(self) -> None:
        """Give the lock up."""
        if not self._is_closed:
            self._lock.release()
        self._turn.release()

    def read_hint(self) -> HeadHint | None:
        """Return the head hint, or None if there is none that this boot can trust."""
        return self.look()[0]

    def look(self) -> tuple[HeadHint | None, bool]:
        """Return the head hint, and whether a sync failed since everything was last written."""
        data = os.pread(self._lock.descriptor, _SUSPECT_OFFSET + 1, 0)
        is_suspect = data[_SUSPECT_OFFSET:] == b"!"
        if len(data) < _SUSPECT_OFFSET:
            return None, is_suspect
        if _CRC.unpack_from(data, _HINT.size)[0] != crc32(data[: _HINT.size], self._seed):
            return None, is_suspect
        return HeadHint(*_HINT.unpack_from(data)), is_suspect

    def hint_of_this_boot(self) -> HeadHint | None:
        """Return the head hint if it certainly was written since the machine started.

        What a handle that is open reads was written by another one: only what was there before
        may be of a time before a power cut, which may have taken what the hint is about.
        """
        return self.read_hint() if tells_boots_apart() else None

    def miss(self, end: int) -> None:
        """Say so if the journal ends here and once went on, since the machine started."""
        hint = self.hint_of_this_boot()
        if hint is not None and hint.seq > end:
            _log.warning(
                "the journal in %s ends with sequence number %d, and ended with %d before: what "
                "is missing was removed, or could not be written. Nothing is wrong if you put a "
                "backup in its place",
                self.folder,
                end,
                hint.seq,
                extra={"action": "end_missing", "seq": end, "known": hint.seq},
            )

    def publish(self, hint: HeadHint) -> None:
        """Write the head hint; the caller holds the lock.

        A commit that is written must not fail because of its hint: what cannot be written, on a
        full disk, is left as it was, and whoever comes next has to look.
        """
        data = _HINT.pack(*hint)
        with suppress(OSError):
            os.pwrite(self._lock.descriptor, data + _CRC.pack(crc32(data, self._seed)), 0)

    def withdraw(self) -> None:
        """Make whoever takes the lock next look for the journal's end, should we die now."""
        os.pwrite(self._lock.descriptor, bytes(_HINT.size + _CRC.size), 0)

    def suspect(self) -> None:
        """Say, also without the lock, that a sync failed: the system's memory is not the disk."""
        with suppress(OSError):
            os.pwrite(self._lock.descriptor, b"!", _SUSPECT_OFFSET)

    def is_suspect(self) -> bool:
        """Whether a sync failed since somebody last wrote everything again."""
        return self.look()[1]

    def trust(self) -> None:
        """Say that everything was written again, and synced."""
        os.pwrite(self._lock.descriptor, b"\0", _SUSPECT_OFFSET)

    def ring(self) -> None:
        """Wake every other process that waits for news."""
        self._bell.ring(but="" if self._listener is None else self._listener.name)

    def listen(self) -> None:
        """From now on, `heard` returns after another process has rung."""
        if self._listener is None:
            name = f"{os.getpid()}-{random_bytes(6).hex()}"
            self._listener = WakeListener(self.folder / WAKE_FOLDER, name)

    async def heard(self) -> None:
        assert self._listener is not None, "listen comes first"
        await self._listener.wait()

    def hold_life(self, worker: str) -> None:
        """Hold this worker's lock until `drop_life` or death."""
        if not _is_name(worker):
            raise StorageError(f"{worker!r} is no name for a worker: use letters and digits")
        lock = FileLock(self._life(worker))
        if not lock.try_acquire():
            lock.close()
            raise StorageError(f"another process already lives as worker {worker}")
        self._lives[worker] = lock

    def drop_life(self, worker: str) -> None:
        lock = self._lives.pop(worker, None)
        if lock is not None:
            self._life(worker).unlink(missing_ok=True)
            lock.close()

    def is_dead(self, worker: str) -> bool:
        """Whether the worker's lock is free, or was removed."""
        if worker in self._lives or not _is_name(worker):
            return False
        try:
            lock = FileLock(self._life(worker), create=False)
        except FileNotFoundError:
            return True
        try:
            if not lock.try_acquire():
                return False
            # Names are random and used once, so nobody will want to lock this one again.
            lock.path.unlink(missing_ok=True)
            return True
        finally:
            lock.close()

    def processor_time(self, worker: str) -> int | None:
        """Return how long the process that holds the worker's lock has run, if the system tells."""
        if not _is_name(worker):
            return None
        try:
            lock = FileLock(self._life(worker), create=False)
        except FileNotFoundError:
            return None
        try:
            holder = lock.holder()
        finally:
            lock.close()
        return None if holder is None else processor_time(holder)

    def close(self) -> None:
        self._is_closed = True
        for worker in tuple(self._lives):
            self.drop_life(worker)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._bell.close()
        self._lock.close()

    def _life(self, worker: str) -> Path:
        return self.folder / LIVE_FOLDER / worker


def _is_name(worker: str) -> bool:
    """Whether a worker's name, which may come from a journal, is no path."""
    return worker.isascii() and worker.isalnum() and len(worker) <= _NAME_LIMIT
