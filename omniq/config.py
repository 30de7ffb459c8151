"""Settings, from arguments and from the environment, and what a journal's location means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, get_args
from urllib.parse import unquote, urlsplit

import msgspec

from omniq.errors import ConfigError
from omniq.models import Duration, to_us
from omniq.storage.base import BaseStorage
from omniq.storage.local import Durability

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ("Backend", "Serializer", "Settings", "SettingsOverrides", "open_storage")

type Backend = Literal["file", "sqlite", "memory"]
type Serializer = Literal["msgpack", "cloudpickle"]

DATABASE_NAME = "omniq.db"  # in `base_dir`, for `backend="sqlite"`
DAY = 24 * 3600.0
MAX_PAYLOAD_LIMIT = 32 * 1024 * 1024  # half of what one commit may take
_SQLITE_SUFFIXES = frozenset({".db", ".sqlite", ".sqlite3"})
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What applies to every task and every journal unless a call says otherwise.

    An explicit argument wins over the environment, the environment over the default. Each field
    is read from the variable `OMNIQ_` + its name in capitals. Durations are seconds or a
    `timedelta`; None means no limit.
    """

    backend: Backend = "file"
    """Which storage is meant when only `base_dir` is given."""
    db_url: str | None = None
    """Where the journal is: a path or a URL. Wins over `backend` and `base_dir`."""
    base_dir: str = "omniq-journal"
    """The directory of the file journal, or the folder of `omniq.db` for SQLite."""
    default_timeout: Duration | None = None
    """How long an attempt may take."""
    default_max_retries: int = 3
    """How many attempts may follow a failed first one."""
    result_ttl: Duration | None = DAY
    """How long a finished task and its result are kept (a day, as Celery's `result_expires`)."""
    retention: Duration | None = None
    """How long events are kept at least, if not for ever (None)."""
    archive_url: str | None = None
    """Where whole segments of the journal are shipped: any URL that fsspec knows."""
    serializer: Serializer = "msgpack"
    """How arguments and results are encoded. cloudpickle runs code when it is read."""
    log_level: str = "INFO"
    """The level of the `omniq` command's log; a library does not configure logging."""
    durability: Durability = "fsync"
    """`fsync`: what is acknowledged survives power loss. `os`: it survives the process only."""
    task_modules: tuple[str, ...] = ()
    """Modules (with what is below them) whose functions may run without being registered."""
    max_payload_bytes: int = 1024 * 1024
    """How long one task's encoded arguments, or its result, may be."""

    def __post_init__(self) -> None:
        _choice("backend", self.backend, get_args(Backend.__value__))
        _choice("serializer", self.serializer, get_args(Serializer.__value__))
        _choice("durability", self.durability, get_args(Durability.__value__))
        _choice("log_level", self.log_level, _LOG_LEVELS)
        for name in ("default_timeout", "result_ttl", "retention"):
            value = getattr(self, name)
            if value is not None and to_us(value, name) == 0:
                raise ConfigError(f"{name} must be longer than 0, or None for no limit")
        for name in ("db_url", "archive_url"):
            if not isinstance(getattr(self, name), str | None):
                raise ConfigError(f"{name} must be text, not {getattr(self, name)!r}")
        _within("default_max_retries", self.default_max_retries, 0, 1_000_000)
        _within("max_payload_bytes", self.max_payload_bytes, 1, MAX_PAYLOAD_LIMIT)
        if not isinstance(self.task_modules, tuple):
            raise ConfigError(
                f"task_modules must be a tuple of module names, not {self.task_modules!r}"
            )
        for module in self.task_modules:
            if not isinstance(module, str) or not all(map(str.isidentifier, module.split("."))):
                raise ConfigError(f"task_modules holds {module!r}, which is no module's name")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the defaults, changed by the `OMNIQ_…` variables that are set.

        Raises `ConfigError`, naming the variable, for a value that is not allowed.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, object] = {}
        for name in cls.__struct_fields__:
            variable = f"OMNIQ_{name.upper()}"
            text = environ.get(variable, "")
            if not text:
                continue
            try:
                values[name] = _READERS.get(name, str)(text)
                cls(**{name: values[name]})  # type: ignore[arg-type] # checked by __post_init__
            except ValueError as error:
                raise ConfigError(f"{variable}={text!r}: {error}") from None
        return cls(**values)  # type: ignore[arg-type] # each was checked by itself

    def location(self) -> str:
        """Return where the journal is."""
        if self.db_url is not None:
            return self.db_url
        if self.backend == "memory":
            return "memory://"
        if self.backend == "sqlite":
            return str(Path(self.base_dir) / DATABASE_NAME)
        return self.base_dir


class SettingsOverrides(TypedDict, total=False):
    """The settings that a call may give by name, in place of the environment's."""

    default_timeout: Duration | None
    default_max_retries: int
    result_ttl: Duration | None
    retention: Duration | None
    archive_url: str | None
    serializer: Serializer
    durability: Durability
    task_modules: tuple[str, ...]
    max_payload_bytes: int


def open_storage(
    location: str | os.PathLike[str] | BaseStorage,
    *,
    durability: Durability = "fsync",
    read_only: bool = False,
) -> BaseStorage:
    """Return the storage that a location means, not open yet.

    `memory://`; a path that ends in .db, .sqlite or .sqlite3, for SQLite; any other path, for a
    directory. `file:///path` is absolute (RFC 8089); `sqlite:///path` is relative and
    `sqlite:////path` absolute (as SQLAlchemy has it). Only the chosen storage is imported.
    """
    if isinstance(location, BaseStorage):
        return location
    text = os.fspath(location) if isinstance(location, str | os.PathLike) else location
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(
            f"the journal's location is {text!r}. Next: name a directory, a file that ends in .db, "
            'or "memory://"'
        )
    scheme, path = _split(text)
    if scheme == "memory":
        from omniq.storage.memory import MemoryStorage  # noqa: PLC0415 - only what is needed

        return MemoryStorage()
    if scheme == "sqlite":
        from omniq.storage.sqlite import SQLiteStorage  # noqa: PLC0415

        return SQLiteStorage(path, durability=durability, read_only=read_only)
    from omniq.storage.file import FileStorage  # noqa: PLC0415

    return FileStorage(path, durability=durability, read_only=read_only)


def _split(text: str) -> tuple[str, str]:
    """Return which storage a location means, and its path."""
    if "://" not in text:
        return ("sqlite" if Path(text).suffix.lower() in _SQLITE_SUFFIXES else "file"), text
    parts = urlsplit(text)
    if parts.scheme == "memory":
        return "memory", ""
    if parts.scheme not in ("file", "sqlite"):
        raise ConfigError(
            f"{text!r} begins with {parts.scheme}://, which no storage of this version knows. "
            "Next: use sqlite:///PATH, file:///PATH or memory://"
        )
    path = unquote(parts.path).removeprefix("/")
    if parts.netloc or not path:
        raise ConfigError(
            f"{text!r} names no path. Next: write three slashes, {parts.scheme}:///PATH"
        )
    return parts.scheme, path if parts.scheme == "sqlite" else f"/{path.lstrip('/')}"


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def _within(name: str, value: object, lowest: int, highest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ConfigError(f"{name} must be an integer from {lowest} to {highest}, not {value!r}")


def _read_number(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


_READERS: dict[str, Callable[[str], object]] = {
    "default_timeout": _read_number,
    "result_ttl": _read_number,
    "retention": _read_number,
    "default_max_retries": int,
    "max_payload_bytes": int,
    "log_level": str.upper,
    "task_modules": lambda text: tuple(part.strip() for part in text.split(",") if part.strip()),
}
