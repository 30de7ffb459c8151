"""A storm over real processes: workers and producers are killed, stopped and continued at random.

    python tools/storm.py --seconds 60 --backend sqlite

Every task that really runs leaves a line in a file of its process, every producer writes down what
it is about to enqueue and what was acknowledged. When the storm is over, a last worker finishes the
work, and then the journal, the traces and the producers' books have to agree.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from omniq import AsyncOmniQ, RetryPolicy, TaskStatus, current_task
from omniq.config import open_storage
from omniq.core import events as ev
from omniq.core.projection import Projection
from omniq.tools import replay

NAMES = {"file": "journal", "sqlite": "jobs.db"}
WORKERS, PRODUCERS = 3, 2
MOST_RETRIES = 50  # more than a worker can be killed in a storm
EVERY_SECONDS = 0.15  # something is killed or stopped

HOME = Path(os.environ.get("OMNIQ_STORM", "."))
oq = AsyncOmniQ(os.environ.get("OMNIQ_STORM_JOURNAL", "memory://"), result_ttl=None)
PATIENT = RetryPolicy(max_retries=MOST_RETRIES, base_delay=0.0)


def leave_trace() -> None:
    """Write down that the current task really runs, in one write."""
    context = current_task()
    path = HOME / f"ran-{os.getpid()}"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{context.id} {context.attempt}\n".encode())
    os.close(descriptor)


@oq.task(name="in-loop", retry=PATIENT)
async def in_loop(number: int) -> int:
    """Run on the worker's event loop, for a moment."""
    leave_trace()
    await asyncio.sleep(number % 7 / 100)
    return -number


@oq.task(name="in-thread", retry=PATIENT)
def in_thread(number: int) -> int:
    """Run in a thread."""
    leave_trace()
    return -number


@oq.task(name="at-most-once", max_retries=0)
async def at_most_once(number: int) -> int:
    """Run once, or not at all."""
    leave_trace()
    return -number


@oq.task(name="in-process", retry=PATIENT, executor="process")
def in_process(number: int) -> int:
    """Run in a child process."""
    leave_trace()
    return -number


KINDS = (in_loop, in_loop, in_thread, at_most_once)


# The processes.


async def work() -> None:
    """Be a worker until killed."""
    async with oq:
        await oq.worker(concurrency=5, lease=5.0).run()


async def produce(seed: int, first: int) -> None:
    """Be a producer until killed, and keep a book."""
    rng, number = random.Random(seed), first  # noqa: S311 - chance that can be repeated
    with (HOME / f"book-{os.getpid()}").open("w", buffering=1, encoding="ascii") as book:
        async with oq:
            while True:
                count = rng.choice((1, 1, 1, 5, 20))
                numbers = range(number, number + count)
                number += count
                book.write("".join(f"intends {n}\n" for n in numbers))
                task = in_process if rng.random() < 0.01 else rng.choice(KINDS)  # noqa: PLR2004
                handles = await task.enqueue_many([(n,) for n in numbers])
                book.write("".join(f"enqueued {h.id}\n" for h in handles))
                await asyncio.sleep(rng.choice((0.0, 0.002, 0.01)))


# The storm.


class Storm:
    """Starts processes, and ends them as chance says."""

    def __init__(self, folder: Path, location: str, seed: int) -> None:
        self.folder = folder
        self.location = location
        self.rng = random.Random(seed)  # noqa: S311 - chance that can be repeated
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.done: Counter[str] = Counter()
        self._number = 0

    def start(self, role: str) -> None:
        """Start a process in the place of one that ended."""
        self._number += 1
        more = [str(self.rng.getrandbits(32)), str(self._number * 1_000_000)]
        self.processes[role] = subprocess.Popen(
            [sys.executable, __file__, role.rstrip("0123456789"), *more],
            env={
                **os.environ,
                "OMNIQ_STORM": str(self.folder),
                "OMNIQ_STORM_JOURNAL": self.location,
            },
            stdin=subprocess.DEVNULL,
            stderr=(self.folder / f"log-{role}-{self._number}").open("wb"),
            start_new_session=True,
        )

    def kill(self, role: str) -> None:
        """Kill a process and all its children, and start another one."""
        os.killpg(self.processes[role].pid, signal.SIGKILL)
        self.processes[role].wait()
        self.done["killed"] += 1
        self.start(role)

    def blow(self, seconds: float) -> None:
        """Let it blow for so long."""
        roles = [f"work{n}" for n in range(WORKERS)] + [f"produce{n}" for n in range(PRODUCERS)]
        for role in roles:
            self.start(role)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self.rng.uniform(0.2, 1.8) * EVERY_SECONDS)
            role = self.rng.choice(roles)
            what = self.rng.random()
            if what < 0.7:  # noqa: PLR2004 - mostly
                self.kill(role)
            elif what < 0.95:  # noqa: PLR2004 - now and then
                self.pause(role)
            else:
                for each in roles:
                    self.kill(each)
        for process in self.processes.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def pause(self, role: str) -> None:
        """Stop a process for a moment."""
        process = self.processes[role]
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.0, 0.3))
        process.send_signal(signal.SIGCONT)
        self.done["stopped"] += 1


# The reckoning.


