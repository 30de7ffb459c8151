"""What depends on the operating system: locks, syncing to disk, wake-ups, the kernel's identity.

Nothing else in OmniQ asks which platform it runs on. Linux is the first target and macOS the
second. On Windows locks are msvcrt's, there are no wake-ups between processes (waiting polls
every `POLL_SECONDS`) and directories cannot be synced: durability there is the file system's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import platform
import signal
import socket
import stat
import sys
import time
import weakref
from functools import cache
from pathlib import Path

__all__ = (
    "EVERYBODY",
    "POLL_SECONDS",
    "Bell",
    "FileLock",
    "WakeListener",
    "boot_id",
    "end_with_parent",
    "exposure",
    "host_name",
    "make_private",
    "network_file_system",
    "open_private",
    "processor_time",
    "random_bytes",
    "sync_directory",
    "sync_file",
    "tells_boots_apart",
)

POLL_SECONDS = 0.05
# How old the time of a folder's last change must be for another change to have another time, where
# times are whole seconds (the coarsest, those of FAT, even ones); and where they are those of the
# kernel's last tick, of 10 ms at most.
FOLDER_SETTLED_NS = 3_000_000_000
FINE_FOLDER_SETTLED_NS = 50_000_000
PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
EVERYBODY = "everybody"
_NETWORK_FILE_SYSTEMS = frozenset(
    ("9p", "afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "lustre", "nfs", "nfs4", "smb3")
)
_PR_SET_PDEATHSIG = 1  # of prctl(2)
_SOCKET_PATH_LIMIT = 100  # sun_path holds 104 bytes on macOS, 108 on Linux
_SOCKET_NAME_LIMIT = 40

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


def host_name() -> str:
    """Return this machine's name, for people to read."""
    return platform.node() or "unknown"


@cache
def boot_id() -> str:
    """Return a name for this run of this kernel: equal in all processes that share its locks.

    Where the kernel has none (see `tells_boots_apart`), one host name is taken for one kernel.
    """
    return _kernels_boot_id() or host_name()


def tells_boots_apart() -> bool:
    """Whether `boot_id` is another one after a restart, as it is on Linux."""
    return bool(_kernels_boot_id())


def _kernels_boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """Return the type of the network file system that `path` is on, where the system tells.

    There locks and syncs are another machine's promises, if they are promises at all.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    found, kind, inside = "", "", f"{path}/"
    for line in mounts.splitlines():
        _, folder, type_of_folder, *_ = line.split(" ")
        # As text: there are dozens of mounts, and each journal that is opened asks.
        if inside.startswith(f"{folder.rstrip('/')}/") and len(folder) >= len(found):
            found, kind = folder, type_of_folder
    return kind if kind in _NETWORK_FILE_SYSTEMS else None


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it dies, where it can (Linux)."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - only child processes need it

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def processor_time(pid: int) -> int | None:
    """Return how long the threads of a process have run, in nanoseconds, where the system tells.

    That is Linux. It stands still only while the process does; what a thread that has ended took is
    left out.
    """
    taken: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError, ValueError):  # it has just ended
                first, *_ = (thread / "schedstat").read_text(encoding="ascii").split()
                taken.append(int(first))
    return sum(taken) if taken else None


def random_bytes(count: int) -> bytes:
    """Return the system's randomness, for names that no two processes may share."""
    return os.urandom(count)


def open_private(path: Path, flags: int) -> int:
    """Open a file for its owner alone, never through a symbolic link, not inherited on exec.

    A pipe of that name is opened without waiting for its other end; reading then fails.
    """
    for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    return os.open(path, flags, PRIVATE_FILE)


def exposure(path: Path) -> tuple[str, str] | None:
    """Return who else may change a file or what is in a folder, and a command that prevents it.

    None if nobody but the user of this process and root, or where permissions are not of this
    kind. Whoever can change a journal can make its workers run their tasks with any arguments.
    """
    if sys.platform == "win32":
        return None
    status, user = path.stat(), os.geteuid()
    if status.st_mode & stat.S_IWOTH:
        return EVERYBODY, f"chmod o-w {path}"
    if status.st_uid not in (user, 0):
        return f"user {status.st_uid}, who owns it", f"chown {user} {path}"
    if status.st_mode & stat.S_IWGRP:
        return f"the group {status.st_gid}", f"chmod g-w {path}"
    return None


def make_private(path: Path) -> None:
    """Take a folder away from everybody but its owner, if that is the user of this process."""
    if sys.platform != "win32" and path.stat().st_uid == os.geteuid():
        path.chmod(PRIVATE_FOLDER)


