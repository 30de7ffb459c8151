"""Who is alive: how a worker shows it, and how the death of another one is seen.

The kernel decides wherever it can: a worker holds a lock for its life, and a free lock is a dead
worker, at once and for certain. Where the lock cannot be seen (another host), or says nothing (a
process that is stopped), there is the lease: a worker that holds tasks renews it, and one that
was not heard of for the length of its lease is lost.

The lease is measured by the observer's monotonic clock, from when the observer saw the last sign
of life. Wall clocks may be wrong, or jump by hours; no lease ends because of that.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from omniq.core import commands as cmd
from omniq.core.events import WorkerRenewed
from omniq.host import boot_id, host_name

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from omniq.clock import Clock
    from omniq.core.projection import Projection
    from omniq.core.task import WorkerRecord
    from omniq.storage.base import BaseStorage

__all__ = ("LeaseRenewal", "Watch")

RENEWALS_PER_LEASE = 3  # two may be late or lost before anyone takes the worker for dead

_log = logging.getLogger(__name__)


class LeaseRenewal:
    """Renews a worker's lease from a thread, so that a task that blocks the loop can't stop it.

    The thread has a handle of its own on the journal. Renewals are only written while
    `holds_tasks` says that there is something to lose. If the event loop is closed without an end
    of the worker, `drop_life` lets others see that it is dead, though its process goes on.
    """

    def __init__(
        self,
        storage: BaseStorage,
        clock: Clock,
        *,
        actor: str,
        lease_seconds: float,
        holds_tasks: Callable[[], bool],
        drop_life: Callable[[str], Coroutine[None, None, None]],
    ) -> None:
        self.worker = ""  # who is renewed; set before `start`, and again after a loss
        self._storage = storage
        self._clock = clock
        self._actor = actor
        self._lease = lease_seconds
        self._holds_tasks = holds_tasks
        self._drop_life = drop_life
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="omniq-lease", daemon=True)

    def start(self) -> None:
        """Begin to renew, as long as the running event loop is open."""
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._thread.start()

    async def stop(self) -> None:
        self._stopped.set()
        await self._ended.wait()  # by none of asyncio's threads, which may all be busy for long
        self._thread.join()

    def _run(self) -> None:
        try:
            self._renew_until_stopped()
        finally:
            with suppress(RuntimeError):  # the loop was closed, and nobody waits
                self._loop.call_soon_threadsafe(self._ended.set)

    def _renew_until_stopped(self) -> None:
        with asyncio.Runner() as runner:
            while not self._stopped.wait(self._lease / RENEWALS_PER_LEASE):
                if self._loop.is_closed():
                    runner.run(self._drop_life(self.worker))
                    break
                if self._holds_tasks():
                    runner.run(self._renew())
            runner.run(self._storage.close())

    async def _renew(self) -> None:
        now = self._clock.now_us()
        renewed = WorkerRenewed(self.worker, now + int(self._lease * 1_000_000))
        try:
            await self._storage.open()
            await self._storage.append([renewed], at=now, actor=self._actor)
        except Exception as error:  # noqa: BLE001 - the next renewal may work, so it must come
            _log.warning(
                "the lease of worker %s could not be renewed: %s",
                self.worker,
                error,
                extra={"action": "renewal_failed", "worker": self.worker},
            )


class Watch:
    """Looks for workers that died. Every worker watches over all the others."""

    def __init__(self, storage: BaseStorage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._boot = boot_id()
        self._host = host_name()
        self._heard: dict[str, tuple[int, float]] = {}  # worker -> last sign of life, seen when
        self._ran: dict[str, int] = {}  # worker -> for how long, of those whose lease has ended
        self._turn = 0  # of the workers that hold nothing

    def find_lost(self, state: Projection, own: str) -> list[cmd.DeclareLost]:
        """Return a command for each worker that holds tasks and is dead by now.

        Those that hold none are looked at in turn, one each time: nothing waits for them.
        """
        found: list[cmd.DeclareLost] = []
        self._heard = {
            worker: heard for worker, heard in self._heard.items() if worker in state.workers
        }
        self._ran = {worker: ran for worker, ran in self._ran.items() if worker in state.workers}
        self._turn += 1
        others = [worker for worker in state.workers.values() if worker.id != own]
        holding = [worker for worker in others if worker.id in state.running]
        idle = [worker for worker in others if worker.id not in state.running]
        for worker in (*holding, *(idle and [idle[self._turn % len(idle)]])):
            if self._shares_our_kernel(worker) and self._storage.is_dead(worker.id):
                reason = f"its process {worker.pid} on {worker.host} died"
                found.append(cmd.DeclareLost(worker.id, reason))
            elif worker.id not in state.running or not self._lease_ended(state, worker):
                self._ran.pop(worker.id, None)
            elif not self._is_at_work(state, worker):
                seconds = _lease_seconds(worker)
                reason = f"it was not heard of for its lease of {seconds:g} s"
                found.append(cmd.DeclareLost(worker.id, reason, state.heard[worker.id]))
        return found

    def _shares_our_kernel(self, worker: WorkerRecord) -> bool:
        """Whether the worker's lock is one that we can see, or its machine restarted since."""
        return worker.boot == self._boot or worker.host == self._host

    def _lease_ended(self, state: Projection, worker: WorkerRecord) -> bool:
        sign, now = state.heard[worker.id], self._clock.monotonic()
        last = self._heard.get(worker.id)
        if last is None or last[0] != sign:
            self._heard[worker.id] = (sign, now)
            return False
        return now - last[1] > _lease_seconds(worker)

    def _is_at_work(self, state: Projection, worker: WorkerRecord) -> bool:
        """Whether its process has run since the last look, and so lives, though it did not renew.

        A call that holds the interpreter's lock keeps it from that for as long as it takes, and so
        does a full disk. A process that is stopped does not run.
        """
        if not self._shares_our_kernel(worker):
            return False
        ran, before = self._storage.processor_time(worker.id), self._ran.pop(worker.id, None)
        if ran is None or ran == before:
            return False
        if before is None:
            self._ran[worker.id] = ran  # the next look tells
        else:
            self._heard[worker.id] = (state.heard[worker.id], self._clock.monotonic())
        return True


def _lease_seconds(worker: WorkerRecord) -> float:
    return worker.lease_us / 1_000_000
