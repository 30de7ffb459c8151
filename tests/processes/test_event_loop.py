"""uvloop is optional: `omniq worker` uses it where it is installed, and works without."""

import importlib.util
from pathlib import Path

import pytest

from tests.processes.conftest import Processes, until

HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None
WITHOUT = 'raise ImportError("as if it were not installed")\n'


@pytest.mark.parametrize("is_installed", [True, False])
async def test_worker_command_uses_uvloop_where_it_is_installed(
    processes: Processes, app, tmp_path: Path, *, is_installed: bool
) -> None:
    assert HAS_UVLOOP, "it is among the tools of development, except on Windows"
    if not is_installed:
        (tmp_path / "uvloop.py").write_text(WITHOUT)
    processes.start("-m", "omniq", "worker", "app:oq", cwd=tmp_path)
    handle = await app.loop_of_worker.enqueue()
    found = await handle.result()
    assert (found == "uvloop") is is_installed, found


async def test_killed_worker_on_uvloop_leaves_its_task_to_another(processes: Processes, app):
    first = processes.worker()
    handle = await app.loop_of_worker.enqueue(wait=True)
    await until(lambda state: any(task.attempt for task in state.tasks.values()), app.oq)
    processes.worker()
    first.kill()
    assert await handle.result() == "uvloop"
    assert [event.kind for event in await handle.history()].count("task.started") == 2
