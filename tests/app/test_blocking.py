"""The blocking face: the same surface, from scripts, from threads and beside a running loop."""

import asyncio
import inspect
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from omniq import AsyncOmniQ, AsyncWorkerPool, OmniQ, TaskFailed, TaskHandle, TaskStatus, WorkerPool
from omniq.blocking import BlockingTaskFunction, BlockingTaskHandle
from omniq.task import TaskFunction
from tests.app import jobs

SOON = 5.0


@pytest.fixture
def sync(location: str):
    with OmniQ(location) as app:
        yield app


def test_everything_can_be_done_without_await(sync: OmniQ) -> None:
    @sync.task(queue="sums", max_retries=0)
    def add(a: int, b: int = 2) -> int:
        return a + b

    assert add(1) == 3
    handle = add.enqueue(1, b=5)
    many = add.options(priority=3).enqueue_many([(1,), (2, 3)])
    named = sync.enqueue(jobs.add, 7)
    later = sync.options(delay=3600).enqueue(jobs.add_async, 1)
    assert handle.status() is TaskStatus.PENDING
    with sync.worker(concurrency=3):
        assert handle.result(timeout=SOON) == 6
        assert [one.result(SOON) for one in many] == [3, 5]
        assert named.result(SOON) == 9
    assert later.cancel()
    result = sync.get_result(handle.id, wait=True, timeout=SOON)
    assert result is not None
    assert result.value == 6
    assert [event.kind for event in handle.history()][-1] == "task.succeeded"
    assert len(sync.list_tasks(queue="sums", limit=10)) == 3
    assert sync.stats().by_status[TaskStatus.CANCELLED] == 1
    assert sync.handle(handle.id) == handle
    task = sync.get_task(handle.id)
    assert task is not None
    assert task.queue == "sums"


def test_errors_are_raised_where_they_are_waited_for(sync: OmniQ) -> None:
    handle = sync.options(max_retries=0).enqueue(jobs.raise_value_error)
    with pytest.raises(TimeoutError):
        handle.result(timeout=0.01)
    sync.worker().drain()
    with pytest.raises(TaskFailed, match="a bad value"):
        handle.result()


def test_many_threads_share_one_queue(sync: OmniQ) -> None:
    task = sync.task(jobs.add)
    with sync.worker(), ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda n: task.enqueue(n, 1).result(SOON), range(100)))
    assert results == [n + 1 for n in range(100)]


async def test_it_works_beside_a_running_loop(location: str) -> None:
    with OmniQ(location) as app:
        handle = app.enqueue(jobs.add, 1)
        app.worker().drain()
        assert handle.result(timeout=SOON) == 3
        assert await asyncio.to_thread(handle.result) == 3


def test_the_blocking_surface_has_all_of_the_async_one() -> None:
    pairs = [
        (AsyncOmniQ, OmniQ),
        (AsyncWorkerPool, WorkerPool),
        (TaskHandle, BlockingTaskHandle),
        (TaskFunction, BlockingTaskFunction),
    ]
    of_the_inside = {"engine", "on_commit", "on_failure", "stopped"}
    for asynchronous, blocking in pairs:
        names = {name for name, _ in inspect.getmembers(asynchronous, inspect.isfunction)}
        public = {name for name in names if not name.startswith("_")} - of_the_inside
        assert public <= set(dir(blocking)), blocking.__name__


def run_script(tmp_path: Path, text: str, **options) -> subprocess.CompletedProcess[str]:
    (tmp_path / "script.py").write_text(textwrap.dedent(text))
    return subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=20,
        **options,
    )


def test_a_script_that_closes_nothing_ends_and_loses_nothing(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        from omniq import OmniQ

        oq = OmniQ("journal")

        @oq.task
        def greet(name: str) -> str:
            return f"hello {name}"

        handle = greet.enqueue("ada")
        oq.worker().start()
        print(handle.result(timeout=5))
        greet.enqueue("left behind")
        """,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello ada\n", "")
    with OmniQ(tmp_path / "journal") as app:
        assert app.stats().workers == []
        counts = app.stats().by_status
        assert counts[TaskStatus.SUCCESS] + counts[TaskStatus.PENDING] == 2


def test_a_forked_child_uses_a_queue_of_its_own(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import os, sys
        from omniq import OmniQ, StorageError

        oq = OmniQ("journal")
        oq.stats()
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # it forks although it has threads
        pid = os.fork()
        if pid == 0:
            with OmniQ("journal") as own:
                print("child", own.stats().by_queue, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print("parent", oq.stats().by_queue)
        """,
    )
    assert (done.returncode, done.stdout) == (0, "child {}\nparent {}\n"), done.stderr


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT"])
def test_run_ends_in_order_on_a_signal(tmp_path: Path, signal_name: str) -> None:
    done = run_script(
        tmp_path,
        f"""
        import os, signal
        from omniq import OmniQ

        oq = OmniQ("journal")

        @oq.task
        def stop_us() -> int:
            os.kill(os.getpid(), signal.{signal_name})
            return 1

        handle = stop_us.enqueue()
        oq.worker().run()
        print(handle.result(timeout=5), oq.stats().workers)
        """,
    )
    assert (done.returncode, done.stdout) == (0, "1 []\n"), done.stderr


def test_stop_from_another_thread_ends_run(sync: OmniQ) -> None:
    pool = sync.worker()
    stopper = threading.Timer(0, pool.stop)
    handle = sync.enqueue(jobs.add, 1)
    running = threading.Thread(target=pool.run)
    running.start()
    handle.result(timeout=SOON)
    stopper.start()
    running.join(SOON)
    assert not running.is_alive()
    stopper.join()


def test_a_blocking_call_on_its_own_loop_says_what_to_do(sync: OmniQ) -> None:
    @sync.task(max_retries=0)
    async def careless() -> None:
        sync.stats()

    handle = careless.enqueue()
    sync.worker().drain()
    with pytest.raises(TaskFailed, match=r"own event loop.*asyncio.to_thread"):
        handle.result()


def test_a_signal_that_does_not_interrupt_the_wait_is_seen_all_the_same(tmp_path: Path) -> None:
    """As one that comes just before the wait begins: Python acts only when the thread goes on."""
    done = run_script(
        tmp_path,
        """
        import os, signal
        from omniq import OmniQ

        oq = OmniQ("journal")

        @oq.task
        def stop_us() -> int:
            os.kill(os.getpid(), signal.SIGINT)
            return 1

        handle = stop_us.enqueue()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # another thread gets it
        oq.worker().run()
        print(handle.result(timeout=5))
        """,
    )
    assert done.stdout == "1\n", done.stderr
