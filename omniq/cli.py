"""The `omniq` command: run workers for an app, and show what OmniQ does on real input."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniq.blocking import OmniQ
from omniq.errors import ConfigError, OmniqError
from omniq.facade import AsyncOmniQ
from omniq.registry import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ("build_parser", "load_app", "main")

SUPERVISE_SECONDS = 0.1  # how often worker processes are looked at
RESTART_SECONDS = 1.0  # before a worker process that died is started again

_STOPPED = (0, -signal.SIGTERM, -signal.SIGINT)

_log = logging.getLogger("omniq.cli")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="omniq", description="A task queue without a broker.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    worker = commands.add_parser("worker", help="run the tasks of an app until stopped")
    worker.add_argument("app", help='where the app is, as "module:name"')
    worker.add_argument("--processes", type=_positive, default=1, help="worker processes (1)")
    worker.add_argument("--concurrency", type=_positive, default=10, help="tasks at a time (10)")
    worker.add_argument(
        "--queue", action="append", default=[], help="a queue to serve; repeat in order (all)"
    )
    worker.add_argument(
        "--lease", type=float, default=30.0, help="seconds without a sign of life until lost (30)"
    )
    worker.add_argument(
        "--shutdown-timeout", type=float, default=30.0, help="seconds to finish when stopped (30)"
    )
    worker.add_argument(
        "--drain", action="store_true", help="stop once nothing is due and nothing runs"
    )

    demo = commands.add_parser("demo", help="hash files with two workers, one of which is killed")
    demo.add_argument("--journal", help="where to keep the journal (a temporary folder)")
    demo.add_argument("--directory", help="whose files to hash (Python's standard library)")
    demo.add_argument("--limit", type=_positive, default=5000, help="hash at most so many (5000)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 for success, 1 for failure, 2 for usage."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.version:
        from omniq import __version__  # noqa: PLC0415 - reads the metadata

        print(f"omniq {__version__}")
        return 0
    try:
        if options.command == "worker":
            return _worker(options, list(sys.argv[1:] if argv is None else argv))
        if options.command == "demo":
            from omniq.demo import run_demo  # noqa: PLC0415 - only for this command

            return run_demo(options.journal, options.directory, options.limit)
    except OmniqError as error:
        print(f"omniq: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    parser.print_help()
    return 2


def load_app(name: str) -> AsyncOmniQ:
    """Import an app from `"module:name"`; raises `ConfigError` if it is not there."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f'{name!r} names no app. Next: write "module:name", such as app:oq')
    if module_name.endswith(".py"):
        raise ConfigError(
            f"{module_name} is a file. Next: go to its folder and name the module, "
            f"{Path(module_name).stem}:{attribute}"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with importing(module_name):
            found: object = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(f"there is no module {error.name!r} in {here} or on the path") from None
    except AttributeError:
        raise ConfigError(f"the module {module_name!r} has nothing called {attribute!r}") from None
    if isinstance(found, OmniQ):
        app: AsyncOmniQ = found.wrapped
        return app
    if isinstance(found, AsyncOmniQ):
        return found
    raise ConfigError(f"{name} is a {type(found).__name__}, not an AsyncOmniQ or OmniQ")


def _worker(options: argparse.Namespace, argv: list[str]) -> int:
    if not options.drain:
        # Until the worker listens to it, an interrupt simply ends this process. As an exception it
        # may come up in a callback, where Python ignores it, and then nobody would stop.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    app = load_app(options.app)
    logging.basicConfig(
        level=app.settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if options.processes > 1:
        command = [sys.executable, "-m", "omniq", *argv, "--processes", "1"]
        return _Supervisor(command, options.processes).run()
    asyncio.run(_work(app, options), loop_factory=_loop_factory())
    return 0


async def _work(app: AsyncOmniQ, options: argparse.Namespace) -> None:
    async with app:
        pool = app.worker(
            concurrency=options.concurrency,
            queues=options.queue,
            lease=options.lease,
            shutdown_timeout=options.shutdown_timeout,
        )
        _log.info("serving %s", app.storage.location, extra={"action": "worker_started"})
        await (pool.drain() if options.drain else pool.run())
    if pool.abandoned:
        _end_with_what_was_given_up(pool.abandoned)


def _end_with_what_was_given_up(count: int) -> None:
    """End this process, which else waits for functions that do not end when they are told to.

    Their tasks were given back, and may run elsewhere by now. The journal is closed.
    """
    _log.warning(
        "functions whose tasks were given up still run, and end with this process: %d",
        count,
        extra={"action": "ended_with_tasks", "tasks": count},
    )
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return how to make uvloop's loop if it is installed."""
    try:
        uvloop: Any = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class _Supervisor:
    """Runs several processes of one command, and starts one anew that dies by accident."""

    def __init__(self, command: list[str], count: int) -> None:
        self._command = command
        self._stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._forward)
        self._children = [self._start() for _ in range(count)]

    def run(self) -> int:
        """Return the worst exit status once all have ended and none is to be started again."""
        while True:
            codes = [child.poll() for child in self._children]
            if all(code is not None and (code == 0 or self._stopping) for code in codes):
                # A worker that was still starting when it was told to stop dies of the signal.
                return max(0 if code in _STOPPED else 1 for code in codes)
            for index, code in enumerate(codes):
                if code:
                    self._restart(index, code)
            time.sleep(SUPERVISE_SECONDS)

    def _restart(self, index: int, code: int) -> None:
        _log.error(
            "worker process %d ended with status %d and is started again",
            self._children[index].pid,
            code,
            extra={"action": "worker_process_died", "pid": self._children[index].pid},
        )
        time.sleep(RESTART_SECONDS)  # a worker that cannot start must not keep the machine busy
        if not self._stopping:
            self._children[index] = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        # In a group of its own, so that a Ctrl-C reaches it once, forwarded, and not twice.
        group = 0 if sys.platform != "win32" else None
        return subprocess.Popen(self._command, process_group=group)  # noqa: S603 - ourselves

    def _forward(self, number: int, _frame: object) -> None:
        self._stopping = True
        for child in self._children:
            child.send_signal(number)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
