"""Giving a finished file or folder its name: durably, and without replacing what is there."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from omniq.errors import ConfigError
from omniq.host import random_bytes, sync_directory

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("check_free", "give_name", "temporary_name")

_WITHOUT_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})


def temporary_name(path: Path, ending: str) -> Path:
    """Return a name beside `path` that nobody else uses."""
    return path.with_name(f"{path.name}.{random_bytes(4).hex()}.{ending}")


def check_free(path: Path) -> None:
    """Raise `ConfigError` if something is there."""
    if path.exists() or path.is_symlink():
        raise ConfigError(
            f"{path} is there already, and stays. Next: name a new place, or move it away"
        )


def give_name(temporary: Path, path: Path) -> None:
    """Let what is finished be seen under its name; raises `OSError` if something is there by now.

    An empty folder makes room for a folder.
    """
    if temporary.is_dir():
        temporary.rename(path)
    else:
        try:
            os.link(temporary, path)  # a rename would replace what is there
        except OSError as error:
            if error.errno not in _WITHOUT_LINKS:
                raise
            check_free(path)  # the best that a disk without links allows
            temporary.rename(path)
        else:
            temporary.unlink()
    sync_directory(path.parent)
