"""The comparison runs, counts what it says that it counts, and says what it could not measure."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tools.compare import CONTESTANTS

ROOT = Path(__file__).resolve().parents[2]


def compared(tmp_path: Path, only: str, **environment: str) -> dict:
    command = [sys.executable, "tools/compare.py", "--quick", "--json", "--folder", str(tmp_path)]
    output = subprocess.check_output(
        [*command, "--only", only], cwd=ROOT, env={**os.environ, **environment}, text=True
    )
    return json.loads(output)["systems"]


def test_our_own_systems_are_measured_without_installing_others(tmp_path):
    (found,) = compared(tmp_path, "OmniQ, files, os").values()
    assert all(found[name] > 0 for name in ("single", "together", "many", "drain", "p50", "p99"))
    assert list(tmp_path.iterdir()) == []


def test_contestants_have_names_of_their_own_and_say_how_durable_they_are():
    names = [contestant.name for contestant in CONTESTANTS]
    assert len(set(names)) == len(names)
    assert all(contestant.durability for contestant in CONTESTANTS)


def test_system_whose_server_is_missing_is_said_to_be_not_measured(tmp_path, monkeypatch, capsys):
    from tools import compare

    monkeypatch.setattr(compare.shutil, "which", lambda _program: None)
    monkeypatch.setattr(compare, "environment_in", lambda _folder: sys.executable)
    monkeypatch.setattr(
        sys, "argv", ["compare.py", "--quick", "--folder", str(tmp_path), "--only", "arq"]
    )
    assert compare.main() == 0
    says = "| arq, Redis | not measured: it failed, or no redis-server was found |"
    assert says in capsys.readouterr().out
