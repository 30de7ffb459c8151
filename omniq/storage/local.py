"""What backends have in common whose journals are shared by the processes of one host."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from omniq.errors import ConfigError, StorageClosed, StorageError
from omniq.host import POLL_SECONDS
from omniq.storage.base import BaseStorage
from omniq.storage.disk import storage_error, system_errors
from omniq.storage.threads import SyncThread

if TYPE_CHECKING:
    from collections.abc import Generator

    from omniq.storage.rendezvous import Rendezvous

__all__ = ("Durability", "LocalStorage")

type Durability = Literal["fsync", "os"]


class LocalStorage(BaseStorage):
    """A backend with a `Rendezvous`: its lock is the exclusive section, its sockets the news."""

    def __init__(
        self, path: str | os.PathLike[str], *, durability: Durability, read_only: bool
    ) -> None:
        self._name = os.fspath(path)
        if not self._name or "\0" in self._name:
            raise ConfigError(
                f"the journal's path is {self._name!r}. Next: name a directory, or a file that "
                "ends in .db"
            )
        self.path = Path(path).absolute()  # a task may change the working directory
        self.read_only = read_only
        self._durability: Durability = durability
        self._durable = 0
        self._sync_thread = SyncThread(self._synced_to)
        self._closed_because = "it was not opened"  # empty while the handle is open
        self._rendezvous: Rendezvous | None = None
        self._owner: asyncio.Task[Any] | None = None  # the task in the exclusive section
        self._is_urgent = False  # whether appends may use the reserve
        self._rings = False  # whether there is news for others when the lock is given up

    @property
    def location(self) -> str:
        return self._name

    def exclusive(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        rendezvous = self._shared()
        await rendezvous.enter()
        try:
            self._refresh(rendezvous)
        except OSError as error:
            rendezvous.leave()
            raise storage_error(error, f"cannot find the end of {self.path}") from error
        except BaseException:
            rendezvous.leave()
            raise
        self._owner = asyncio.current_task()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._owner = None
        rendezvous = self._rendezvous
        if rendezvous is None:
            return  # closed inside the section, which gave the lock up
        rendezvous.leave()
        if self._rings:
            self._rings = False
            rendezvous.ring()

    @contextmanager
    def reserve(self) -> Generator[None]:
        self._is_urgent = True
        try:
            yield
        finally:
            self._is_urgent = False

    @property
    def synced(self) -> int:
        return self._durable

    @property
    def _inside(self) -> bool:
        """Whether the running task is in the exclusive section."""
        return self._owner is not None and self._owner is asyncio.current_task()

    def _refresh(self, rendezvous: Rendezvous) -> None:
        """Learn, under the lock, where the journal ends now."""

    async def sync(self, seq: int) -> None:
        if seq > self.durable:
            await self._sync(seq)

    async def sync_lazily(self) -> None:
        await self._sync(self.known)

    async def _sync(self, seq: int) -> None:
        """Sync up to `seq` at least."""
        has_looked = self.read_only or self._inside
        while seq > self._durable:
            if self._sync_thread.is_busy:
                await self._sync_thread.join()
            elif seq <= self.known:
                self._begin_sync()
            elif has_looked:
                raise StorageError(f"sequence number {seq} is behind the end, {self.known}")
            else:
                async with self:
                    has_looked = True

    @abstractmethod
    def _begin_sync(self) -> None:
        """Begin to sync everything that this handle knows of, in the thread."""

    def _synced_to(self, seq: int) -> None:
        if not self._closed_because:
            self._durable = max(self._durable, seq)

    async def wait(self, seq: int) -> None:
        if self.read_only:
            self._check()
            await asyncio.sleep(POLL_SECONDS)  # a wake socket would be a change
            return
        rendezvous = self._shared()
        rendezvous.listen()
        hint = rendezvous.read_hint()
        if hint is None or hint.seq <= seq:
            await rendezvous.heard()

    async def hold_life(self, worker: str) -> None:
        with system_errors(f"cannot lock the life of worker {worker}"):
            self._shared().hold_life(worker)

    async def drop_life(self, worker: str) -> None:
        if self._rendezvous is not None:  # also on a handle that failed: it is only giving up
            with system_errors(f"cannot give up the life of worker {worker}"):
                self._rendezvous.drop_life(worker)

    def is_dead(self, worker: str) -> bool:
        with system_errors(f"cannot look whether worker {worker} lives"):
            return self._shared().is_dead(worker)

    def processor_time(self, worker: str) -> int | None:
        with system_errors(f"cannot look how busy worker {worker} is"):
            return self._shared().processor_time(worker)

    def _fail(self, reason: str) -> None:
        """Finish this handle: what it believes about the disk may be wrong by now."""
        self._closed_because = reason

    def _check(self) -> None:
        if self._closed_because:
            raise StorageClosed(
                f"the journal {self.location} is closed in this process: {self._closed_because}. "
                "Next: open it again, which reads what is on the disk"
            )

    def _shared(self) -> Rendezvous:
        self._check()
        if self._rendezvous is None:
            raise StorageError(
                f"the journal {self.location} was opened read-only. Next: open it without"
            )
        return self._rendezvous

    def _close_rendezvous(self) -> None:
        if self._rendezvous is not None:
            self._rendezvous.close()
            self._rendezvous = None
