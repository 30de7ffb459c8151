"""What other queues do with the same jobs on the same machine, beside OmniQ.

    python tools/compare.py                    all systems whose servers are found, three times
    python tools/compare.py --quick            fewer jobs
    python tools/compare.py --only omniq       systems with this word in their name

The other systems are installed into an environment of their own, in a temporary folder, and none
of them is needed by OmniQ. Redis and PostgreSQL are started on loopback, on an empty folder, if
their programs are found, and ended again. All systems take turns; medians are shown. The job does
nothing; `compare_systems.py` says how each system is used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
CHILD = Path(__file__).with_name("compare_child.py")
REQUIREMENTS = (
    "saq[redis]>=0.26,<0.27",
    "arq>=0.28,<0.29",
    "huey>=3.5,<4",
    "pgqueuer[asyncpg]>=1.6,<2",
    "procrastinate>=3.10,<4",
    "psycopg[binary]>=3.2,<4",
    "hiredis>=3,<4",
)
FULL = {"single": 1000, "many": 20_000, "trips": 300}
QUICK = {"single": 100, "many": 2000, "trips": 50}
REPETITIONS = 3
MEASURES = ("single", "together", "many", "drain", "p50", "p99")
STARTING_SECONDS = 15.0


class Contestant(NamedTuple):
    """A system as it is measured here."""

    name: str
    system: str  # in compare_systems.py
    needs: str  # what its address is: a folder, a database, or a server
    durability: str


CONTESTANTS = (
    Contestant("OmniQ, files", "omniq", "folder", "synced before a call or a result returns"),
    Contestant("OmniQ, files, os", "omniq-os", "folder", "synced each second (durability=os)"),
    Contestant("OmniQ, SQLite", "omniq", "database", "synced before a call or a result returns"),
    Contestant("Huey, SQLite", "huey", "database", "each commit synced"),
    Contestant("SAQ, Redis", "saq", "redis", "synced each second (appendfsync everysec)"),
    Contestant("SAQ, Redis, always", "saq", "redis-always", "each write synced (always)"),
    Contestant("arq, Redis", "arq", "redis", "synced each second (appendfsync everysec)"),
    Contestant("pgqueuer, PostgreSQL", "pgqueuer", "postgres", "each commit synced; no results"),
    Contestant(
        "Procrastinate, PostgreSQL", "procrastinate", "postgres", "each commit synced; no results"
    ),
)


# Servers.


def free_port() -> int:
    """Return a port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once something listens there."""
    deadline = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"{process.args!r} did not start within {STARTING_SECONDS:g} s")


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a server that was started here."""
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def redis_server(folder: Path, appendfsync: str) -> Iterator[str | None]:
    """Start a Redis server, and yield its address; None if there is none to start."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    folder.mkdir()
    port = free_port()
    options = f"--bind 127.0.0.1 --port {port} --save '' --appendonly yes".split()
    options[options.index("''")] = ""
    command = [program, *options, "--appendfsync", appendfsync, "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    with ended(process):
        wait_for_port(port, process)
        yield f"redis://127.0.0.1:{port}/0"


def postgres_programs() -> Path | None:
    """Return the folder of PostgreSQL's server programs, the newest one's."""
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).parent
    installed = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return max((path.parent for path in installed), default=None)


@contextmanager
def postgres_server(folder: Path) -> Iterator[str | None]:
    """Start a PostgreSQL server, and yield its address; None if there is none to start."""
    programs = postgres_programs()
    if programs is None:
        yield None
        return
    folder.mkdir()
    user: list[str] = []
    if os.geteuid() == 0:  # as whom it refuses to run
        shutil.chown(folder, "postgres")
        for parent in folder.parents[:2]:
            parent.chmod(parent.stat().st_mode | 0o011)
        user = ["runuser", "-u", "postgres", "--"]
    data, port = folder / "data", free_port()
    make = [*user, str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/")
    options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
    command = [*user, str(programs / "postgres"), "-D", str(data), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd="/")
    with ended(process):
        wait_for_port(port, process)
        time.sleep(1)  # it listens before it answers
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"


# Measuring.


def environment_in(folder: Path) -> str:
    """Install the other systems and this OmniQ into a new environment; return its Python."""
    print("installing the other systems into an environment of their own", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, str(ROOT), *REQUIREMENTS], check=True)
    return python


def address_of(contestant: Contestant, folder: Path, servers: dict[str, str | None]) -> str | None:
    """Return where a system keeps its jobs; None if its server is not there."""
    if contestant.needs == "folder":
        return str(folder / "jobs")
    if contestant.needs == "database":
        return str(folder / f"{contestant.system}.db")
    return servers[contestant.needs]


def measure(python: str, contestant: Contestant, address: str, sizes: str) -> dict[str, Any] | None:
    """Measure a system once, in a process of its own; None if another one failed, or its count."""
    command = [python, str(CHILD), "measure", contestant.system, address, sizes]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=environment, check=False, timeout=600
    )
    if done.returncode:
        failure = f"{contestant.name} could not be measured: status {done.returncode}"
        if contestant.system.startswith("omniq"):
            sys.exit(failure)
        print(f"{failure}; this repetition of it does not count", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def medians(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each thing that was measured, and the versions."""
    values: dict[str, Any] = {
        name: None if found[0][name] is None else statistics.median([one[name] for one in found])
        for name in MEASURES
    }
    return values | {"versions": found[0]["versions"]}


