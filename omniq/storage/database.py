"""A connection to an SQLite database that may be anybody's, its thread, and its errors.

A database is input: it may be damaged, or made by somebody who wishes us ill. So nothing that came
with it runs, and whatever SQLite finds wrong with it becomes an error of the OmniQ tree.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from omniq.errors import CorruptJournal, StorageError, StorageFull, UnsupportedFormat
from omniq.host import sync_directory, sync_file
from omniq.storage.threads import LoopThread

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = (
    "Connection",
    "Database",
    "WriteAheadLog",
    "connect",
    "corrupt",
    "error_of",
    "is_broken_device",
    "is_busy",
    "no_database",
)

BUSY_SECONDS = 30.0
CHECKPOINT_BYTES = 4 * 1024 * 1024  # SQLite's own default, 1,000 pages of 4 KiB

_log = logging.getLogger(__name__)

# What the system could not write was taken back by SQLite, and the file is as it was. Any other
# failure of the device may leave the system with another idea of the file than ours.
_TAKEN_BACK = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})


class Connection(sqlite3.Connection):
    """A connection that is told things once: each statement takes some microseconds."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._told: dict[str, str | int] = {}

    def tell(self, pragma: str, value: str | int) -> None:
        """Change a setting of the connection, unless it is so already."""
        if self._told.get(pragma) != value:
            self.execute(f"PRAGMA {pragma} = {value}")
            self._told[pragma] = value

    @contextmanager
    def transaction(self, *, synced: bool) -> Generator[None]:
        """Commit what is done inside; synced, it and all commits before it are then on the disk."""
        self.tell("synchronous", "FULL" if synced else "NORMAL")
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self.in_transaction:
                self.execute("ROLLBACK")
            raise


def connect(path: Path, *parameters: str) -> Connection:
    """Connect to a database that is there; `parameters` are those of SQLite's URIs."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{'&'.join(parameters)}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        factory=Connection,
    )
    try:
        # Before anything else: somebody else's database is not changed by closing it either.
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, False)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_VIEW, False)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
    except BaseException:
        connection.close()
        raise
    return connection


class Database:
    """One connection, and the thread that does on it what takes time."""

    def __init__(self, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self.connection: Connection | None = None
        self._errors = errors  # around each operation
        self._thread = LoopThread("omniq-sqlite")
        self._running = 0  # operations that are with the thread

    async def run[T](self, operation: Callable[[Connection], T], *, at_once: bool = False) -> T:
        """Run an operation to its end, in the thread.

        What is small and waits for no sync may be done at once, on the loop, unless the thread is
        at work or somebody else holds the database.
        """
        if at_once and not self._running:
            try:
                return self._guarded(operation, 0)
            except StorageError as error:
                if not is_busy(error.__cause__):
                    raise
        self._running += 1
        try:
            loop = asyncio.get_running_loop()
            patience = int(1000 * BUSY_SECONDS)
            return await loop.run_in_executor(self._thread, self._guarded, operation, patience)
        finally:
            self._running -= 1

    def _guarded[T](self, operation: Callable[[Connection], T], busy_timeout: int) -> T:
        with self._errors():
            if self.connection is not None:
                self.connection.tell("busy_timeout", busy_timeout)
            return operation(self.connection)  # type: ignore[arg-type] # None only to connect

    async def close(self) -> None:
        """Close the connection once the thread is done with it."""
        if self.connection is not None:
            connection, self.connection = self.connection, None
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, connection.close)
        self._thread.shutdown()


class WriteAheadLog:
    """Moves what is committed to the database, when the holder of the journal's lock has written.

    The log is then written over from its beginning. A log that was cut off and grew anew would
    cost half as much again a sync, for the file's new size.
    """

    def __init__(self, path: Path, on_broken_device: Callable[[str], None]) -> None:
        self._path = path
        self._log = f"{path}-wal"
        self._on_broken_device = on_broken_device
        self._written = 0  # bytes, by this process, since its last checkpoint
        self._descriptor = -1

    def begin(self, connection: sqlite3.Connection) -> None:
        """Take a connection, which makes no checkpoints by itself from now on."""
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {2 * CHECKPOINT_BYTES}")
        self._written = self._size()
        self.close()
        # SQLite makes the log with the first look at the database, and holds no locks on it. Who
        # opens a file later would not hear of a failed sync before that.
        with suppress(FileNotFoundError):
            self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC)
        sync_directory(
            self._path.parent
        )  # SQLite does so with a sync of its own, which may not come

    def close(self) -> None:
        """Give the log's descriptor up."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def sync(self) -> None:
        """Return once what is in the log would survive power loss.

        What has moved to the database was synced before it moved, and there after it did. SQLite
        itself syncs only what it commits, so it would have to write something.
        """
        if self._descriptor < 0:
            self._open()
        sync_file(self._descriptor)

    def written(self, size: int) -> None:
        """Take note of a commit of about so many bytes."""
        self._written += size

    def checkpoint_if_due(self, connection: sqlite3.Connection) -> None:
        """Make a checkpoint now and then, which syncs.

        Each process does so after it wrote about `CHECKPOINT_BYTES` to the log. How many pages of
        the indexes that took is not known, so it does, too, if the log has become large.
        """
        if not self.is_due:
            return
        self._written = 0
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.OperationalError as error:
            # The commit stands, in the log, and the log goes on growing.
            if is_broken_device(error):
                self._on_broken_device(f"the system reported: {error}")
            _log.warning(
                "cannot move commits from the write-ahead log of %s to the database: %s",
                self._path,
                error,
                extra={"action": "checkpoint_failed"},
            )

    @property
    def is_due(self) -> bool:
        """Whether the next commit is to be followed by a checkpoint."""
        return self._written > CHECKPOINT_BYTES or self._size() > 2 * CHECKPOINT_BYTES

    def _size(self) -> int:
        if self._descriptor >= 0:  # who asked for the file's status would slow its syncs down
            return os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            return os.stat(self._log).st_size  # noqa: PTH116 - a third of the time of Path's
        except FileNotFoundError:
            return 0


