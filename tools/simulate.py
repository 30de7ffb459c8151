"""Lives of a journal, drawn from seeds: clients and workers, and a disk and processes that fail.

    python tools/simulate.py --seeds 2000        as many fresh ones
    python tools/simulate.py --seed 42           this one, with what happened in it

It is the real engine, worker and file storage on a simulated disk, event loop and clock, in one
thread, so that a seed is always the same life. tools/simulation/oracle.py says what must hold.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import hashlib
import logging
import random
import secrets
import sys
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from omniq import RetryLater, RetryPolicy, TaskCancelled, TaskFailed, current_task
from omniq.core.events import Commit
from omniq.errors import UnsupportedFormat
from omniq.storage.file import FileStorage
from omniq.tools.scanning import FileScan
from omniq.tools.verifying import Verification
from tools.simulation.loop import SimulatedLoop
from tools.simulation.machine import ALL_LARGE, LEASE, Dead, Machine, Process, Renewal
from tools.simulation.oracle import BrokenPromise, Oracle

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 40
MOST_PROCESSES = 4
SHOWN = 40  # of the last things that happened, after a failure
HOUR = 3600.0
_ROUNDS = 100
KINDS = ("quick", "slow", "fails", "flaky", "later", "once", "interval")
FAILING = {"write": errno.ENOSPC, "sync": errno.EIO, "read": errno.EIO, "rename": errno.EIO}


class Simulation:
    """One life of a journal."""

    def __init__(self, seed: int, steps: int = STEPS) -> None:
        self.seed = seed
        self.steps = steps
        self.rng = random.Random(seed)  # noqa: S311 - chance that can be repeated
        self.loop = SimulatedLoop(self.rng)
        self.machine = Machine(self.loop, self.rng)
        self.machine.before_operation = self._before_operation
        self.machine.disk.before = self._fail_now_and_then
        self.machine.disk.limit = self._cut_short
        self.oracle = Oracle()
        self.observer: FileStorage | None = None
        self.trace: deque[str] = deque(maxlen=SHOWN)
        self.digest = hashlib.blake2b(digest_size=8)
        # Each life has its own troubles, or all would be alike.
        draw = self.rng.choice
        self.deaths = draw((0.0, 0.0, 0.001, 0.005))
        self.power_cuts = draw((0.0, 0.0, 0.0005, 0.002))
        self.faults = draw((0.0, 0.0, 0.002, 0.01))
        self.events_a_snapshot = draw((8, 32, 1 << 16))
        self.read_apart = draw((0, 4, 256))
        self.machine.retention = draw((None, None, 6 * LEASE))
        self.is_calm = False

    def run(self) -> str:
        """Live it to its end, and return the digest of what happened."""
        names = (b"%d" % number for number in range(1 << 40))
        patches: list[Any] = [
            mock.patch("omniq.worker.pool.LeaseRenewal", Renewal),
            mock.patch("omniq.upkeep.EVENTS_A_SNAPSHOT", self.events_a_snapshot),
            mock.patch("omniq.upkeep.EVENTS_A_TASK", 0),
            mock.patch("omniq.committing.READ_APART_EVENTS", self.read_apart),
            mock.patch("omniq.worker.running.SLICE", (1, 2, 128)[self.seed % 3]),
            mock.patch("omniq.worker.pool.WATCH_SECONDS", LEASE / 4),  # fewer turns of the loop
            mock.patch("omniq.storage.rendezvous.random_bytes", lambda n: next(names).rjust(n)),
            mock.patch("omniq.storage.folder.random_bytes", self.rng.randbytes),
            mock.patch("omniq.storage.snapshots.random_bytes", lambda n: next(names).rjust(n)),
        ]
        if self.seed % 5 == 0:
            patches += [mock.patch(*name_and_value) for name_and_value in ALL_LARGE.items()]
        asyncio.set_event_loop(self.loop)
        with ExitStack() as stack:
            stack.callback(self.machine.remove)
            stack.callback(asyncio.set_event_loop, None)
            for patch in patches:
                stack.enter_context(patch)
            stack.callback(self._end)
            self.loop.run_until_complete(self._live())
        return self.digest.hexdigest()

    def _end(self) -> None:
        """End whatever runs or waits, living or dead."""
        self.is_calm = True
        for process in tuple(self.machine.processes):
            self.machine.kill(process)
        self.loop.run_until_complete(bury())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def say(self, text: str) -> None:
        """Write down what happens."""
        line = f"{self.loop.now:12.3f}  {text}"
        self.trace.append(line)
        self.digest.update(line.encode())

    async def _live(self) -> None:
        for _ in range(self.steps):
            self._step()()
            await asyncio.sleep(self.rng.choice((0.0, 0.0, 0.0, 0.01, 0.3, 1.0, 2 * LEASE)))
            await self._look()
        await self._come_to_rest()

    def _step(self) -> Callable[[], None]:
        steps: list[tuple[Callable[[], None], int]] = [(self._start, 3)]
        if self.machine.processes:
            steps += [
                (self._enqueue, 8),
                (self._enqueue_many, 2),
                (self._ask, 4),
                (self._cancel, 1),
                (self._kill, 1),
                (self._hang, 1),
                (self._step_clock, 1),
                (self._stop_worker, 1),
            ]
        if self.power_cuts:
            steps.append((self._cut_power, 1))
        which, weights = zip(*steps, strict=True)
        chosen: Callable[[], None] = self.rng.choices(which, weights)[0]
        return chosen

    # What happens.

    def _start(self) -> None:
        if len(self.machine.processes) == MOST_PROCESSES:
            return
        process = self.machine.start()
        self._register(process)
        concurrency = self.rng.choice((0, 1, 3))
        self.say(f"process {process.number} starts, concurrency {concurrency}")
        if concurrency:
            process.spawn(process.work(concurrency))

    def _register(self, process: Process) -> None:
        @process.app.task(name="work", retry=RetryPolicy(max_retries=2, base_delay=5.0))
        async def work(kind: str) -> str:
            process.touch()
            context = current_task()
            self.oracle.ran(context.id, once=kind == "once")
            run = self.oracle.runs[context.id]
            self.say(f"process {process.number} runs {context.id[-8:]} ({kind}), run {run}")
            if kind == "slow":
                await asyncio.sleep(3 * LEASE)
            elif kind == "later" and run == 1:
                raise RetryLater(after=7)
            elif kind == "fails" or (kind == "flaky" and run % 2):
                raise ValueError(kind)
            process.touch()
            return f"{context.id} {run}"

        process.app.__dict__["work"] = work

    def _someone(self) -> Process:
        return self.rng.choice(self.machine.processes)

    def _enqueue(self) -> None:
        process, kind = self._someone(), self.rng.choice(KINDS)
        options: dict[str, Any] = {"priority": self.rng.randrange(3)}
        if kind == "once":
            options["max_retries"] = 0
        if kind == "interval":
            options["interval"] = 600
        if self.rng.random() < 0.2:  # noqa: PLR2004 - one in five
            options["delay"] = self.rng.choice((1, 30, 3 * HOUR))
        process.spawn(self._call(process, kind, options))

    async def _call(self, process: Process, kind: str, options: dict[str, Any]) -> None:
        handle = await process.app.__dict__["work"].options(**options).enqueue(kind)
        self._accept(process, [handle.id], kind)

    def _enqueue_many(self) -> None:
        process = self._someone()
        process.spawn(self._call_many(process, self.rng.randrange(1, 6)))

    async def _call_many(self, process: Process, count: int) -> None:
        handles = await process.app.__dict__["work"].enqueue_many([("quick",)] * count)
        self._accept(process, [handle.id for handle in handles], "quick")

    def _accept(self, process: Process, ids: list[str], kind: str) -> None:
        if not process.is_dead:
            self.oracle.accepted.update(ids)
            self.say(f"process {process.number} has enqueued {[i[-8:] for i in ids]} ({kind})")

    def _ask(self) -> None:
        if self.oracle.accepted:
            process = self._someone()
            task_id = self.rng.choice(sorted(self.oracle.accepted))
            process.spawn(self._wait(process, task_id))

    async def _wait(self, process: Process, task_id: str) -> None:
        value: object
        try:
            value = await process.app.handle(task_id).result(timeout=2 * HOUR)
        except (TaskFailed, TaskCancelled) as error:
            value = type(error).__name__
        if not process.is_dead:
            self.oracle.told(task_id, value)
            self.say(f"process {process.number} was told {task_id[-8:]}: {value}")

    def _cancel(self) -> None:
        if self.oracle.accepted:
            process = self._someone()
            task_id = self.rng.choice(sorted(self.oracle.accepted))
            self.say(f"process {process.number} cancels {task_id[-8:]}")
            process.spawn(process.app.handle(task_id).cancel("enough"))

    def _kill(self) -> None:
        process = self._someone()
        self.say(f"process {process.number} is killed")
        self.machine.kill(process)

    def _hang(self) -> None:
        process = self._someone()
        process.hangs, process.has_hung = not process.hangs, True
        self.say(f"process {process.number} {'hangs' if process.hangs else 'goes on'}")

    def _step_clock(self) -> None:
        process = self._someone()
        process.clock.wrong_by += self.rng.choice((-5 * HOUR, -1.0, 1.0, 5 * HOUR))
        self.say(f"the clock of process {process.number} is wrong by {process.clock.wrong_by} s")

    def _stop_worker(self) -> None:
        process = self._someone()
        if process.pool is not None:
            self.say(f"the worker of process {process.number} stops")
            process.spawn(process.pool.stop(timeout=self.rng.choice((0, LEASE))))

    def _cut_power(self) -> None:
        self.say("the power is cut")
        if not self.machine.power_was_cut:
            self._see_before_it_goes()
        self.machine.cut_power()

    def _see_before_it_goes(self) -> None:
        """Look at what is there just now, since the next moment takes some of it away."""
        calm, self.is_calm = self.is_calm, True
        self.observer = None
        if self.machine.disk.is_directory(self.machine.path):
            scan = FileScan(self.machine.path, disk=self.machine.disk)
            with suppress(UnsupportedFormat):
                seen = [found for found in scan if isinstance(found, Commit)]
                self.oracle.intact = set()  # who lived until now, and did not hang, is not known
                self.oracle.see(c for c in seen if c.first_seq > self.oracle.state.seq)
        self.is_calm = calm

    # What fails.

    def _before_operation(self, process: Process) -> None:
        if self.is_calm:
            return
        if self.rng.random() < self.deaths:
            self.say(f"process {process.number} dies at the disk")
            self.machine.kill(process)
        elif self.rng.random() < self.power_cuts:
            self._cut_power()

    def _fail_now_and_then(self, operation: str) -> None:
        if operation == "remove" and self.machine.retention:
            self._see_before_it_goes()
        code = FAILING.get(operation)
        if code is not None and not self.is_calm and self.rng.random() < self.faults:
            self.say(f"{operation} fails with {errno.errorcode[code]}")
            raise OSError(code, "simulated")

    def _cut_short(self, _operation: str, length: int) -> int:
        if self.is_calm or length < 2 or self.rng.random() >= self.faults:  # noqa: PLR2004
            return length
        return self.rng.randrange(1, length)

    # What must hold.

    async def _look(self) -> None:
        """Compare what is in the journal with what was promised and seen."""
        calm, self.is_calm = self.is_calm, True
        try:
            if self.machine.power_was_cut:
                self.machine.power_was_cut = False
                self.observer = None
                commits = await self._read(0)
                self.oracle.lost_power(commits, await self._dropped())
            else:
                self.oracle.intact = self._intact_workers()
                seen = await self._read(self.oracle.state.seq)
                # Meanwhile something may have gone, and was looked at before.
                self.oracle.see(c for c in seen if c.first_seq > self.oracle.state.seq)
            self.oracle.check_runs()
            self._compare_states()
        finally:
            self.is_calm = calm

    def _intact_workers(self) -> set[str]:
        """Return the workers that nobody may declare lost, by every name that they had."""
        intact: set[str] = set()
        for process in self.machine.processes:
            if process.pool is not None and process.is_intact:
                process.names.add(process.pool.id)  # one that was lost has another one by now
                intact |= process.names
        return intact

    async def _read(self, after: int) -> list[Any]:
        if self.observer is None:
            observer = FileStorage(self.machine.path, read_only=True, disk=self.machine.disk)
            try:
                await observer.open()
            except UnsupportedFormat:  # nobody has made the journal yet, durably
                return []
            self.observer = observer
        commits: list[Any] = []
        after = max(after, await self._dropped())
        while page := await self.observer.read(commits[-1].last_seq if commits else after):
            commits += page
        return commits

    async def _dropped(self) -> int:
        return 0 if self.observer is None else (await self.observer.beginning()).seq

    def _compare_states(self) -> None:
        """Every process that is as far as the journal has the state that its events make."""
        for process in self.machine.processes:
            queue: Any = process.app._queue
            state = None if queue is None else queue.projection
            if state is None or not 0 < state.seq == self.oracle.state.seq:
                continue
            if state.state() != self.oracle.state.state():
                raise BrokenPromise(f"process {process.number} has another state than the journal")

    async def _come_to_rest(self) -> None:
        """Let nothing fail any more: whatever was accepted is finished by one good worker."""
        self.is_calm = True
        self.say("all is calm")
        for process in tuple(self.machine.processes):
            self.machine.kill(process)
        await self._look()
        self.oracle.check_promises()
        self.machine.retention = None  # the clock is about to jump, and this has to be seen
        process = self.machine.start()
        self._register(process)
        await self._until(process, process.spawn(self._end_series(process)))
        process.spawn(process.work(5))
        for _ in range(400):
            await asyncio.sleep(2 * LEASE)
            process.clock.wrong_by += HOUR  # what is due later is due sooner
            await self._look()
            if not self.oracle.unfinished():
                break
        else:
            raise BrokenPromise(f"never finished: {self.oracle.unfinished()}")
        self.oracle.check_promises()
        self.machine.kill(process)
        verification = Verification(FileScan(self.machine.path, disk=self.machine.disk))
        if problems := list(verification.problems(lambda _seq: None)):
            raise BrokenPromise(f"verify finds {problems}")
        self.say(f"{self.oracle.state.seq} events, {len(self.oracle.state.tasks)} tasks")

    async def _until(self, process: Process, task: asyncio.Task[None]) -> None:
        await task
        if process.is_dead:
            raise BrokenPromise("a process died although nothing fails")

    async def _end_series(self, process: Process) -> None:
        for task in tuple(self.oracle.state.tasks.values()):
            if task.spec.interval_us and not task.is_finished:
                await process.app.handle(task.id).cancel("the end")


async def bury() -> None:
    """End what is left of dead processes: coroutines that wait for what will never happen."""
    for _ in range(_ROUNDS):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            return
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=1.0)


def run_seed(seed: int, steps: int) -> str | None:
    """Run one life; return None, or what to print about it if it failed."""
    simulation = Simulation(seed, steps)
    try:
        simulation.run()
    except (Exception, Dead) as error:  # noqa: BLE001 - whatever it is, it must not be
        lines = "\n".join(simulation.trace)
        return (
            f"{lines}\n{type(error).__name__}: {error}\n"
            f"Next: python tools/simulate.py --seed {seed} --steps {steps}"
        )
    return None


def main() -> int:
    """Run as many seeds as asked for, and stop at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, help="only this one, and show what happened")
    parser.add_argument("--seeds", type=int, default=2000, help="so many (2000), fresh ones")
    parser.add_argument("--first", type=int, help="the first of them, else drawn")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each life ({STEPS})")
    options = parser.parse_args()
    if options.seed is not None:
        simulation = Simulation(options.seed, options.steps)
        simulation.trace = deque()
        try:
            print(simulation.run())
        finally:
            print("\n".join(simulation.trace))
        return 0
    first = secrets.randbelow(1 << 32) if options.first is None else options.first
    began = time.monotonic()
    seeds = range(first, first + options.seeds)
    with ProcessPoolExecutor(initializer=logging.disable) as pool:  # there is much to complain
        run = partial(run_seed, steps=options.steps)
        for failure in pool.map(run, seeds, chunksize=20):
            if failure is not None:
                print(failure)
                pool.shutdown(cancel_futures=True)
                return 1
    took = time.monotonic() - began
    rate = 60 * options.seeds / took
    print(f"{options.seeds} seeds from {first} on are well: {took:.1f} s, {rate:,.0f} a minute")
    return 0


if __name__ == "__main__":
    sys.exit(main())
