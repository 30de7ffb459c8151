"""Verifying a journal: every checksum, the chain, the order, and that each event may follow.

What is behind damage is judged by what can be known: a task that was enqueued before a gap may be
in any state behind it, so its events are counted as unchecked, not as problems.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from omniq.core.projection import Projection
from omniq.errors import IllegalEvent, UnsupportedFormat
from omniq.storage.base import GENESIS
from omniq.tools.printing import iso
from omniq.tools.reading import whole
from omniq.tools.scanning import Problem, base_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from omniq.core.events import Commit, Event
    from omniq.tools.scanning import Scan

__all__ = ("Verification", "WantedHead")


class WantedHead(NamedTuple):
    """The end of a journal as somebody noted it: a digest, and its sequence number or None."""

    seq: int | None
    digest: bytes

    def is_at(self, seq: int, digest: bytes) -> bool:
        """Whether a commit that ends like this is the noted one."""
        return digest == self.digest and self.seq in (None, seq)


class _Looking:
    """Looks for a noted end among those of the commits."""

    def __init__(self, wanted: WantedHead) -> None:
        self._wanted = wanted
        self._other = b""  # what the commit with that number has for a digest
        self.is_found = wanted.is_at(0, GENESIS)

    def look(self, seq: int, digest: bytes) -> None:
        if self._wanted.is_at(seq, digest):
            self.is_found = True
        elif seq == self._wanted.seq:
            self._other = digest

    def problem(self, scan: Scan) -> Problem:
        """Return the problem that the noted end is nowhere in a journal."""
        seq, digest = self._wanted.seq, self._wanted.digest.hex()
        where = "" if seq is None else f" at sequence number {seq}"
        end = f"the journal's end is {scan.seq}:{scan.digest.hex()}"
        if self._other:
            found = f"one with digest {self._other.hex()}"
        elif seq is None or seq < scan.seq:
            found = f"none; {end}"
        else:
            found = f"none so far behind; {end}"
        expected = f"a commit that ends{where} with digest {digest}"
        first, last = (1, 0) if seq is None else (seq, seq)
        return Problem("head", scan.place()[0], None, None, first, last, expected, found)


class Verification:
    """One pass over a journal; its counts are complete once `problems` is exhausted."""

    def __init__(self, scan: Scan, head: WantedHead | None = None) -> None:
        self.scan = scan
        self._looking = None if head is None else _Looking(head)
        self.events = 0
        self.commits = 0
        self.unchecked = 0
        self._state = Projection()
        self._is_whole = True  # whether everything from the beginning up to here was seen
        self._doubted: set[str] = set()  # tasks that were in an event that could not follow

    def problems(self, on_progress: Callable[[int], None]) -> Iterator[Problem]:
        """Yield every problem, in the order of the journal, and then those around it."""
        with ThreadPoolExecutor(1, "omniq-verify") as beside:  # SQLite lets go of the interpreter
            around = beside.submit(list, self.scan.surroundings())
            yield from self._walk(on_progress)
            yield from around.result()
        if self._looking is not None and not self._looking.is_found:
            yield self._looking.problem(self.scan)

    def _walk(self, on_progress: Callable[[int], None]) -> Iterator[Problem]:
        scan, before = self.scan, 0
        for found in scan:
            if isinstance(found, Problem):
                yield found
                continue
            if not self.commits:
                self._begin()
            self.commits += 1
            self.events += len(found.events)
            if found.at < before:
                yield self._problem("time", found, f"{iso(before)} or later", f"{iso(found.at)}")
            before = found.at
            # Nearly every commit goes the short way; a generator for each would cost a tenth.
            if (error := self._apply(found)) is not None:
                yield from self._fold_slowly(found, error)
            if scan.snapshots:
                yield from self._compare_snapshot(found)
            if self._looking is not None:
                self._looking.look(scan.seq, scan.digest)
            on_progress(found.last_seq)

    def _begin(self) -> None:
        """Begin with a snapshot where history was dropped."""
        base, beginning = base_of(self.scan), self.scan.beginning
        if base is not None:
            self._state = whole(base)
        if self._looking is not None:
            self._looking.look(beginning.seq, beginning.digest)

    def _apply(self, commit: Commit) -> IllegalEvent | None:
        """Fold a commit, up to an event that cannot follow."""
        state = self._state
        if commit.first_seq != state.seq + 1:
            if commit.last_seq <= state.seq:
                return None  # before the snapshot with which the journal begins
            state = self._state = Projection()
            state.seq = commit.first_seq - 1
            self._is_whole = False
        try:
            state.apply(commit)
        except IllegalEvent as error:
            return error
        return None

    def _compare_snapshot(self, commit: Commit) -> Iterator[Problem]:
        """Compare the snapshot at this place, if there is one, with what was folded up to it."""
        if not self._is_whole or self._doubted:
            return
        for snapshot in self.scan.snapshots:
            if snapshot.bookmark.seq != commit.last_seq:
                continue
            with suppress(UnsupportedFormat):  # another version's, which this one ignores
                if whole(snapshot).state() != self._state.state():
                    expected = "the state that the events before it make"
                    yield self._problem("snapshot", commit, expected, "a snapshot of another state")

    def _fold_slowly(self, commit: Commit, illegal: IllegalEvent) -> Iterator[Problem]:
        """Go on behind an event that cannot follow, one by one; it changed nothing."""
        state = self._state
        yield from self._judge(illegal)
        while state.seq < commit.last_seq:
            event: Event = commit.events[state.seq + 1 - commit.first_seq]
            try:
                state.apply_events((event,))
            except IllegalEvent as another:
                yield from self._judge(another)

    def _judge(self, error: IllegalEvent) -> Iterator[Problem]:
        is_unknown = error.state == "unknown" and not self._is_whole
        if is_unknown or error.task_id in self._doubted:
            self.unchecked += 1
            return
        self._doubted.add(error.task_id)
        seq = self._state.seq
        place, offset, length = self.scan.place()
        expected = f"an event that can follow the state {error.state} of task {error.task_id}"
        yield Problem("transition", place, offset, length, seq, seq, expected, error.kind)

    def _problem(self, kind: str, commit: Commit, expected: str, found: str) -> Problem:
        place, offset, length = self.scan.place()
        first, last = commit.first_seq, commit.last_seq
        return Problem(kind, place, offset, length, first, last, expected, found)
