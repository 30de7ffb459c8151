"""The benchmark runs, and counts what it says that it counts."""

import json
import subprocess
import sys
from pathlib import Path

from tools.bench import MEASURES, ROWS, measure_of
from tools.scale import ROWS as SCALE_ROWS

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


def test_every_row_is_measured():
    wanted = {measure_of(name) for row in ROWS for name in (row.value, row.floor) if name}
    assert wanted == MEASURES.keys()


def test_rows_with_processes_of_their_own_count_what_ran_there(tmp_path):
    found = measured("tools/bench.py", tmp_path, "1 ms of Python a task, two processes, file")
    assert 0 < found["value"] < 2 * found["floor"]


def test_scale_measures_a_row_at_an_ordinary_and_at_a_large_size(tmp_path):
    found = measured("tools/scale.py", tmp_path, "64 workers' leases")
    assert found["ratio"] == found["large"] / found["ordinary"]
    assert len({row.name for row in SCALE_ROWS}) == len(SCALE_ROWS)


def test_profile_names_the_functions_that_were_running(tmp_path):
    command = ["tools/bench_profile.py", "fold", "--quick", "--calls", "--folder", str(tmp_path)]
    printed = subprocess.check_output([sys.executable, *command], cwd=ROOT, text=True)
    assert "evolve" in printed


def measured(script: str, folder: Path, row: str) -> dict:
    command = [script, "--quick", "--json", "--folder", str(folder), "--only", row]
    output = subprocess.check_output([sys.executable, *command], cwd=ROOT, text=True)
    (found,) = json.loads(output)["rows"]
    return found
