"""A module that an owner allows. It holds its own functions, and much that is not its own."""

import os
import statistics as numbers
import subprocess
from functools import cache, partial, wraps
from os import system
from pathlib import Path
from typing import Any

from omniq import AsyncOmniQ

other_app = AsyncOmniQ("memory://")


def add(a: int, b: int) -> int:
    return a + b


async def add_async(a: int, b: int) -> int:
    return a + b


@cache
def add_cached(a: int, b: int) -> int:
    return a + b


def _decorate(function: Any) -> Any:
    @wraps(function)
    def inner(*args: Any) -> Any:
        return function(*args)

    return inner


@_decorate
def add_decorated(a: int, b: int) -> int:
    return a + b


@other_app.task(name="known elsewhere")
def add_registered(a: int, b: int) -> int:
    return a + b


class Sums:
    leak = os
    run = subprocess.run
    home = Path.home

    @staticmethod
    def add(a: int, b: int) -> int:
        return a + b

    @classmethod
    def add_class(cls, a: int, b: int) -> int:
        return a + b

    class Inner:
        @staticmethod
        def add(a: int, b: int) -> int:
            return a + b

    def __call__(self, a: int, b: int) -> int:
        return a + b


instance = Sums()
started = partial(os.system)
registered_elsewhere = other_app.task(name="system")(os.system)
alias = system
constant = 3
mean = numbers.fmean
