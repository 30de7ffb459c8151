"""`import omniq` is light: nothing is imported that the chosen storage does not need."""

import subprocess
import sys

import pytest

# Not asyncio's own parts, such as `ssl` and `subprocess`: without asyncio there is no OmniQ.
NEVER = {
    "anyio", "cloudpickle", "fsspec", "multiprocessing", "pickle", "sqlite3", "uvloop",
    "zstandard", "omniq.storage.file", "omniq.storage.memory", "omniq.storage.sqlite",
    "omniq.storage.archive", "omniq.tools", "omniq.testing", "omniq.worker.pool", "omniq.blocking",
}  # fmt: skip
NEEDED = {
    "jobs": {"omniq.storage.file"},
    "jobs.db": {"omniq.storage.sqlite", "sqlite3"},
    "memory://": {"omniq.storage.memory"},
}
USE = """
import asyncio, operator, sys
from omniq import AsyncOmniQ

async def main():
    async with AsyncOmniQ(sys.argv[1]) as oq:
        await oq.enqueue(operator.add, 1, 2)
        await oq.stats()

asyncio.run(main())
"""


def imported(code: str, *arguments: str, **options) -> set[str]:
    """Return what a new process imports that runs this code."""
    code += "\nimport sys; print(*sys.modules)"
    command = [sys.executable, "-c", code, *arguments]
    return set(subprocess.check_output(command, text=True, **options).split())


def test_import_of_the_package_brings_no_storage_and_no_worker():
    assert imported("import omniq") & NEVER == set()


@pytest.mark.parametrize("location", NEEDED)
def test_storage_brings_only_what_it_needs(tmp_path, location):
    found = imported(USE, location, cwd=tmp_path)
    assert found & NEVER == NEEDED[location]
