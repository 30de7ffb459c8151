"""What a user can meet is in the reference: events, errors, options, settings, states.

"In the reference" means: named as code, in a code span or a code block, on a page of
docs/reference. A page that only pulls in docstrings does not name what it documents, and a
diagram does not say what it names.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import get_args

import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


@cache
def code_in_the_reference() -> str:
    code = []
    for page in sorted(REFERENCE.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        blocks = re.compile(r"^( *)(```+)([^\n]*)\n(.*?)^\1\2`*$", re.MULTILINE | re.DOTALL)
        code += [block[4] for block in blocks.finditer(text) if block[3] != "mermaid"]
        code += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", blocks.sub("", text))
    return "\n".join(code)


def undocumented(names: list[str]) -> list[str]:
    assert names, "nothing was found that could be documented"
    code = code_in_the_reference()
    return [
        name for name in names if not re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", code)
    ]


def test_every_event_is_in_the_reference():
    events = import_module("omniq.core.events")
    assert undocumented([kind.__struct_config__.tag for kind in members(events.Event)]) == []


def members(union) -> Iterator[type]:
    """Walk the classes of a union of classes, unions and aliases of unions."""
    alternatives = get_args(getattr(union, "__value__", union))
    if not alternatives:
        yield union
    for alternative in alternatives:
        yield from members(alternative)


def test_every_event_class_is_in_the_closed_union():
    events = import_module("omniq.core.events")
    tagged = {
        kind
        for kind in vars(events).values()
        if isinstance(kind, type)
        and issubclass(kind, events.JournalEvent)
        and kind is not events.JournalEvent
    }
    assert set(members(events.Event)) == tagged


def test_every_error_is_in_the_reference():
    errors = import_module("omniq.errors")
    names = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.OmniqError)
    ]
    assert undocumented(names) == []


def test_every_setting_is_in_the_reference():
    fields = msgspec.structs.fields(import_module("omniq.config").Settings)
    assert undocumented([field.name for field in fields]) == []


@pytest.mark.parametrize("module", ["omniq.cli", "omniq.tools.replay"])
def test_every_command_and_option_is_in_the_reference(module):
    parser = import_module(module).build_parser()
    assert undocumented(sorted(set(command_line(parser)) - {"-h", "--help"})) == []


def command_line(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Walk the options of a parser, its commands, and their options."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command, its_parser in action.choices.items():
                yield command
                yield from command_line(its_parser)


def test_states_page_shows_the_transitions():
    check = subprocess.run(
        [sys.executable, ROOT / "tools" / "state_diagram.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (check.returncode, check.stderr) == (0, "")


def test_every_action_of_the_log_is_in_the_guide():
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "omniq").rglob("*.py"))
    actions = set(re.findall(r'"action": "([a-z_]+)"', code))
    guide = (ROOT / "docs/how-to/run-in-production.md").read_text(encoding="utf-8")
    assert actions - set(re.findall(r"^\| `([a-z_]+)` \|", guide, re.MULTILINE)) == set()
    assert len(actions) > 10
