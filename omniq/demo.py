"""`omniq demo`: the main job on real input, with a worker that dies in the middle of it.

A task for every file of a directory, two worker processes; half-way one of them is killed with
SIGKILL and another one takes its place. At the end all results are compared with hashes that
were made here, and the journal says what happened.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from omniq.core import events as ev
from omniq.core.transitions import TaskStatus
from omniq.facade import AsyncOmniQ

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omniq.task import TaskHandle

__all__ = ("DemoReport", "FileFacts", "describe_file", "run_demo")

DEADLINE_SECONDS = 28.0
BATCH = 500
KILL_ATTEMPTS = 200  # tries to meet a worker in the middle of a task


class FileFacts(msgspec.Struct, frozen=True):
    """What the demo's task finds out about a file."""

    sha256: str
    size: int
    lines: int


class DemoReport(msgspec.Struct):
    """What the journal says of a run of the demo."""

    tasks: int = 0
    attempts: int = 0
    rerun: int = 0
    rerun_seconds: float = 0.0  # from the kill until the last re-run task had started again
    duplicates: int = 0  # tasks with more than one outcome
    missing: int = 0
    wrong: int = 0


def describe_file(path: Path) -> FileFacts:
    """Read a file and return its facts."""
    data = path.read_bytes()
    return FileFacts(hashlib.sha256(data).hexdigest(), len(data), data.count(b"\n"))


def run_demo(journal: str | None, directory: str | None, limit: int) -> int:
    """Run the demo and print what happened; return 0 only if everything was right."""
    with tempfile.TemporaryDirectory(prefix="omniq-demo-") as folder:
        location = journal or str(Path(folder) / "journal")
        files = list(islice(_files(Path(directory or sysconfig.get_path("stdlib"))), limit))
        if not files:
            print(f"omniq demo: there are no files in {directory}", file=sys.stderr)
            return 2
        return asyncio.run(_Demo(location, files).run())


def _files(directory: Path) -> Iterator[Path]:
    """Yield the readable files below a directory, but no caches and no installed packages."""
    for root, folders, names in os.walk(directory):
        folders[:] = sorted(set(folders) - {"__pycache__", "site-packages", ".git"})
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file() and os.access(path, os.R_OK):
                yield path


