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

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from omniq.core.events import Commit, Event

__all__ = ("GENESIS", "BaseStorage", "Head", "events_of")

GENESIS = bytes(32)  # the digest "before" the first commit


class Head(msgspec.Struct, frozen=True):
    """The end of a journal: its last event's number and time, and the hash chain's digest."""

    seq: int = 0
    at: int = 0
    digest: bytes = GENESIS


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
        self, events: Sequence[Event], *, at: int, actor: str, expected: int | None = None
    ) -> Commit:
        """Append events, at least one, as one commit: written when this returns, durable by `sync`.

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

    @abstractmethod
    async def wait(self, seq: int) -> None:
        """Return once another handle has appended beyond `seq`, or perhaps has: look again."""

    def exclusive(self) -> AbstractAsyncContextManager[object]:
        """Return a section in which, as far as the backend can, nobody else appends."""
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


def events_of(commit: Commit, task_id: str) -> Iterator[tuple[int, Commit, Event]]:
    """Yield the events of one task in a commit, each with its number and the commit."""
    for seq, event in enumerate(commit.events, commit.first_seq):
        about = getattr(event, "task_id", None)
        if about == task_id or task_id in getattr(event, "task_ids", ()):
            yield seq, commit, event
