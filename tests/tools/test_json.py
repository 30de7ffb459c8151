"""The JSON of every command is stable: it is compared with what is kept in golden/.

After a change that is meant, run the tests with OMNIQ_UPDATE_GOLDEN=1 and read the difference.
Keys are only ever added.
"""

import json
import os
import re
from pathlib import Path

import pytest

from tests.tools.journals import LENGTH, A, B

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
}
# What differs from place to place, from run to run, or between backends.
VARIABLE = {"journal", "backend", "read_seconds"}


@pytest.mark.parametrize("name", CALLS)
def test_json_is_what_it_was(name, journal, run):
    command, *rest = CALLS[name]
    result = run(command, journal, *rest, "--json")
    assert (result.status, result.err) == (0, "")
    shown = "".join(f"{json.dumps(plain(line), indent=1)}\n" for line in result.out.splitlines())
    golden = GOLDEN / f"{name}.json"
    if "OMNIQ_UPDATE_GOLDEN" in os.environ:
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")


def plain(line: str) -> dict[str, object]:
    value = json.loads(line)
    size = {"bytes": "…"} if "commits" in value and "bytes" in value else {}
    return value | dict.fromkeys(VARIABLE & value.keys(), "…") | size


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
