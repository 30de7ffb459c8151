"""A connection to an SQLite database that may be anybody's, and what SQLite's errors mean.

A database is input: it may be damaged, or made by somebody who wishes us ill. So nothing that came
with it runs, and whatever SQLite finds wrong with it becomes an error of the OmniQ tree.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from omniq.errors import CorruptJournal, StorageError, StorageFull, UnsupportedFormat

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("connect", "corrupt", "error_of", "is_broken_device", "is_busy", "no_database")

BUSY_SECONDS = 30.0

# What the system could not write was taken back by SQLite, and the file is as it was. Any other
# failure of the device may leave the system with another idea of the file than ours.
_TAKEN_BACK = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})


def connect(path: Path, *parameters: str) -> sqlite3.Connection:
    """Connect to a database that is there; `parameters` are those of SQLite's URIs."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{'&'.join(parameters)}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
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
