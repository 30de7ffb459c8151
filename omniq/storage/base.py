"""The contract between the engine and a journal, small enough to build a new backend on.

A journal is a sequence of commits, each some events that were written together. A backend owes:

- **atomic appends**: all events of an `append` are there, or none; sequence numbers run 1, 2, 3 …
  without gaps, and times never decrease;
- **the prefix property**: after any crash the journal is a prefix of what was appended, cut at the
  end of a commit;
- **compare-and-append**: with `expected`, nothing is written unless the journal ends there;
- **honest syncing**: `durable` and `sync` never claim what a power cut could take back.

`exclusive` is a hint that spares backends with locks from conflict loops; nothing depends on it.
The suite in `omniq.testing` checks all of this for any backend.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import msgspec

from omniq.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterator, Sequence

    from omniq.core.events import Commit, Event

__all__ = (
    "GENESIS",
    "BaseStorage",
    "Bookmark",
    "Head",
    "Sealed",
    "Snapshot",
    "events_of",
    "find_task",
    "other_journal",
)

GENESIS = bytes(32)  # the digest "before" the first commit


class Head(msgspec.Struct, frozen=True):
    """The end of a journal: its last event's number and time, and the hash chain's digest."""

    seq: int = 0
    at: int = 0
    digest: bytes = GENESIS


class Bookmark(msgspec.Struct, frozen=True, array_like=True):
    """The end of a commit, and what its backend needs to find what follows it."""

    seq: int
    at: int
    digest: bytes
    place: tuple[int, ...] = ()


class Snapshot(msgspec.Struct, frozen=True):
    """A state that a storage keeps for its owner: what it is, only the owner knows."""

    bookmark: Bookmark
    parts: list[bytes]


class Sealed(msgspec.Struct, frozen=True):
    """Commits to which nothing will be added, as the bytes of a segment file."""

    data: bytes
    end: Head


class BaseStorage(ABC):
    """One handle on a journal. All methods are called on one event loop.

    Several handles, in one process or in many, may be open on one journal at once; that is the
    normal case.
    """

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the journal is, as its owner would name it."""

    @abstractmethod
    async def open(self) -> None:
        """Open the journal, creating it if it is not there yet. Opening twice does nothing.

        Raises `UnsupportedFormat` for anything that is not a journal, `CorruptJournal` for one
        that is damaged, `StorageError` if the system refuses; in each case nothing was changed.
        """

    @abstractmethod
    async def close(self) -> None:
        """Give up what the handle holds. What was appended stays. Closing twice does nothing."""

    @abstractmethod
    async def append(
        self,
        events: Sequence[Event],
        *,
        at: int,
        actor: str,
        expected: int | None = None,
        durable: bool = False,
    ) -> Commit:
        """Append events, at least one, as one commit: written when this returns, durable by `sync`.

        `durable` says that a `sync` of it is to follow: a backend may begin with that, or sync
        with the commit if that is cheaper.

        The commit's time is `at`, or the previous commit's if that is later. Raises
        `JournalConflict` if `expected` is given and the journal does not end there, `StorageFull`
        if there is no room; then nothing was written. A cancelled append is whole or not there.
        """

    @abstractmethod
    async def read(self, after: int, limit: int = 4096) -> list[Commit]:
        """Return the commits behind sequence number `after`, which ends a commit (or is 0).

        At least one if there is any, and about `limit` events; empty at the journal's end.
        """

    @abstractmethod
    async def read_task(self, task_id: str) -> list[tuple[int, Commit, Event]]:
        """Return the events of one task, in order, each with its number and its commit."""

    @abstractmethod
    async def head(self) -> Head:
        """Return where the journal ends now, whoever appended last."""

    @property
    def known(self) -> int:
        """The highest sequence number that this handle has heard of, without looking for more.

        In the exclusive section that is about where the journal ends.
        """
        return self.durable

    @property
    @abstractmethod
    def durable(self) -> int:
        """The highest sequence number that this handle knows to survive power loss.

        A backend whose owner chose to acknowledge without syncing (`durability="os"`) counts as
        durable what survives the death of the process.
        """

    @abstractmethod
    async def sync(self, seq: int) -> None:
        """Return once everything up to `seq` is durable, whoever appended it.

        Raises `StorageError` if the journal ends before `seq`, or if the system fails to sync; the
        latter finishes the handle (`StorageClosed`) until it is opened again.
        """

    @property
    def synced(self) -> int:
        """The highest sequence number that survives power loss, whatever counts as durable."""
        return self.durable

    async def sync_lazily(self) -> None:
        """Make `synced` all that is written, though nobody waits for it; fails as `sync` does."""
        await self.sync((await self.head()).seq)

    @abstractmethod
    async def wait(self, seq: int) -> None:
        """Return once another handle has appended beyond `seq`, or perhaps has: look again."""

    # Snapshots, and dropping the history that they make dispensable. A backend that leaves these
    # as they are has none: opening it costs a fold of all of its history, which is kept for ever.

    async def beginning(self) -> Head:
        """Return what the first commit is chained to: `Head()`, unless history was dropped."""
        return Head()

    async def bookmark(self, seq: int) -> Bookmark | None:  # noqa: ARG002 - for those who keep snapshots
        """Return the place behind `seq`, where this handle has just read or appended.

        None if the backend keeps no snapshots.
        """
        return None

    async def save_snapshot(  # noqa: B027 - as above
        self, bookmark: Bookmark, parts: AsyncIterable[bytes]
    ) -> None:
        """Keep a state, whole or not at all; it and what it is of are durable when this returns.

        The newest snapshot and the one before it are kept. Raises `StorageError` if it cannot be
        written; that finishes nothing.
        """

    async def snapshot_seq(self) -> int:
        """Return of which sequence number the newest snapshot is, verified or not; 0 for none."""
        return 0

    async def load_snapshot(
        self,
        before: int | None = None,  # noqa: ARG002 - as above
    ) -> Snapshot | None:
        """Return the newest snapshot (`before` a sequence number) that verifies, None without one.

        One that does not verify is ignored with a warning. The handle can `read` on from there
        without reading what is before it. Raises `CorruptJournal` if none verifies and the history
        that would do instead was dropped.
        """
        return None

    async def drop_history(
        self,
        *,
        before: int,  # noqa: ARG002 - as above
        until: int,  # noqa: ARG002
    ) -> Head:
        """Drop commits from before the time `before`, up to `until` at most; return `beginning`.

        Only whole pieces go, and never what is behind the older of the two snapshots.
        """
        return Head()

    async def seal(
        self,
        after: Head,  # noqa: ARG002 - as above
        *,
        number: int,  # noqa: ARG002
        before: int,  # noqa: ARG002
    ) -> Sealed | None:
        """Return the commits behind `after` as segment `number`, if there are enough of them.

        A segment is whole if it is full, or if its commits are older than the time `before`. None
        if there is none. Raises `StorageError` if the journal has another commit at `after`, or
        its backend cannot make segments.
        """
        raise StorageError(f"the journal {self.location} cannot be archived: it has no segments")

    def exclusive(self) -> AbstractAsyncContextManager[object]:
        """Return a section in which, as far as the backend can, nobody else appends.

        Leaving it does not suspend the task: what was appended in it is announced right after.
        """
        return nullcontext()

    def reserve(self) -> AbstractContextManager[object]:
        """Return a section in which `append` may use room that is kept for a full disk.

        For the outcomes of tasks, which exist only where they are to be written.
        """
        return nullcontext()

    @abstractmethod
    def sibling(self) -> BaseStorage:
        """Return another handle on the same journal, not open yet, for another thread's loop."""

    # How the death of a worker is seen. A backend that cannot tell leaves these as they are;
    # a worker that does not renew its lease is then what a dead worker looks like.

    async def hold_life(self, worker: str) -> None:  # noqa: B027 - nothing to do by default
        """Hold, until `drop_life` or death, something by which `is_dead` can see this worker."""

    async def drop_life(self, worker: str) -> None:  # noqa: B027 - as above
        """Stop holding it."""

    def is_dead(self, worker: str) -> bool:  # noqa: ARG002 - for those who can tell
        """Whether it is certain that the worker's process is gone; False if it cannot be told.

        Only asked for workers that run under this kernel (`WorkerJoined.boot`).
        """
        return False

    def processor_time(self, worker: str) -> int | None:  # noqa: ARG002 - as above
        """Return how long the worker's process has run, in nanoseconds; None if it cannot be told.

        Only asked for workers that run under this kernel, and that are not dead.
        """
        return None


def other_journal(location: object, end: Head) -> StorageError:
    """Return the error that a chain of commits up to `end` is not the beginning of a journal."""
    return StorageError(
        f"what ends at sequence number {end.seq} with digest {end.digest.hex()[:16]}… is not the "
        f"beginning of the journal {location}. Next: name an archive of its own for each journal"
    )


async def find_task(storage: BaseStorage, task_id: str) -> list[tuple[int, Commit, Event]]:
    """Return the events of one task by reading all of a journal, letting the event loop go on."""
    found: list[tuple[int, Commit, Event]] = []
    seq = (await storage.beginning()).seq
    while commits := await storage.read(seq):
        seq = commits[-1].last_seq
        for commit in commits:
            found.extend(events_of(commit, task_id))
        await asyncio.sleep(0)
    return found


def events_of(commit: Commit, task_id: str) -> Iterator[tuple[int, Commit, Event]]:
    """Yield the events of one task in a commit, each with its number and the commit."""
    for seq, event in enumerate(commit.events, commit.first_seq):
        about = getattr(event, "task_id", None)
        if about == task_id or task_id in getattr(event, "task_ids", ()):
            yield seq, commit, event
