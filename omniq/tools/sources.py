"""Where `verify` and `recover` get commits from: a journal of any backend, an archive, or both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from omniq.errors import ConfigError, CorruptJournal
from omniq.storage.archive import ArchiveDisk
from omniq.storage.base import Head, other_journal
from omniq.storage.file import FileStorage
from omniq.storage.sqlite import SQLiteStorage
from omniq.tools.reading import find_archive, find_storage, printable
from omniq.tools.rows import SQLiteScan
from omniq.tools.scanning import FileScan, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from omniq.core.events import Commit
    from omniq.storage.base import Snapshot
    from omniq.tools.scanning import Scan, Torn

__all__ = ("ChainedScan", "Source", "behind_archive", "find_source", "undamaged")


_HARMLESS = frozenset({"column", "snapshot"})  # the commits are as they were all the same


class Source(NamedTuple):
    """A journal that may be damaged: its name, its kind, its path, and how to walk over it."""

    location: str
    backend: str
    path: Path
    make_scan: Callable[[], Scan]


def find_source(location: str) -> Source:
    """Return the journal or archive that a location means."""
    storage = find_storage(location)
    name = printable(storage.location)
    if isinstance(storage, SQLiteStorage):
        path = storage.path
        return Source(name, "sqlite", path, lambda: SQLiteScan(path))
    assert isinstance(storage, FileStorage), "there is no third kind that can be read later"
    path, disk = storage.path, storage.disk
    return Source(name, "file", path, lambda: FileScan(path, disk=disk))


def behind_archive(url: str, source: Source) -> Source:
    """Return an archive and a journal as one source."""
    archive = find_archive(url)
    if archive is None:
        raise ConfigError(f"--archive {url}: there is no archive")

    def make_scan() -> Scan:
        return ChainedScan(FileScan(Path(url), disk=ArchiveDisk(archive)), source.make_scan())

    return source._replace(make_scan=make_scan)


def undamaged(scan: Scan, location: str) -> Iterator[Commit]:
    """Yield the commits of a walk; raises `CorruptJournal` at the first that is not as it was."""
    for found in scan:
        if not isinstance(found, Problem):
            yield found
        elif found.kind not in _HARMLESS:
            raise CorruptJournal(
                location,
                segment=found.place,
                offset=found.offset or 0,
                sequence=found.first_seq,
                last_sequence=found.last_seq or None,
                expected=found.expected,
                found=found.found,
            )


class ChainedScan:
    """A walk over an archive, and then over what a journal has beyond it."""

    def __init__(self, archive: Scan, journal: Scan) -> None:
        self._archive = archive
        self._journal = journal
        self._current = archive
        self.beginning = Head()
        self.snapshots: list[Snapshot] = []  # with all of the history, none is needed
        self.displaced: list[Snapshot] = []

    @property
    def seq(self) -> int:
        return max(self._archive.seq, self._current.seq)

    @property
    def digest(self) -> bytes:
        return self._current.digest

    @property
    def payload(self) -> bytes | memoryview:
        return self._current.payload

    @property
    def torn(self) -> Torn | None:
        return self._journal.torn

    def surroundings(self) -> Iterator[Problem]:
        """Check nothing else: only `verify` asks, and not for two journals at once."""
        return iter(())

    def place(self) -> tuple[str, int | None, int | None]:
        """Return the place of the commit that was yielded last."""
        return self._current.place()

    def __iter__(self) -> Iterator[Commit | Problem]:
        end = Head()
        for found in self._archive:
            if not isinstance(found, Problem):
                end = Head(found.last_seq, found.at, self._archive.digest)
            yield found
        self._current = journal = self._journal
        for found in journal:
            if isinstance(found, Problem):
                if not found.last_seq or found.last_seq > end.seq:  # the archive has the others
                    yield found
            elif found.last_seq > end.seq:
                if journal.beginning.seq == end.seq and journal.beginning.digest != end.digest:
                    raise other_journal(journal.place()[0], end)
                yield found
            elif found.last_seq == end.seq and journal.digest != end.digest:
                raise other_journal(journal.place()[0], end)
