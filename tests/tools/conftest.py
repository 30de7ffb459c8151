"""The journals that the tests read, and the tool to read them."""

from pathlib import Path
from typing import NamedTuple

import pytest

from omniq.tools import replay
from tests.tools.journals import NAMES, STORY, rewrite


class Run(NamedTuple):
    """What a run of the tool gave."""

    status: int
    out: str
    err: str


@pytest.fixture(params=["file", "sqlite"])
def backend(request) -> str:
    return request.param


@pytest.fixture
def journal(tmp_path, backend) -> Path:
    """A journal that holds `STORY`."""
    path = tmp_path / NAMES[backend]
    rewrite(path, STORY)
    return path


@pytest.fixture
def run(capsys):
    """Run the tool in this process."""

    def run(*arguments) -> Run:
        status = replay.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Run(status, captured.out, captured.err)

    return run
