"""The JSON of every command is stable: it is compared with what is kept in golden/.

After a change that is meant, run the tests with OMNIQ_UPDATE_GOLDEN=1 and read the difference.
Keys are only ever added.
"""

import json
import os
import re
from pathlib import Path

import pytest

from tests.tools.journals import LENGTH, STORY, A, B, C, D, rewrite

GOLDEN = Path(__file__).parent / "golden"
REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "replay.md"
CALLS = {
    "summary": ["summary"],
    "events": ["events"],
    "task": ["task", A],
    "task-failed": ["task", B],
    "state": ["state"],
    "state-at": ["state", "--at", "4", "--limit", "1"],
    "verify": ["verify"],
    "verify-head": ["verify", "--head", f"9:{'0' * 64}"],
    "diff": ["diff", "--at", "5", "--to", "9"],
    "diff-same": ["diff", "--at", "9", "--to", "9"],
    "explain-succeeded": ["explain", A, "--at", "14"],
    "explain-failed": ["explain", B, "--at", "14"],
    "explain-paused": ["explain", C, "--at", "14"],
    "explain-later": ["explain", D, "--at", "2026-05-28T20:27:00Z"],
    "explain-running": ["explain", A, "--at", "4"],
    "recover": ["recover", "TARGET"],
    "export": ["export"],
}
FINDS_SOMETHING = {"diff", "verify-head"}
# What differs from place to place, from run to run, or between backends.
VARIABLE = {"journal", "backend", "read_seconds", "target", "place"}


@pytest.mark.parametrize("name", CALLS)
def test_json_is_what_it_was(name, journal, tmp_path, run):
    command, *rest = CALLS[name]
    rest = [tmp_path / "new" if word == "TARGET" else word for word in rest]
    result = run(command, journal, *rest, "--json")
    assert (result.status, result.err) == (int(name in FINDS_SOMETHING), "")
    compare(name, result.out)


def test_json_of_a_recovery_with_losses_is_what_it_was(tmp_path, run):
    source = tmp_path / "journal"
    rewrite(source, STORY, segment_bytes=1)
    (source / f"{3:020}.seg").unlink()
    damaged = source / f"{6:020}.seg"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    result = run("recover", source, tmp_path / "new", "--json", "--until", "10")
    assert (result.status, result.err) == (1, "")
    compare("recover-lost", result.out)


def compare(name, out):
    shown = "".join(f"{json.dumps(plain(line), indent=1)}\n" for line in out.splitlines())
    golden = GOLDEN / f"{name}.json"
    if "OMNIQ_UPDATE_GOLDEN" in os.environ:
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")


def plain(line: str) -> object:
    value = json.loads(line)
    size = {"bytes": "…"} if "commits" in value and "bytes" in value else {}
    return masked(value | size)


def masked(value: object) -> object:
    if isinstance(value, list):
        return [masked(item) for item in value]
    if isinstance(value, dict):
        return {key: "…" if key in VARIABLE else masked(item) for key, item in value.items()}
    return value


def test_json_is_one_line_of_ascii_for_each_value(journal, run):
    for command, count in (("summary", 1), ("state", 1), ("verify", 1), ("events", LENGTH)):
        out = run(command, journal, "--json").out
        assert out.isascii()
        assert len(out.splitlines()) == count


def test_every_key_is_in_the_reference():
    code = re.findall(r"`([^`\n]+)`", REFERENCE.read_text(encoding="utf-8"))
    keys = set()
    for path in GOLDEN.glob("*.json"):
        keys.update(re.findall(r'^ +"(\w+)":', path.read_text(encoding="utf-8"), re.MULTILINE))
    named_by_data = {"default", "images"}
    statuses = {"PENDING", "RUNNING", "RETRYING", "SUCCESS", "FAILED", "CANCELLED"}
    assert sorted(keys - named_by_data - statuses - set(code)) == []
