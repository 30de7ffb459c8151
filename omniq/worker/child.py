"""A worker's child process: it runs tasks with `executor="process"`, one after the other.

It ends when its parent does, even in the middle of a task: the parent's end of the pipe closes
with its death, and on Linux the kernel kills the child, whatever it is doing. What tasks print goes
to standard error, the pipes belong to the protocol.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

import msgspec

from omniq.host import end_with_parent
from omniq.registry import Registry, importing, load
from omniq.serialization import Codecs
from omniq.worker import context as ctx
from omniq.worker import protocol
from omniq.worker.attempt import describe_error

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ("main",)


def main() -> None:
    """Run jobs from standard input until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent says when a task has to stop
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()  # before the pipe is read: who has died by now is noticed there
    source = os.fdopen(os.dup(0), "rb")
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _prepare(source)
    jobs: SimpleQueue[protocol.Job] = SimpleQueue()
    threading.Thread(target=_read_jobs, args=(source, jobs), daemon=True).start()
    while True:
        _send(target, _run(jobs.get(), target))


def _prepare(source: BinaryIO) -> None:
    body = protocol.read_message(source)
    if body is None:
        sys.exit(0)
    msgspec.msgpack.decode(body, type=protocol.Setup).apply()


def _read_jobs(source: BinaryIO, jobs: SimpleQueue[protocol.Job]) -> None:
    while (body := protocol.read_message(source)) is not None:
        jobs.put(msgspec.msgpack.decode(body, type=protocol.Job))
    os._exit(0)  # the parent stopped or died; nobody wants what the task is doing


def _run(job: protocol.Job, target: BinaryIO) -> protocol.Answer:
    codecs = Codecs(job.serializer, job.max_payload_bytes)

    def report(_: ctx.TaskContext, fraction: float, message: str) -> None:
        _send(target, protocol.Progress(fraction, message))

    ctx.enter(
        ctx.TaskContext(
            task_id=job.task_id,
            name=job.name,
            queue=job.queue,
            attempt=job.attempt,
            max_retries=job.max_retries,
            report=report,
        )
    )
    try:
        # The parent had the function in its own registry, so whatever it is may be called.
        with importing(job.target.partition(":")[0]):
            function = load(job.target)
        registration = Registry().register(function, name=job.name)
        args, kwargs = codecs.decode_arguments(registration.signature, job.payload, job.codec)
        _send(target, protocol.Begun())
        value = registration.function(*args, **kwargs)
        if asyncio.iscoroutine(value):
            value = asyncio.run(value)
        return protocol.Returned(codecs.encode_result(value, job.name))
    except ctx.RetryLater as later:
        return protocol.WantsRetry(later.after_us, later.reason)
    except ctx.Cancel as cancel:
        return protocol.WantsCancel(cancel.reason)
    except BaseException as error:  # noqa: BLE001 - whatever the task raised
        return protocol.Raised(*describe_error(error))


def _send(target: BinaryIO, message: msgspec.Struct) -> None:
    target.write(protocol.pack(message))
    target.flush()


if __name__ == "__main__":
    main()
