"""What backends have in common whose journals are shared by the processes of one host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from omniq.errors import StorageClosed
from omniq.storage.base import BaseStorage
from omniq.storage.disk import system_errors

if TYPE_CHECKING:
    from omniq.storage.rendezvous import Rendezvous

__all__ = ("Durability", "LocalStorage")

type Durability = Literal["fsync", "os"]


class LocalStorage(BaseStorage):
    """A backend with a `Rendezvous`: its lock is the exclusive section, its sockets the news."""

    def __init__(self, durability: Durability) -> None:
        self._durability: Durability = durability
        self._durable = 0
        self._failure = ""
        self._rendezvous: Rendezvous | None = None
        self._inside = False  # whether this handle holds the journal's lock
        self._rings = False  # whether there is news for others when the lock is given up

    def exclusive(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        rendezvous = self._shared()
        await rendezvous.enter()
        try:
            self._refresh(rendezvous)
        except BaseException:
            rendezvous.leave()
            raise
        self._inside = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._inside = False
        rendezvous = self._rendezvous
        if rendezvous is None:
            return  # closed inside the section, which gave the lock up
        rendezvous.leave()
        if self._rings:
            self._rings = False
            rendezvous.ring()

    def _refresh(self, rendezvous: Rendezvous) -> None:
        """Learn, under the lock, where the journal ends now."""

    async def wait(self, seq: int) -> None:
        rendezvous = self._shared()
        rendezvous.listen()
        hint = rendezvous.read_hint()
        if hint is None or hint.seq <= seq:
            await rendezvous.heard()

    async def hold_life(self, worker: str) -> None:
        with system_errors(f"cannot lock the life of worker {worker}"):
            self._shared().hold_life(worker)

    async def drop_life(self, worker: str) -> None:
        self._shared().drop_life(worker)

    def is_dead(self, worker: str) -> bool:
        return self._shared().is_dead(worker)

    def _fail(self, reason: str) -> None:
        """Finish this handle: what it believes about the disk may be wrong by now."""
        self._failure = reason

    def _check(self) -> None:
        if self._failure:
            raise StorageClosed(
                f"the journal {self.location} is closed in this process: {self._failure}. "
                "Next: open it again, which reads what is on the disk"
            )

    def _shared(self) -> Rendezvous:
        self._check()
        if self._rendezvous is None:
            raise StorageClosed(f"the journal {self.location} is not open")
        return self._rendezvous

    def _close_rendezvous(self) -> None:
        if self._rendezvous is not None:
            self._rendezvous.close()
            self._rendezvous = None