def corrupt(path: Path, seq: int, expected: str, found: str, count: int = 0) -> CorruptJournal:
    """Return the error of damage to the table, from `seq` on, to `count` events if it is known."""
    return CorruptJournal(
        str(path),
        segment="table events",
        offset=seq,
        sequence=seq,
        last_sequence=seq + count - 1 if count else None,
        expected=expected,
        found=found,
    )


def error_of(error: sqlite3.Error | UnicodeDecodeError, path: Path) -> StorageError:
    """Return the error of the OmniQ tree for an error of SQLite."""
    code = _code(error)
    if code == sqlite3.SQLITE_FULL or _extended(error) == sqlite3.SQLITE_IOERR_SHMSIZE:
        return StorageFull(
            f"cannot append to {path}: {error}. The journal is valid and nothing was written. "
            "Next: make room; appends then work again"
        )
    if code == sqlite3.SQLITE_NOTADB:
        return no_database(path)
    if isinstance(error, sqlite3.OperationalError) and code not in (None, sqlite3.SQLITE_ERROR):
        return StorageError(f"the journal {path}: {error}")
    # Our SQL is right, so the tables are not. Where there is no code, it was not SQLite that found
    # text which is none, but the module around it.
    return corrupt(path, 0, "a database that SQLite can read", str(error))


def is_busy(error: object) -> bool:
    """Whether somebody else holds what was asked for."""
    return _code(error) == sqlite3.SQLITE_BUSY


def is_broken_device(error: object) -> bool:
    """Whether the system failed in a way after which a connection must not be trusted."""
    return _code(error) == sqlite3.SQLITE_IOERR and _extended(error) not in _TAKEN_BACK


def no_database(path: Path) -> UnsupportedFormat:
    """Return the error for a file that is something else."""
    return UnsupportedFormat(
        f"{path} is no SQLite database. It was not touched. Next: name another path"
    )


def _extended(error: object) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return code if isinstance(code, int) else None


def _code(error: object) -> int | None:
    code = _extended(error)
    return None if code is None else code & 0xFF
