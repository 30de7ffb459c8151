"""Habits of the code that would otherwise need a reviewer."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "omniq").rglob("*.py"))
SCRIPTS = sorted((ROOT / "tools").rglob("*.py"))

MAX_FUNCTION_LINES = 70  # a screen
MAX_MODULE_LINES = 450

# What code would rather do by itself, and what it does instead. Names as after their import.
BANNED = {
    "datetime.date.today": "take the time from the `Clock` that was passed in",
    "datetime.datetime.now": "take the time from the `Clock` that was passed in",
    "datetime.datetime.today": "take the time from the `Clock` that was passed in",
    "datetime.datetime.utcnow": "take the time from the `Clock` that was passed in",
    "os.urandom": "take entropy from omniq/clock.py",
    "random": "take drawn numbers from omniq/clock.py",
    "secrets": "take entropy from omniq/clock.py",
    "time.sleep": "wait for an event, with a timeout",
    "time.time": "take the time from the `Clock` that was passed in",
    "time.time_ns": "take the time from the `Clock` that was passed in",
    "uuid.uuid1": "make ids with `omniq.core.ids.uuid7`",
    "uuid.uuid4": "make ids with `omniq.core.ids.uuid7`",
    "uuid.uuid7": "make ids with `omniq.core.ids.uuid7`",
}
# Who may touch the world's clock and randomness: what is injected, the platform, and the command,
# whose supervisor of processes has nothing to do but to wait.
ALLOWED = {"omniq/cli.py", "omniq/clock.py", "omniq/host.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=name_of(path))


each_module = pytest.mark.parametrize("path", MODULES, ids=name_of)
each_module_and_script = pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=name_of)


def test_the_code_is_found():
    assert ROOT / "omniq" / "errors.py" in MODULES
    assert ROOT / "tools" / "state_diagram.py" in SCRIPTS


@each_module_and_script
def test_module_opens_with_a_docstring(path):
    assert ast.get_docstring(parse(path)), "begin the file with what it owns"


@each_module_and_script
def test_module_fits_in_one_sitting(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_MODULE_LINES, f"{lines} lines: split it by what it knows"


@each_module_and_script
def test_function_fits_on_a_screen(path):
    too_long = {
        f"{name_of(path)}:{node.lineno} {node.name}": lines
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert too_long == {}, f"at most {MAX_FUNCTION_LINES} lines: move parts out below it"


# __all__: ruff (RUF022) keeps its order, and mypy finds names that are not there.


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if path.name == "__init__.py" or not path.name.startswith("_")],
    ids=name_of,
)
def test_all_is_a_tuple_of_the_public_names(path):
    tree = parse(path)
    required, optional = public_names(tree, is_package=path.name == "__init__.py")
    exported = exports(tree)
    if exported is None:
        assert required == set(), f"{name_of(path)} has no __all__"
        return
    assert isinstance(exported, tuple), f"{name_of(path)}: __all__ is not a tuple"
    assert len(set(exported)) == len(exported), f"{name_of(path)}: a name is there twice"
    names = {name for name in exported if not name.startswith("__")}
    assert required - names == set(), f"{name_of(path)}: in __all__, or with an underscore"
    assert names - required - optional == set(), f"{name_of(path)}: not its own to export"


def public_names(tree: ast.Module, *, is_package: bool) -> tuple[set[str], set[str]]:
    """Return the names that `__all__` must have, and constants, which it may have.

    Classes, functions and types are public unless an underscore says otherwise. A package also
    owns what it imports from OmniQ: that is what such an import is for.
    """
    required: set[str] = set()
    constants: set[str] = set()
    for node in top_level(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                required.add(name)
            case ast.AsyncFunctionDef(name=name) | ast.TypeAlias(name=ast.Name(id=name)):
                required.add(name)
            case ast.ImportFrom(module=str(module)) if is_package and in_omniq(module):
                required.update(alias.asname or alias.name for alias in node.names)
            case ast.Assign(targets=targets):
                constants.update(target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                constants.add(name)
    types = {name for name in constants if re.fullmatch(r"[A-Z]+[a-z]\w*", name)}
    required = {name for name in required | types if not name.startswith("_")}
    return required, constants


def in_omniq(module: str) -> bool:
    return module == "omniq" or module.startswith("omniq.")


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Walk the statements of a module, also those under `if` and `try`."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If | ast.Try):
            waiting += [*node.body, *node.orelse]
        if isinstance(node, ast.Try):
            waiting += [*node.finalbody, *(line for part in node.handlers for line in part.body)]


def exports(tree: ast.Module) -> object:
    """Return the value of `__all__`, None if there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


# Banned calls.


@each_module
def test_nothing_reads_the_clock_or_draws_by_itself(path):
    if name_of(path) not in ALLOWED:
        assert banned_uses(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_exception_from_the_ban_is_still_needed(name):
    assert banned_uses((ROOT / name).read_text(encoding="utf-8")) != []


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.time()",
        "import time as t\nt.time_ns()",
        "from time import time\ntime()",
        "from time import time as now\nfield(default_factory=now)",
        "from datetime import datetime\ndatetime.now(UTC)",
        "import datetime as dt\ndt.datetime.now(dt.UTC)",
        "from random import Random\nRandom(3)",
        "import random",
        "import uuid\nuuid.uuid4().hex",
        "import os.path\nos.urandom(8)",
    ],
)
def test_ban_finds(source):
    assert len(banned_uses(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.monotonic()",
        "clock.time()",
        "self.random.draw()",
        "from datetime import datetime\ndatetime.fromtimestamp(0, UTC)",
    ],
)
def test_ban_leaves_alone(source):
    assert banned_uses(source) == []


def banned_uses(source: str) -> list[str]:
    """Return a line for each place that uses something banned, with what to do instead."""
    tree = ast.parse(source)
    origins: dict[str, str] = {}
    found: dict[int, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, _, _ = alias.name.partition(".")
                origins[alias.asname or top] = alias.name if alias.asname else top
                found |= banned_at(node, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                origins[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                found |= banned_at(node, node.module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            root, dot, rest = ast.unparse(node).partition(".")
            if root in origins and not whole_module_is_banned(origins[root]):
                found |= banned_at(node, origins[root] + dot + rest)
    return [found[line] for line in sorted(found)]


def whole_module_is_banned(origin: str) -> bool:
    return origin.partition(".")[0] in BANNED


def banned_at(node: ast.stmt | ast.expr, name: str) -> dict[int, str]:
    if name not in BANNED:
        return {}
    return {node.lineno: f"line {node.lineno}: {name}: {BANNED[name]}"}
