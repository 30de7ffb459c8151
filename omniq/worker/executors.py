"""Where a synchronous function runs: in a thread, or in a child process that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import sys
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from omniq.errors import OmniqError
from omniq.worker import context as ctx
from omniq.worker import protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from omniq.core.task import TaskRecord
    from omniq.registry import Registration
    from omniq.serialization import Codecs

__all__ = ("ChildDied", "Executors")

STOP_SECONDS = 5.0  # how long a child that has nothing to do may take to end before it is killed


class ChildDied(OmniqError):
    """The child process of a task ended before the task did."""


class Executors:
    """The threads and child processes of one worker."""

    def __init__(self) -> None:
        # Threads that were given up go on beside the new ones; the worker's slots are the limit.
        self._limiter: anyio.CapacityLimiter | None = None
        self._in_threads: set[object] = set()  # what runs there, or was given up and still does
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()

    async def run_in_thread(
        self, function: Callable[..., object], args: list[object], kwargs: dict[str, object]
    ) -> object:
        """Call a function in a thread; if the wait is cancelled, the thread is given up."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(math.inf)
        call = functools.partial(function, *args, **kwargs)

        def run() -> object:
            self._in_threads.add(call)
            try:
                return call()
            finally:
                self._in_threads.discard(call)

        return await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._limiter)

    @property
    def busy_threads(self) -> int:
        """How many threads run a function, those included that were given up."""
        return len(self._in_threads)

    async def run_in_process(
        self,
        registration: Registration,
        task: TaskRecord,
        context: ctx.TaskContext,
        codecs: Codecs,
        on_begun: Callable[[], None],
    ) -> bytes:
        """Run a task in a child; if the wait is cancelled, the child is killed.

        `on_begun` is called when the child has all it needs and calls the function.
        """
        job = protocol.Job(
            target=registration.target,
            name=registration.name,
            payload=task.payload,
            codec=task.spec.codec,
            serializer=codecs.codec,
            max_payload_bytes=codecs.limit,
            task_id=task.id,
            queue=task.spec.queue,
            attempt=task.attempt,
            max_retries=task.spec.retry.max_retries,
        )
        child = await self._take()
        try:
            answer = await child.run(job, context, on_begun)
        except BaseException:
            self._all.discard(child)
            await asyncio.shield(child.kill())
            raise
        self._idle.append(child)
        return _result_of(answer)

    async def close(self) -> None:
        """End the child processes."""
        children, self._all, self._idle = self._all, set(), []
        await asyncio.gather(*(child.stop() for child in children))

    async def _take(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.is_alive:
                return child
            self._all.discard(child)
        child = await _Child.start()
        self._all.add(child)
        return child


class _Child:
    """A child process that runs one task after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls) -> _Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *protocol.interpreter_options(),
            "-m",
            "omniq.worker.child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=protocol.MAX_MESSAGE_BYTES,
            # A Ctrl-C is for the worker, which lets tasks finish. (uvloop has no process_group.)
            start_new_session=sys.platform != "win32",
        )
        child = cls(process)
        await child._send(protocol.setup())
        return child

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def run(
        self, job: protocol.Job, context: ctx.TaskContext, on_begun: Callable[[], None]
    ) -> protocol.Answer:
        try:
            await self._send(job)
            while isinstance(message := await self._receive(), protocol.Begun | protocol.Progress):
                if isinstance(message, protocol.Begun):
                    on_begun()
                else:
                    context.progress(message.fraction, message.message)
        except (ConnectionError, asyncio.IncompleteReadError):
            code = await self._exit_status()
            raise ChildDied(
                f"the child process of {job.name} ended with exit status {code} before its task did"
            ) from None
        return message

    async def _exit_status(self) -> int:
        """Return how the child ended; one that only stopped making sense is killed."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._finish()

    async def stop(self) -> None:
        """Let the child end by itself, and kill it if it does not."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
        await self._finish()

    async def _finish(self) -> None:
        await self._process.wait()
        # Without this the pipes' transports are closed by the garbage collector, which warns.
        self._process._transport.close()  # type: ignore[attr-defined]

    async def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(protocol.pack(message))
        await self._process.stdin.drain()

    async def _receive(self) -> protocol.Answer | protocol.News:
        assert self._process.stdout is not None
        header = await self._process.stdout.readexactly(protocol.HEADER_BYTES)
        body = await self._process.stdout.readexactly(protocol.length_of(header))
        return protocol.unpack_answer(body)


def _result_of(answer: protocol.Answer) -> bytes:
    if isinstance(answer, protocol.Returned):
        return answer.result
    if isinstance(answer, protocol.WantsRetry):
        raise ctx.RetryLater(answer.after_us / 1_000_000, answer.reason)
    if isinstance(answer, protocol.WantsCancel):
        raise ctx.Cancel(answer.reason)
    raise protocol.RaisedInChild(answer)
