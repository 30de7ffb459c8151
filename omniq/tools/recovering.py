"""A new journal out of what verifies of another one, and a report of exactly what is lost.

Commits are taken over as they are: same events, times and actors, so that without loss the digests
are the same, in whatever backend. Behind a loss the sequence numbers close up, and what can no
longer follow, such as the outcome of a task whose beginning is gone, is left out and reported. The
new journal appears under its name when it is whole and durable, and not before.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import msgspec

from omniq.config import open_storage
from omniq.core import events as ev
from omniq.core.projection import Projection
from omniq.errors import ConfigError, IllegalEvent
from omniq.host import open_private, random_bytes, sync_directory, sync_file
from omniq.storage.disk import system_errors
from omniq.storage.file import FileStorage
from omniq.storage.sqlite import SQLiteStorage
from omniq.tools.points import END, Point
from omniq.tools.reports import HeadView, view_head
from omniq.tools.scanning import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
    from pathlib import Path

    from omniq.core.events import Commit, Event
    from omniq.storage.base import BaseStorage
    from omniq.tools.scanning import Scan

__all__ = ("ChainedScan", "LeftOut", "RecoverReport", "Recovery", "new_journal")

ACTOR = "recover"
LISTED = 1000  # tasks that are named in a report


class LeftOut(msgspec.Struct, frozen=True):
    """An event that verifies and cannot follow what was kept, by its number in the source."""

    seq: int
    kind: str
    task: str
    state: str


class RecoverReport(msgspec.Struct, frozen=True):
    """What was recovered, and what was lost.

    `lost` are the places that do not verify, as `verify` reports them. `left_out` are the first
    events that could not follow, `left_out_events` is their number. `given_back` are tasks whose
    worker is lost with its events: they were running, and wait again.
    """

    journal: str
    target: str
    until: int | None
    events: int
    commits: int
    head: HeadView
    lost: list[Problem]
    left_out_events: int
    left_out: list[LeftOut]
    given_back: list[str]
    read_seconds: float


class ChainedScan:
    """A walk over an archive, and then over what a journal has beyond it."""

    def __init__(self, archive: Scan, journal: Scan) -> None:
        self._scans = (archive, journal)

    def __iter__(self) -> Iterator[Commit | Problem]:
        end = 0
        for scan in self._scans:
            for found in scan:
                if isinstance(found, Problem):
                    yield found
                elif found.last_seq > end:
                    end = found.last_seq
                    yield found


class Recovery:
    """One pass from a scan to a storage that is open and empty."""

    def __init__(
        self, scan: Iterable[Commit | Problem], target: BaseStorage, until: Point = END
    ) -> None:
        self.events = 0
        self.commits = 0
        self.stopped_at: int | None = None  # the last number of the source, if `until` ended it
        self.lost: list[Problem] = []
        self.left_out_events = 0
        self.left_out: list[LeftOut] = []
        self.given_back: list[str] = []
        self._scan = scan
        self._target = target
        self._until = until
        self._state = Projection()

    async def run(self, on_progress: Callable[[int], None]) -> None:
        """Bring over everything up to the point that was asked for."""
        for found in self._scan:
            if isinstance(found, Problem):
                if found.kind != "snapshot":  # which a new journal makes anew
                    self.lost.append(found)
                continue
            if self._is_behind_the_point(found):
                break
            if not self.events and not self.lost and found.first_seq > 1:
                raise ConfigError(
                    f"the events up to {found.first_seq - 1} were dropped from this journal, so "
                    "there is nothing to begin with. Next: name their archive, --archive URL"
                )
            await self._keep(found)
            on_progress(found.last_seq)
        await self._give_back()

    def _is_behind_the_point(self, commit: Commit) -> bool:
        seq, at = self._until
        if (seq is not None and commit.last_seq > seq) or (at is not None and commit.at > at):
            self.stopped_at = commit.first_seq - 1
            return True
        return False

    async def _keep(self, commit: Commit) -> None:
        """Append what can follow of a commit."""
        kept = [
            event
            for seq, event in enumerate(commit.events, commit.first_seq)
            if self._can_follow(event, seq, commit.at)
        ]
        if kept:
            await self._append(kept, commit.at, commit.actor)

    def _can_follow(self, event: Event, seq: int, at: int) -> bool:
        state = self._state
        before, state.at = state.seq, max(at, state.at)
        try:
            state.apply_event(event)
        except IllegalEvent as illegal:
            state.seq = before
            self.left_out_events += 1
            if len(self.left_out) < LISTED:
                entry = LeftOut(seq, illegal.kind, illegal.task_id, illegal.state)
                self.left_out.append(entry)
            return False
        return True

    async def _append(self, events: list[Event], at: int, actor: str) -> None:
        commit = await self._target.append(events, at=at, actor=actor)
        assert commit.last_seq == self._state.seq, "what was applied was written"
        self.events += len(events)
        self.commits += 1

    async def _give_back(self) -> None:
        """Give back what a worker holds of which nothing is known: nobody could declare it lost."""
        if not self.lost:
            return
        state = self._state
        released = [
            ev.TaskReleased(task_id, state.tasks[task_id].attempt, worker, "its worker is unknown")
            for worker, held in state.running.items()
            if worker not in state.workers
            for task_id in held
        ]
        for event in released:
            state.apply_event(event)
        self.given_back = [event.task_id for event in released]
        if released:
            await self._append([*released], state.at, ACTOR)

    async def report(self, journal: str, target: str, began: float) -> RecoverReport:
        """Return what came of it."""
        return RecoverReport(
            journal=journal,
            target=target,
            until=self.stopped_at,
            events=self.events,
            commits=self.commits,
            head=view_head(await self._target.head()),
            lost=self.lost,
            left_out_events=self.left_out_events,
            left_out=self.left_out,
            given_back=self.given_back[:LISTED],
            read_seconds=round(time.monotonic() - began, 6),
        )


@asynccontextmanager
async def new_journal(location: str) -> AsyncGenerator[BaseStorage]:
    """Make a journal that has its name once the block has ended well, and leave nothing else.

    Raises `ConfigError` if something is there already, other than an empty folder.
    """
    wanted = open_storage(location)
    if not isinstance(wanted, FileStorage | SQLiteStorage):
        raise ConfigError(f"{location!r} is no place for a journal. Next: name a folder or a file")
    path = wanted.path
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{location} is there already, and stays. Next: name a new place")
    hidden = path.with_name(f".{path.name}.{random_bytes(4).hex()}.recovering{path.suffix}")
    # A database would sync each commit; what is written here counts only once it has its name.
    storage = type(wanted)(hidden, durability="os")
    try:
        await storage.open()
        try:
            yield storage
        finally:
            await storage.close()
        with system_errors(f"cannot give the new journal its name {path}"):
            _give_name(hidden, path)
    finally:
        _remove(hidden)


def _give_name(hidden: Path, path: Path) -> None:
    """Make all of it durable, and then let it be seen."""
    for segment in hidden.glob("*.seg"):
        _sync(segment)
    if hidden.is_file():
        with closing(sqlite3.connect(hidden, isolation_level=None)) as connection:
            # The log's commits go to the database, so that one file is all of the journal.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    elif path.is_dir():
        path.rmdir()
    hidden.rename(path)
    sync_directory(path.parent)


def _sync(path: Path) -> None:
    descriptor = open_private(path, os.O_RDWR)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def _remove(hidden: Path) -> None:
    """Remove what is left under the hidden name: everything, if it did not end well."""
    shutil.rmtree(hidden.with_name(f"{hidden.name}-omniq"), ignore_errors=True)
    if hidden.is_dir():
        shutil.rmtree(hidden)
    for end in ("", "-wal", "-shm"):
        hidden.with_name(f"{hidden.name}{end}").unlink(missing_ok=True)
