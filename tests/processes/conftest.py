import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from omniq import AsyncOmniQ

HERE = Path(__file__).parent


class Processes:
    """Starts real processes on one journal, and ends them at the end of the test."""

    def __init__(self, location: str, traces: Path) -> None:
        self.location = location
        self.traces = traces
        traces.mkdir()
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **options) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            cwd=options.pop("cwd", HERE),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)]),
                "OMNIQ_DB_URL": self.location,
                "TRACES": str(self.traces),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        self.started.append(process)
        return process

    def worker(self, *options: str) -> subprocess.Popen[str]:
        return self.start("-m", "omniq", "worker", "app:oq", *options)

    def script(self, text: str, *arguments: str) -> subprocess.Popen[str]:
        return self.start("-c", text, *arguments)

    def traced(self) -> Counter[str]:
        """How often each name was really run, over all processes."""
        names: Counter[str] = Counter()
        for path in self.traces.glob("*.trace"):
            names.update(path.read_text().split())
        return names

    def stop(self) -> list[str]:
        """End all processes in order and return what they printed."""
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        printed = [process.communicate(timeout=20)[0] for process in self.started]
        self.started = []
        return printed


@pytest.fixture(params=["file", "sqlite"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    places = {"file": tmp_path / "journal", "sqlite": tmp_path / "jobs.db"}
    return str(places[request.param])


@pytest.fixture
def processes(location: str, tmp_path: Path) -> Iterator[Processes]:
    started = Processes(location, tmp_path / "traces")
    yield started
    started.stop()


@pytest.fixture
async def app(processes: Processes, monkeypatch: pytest.MonkeyPatch):
    """The app of this process, on the same journal as the others."""
    monkeypatch.setenv("OMNIQ_DB_URL", processes.location)
    monkeypatch.setenv("TRACES", str(processes.traces))
    monkeypatch.syspath_prepend(str(HERE))
    sys.modules.pop("app", None)
    import app as module

    async with module.oq:
        yield module
    sys.modules.pop("app", None)


async def until(condition, oq: AsyncOmniQ) -> None:
    """Wait until a condition on the queue's state holds; the test's timeout is the limit."""
    queue = await oq.engine()
    while not condition(await queue.refresh()):
        await asyncio.sleep(0)
