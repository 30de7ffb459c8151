"""Which functions may run here, by the names that stand in a journal.

A worker runs what was registered with its app, and functions that were defined in modules that
its owner allowed (`Settings.task_modules`). A name from a journal alone imports nothing else, and
what an allowed module has imported from elsewhere is not for a journal to call.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from omniq.errors import ConfigError, TaskNotAllowed
from omniq.serialization import Signature

__all__ = (
    "Executor",
    "Registration",
    "Registry",
    "check_not_importing",
    "importing",
    "load",
    "name_of",
)

type Executor = Literal["async", "thread", "process"]

MAX_IMPORTED_NAME = 500  # characters


class Registration(msgspec.Struct, frozen=True):
    """A function under its name, and how it is called."""

    name: str
    function: Callable[..., Any]
    signature: Signature
    executor: Executor

    @property
    def target(self) -> str:
        """Where a child process finds the function: `module:qualname`."""
        return name_of(self.function, importable=True)


class Registry:
    """The functions of one app."""

    def __init__(self, task_modules: tuple[str, ...] = ()) -> None:
        self._allowed = task_modules
        self._registrations: dict[str, Registration] = {}
        self._missing: dict[str, str] = {}  # names that cannot be run here, and why
        self.version = 0  # grows with every function that is added

    def register(
        self,
        function: Callable[..., object],
        *,
        name: str | None = None,
        executor: Executor | None = None,
        importable: bool = False,
    ) -> Registration:
        """Add a function under its name, or replace the one of that name.

        Raises `TaskNotAllowed` if it has no name to go by, or if it must be `importable`, so that
        other processes find it by its name alone, and is not.
        """
        known = getattr(function, "registration", None)
        if isinstance(known, Registration):  # a task, of this app or of another one
            return self.register(
                known.function, name=name or known.name, executor=executor or known.executor
            )
        if name is None:
            name = name_of(function, importable=importable or executor == "process")
        if not isinstance(name, str) or not name or not name.isprintable():
            raise TaskNotAllowed(f"a task's name must be printable text, not {name!r}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TaskNotAllowed(
                f"{name!r} is a generator, and a task is called once. Next: return what it yields "
                "as a list, or enqueue a task for each"
            )
        found = self._registrations.get(name)
        if found is not None and found.function is function and executor in (None, found.executor):
            return found
        self._check_name_is_free(name, function)
        registration = Registration(
            name, function, Signature(function), executor or _default_executor(function)
        )
        self._registrations[name] = registration
        self._missing.pop(name, None)
        self.version += 1
        return registration

    def _check_name_is_free(self, name: str, function: Callable[..., object]) -> None:
        """Raise `ConfigError` if another function has the name; one defined anew keeps it."""
        other = self._registrations.get(name)
        if other is not None and _place_of(other.function) != _place_of(function):
            raise ConfigError(
                f"two functions are registered as {name!r}, {_place_of(other.function)} and "
                f"{_place_of(function)}, and a worker could not tell which one a task means. "
                "Next: give one of them another name="
            )

    def get(self, name: str) -> Registration | None:
        """Return what was registered under a name."""
        return self._registrations.get(name)

    def resolve(self, name: str) -> Registration | None:
        """Return the function of a name, importing its module only if that is allowed."""
        found = self._registrations.get(name)
        if found is not None or name in self._missing:
            return found
        try:
            return self._import(name)
        except TaskNotAllowed as error:
            self._missing[name] = str(error)
            return None

    def require(self, name: str) -> Registration:
        """Like `resolve`, but raises `TaskNotAllowed` with the reason."""
        return self._registrations.get(name) or self._import(name)

    def why_missing(self, name: str) -> str | None:
        """Return why a name cannot be run here, if that was found out."""
        return self._missing.get(name)

    def _import(self, name: str) -> Registration:
        module_name, _, qualified = name.partition(":")
        if not self._allows(module_name):
            raise TaskNotAllowed(
                f"no function is registered as {name!r}, and its module is not among "
                f"task_modules={list(self._allowed)}. Next: register it with @oq.task in a module "
                "that this process imports, or allow its module"
            )
        if len(name) > MAX_IMPORTED_NAME or not all(map(_is_dotted, (module_name, qualified))):
            raise TaskNotAllowed(f"{name[:MAX_IMPORTED_NAME]!r} is not of the form module:function")
        try:
            found = load(name)
            if name in self._registrations:  # importing its module registered it
                return self._registrations[name]
            self._check(name, found)
            return self.register(found, name=name)
        except TaskNotAllowed:
            raise
        # Whatever a module does when it is imported, one that ends the process included, must
        # not keep the worker from its other tasks.
        except (Exception, SystemExit) as error:
            raise TaskNotAllowed(
                f"{name!r} cannot be imported: {type(error).__name__}: {error}. "
                "Next: repair the code that has it"
            ) from error

    def _allows(self, module: object) -> bool:
        """Whether a module is one of those that are allowed, or inside of one."""
        return isinstance(module, str) and any(
            module == allowed or module.startswith(f"{allowed}.") for allowed in self._allowed
        )

    def _check(self, name: str, found: object) -> None:
        """Raise `TaskNotAllowed` for what a journal may not call, though it can name it.

        A module holds more than its own functions: those that it imported, such as `system` from
        `os`, and classes, which run code that nobody wrote to be a task.
        """
        registration = getattr(found, "registration", None)
        if isinstance(registration, Registration):
            found = registration.function
        if inspect.isclass(found) or not inspect.isroutine(found):
            raise TaskNotAllowed(f"{name!r} is a {type(found).__name__}, not a function")
        if not self._allows(getattr(found, "__module__", None)):
            raise TaskNotAllowed(
                f"{name!r} was defined in {found.__module__}, which is not among "
                f"task_modules={list(self._allowed)}. Next: wrap it in a function of your own"
            )


def load(name: str) -> Any:
    """Import what a name of the form `module:qualname` means.

    Only classes lie on the way from the module to it: what a module has imported, or what an
    object refers to, is somebody else's. Raises `TaskNotAllowed` if there is no such thing.
    """
    module_name, _, qualified = name.partition(":")
    *path, last = qualified.split(".")
    try:
        found: Any = importlib.import_module(module_name)
        for part in path:
            found = getattr(found, part)
            if not inspect.isclass(found):
                raise TaskNotAllowed(f"{name!r} cannot be found: {part!r} is no class")
        return getattr(found, last)
    except (ImportError, AttributeError) as error:
        raise TaskNotAllowed(
            f"{name!r} cannot be found: {error}. Next: deploy the code that has it"
        ) from error


def _is_dotted(name: str) -> bool:
    """Whether these are plain names with dots between them, none of them Python's own.

    A journal must not run the `__main__` of a package, nor reach a function's `__globals__`.
    """
    return all(part.isidentifier() and not part.startswith("__") for part in name.split("."))


def name_of(function: Callable[..., object], *, importable: bool) -> str:
    """Return the name of a function, `module:qualname`.

    Raises `TaskNotAllowed` for what has none (a lambda), and, if it must be importable, for
    functions inside functions.
    """
    qualified = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    if inspect.iscoroutine(function):
        raise TaskNotAllowed(
            f"{function.__qualname__}(…) is a call of the function. Next: pass the function and "
            "its arguments, as in enqueue(f, 1) for f(1)"
        )
    if not callable(function) or qualified is None or module is None:
        raise TaskNotAllowed(f"{function!r} is not a function. Next: pass a module's function")
    if "<lambda>" in qualified:
        raise TaskNotAllowed(
            f"a lambda in {module} has no name by which another process could find it. Next: write "
            "it as a function with def, at the top of its module"
        )
    if importable and "<" in qualified:
        raise TaskNotAllowed(
            f"{module}:{qualified} cannot be found by its name in another process. "
            "Next: move it to the top of its module"
        )
    return f"{_module_name(module)}:{qualified}"


def _place_of(function: Callable[..., object]) -> str:
    """Return where a function was defined, for comparison and for people."""
    kind = type(function)
    module = getattr(function, "__module__", None) or kind.__module__
    return f"{_module_name(module)}:{getattr(function, '__qualname__', kind.__qualname__)}"


def _module_name(module: str) -> str:
    """Return the name that another process imports: that of the script for `__main__`."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else module


def _default_executor(function: Callable[..., object]) -> Executor:
    return "async" if inspect.iscoroutinefunction(function) else "thread"


class _Importing:
    """What is imported just now, to find functions or an app in it."""

    module = ""


@contextmanager
def importing(module: str) -> Generator[None]:
    """Say, while a module is imported for what is in it, that it must not begin to work itself."""
    before, _Importing.module = _Importing.module, module
    try:
        yield
    finally:
        _Importing.module = before


def check_not_importing() -> None:
    """Raise `ConfigError` if the caller runs because a module is imported.

    A script without a guard would enqueue, or work, once more in each process that only wants its
    functions, and start further processes without end.
    """
    if _Importing.module:
        raise ConfigError(
            f"the module {_Importing.module!r} uses its queue while it is imported, and it is "
            "imported only for its functions. Next: put what it does when it is run under "
            '`if __name__ == "__main__":`'
        )