def compare(chosen: list[Contestant], options: argparse.Namespace) -> dict[str, Any]:
    """Measure the systems in turns; return what was found by name, None for what was not there."""
    sizes = json.dumps(QUICK if options.quick else FULL)
    found: dict[str, list[dict[str, Any]]] = {one.name: [] for one in chosen}
    with (
        tempfile.TemporaryDirectory(prefix=".compare-", dir=options.folder) as name,
        ExitStack() as on,
    ):
        where = Path(name)
        only_ours = all(one.system.startswith("omniq") for one in chosen)
        python = sys.executable if only_ours else environment_in(where / "venv")
        servers: dict[str, str | None] = {"redis": options.redis, "postgres": options.postgres}
        wanted = {one.needs for one in chosen}
        if "redis" in wanted and not options.redis:
            servers["redis"] = on.enter_context(redis_server(where / "redis", "everysec"))
        if "redis-always" in wanted:
            server = redis_server(where / "redis-always", "always")
            servers["redis-always"] = on.enter_context(server)
        if "postgres" in wanted and not options.postgres:
            servers["postgres"] = on.enter_context(postgres_server(where / "postgres"))
        for number in range(1 if options.quick else REPETITIONS):
            for one in chosen:
                address = address_of(one, where, servers)
                if address is not None:
                    print(f"{number + 1}: {one.name}", file=sys.stderr)
                    measured = measure(python, one, address, sizes)
                    found[one.name] += [] if measured is None else [measured]
    return {name: medians(values) if values else None for name, values in found.items()}


# The table.


def shown(value: float | None, digits: int = 0) -> str:
    """Return a number for people."""
    return "" if value is None else f"{value:,.{digits}f}"


def line_of(contestant: Contestant, found: dict[str, Any] | None) -> str:
    """Return a line of the table."""
    if found is None:
        server = "redis-server" if contestant.needs.startswith("redis") else "postgres"
        return (
            f"| {contestant.name} | not measured: it failed, or no {server} was found | | | | | |"
        )
    rates = " | ".join(shown(found[name]) for name in MEASURES[:4])
    trips = " / ".join(shown(found[name], 2) for name in MEASURES[4:]) if found["p50"] else ""
    return f"| {contestant.name} | {rates} | {trips} | {contestant.durability} |"


def main() -> int:
    """Compare what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer jobs, one repetition")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--only", default="", help="systems with this word in their name")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on which disk (here)")
    parser.add_argument("--redis", help="the address of a server to use; ALL OF IT IS ERASED")
    parser.add_argument("--postgres", help="the address of a database to use; IT IS ERASED")
    options = parser.parse_args()
    chosen = [one for one in CONTESTANTS if options.only.lower() in one.name.lower()]
    results = compare(chosen, options)
    facts = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": str(os.cpu_count()),
        "omniq": version("omniq-journal"),
    }
    for found in filter(None, results.values()):
        facts |= found["versions"]
    if options.json:
        print(json.dumps({"about": facts, "systems": results}))
        return 0
    print("  ".join(f"{key} {value}" for key, value in facts.items()) + "\n")
    print(
        "| system | enqueue/s | 100 producers/s | bulk/s | drain/s | round trip ms | durability |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(line_of(one, results[one.name]) for one in chosen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
