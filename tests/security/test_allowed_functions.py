"""A name in a journal calls only what the owner of the worker allowed it to call."""

import sys
from pathlib import Path

import pytest

from omniq import AsyncOmniQ, TaskNotAllowed, TaskStatus
from omniq.core.events import TaskEnqueued
from omniq.registry import Registry
from omniq.serialization import Codecs
from omniq.storage.file import FileStorage

ALLOWED = "tests.security.allowed"

OWN = [
    "add",
    "add_async",
    "add_cached",
    "add_decorated",
    "add_registered",
    "Sums.add",
    "Sums.add_class",
    "Sums.Inner.add",
]
NOT_OWN = [
    "system",  # from os import system
    "alias",
    "os.system",  # through a module that was imported
    "os.path.join",
    "subprocess.run",
    "numbers.fmean",
    "mean",
    "Path",
    "Path.home",
    "Path.unlink",
    "Any",
    "Sums",  # a class runs code that nobody wrote to be a task
    "Sums.leak.system",
    "Sums.run",
    "Sums.home",
    "Sums.mro",
    "Sums.__init__",
    "Sums.__subclasses__",
    "Sums.__class__.__base__.__subclasses__",
    "add.__globals__",
    "add.__globals__.get",
    "add.__call__",
    "add.__class__",
    "add.__init_subclass__",
    "__builtins__.eval",
    "__builtins__.exec",
    "__loader__.load_module",
    "instance",
    "instance.add",
    "instance.leak.system",
    "started",
    "started.func",
    "registered_elsewhere",
    "other_app.task",
    "AsyncOmniQ",
    "constant",
    "constant.bit_length",
]
NO_NAMES = [
    "",
    ".",
    "add.",
    ".add",
    "add..x",
    "add()",
    "add ",
    "add\n",
    "add\0",
    "a-b",
    "add:add",
    "lambda: None",
    "\x1b[2J",
    "é" * 600,
]


@pytest.fixture
def registry() -> Registry:
    return Registry((ALLOWED,))


@pytest.mark.parametrize("name", OWN)
def test_function_that_an_allowed_module_defines_may_be_called(registry, name) -> None:
    assert registry.require(f"{ALLOWED}:{name}").name == f"{ALLOWED}:{name}"


@pytest.mark.parametrize("name", NOT_OWN + NO_NAMES)
def test_what_an_allowed_module_only_holds_may_not_be_called(registry, name) -> None:
    with pytest.raises(TaskNotAllowed):
        registry.require(f"{ALLOWED}:{name}")
    assert registry.resolve(f"{ALLOWED}:{name}") is None
    assert registry.why_missing(f"{ALLOWED}:{name}")
    assert registry.version == 0, "nothing was registered"


def test_every_name_in_every_allowed_module_is_refused_unless_it_is_defined_there() -> None:
    """Whatever else is in OmniQ's own modules, such as `os`, is not for a journal to call."""
    registry = Registry(("omniq",))
    for module in [name for name in sys.modules if name.startswith("omniq")]:
        for attribute, value in list(vars(sys.modules[module]).items()):
            found = registry.resolve(f"{module}:{attribute}")
            if found is not None:
                assert found.function.__module__.partition(".")[0] == "omniq", attribute
                assert found.function is getattr(value, "registration", found).function


@pytest.mark.parametrize(
    "module",
    [
        "os",
        "posix",
        "builtins",
        "subprocess",
        "tests",
        "tests.security",
        "tests.security.allowed_evil",
        "tests.security.allowedx",
        "tests.security.test_allowed_functions",
        "tests.security.ALLOWED",
        "tests.security.allowed/../os",
        " tests.security.allowed",
        "tests.security.allowed\0",
        "",
    ],
)
def test_module_that_is_not_allowed_is_not_imported(registry, module) -> None:
    before = set(sys.modules)
    with pytest.raises(TaskNotAllowed, match="task_modules"):
        registry.require(f"{module}:system")
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "module",
    [
        "omniq.__main__",  # importing it runs the command line
        "omniq..cli",
        "omniq.",
        "omniq.no_such_module",
        "omniq.errors.os",
        "omniq.errors.__loader__",
        "omniq.\0",
        "omniq.a/b",
        "omniq." + ".".join("a" * 300),
    ],
)
def test_odd_module_inside_an_allowed_one_is_refused(module) -> None:
    before = set(sys.modules)
    with pytest.raises(TaskNotAllowed):
        Registry(("omniq",)).require(f"{module}:main")
    assert set(sys.modules) == before


@pytest.mark.parametrize("module", ["broken", "leaving"])
async def test_module_that_cannot_be_imported_does_not_end_the_worker(
    tmp_path: Path, module: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal"
    async with AsyncOmniQ(path, task_modules=("tests.security",)) as oq:
        bad = await oq.task(name=f"tests.security.{module}:f")(abs).enqueue(1)
        good = await oq.enqueue(f"{ALLOWED}:add", 1, 2)
    async with AsyncOmniQ(path, task_modules=("tests.security",)) as oq:
        await oq.worker().drain()
        assert await oq.handle(good.id).result() == 3
        assert await oq.handle(bad.id).status() is TaskStatus.PENDING
    assert any("cannot be imported" in record.getMessage() for record in caplog.records)


async def test_forged_task_runs_nothing_that_was_not_allowed(tmp_path: Path) -> None:
    """Who can write the journal chooses among what is allowed, and nothing more."""
    path, trace = tmp_path / "journal", tmp_path / "trace"
    payload = Codecs("msgpack", 1000).encode_arguments(None, (f"touch {trace}",), {})
    names = ["os:system", "posix:system", *(f"{ALLOWED}:{name}" for name in NOT_OWN)]
    forged = [TaskEnqueued(str(n), name, "default", payload) for n, name in enumerate(names)]
    storage = FileStorage(path)
    await storage.open()
    await storage.append(forged, at=1, actor="forger")
    await storage.close()
    async with AsyncOmniQ(path, task_modules=(ALLOWED,)) as oq:
        await oq.worker().drain()
        assert (await oq.stats()).by_status[TaskStatus.PENDING] == len(forged)
    assert not trace.exists()
