"""Some seconds of the storm that tools/storm.py raises; `make storm` raises longer ones."""

import subprocess
import sys
from pathlib import Path

import pytest

STORM = Path(__file__).resolve().parents[2] / "tools" / "storm.py"


@pytest.mark.parametrize("backend", ["file", "sqlite"])
def test_storm_of_kills_loses_nothing_and_runs_nothing_too_often(backend):
    ran = subprocess.run(
        [sys.executable, STORM, "--seconds", "3", "--backend", backend],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "no problems" in ran.stdout
