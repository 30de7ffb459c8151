"""Tasks that run in a child process until it is killed."""

import os
import time
from pathlib import Path

from omniq import AsyncOmniQ

oq = AsyncOmniQ()


def leave_pid() -> None:
    (Path(os.environ["TRACES"]) / "child.pid").write_text(str(os.getpid()))


@oq.task(executor="process")
def spin() -> None:
    leave_pid()
    while True:
        time.sleep(0.01)


@oq.task(executor="process")
def hold_the_lock() -> None:
    """Let no other thread of the child run, for minutes."""
    leave_pid()
    sum(range(10**10))
