"""A task that runs in a child process until it is killed."""

import os
import time
from pathlib import Path

from omniq import AsyncOmniQ

oq = AsyncOmniQ()


@oq.task(executor="process")
def spin() -> None:
    (Path(os.environ["TRACES"]) / "child.pid").write_text(str(os.getpid()))
    while True:
        time.sleep(0.01)
