"""A machine with a disk and some processes on one journal; all of it dies when it is told to.

The processes are real apps, engines and workers. A killed one runs nothing any more, not even what
stands in a `finally`, as far as anyone else can see: its disk refuses, its locks are given up.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import suppress
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniq import AsyncOmniQ, OmniqError
from omniq.clock import sleep
from omniq.storage.disk import Disk
from omniq.storage.file import FileStorage
from omniq.testing import SeededEntropy
from omniq.worker.liveness import RENEWALS_PER_LEASE, LeaseRenewal
from tools.simulation.disk import SimulatedDisk
from tools.simulation.loop import LoopClock, SimulatedLoop

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine

    from omniq.worker.pool import AsyncWorkerPool

__all__ = ("ALL_LARGE", "LEASE", "Dead", "Machine", "Process", "Renewal")

SEGMENT_BYTES = 4000  # so that a short run has several
RESERVE_BYTES = 2048
LEASE = 10.0
# With these, all commits but the shortest are written and read as those of a mebibyte are.
ALL_LARGE = {
    "omniq.storage.file.PART_ITEMS": 0,
    "omniq.storage.file.READ_BYTES": 0,
    "omniq.storage.segments.READ_BYTES": 100,
    "omniq.storage.segments._FIRST_READ_BYTES": 0,
}


class Dead(BaseException):
    """The process is no more: raised in it wherever it touches the world."""


class _DiskOf(Disk):
    """The machine's disk as one process has it: each operation may be its last."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def __getattribute__(self, name: str) -> Any:
        if name in _COMPOUND or name.startswith("_"):
            return super().__getattribute__(name)
        process: Process = super().__getattribute__("process")
        if name == "process":
            return process
        if name != "close":
            process.touch()
        return getattr(process.machine.disk, name)


_COMPOUND = ("write_all", "create")  # made of the other operations


class Process:
    """One process: an app on the machine's journal, and a worker if it is told to be one."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.number = number
        self.is_dead = False
        self.hangs = self.has_hung = False
        rng = machine.rng
        self.clock = LoopClock(machine.loop, rng.choice((0.0, 0.0, -3600.0, 7200.0)))
        self._storages: list[FileStorage] = []
        self.storage = self._sibling()
        self.storage.__dict__["sibling"] = self._sibling  # they die with the process, too
        entropy = SeededEntropy(rng.getrandbits(40))
        self.app = AsyncOmniQ(
            self.storage,
            clock=self.clock,
            entropy=entropy,
            result_ttl=None,
            retention=machine.retention,
        )
        self.pool: AsyncWorkerPool | None = None
        self.names: set[str] = set()  # under which its worker was seen
        self._tasks: set[asyncio.Task[Any]] = set()

    def touch(self) -> None:
        """Use the disk; raises `Dead` in a process that is, and now and then makes it so."""
        if not self.is_dead:
            self.machine.before_operation(self)
        if self.is_dead:
            raise Dead

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """Let the process do something; an error of OmniQ in it is an answer like any other."""
        context = copy_context()
        context.run(_current.set, self)
        task = self.machine.loop.create_task(self._guarded(work), context=context)
        task.add_done_callback(lambda _task: work.close())  # it may have died before it began
        return task

    async def _guarded(self, work: Coroutine[Any, Any, Any]) -> None:
        with suppress(OmniqError, TimeoutError, OSError, Dead):
            await work

    async def work(self, concurrency: int) -> None:
        """Be a worker until death, or until the storage fails; then the process ends."""
        self.pool = self.app.worker(concurrency=concurrency, lease=LEASE)
        try:
            await self.pool.run()
        except OmniqError:
            self.machine.kill(self)

    @property
    def is_intact(self) -> bool:
        """Whether nobody has a reason to declare its worker lost."""
        pool: Any = self.pool
        return not (
            pool is None or self.is_dead or self.has_hung or pool._stopping or pool._failure
        )

    def own(self, task: asyncio.Task[Any]) -> None:
        """Take note of a task of the event loop that dies with the process."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def die(self) -> None:
        """End as by SIGKILL: the kernel takes locks and sockets back, nothing else happens."""
        self.is_dead = True
        if self.pool is not None:  # who is only cancelled gives back what runs
            self.pool._failure = Dead()
        if self.app._queue is not None:  # and writes what it has to
            self.app._queue._committer._is_open = False
        for storage in self._storages:
            if storage._rendezvous is not None:
                self._give_up(storage._rendezvous)
        for task in tuple(self._tasks):
            task.cancel()

    def _give_up(self, rendezvous: Any) -> None:
        for lock in (rendezvous._lock, *rendezvous._lives.values()):
            lock.close()
        rendezvous._bell.close()
        if (listener := rendezvous._listener) is not None and listener._socket:
            self.machine.loop.remove_reader(listener._socket)
            listener._socket.close()

    def _sibling(self) -> FileStorage:
        storage = FileStorage(
            self.machine.path,
            segment_bytes=SEGMENT_BYTES,
            reserve_bytes=RESERVE_BYTES,
            disk=_DiskOf(self),
        )
        storage.__dict__["processor_time"] = self.machine.processor_time
        self._storages.append(storage)
        return storage