class _Demo:
    def __init__(self, location: str, files: list[Path]) -> None:
        self._location = location
        self._files = files
        self._app = AsyncOmniQ(location)
        self._workers: list[subprocess.Popen[bytes]] = []
        self._killed = ""  # the id of the worker that was killed, and when
        self._killed_at = 0

    async def run(self) -> int:
        started = time.monotonic()
        print(f"journal   {self._location}")
        print(f"files     {len(self._files)}")
        try:
            async with self._app, asyncio.timeout(DEADLINE_SECONDS):
                handles = await self._enqueue()
                self._workers = [self._start_worker(), self._start_worker()]
                results = await self._wait(handles)
                seconds = time.monotonic() - started
                self._stop_workers()
                report = await self._read_journal(handles)
                self._check(report, results)
                await self._print(report, seconds)
                return 1 if report.missing or report.wrong or report.duplicates else 0
        except TimeoutError:
            print(f"omniq demo: not finished within {DEADLINE_SECONDS:g} s", file=sys.stderr)
            return 1
        finally:
            self._stop_workers()

    async def _enqueue(self) -> list[TaskHandle[FileFacts]]:
        task = self._app.task(describe_file)
        handles: list[TaskHandle[FileFacts]] = []
        for start in range(0, len(self._files), BATCH):
            part = self._files[start : start + BATCH]
            handles += await task.enqueue_many([(path.absolute(),) for path in part])
            _progress(f"enqueued {len(handles)} of {len(self._files)}")
        return handles

    def _start_worker(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "omniq.demo", self._location])  # noqa: S603

    async def _wait(self, handles: list[TaskHandle[FileFacts]]) -> list[FileFacts | None]:
        """Wait for all results, while half-way a worker is killed."""
        killing = asyncio.create_task(self._kill_half_way(handles))
        results: list[FileFacts | None] = []
        for handle in handles:
            results.append(await handle.result())
            if len(results) % 100 == 0 or len(results) == len(handles):
                _progress(f"results {len(results)} of {len(handles)}", last=handle is handles[-1])
        await killing
        return results

    async def _kill_half_way(self, handles: list[TaskHandle[FileFacts]]) -> None:
        await handles[len(handles) // 2].result()  # tasks run in the order of their files
        await self._kill_a_busy_worker()

    async def _kill_a_busy_worker(self) -> None:
        """Kill a worker that holds tasks, and start another one, unless all is done by then."""
        queue = await self._app.engine()
        for attempt in range(KILL_ATTEMPTS):
            victim = self._workers[attempt % len(self._workers)]
            victim.send_signal(signal.SIGSTOP)  # so that what it holds stays as it is seen
            state = await queue.refresh()
            held = [name for name in state.running if state.workers[name].pid == victim.pid]
            if held:
                self._killed, self._killed_at = held[0], queue.clock.now_us()
                victim.kill()
                victim.wait()
                self._workers.remove(victim)
                self._workers.append(self._start_worker())
                count = len(state.running[self._killed])
                _progress(
                    f"killed process {victim.pid}, which was running {count} tasks", last=True
                )
                return
            victim.send_signal(signal.SIGCONT)
            await asyncio.sleep(0)

    def _stop_workers(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.wait()
        self._workers = []

    async def _read_journal(self, handles: list[TaskHandle[FileFacts]]) -> DemoReport:
        """Count, from the events alone, what happened to the tasks of this run."""
        ours = {handle.id for handle in handles}
        report = DemoReport(tasks=len(ours))
        outcomes: dict[str, int] = {}
        lost: set[str] = set()
        seq = (await self._app.storage.beginning()).seq
        while commits := await self._app.storage.read(seq):
            seq = commits[-1].last_seq
            for commit in commits:
                for event in commit.events:
                    if getattr(event, "task_id", None) not in ours:
                        continue
                    if isinstance(event, ev.TaskStarted):
                        report.attempts += 1
                        if event.task_id in lost:
                            report.rerun += 1
                            lost.remove(event.task_id)
                            report.rerun_seconds = (commit.at - self._killed_at) / 1_000_000
                    elif isinstance(event, ev.TaskRetried) and event.worker == self._killed:
                        lost.add(event.task_id)
                    elif isinstance(event, ev.TaskSucceeded | ev.TaskFailed):
                        outcomes[event.task_id] = outcomes.get(event.task_id, 0) + 1
        report.duplicates = sum(1 for count in outcomes.values() if count > 1)
        report.missing = len(ours - outcomes.keys())
        return report

    def _check(self, report: DemoReport, results: list[FileFacts | None]) -> None:
        for index, (path, found) in enumerate(zip(self._files, results, strict=True), 1):
            if found is None:
                report.missing += 1
            elif found != describe_file(path):
                report.wrong += 1
            if index % 500 == 0 or index == len(results):
                _progress(f"checked {index} of {len(results)}", last=index == len(results))

    async def _print(self, report: DemoReport, seconds: float) -> None:
        head = await self._app.storage.head()
        stats = await self._app.stats()
        print(f"tasks     {report.tasks}, {stats.by_status[TaskStatus.SUCCESS]} succeeded")
        print("workers   2, of which 1 was killed and replaced" if self._killed else "workers   2")
        print(f"attempts  {report.attempts}")
        again = f", the last {report.rerun_seconds:.2f} s after the kill" if report.rerun else ""
        print(f"run again {report.rerun}{again}")
        print(f"duplicate {report.duplicates}")
        print(f"missing   {report.missing}")
        print(f"wrong     {report.wrong}")
        print(
            f"speed     {report.tasks / seconds:.0f} tasks a second, start of the workers included"
        )
        print(f"size      {_size(Path(self._location)) / 1024:.0f} KiB, {head.seq} events")
        print(f"head      {head.seq} {head.digest.hex()}")


def _progress(text: str, *, last: bool = False) -> None:
    """Show how far it is: on one line of a terminal, line by line elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def _size(location: Path) -> int:
    paths = location.rglob("*") if location.is_dir() else location.parent.glob(f"{location.name}*")
    return sum(path.stat().st_size for path in paths if path.is_file())


async def _work(location: str) -> None:
    async with AsyncOmniQ(location) as app:
        app.task(describe_file)
        await app.worker(concurrency=8).run()


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1]))
