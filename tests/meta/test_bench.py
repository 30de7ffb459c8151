"""The benchmark runs, and counts what it says that it counts."""

import json
import subprocess
import sys
from pathlib import Path

from tools.bench import ROWS

ROOT = Path(__file__).resolve().parents[2]


def test_benchmark_measures_a_row_beside_its_floor(tmp_path):
    ran = subprocess.run(
        [
            sys.executable,
            "tools/bench.py",
            "--quick",
            "--json",
            "--folder",
            tmp_path,
            "--only",
            "enqueue, one after another, file",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(ran.stdout)
    (row,) = found["rows"]
    assert row["value"] > 0
    assert row["floor"] > 0
    assert row["met"] in (True, False)
    assert {"python", "msgspec", "sqlite", "file system", "cores"} <= found["about"].keys()


def test_rows_have_names_of_their_own():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
