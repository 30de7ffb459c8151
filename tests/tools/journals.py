"""Small deterministic journals, the same in every backend, and what is in a journal."""

import asyncio
from typing import NamedTuple

from omniq.config import open_storage
from omniq.core import events as ev
from omniq.core.projection import Projection
from omniq.core.retry import RetryRule
from omniq.core.snapshot import Capture
from omniq.storage.base import Head
from omniq.storage.file import FileStorage

START = 1_780_000_000_000_000  # 2026-05-28 20:26:40 UTC
SECOND = 1_000_000
CLIENT, WORKER = "c1@host:10", "w1@host:11"
A, B, C, D = (f"019e7044-8800-7000-8000-00000000000{number}" for number in range(1, 5))
ARGUMENTS = b"\x92\x91\xa5a.png\x81\xa5width\xcd\x01\x90"  # [["a.png"], {"width": 400}]
ERROR = ev.ErrorRecord("ValueError", "bad header", "Traceback:\n  File 1\nValueError: bad header\n")
NAMES = {"file": "journal", "sqlite": "journal.db"}

# Two tasks that succeed, one of them at the second attempt, one that fails, one that waits.
STORY = [
    (0, CLIENT, [
        ev.TaskEnqueued(A, "app:resize", "images", ARGUMENTS, timeout_us=60 * SECOND),
        ev.TaskEnqueued(B, "app:mail", "default", ARGUMENTS, priority=5, retry=RetryRule(0)),
    ]),
    (1, WORKER, [
        ev.WorkerJoined("w1", "host", 11, "boot", 30 * SECOND, ("images", "default"), 2),
    ]),
    (2, WORKER, [ev.TaskStarted(A, 1, "w1"), ev.TaskStarted(B, 1, "w1")]),
    (3, WORKER, [
        ev.TaskProgressed(B, 1, "w1", 0.5, "half"),
        ev.TaskRetried(A, 1, "w1", ERROR, START + 5 * SECOND),
    ]),
    (4, WORKER, [ev.TaskFailed(B, 1, "w1", ERROR), ev.WorkerRenewed("w1", START + 34 * SECOND)]),
    (6, WORKER, [ev.TaskStarted(A, 2, "w1")]),
    (7, WORKER, [ev.TaskSucceeded(A, 2, "w1", b"\x93\x01\x02\x03")]),
    (8, CLIENT, [
        ev.TaskEnqueued(C, "app:resize", "images", ARGUMENTS, "cloudpickle", result_ttl_us=SECOND),
        ev.TaskEnqueued(D, "app:resize", "images", ARGUMENTS, due_at=START + 60 * SECOND),
        ev.QueuePaused("images"),
    ]),
]  # fmt: skip
LENGTH = sum(len(events) for _, _, events in STORY)


async def write(location, story, **options):
    """Append commits to a journal, each durable before the next; return its head."""
    storage = open_storage(location) if not options else FileStorage(location, **options)
    await storage.open()
    try:
        for second, actor, events in story:
            commit = await storage.append(events, at=START + second * SECOND, actor=actor)
            await storage.sync(commit.last_seq)
        return await storage.head()
    finally:
        await storage.close()


def rewrite(location, story, **options):
    """Write a journal from a test that is not async."""
    return asyncio.run(write(location, story, **options))


class Content(NamedTuple):
    """All that can be read of a journal, and where it ends."""

    beginning: Head
    commits: list[ev.Commit]
    head: Head

    def events(self):
        """Return every event with its time and actor."""
        return [
            (commit.at, commit.actor, event) for commit in self.commits for event in commit.events
        ]

    def state(self):
        """Return the fold of a journal whose history is whole."""
        state = Projection()
        for commit in self.commits:
            state.apply(commit)
        return state.state()


async def content_of(location):
    """Read a journal as its storage does."""
    storage = open_storage(location, read_only=True)
    await storage.open()
    try:
        beginning = await storage.beginning()
        commits, seq = [], beginning.seq
        while batch := await storage.read(seq):
            commits.extend(batch)
            seq = batch[-1].last_seq
        return Content(beginning, commits, await storage.head())
    finally:
        await storage.close()


def read(location):
    """Read a journal from a test that is not async."""
    return asyncio.run(content_of(location))


async def drop(location, until, snapshots):
    """Take snapshots behind two sequence numbers, and drop what is before another one."""
    storage = open_storage(location)
    await storage.open()
    try:
        state = Projection()
        while commits := await storage.read(state.seq, limit=1):
            for commit in commits:
                state.apply(commit)
            if state.seq in snapshots:
                capture = Capture(state)
                await storage.save_snapshot(await storage.bookmark(state.seq), _parts(capture))
        return await storage.drop_history(before=1 << 62, until=until)
    finally:
        await storage.close()


async def _parts(capture):
    for part in capture.parts():
        yield part