class Reckoning:
    """What the journal, the traces and the books say, and where they contradict each other."""

    def __init__(self, folder: Path, location: str) -> None:
        self.folder = folder
        self.location = location
        self.problems: list[str] = []
        self.released: Counter[str] = Counter()
        self.ran = Counter(
            line.split()[0] for path in folder.glob("ran-*") for line in _lines(path)
        )

    async def finish(self) -> Projection:
        """Let a last worker end the work, and return the state of a process that opens anew."""
        async with AsyncOmniQ(self.location, result_ttl=None) as app:
            for task in (in_loop, in_thread, at_most_once, in_process):
                app.registry.register(task.registration.function, name=task.name)
            while True:
                await app.worker(concurrency=50).drain()
                stats = (await app.stats()).by_status
                if not stats[TaskStatus.RUNNING] + stats[TaskStatus.RETRYING]:
                    break
        async with AsyncOmniQ(self.location) as app:
            return await (await app.engine()).refresh()

    async def fold(self) -> Projection:
        """Return the fold of all events from the first one on."""
        storage, state = open_storage(self.location, read_only=True), Projection()
        await storage.open()
        while commits := await storage.read(state.seq):
            for commit in commits:
                state.apply(commit)
                for event in commit.events:
                    if isinstance(event, ev.TaskReleased):
                        self.released[event.task_id] += 1
        await storage.close()
        return state

    def check(self, live: Projection, folded: Projection) -> None:
        """Compare everything with everything."""
        self._expect(live.state() == folded.state(), "a process has another state than the fold")
        intended, enqueued = self._books()
        gone = enqueued - folded.tasks.keys()
        self._expect(not gone, f"{len(gone)} acknowledged tasks are gone: {sorted(gone)[:5]}")
        numbers: Counter[int] = Counter()
        for task in folded.tasks.values():
            number = in_loop_number(task.payload)
            numbers[number] += 1
            self._check_task(task.id, task.spec.retry.max_retries, str(task.status))
            if task.status is TaskStatus.SUCCESS:
                value = -number
                self._expect(
                    task.result == _encoded(value), f"task {task.id} has the result {task.result!r}"
                )
        twice = [number for number, count in numbers.items() if count > 1]
        self._expect(not twice, f"enqueued twice: {twice[:5]}")
        self._expect(not numbers.keys() - intended, "tasks exist that nobody intended")

    def _check_task(self, task_id: str, max_retries: int, status: str) -> None:
        ran, allowed = self.ran[task_id], 1 + max_retries + self.released[task_id]
        self._expect(ran <= allowed, f"task {task_id} ran {ran} times; {allowed} are allowed")
        ends = ("SUCCESS", "FAILED") if max_retries == 0 else ("SUCCESS",)
        self._expect(status in ends, f"task {task_id} is {status}")
        self._expect(status != "SUCCESS" or ran > 0, f"task {task_id} succeeded and never ran")

    def _books(self) -> tuple[set[int], set[str]]:
        lines = [line.split() for path in self.folder.glob("book-*") for line in _lines(path)]
        return (
            {int(what) for verb, what in lines if verb == "intends"},
            {what for verb, what in lines if verb == "enqueued"},
        )

    def _expect(self, condition: object, problem: str) -> None:
        if not condition:
            self.problems.append(problem)


def _lines(path: Path) -> list[str]:
    """Return the whole lines of a file whose writer may have been killed."""
    return path.read_text(encoding="ascii").rpartition("\n")[0].splitlines()


def in_loop_number(payload: bytes) -> int:
    """Return the number that a task was enqueued with."""
    arguments, _ = oq.codecs.decode_arguments(in_loop.registration.signature, payload, "msgpack")
    number = arguments[0]
    assert isinstance(number, int), "a task of the storm has a number"
    return number


def _encoded(value: int) -> bytes:
    return oq.codecs.encode_result(value, "in-loop")


def run(seconds: float, backend: str, seed: int) -> int:
    """Raise a storm, and return the exit status: 0 if nothing was lost, done twice or invented."""
    folder = Path(tempfile.mkdtemp(prefix="omniq-storm-"))
    location = str(folder / NAMES[backend])
    storm = Storm(folder, location, seed)
    try:
        storm.blow(seconds)
    finally:
        for process in storm.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    os.environ["OMNIQ_STORM"] = str(folder)
    globals()["HOME"] = folder
    reckoning = Reckoning(folder, location)
    live = asyncio.run(reckoning.finish())
    reckoning.ran = Counter(
        line.split()[0] for path in folder.glob("ran-*") for line in _lines(path)
    )
    folded = asyncio.run(reckoning.fold())
    reckoning.check(live, folded)
    if replay.main(["verify", location]) != 0:
        reckoning.problems.append("verify finds problems")
    again = sum(count - 1 for count in reckoning.ran.values() if count > 1)
    print(
        f"{backend}, {seconds:g} s, seed {seed}: {storm.done['killed']} kills, "
        f"{storm.done['stopped']} stops, {len(folded.tasks)} tasks, "
        f"{sum(reckoning.ran.values())} runs, {again} of them again"
    )
    if reckoning.problems:
        print("\n".join(reckoning.problems[:20]))
        print(f"The journal is kept: {folder}")
        print(
            f"Next: python tools/storm.py --backend {backend} --seconds {seconds:g} --seed {seed}"
        )
        return 1
    shutil.rmtree(folder)
    return 0


def main() -> int:
    """Be one of the processes, or raise a storm."""
    if sys.argv[1:2] == ["work"]:
        asyncio.run(work())
        return 0
    if sys.argv[1:2] == ["produce"]:
        asyncio.run(produce(int(sys.argv[2]), int(sys.argv[3])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--backend", choices=sorted(NAMES), default="file")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    options = parser.parse_args()
    return run(options.seconds, options.backend, options.seed)


if __name__ == "__main__":
    sys.exit(main())
