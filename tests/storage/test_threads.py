"""A thread does one thing after the other, and answers on the loop of whoever asked."""

import asyncio
import gc
import subprocess
import sys
import threading

import pytest

from omniq.storage.threads import LoopThread, finished


@pytest.fixture
def thread():
    made = LoopThread("a thread")
    yield made
    made.shutdown()


def run(thread, function, *args):
    return asyncio.get_running_loop().run_in_executor(thread, function, *args)


async def test_results_and_errors_come_back_in_order(thread):
    def halve(number):
        seen.append(number)
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number // 2

    seen: list[int] = []
    found = await asyncio.gather(
        *(run(thread, halve, number) for number in range(6)), return_exceptions=True
    )
    assert seen == list(range(6))
    assert [str(answer) for answer in found] == ["0", "1 is odd", "1", "3 is odd", "2", "5 is odd"]


async def test_all_is_done_in_the_one_thread_of_its_name(thread):
    threads = {await run(thread, threading.current_thread) for _ in range(3)}
    assert [found.name for found in threads] == ["a thread"]


async def test_thread_ends_behind_its_work_and_begins_anew(thread):
    first = run(thread, threading.current_thread)
    thread.shutdown()
    assert not (await first).is_alive()
    assert (await run(thread, threading.current_thread)).is_alive()


async def test_nobody_calls_a_thread_off(thread):
    began, may_end = threading.Event(), threading.Event()

    def wait():
        began.set()
        return may_end.wait(10)

    work = run(thread, wait)
    await asyncio.to_thread(began.wait)
    assert not work.cancel()
    may_end.set()
    assert await work is True


async def wait_in(thread, function):
    """Wait for one of our threads, or for one of asyncio's."""
    work = run(thread, function)
    return await (finished(work) if thread is None else work)


@pytest.mark.parametrize("is_ours", [True, False])
@pytest.mark.parametrize("fails", [True, False])
async def test_cancelled_caller_leaves_when_the_thread_is_done(thread, is_ours, fails):
    began, may_end = threading.Event(), threading.Event()
    trouble: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: trouble.append(context))

    def wait():
        began.set()
        assert may_end.wait(10)
        if fails:
            raise ValueError("nobody is there to see it")

    waiting = asyncio.create_task(wait_in(thread if is_ours else None, wait))
    await asyncio.to_thread(began.wait)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=0)
    assert not waiting.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gc.collect()
    assert trouble == []


def test_thread_goes_on_after_a_loop_was_closed_over_its_work(thread):
    may_end = threading.Event()

    async def leave():
        run(thread, may_end.wait, 10)

    async def ask():
        return await run(thread, int)

    asyncio.run(leave())
    may_end.set()
    assert asyncio.run(ask()) == 0


async def test_thread_ends_with_its_owner():
    thread = LoopThread("owned")
    alive = await run(thread, threading.current_thread)
    del thread
    gc.collect()
    await asyncio.to_thread(alive.join, 10)
    assert not alive.is_alive()


def test_a_journal_that_is_left_open_does_not_keep_the_process(tmp_path):
    program = """
import asyncio, sys
from omniq import AsyncOmniQ

async def leave_open():
    for name in ("journal", "jobs.db"):
        oq = AsyncOmniQ(f"{sys.argv[1]}/{name}", task_modules=("posixpath",))
        await oq.enqueue("posixpath:basename", "a")
        kept.append(oq)

kept = []
asyncio.run(leave_open())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