def sync_file(descriptor: int) -> None:
    """Return once the file's content would survive power loss; raises OSError if it would not."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # fsync alone leaves data in the drive's cache
    elif sys.platform == "win32":
        os.fsync(descriptor)
    else:
        os.fdatasync(descriptor)


def sync_directory(path: Path) -> None:
    """Return once the directory's entries would survive power loss."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileLock:
    """An exclusive lock that the kernel gives up when its holder dies, however it dies.

    The file is never unlinked, and its content is free for other use. A forked child does not
    keep the lock alive: its copy of the descriptor is closed in the child.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        self.descriptor = open_private(path, os.O_RDWR | (os.O_CREAT if create else 0))
        _open_locks.add(self)

    def try_acquire(self) -> bool:
        """Take the lock if it is free; never waits."""
        try:
            if sys.platform == "win32":
                msvcrt.locking(self.descriptor, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True

    def acquire(self) -> None:
        """Wait for the lock; blocks the calling thread."""
        if sys.platform == "win32":
            msvcrt.locking(self.descriptor, msvcrt.LK_LOCK, 1)
        else:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def holder(self) -> int | None:
        """Return the process that holds the lock, where the system tells (Linux)."""
        inode = os.fstat(self.descriptor).st_ino
        with contextlib.suppress(OSError):
            for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
                fields = line.split()
                if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
                    return int(fields[4])
        return None

    def release(self) -> None:
        if sys.platform == "win32":
            msvcrt.locking(self.descriptor, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give up the lock and the descriptor."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_locks_in_child() -> None:
    for lock in tuple(_open_locks):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks_in_child)


class _SocketFolder:
    """Addresses for the sockets in a folder.

    A socket's path may be no longer than about 100 bytes. Where the folder's is, Linux lets a
    socket be reached through an open descriptor of the folder; elsewhere there is no address.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._prefix: str | None = str(folder)
        self._descriptor = -1
        if sys.platform == "win32":
            self._prefix = None
        elif len(os.fsencode(folder)) + _SOCKET_NAME_LIMIT > _SOCKET_PATH_LIMIT:
            self._prefix = None
            if sys.platform == "linux":
                self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._prefix = f"/proc/self/fd/{self._descriptor}"

    def address(self, name: str) -> str | None:
        return None if self._prefix is None else f"{self._prefix}/{name}"

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class WakeListener:
    """A socket in `folder` by which other processes wake this one, on the running loop.

    Wake-ups coalesce: a full socket means that one is already on its way. Where sockets cannot
    be used, `wait` returns after `POLL_SECONDS`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = _SocketFolder(folder)
        self._rung = asyncio.Event()
        self._next_ring: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        address = self._folder.address(name)
        if address is not None:
            self._socket = _bound(address, folder / name)
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._on_ring)

    async def wait(self) -> None:
        """Return once the bell was rung since the last call returned."""
        if self._socket is None:
            await asyncio.sleep(POLL_SECONDS)
            return
        await self._rung.wait()
        self._rung.clear()

    async def wait_briefly(self, seconds: float) -> None:
        """Return when the bell is rung next, or after this time; another may be in `wait`."""
        self._next_ring = next_ring = self._loop.create_future()
        timer = self._loop.call_later(seconds, _resolve, next_ring)
        try:
            await next_ring
        finally:
            timer.cancel()

    def close(self) -> None:
        if self._socket is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            (self._folder.path / self.name).unlink(missing_ok=True)
        self._folder.close()

    def _on_ring(self) -> None:
        assert self._socket is not None
        if self._next_ring is not None:
            _resolve(self._next_ring)
        self._rung.set()
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(1):
                continue


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _bound(address: str, path: Path) -> socket.socket | None:
    """Return a socket with this address, or None where the system has no room for one."""
    bound: socket.socket | None = None
    try:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bound.setblocking(False)
        bound.bind(address)
        path.chmod(PRIVATE_FILE)
    except OSError:  # a full disk has no room for its name, either
        if bound is not None:
            bound.close()
        return None
    return bound


class Bell:
    """Wakes the listeners in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = _SocketFolder(folder)
        self._path = str(folder)
        self._names: list[str] = []  # in the folder, as long as it changed last at
        self._names_of = -1  # this time
        self._socket: socket.socket | None = None
        if sys.platform != "win32":
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def ring(self, but: str = "") -> None:
        """Send one byte to each listener except `but`; a dead one's socket is removed.

        Never fails: what there is news of has happened.
        """
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            self._look()
        for name in self._names:
            address = self._folder.address(name)
            if name == but or address is None:
                continue
            try:
                self._socket.sendto(b"!", address)
            except OSError as error:
                # A full buffer (EAGAIN, on macOS ENOBUFS) holds wake-ups that are still unread.
                if error.errno == errno.ECONNREFUSED:
                    with contextlib.suppress(OSError):
                        (self._folder.path / name).unlink()

    def _look(self) -> None:
        """Learn who is there, by looking only at the folder's time if that is enough.

        A commit rings, and a look costs four times as much. The times of a file system are
        coarse, so one of just now says nothing: the folder may change once more and keep it.
        """
        changed = os.stat(self._path).st_mtime_ns  # noqa: PTH116 - half the time of Path's
        if changed != self._names_of:
            self._names = os.listdir(self._path)  # noqa: PTH208 - names are wanted
            is_fine = changed % 1_000_000_000
            age = FINE_FOLDER_SETTLED_NS if is_fine else FOLDER_SETTLED_NS
            self._names_of = changed if changed < time.time_ns() - age else -1

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._folder.close()