_current: ContextVar[Process | None] = ContextVar("process", default=None)


class Renewal(LeaseRenewal):
    """Renews a worker's lease on the loop's time, unless its process hangs."""

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.ensure_future(self._renew_forever())

    async def stop(self) -> None:
        """End."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _renew_forever(self) -> None:
        process = _current.get()
        assert process is not None, "a worker belongs to a process"
        while True:
            await sleep(self._clock, self._lease / RENEWALS_PER_LEASE)
            if self._holds_tasks() and not process.hangs:
                await self._renew()


class Machine:
    """A disk, a folder for locks and sockets, and the processes that run just now."""

    def __init__(self, loop: SimulatedLoop, rng: random.Random) -> None:
        self.loop = loop
        self.rng = rng
        self.disk = SimulatedDisk()
        self.disk.room = rng.choice((0, 150, 3000))
        self.path = Path(tempfile.mkdtemp(prefix="omniq-sim-", dir=_quick_folder()))
        self.disk.folders.add(self.path.parent)
        self.disk.durable_folders.add(self.path.parent)
        self.processes: list[Process] = []
        # Kept to the end, when the loop ends what still waits in them: the garbage collector would
        # do so at any time, in any thread.
        self.dead: list[Process] = []
        self.started = 0
        self.retention: float | None = None
        self.power_was_cut = False
        self.before_operation: Callable[[Process], None] = lambda _process: None
        loop.set_task_factory(_make_task)
        loop.set_exception_handler(lambda _loop, _context: None)  # the dead have much to complain

    def start(self) -> Process:
        """Start a process."""
        self.started += 1
        process = Process(self, self.started)
        self.processes.append(process)
        return process

    def kill(self, process: Process) -> None:
        """Kill a process."""
        if not process.is_dead:
            self.processes.remove(process)
            self.dead.append(process)
            process.die()

    def processor_time(self, worker: str) -> int | None:
        """Return how long a worker's process has run: all the time, unless it hangs."""
        for process in self.processes:
            if process.pool is not None and process.pool.id == worker:
                return 0 if process.hangs else round(self.loop.time() * 1_000_000_000)
        return None

    def cut_power(self) -> None:
        """Kill everything, and start again with what the disk has kept."""
        for process in tuple(self.processes):
            self.kill(process)
        self.disk.crash(self.rng)
        (self.path / "journal.lock").unlink(missing_ok=True)
        self.power_was_cut = True

    def remove(self) -> None:
        """Remove what the machine has on the real disk."""
        shutil.rmtree(self.path, ignore_errors=True)


def _quick_folder() -> str | None:
    shared = Path("/dev/shm")  # noqa: S108 - a folder in memory, with a random name below
    return str(shared) if shared.is_dir() else None


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task of the process in whose name it is made."""
    task = asyncio.Task(work, loop=loop, **options)
    process = task.get_context().get(_current)
    if process is not None:
        process.own(task)
    return task
