"""What a journal says, as values: a summary, the state at a point, the story of a task.

Each is what `--json` prints, field by field (docs/reference/replay.md), and what is shown to
people is made from the same value. Fields are only added.
"""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from omniq.core import events as ev
from omniq.core.transitions import TaskStatus
from omniq.tools.printing import SECOND, ErrorView, PayloadView, iso, view_payload
from omniq.tools.reading import first_state, fold_until
from omniq.tools.scanning import Problem, Torn

if TYPE_CHECKING:
    from omniq.core.projection import Projection
    from omniq.core.task import TaskRecord
    from omniq.storage.base import Head
    from omniq.tools.reading import Journal

__all__ = (
    "HeadView",
    "StateReport",
    "Summary",
    "TaskView",
    "VerifyReport",
    "WorkerView",
    "state_at",
    "summarize",
    "view_head",
)


class HeadView(msgspec.Struct, frozen=True):
    """Where a journal ends: whoever keeps this can tell later that nothing before it changed."""

    seq: int
    digest: str


class WorkerView(msgspec.Struct, frozen=True):
    """A worker that joined and neither left nor was lost."""

    id: str
    host: str
    pid: int
    queues: list[str]
    concurrency: int
    joined_at: str | None
    lease_until: str | None
    running: list[str]


class TaskView(msgspec.Struct, frozen=True):
    """A task as it stands."""

    id: str
    name: str
    queue: str
    status: TaskStatus
    priority: int
    attempt: int
    max_retries: int
    created_at: str | None
    due_at: str | None
    started_at: str | None
    finished_at: str | None
    worker: str | None
    timeout_seconds: float | None
    interval_seconds: float | None
    result_ttl_seconds: float | None
    series_id: str | None
    cancel_requested: bool
    payload: PayloadView
    result: PayloadView | None
    error: ErrorView | None

    @classmethod
    def of(cls, task: TaskRecord) -> TaskView:
        """Return a task's record as it may be shown."""
        spec, run = task.spec, task.run
        return cls(
            id=task.id,
            name=spec.name,
            queue=spec.queue,
            status=task.status,
            priority=spec.priority,
            attempt=task.attempt,
            max_retries=spec.retry.max_retries,
            created_at=iso(task.created_at),
            due_at=iso(task.due_at),
            started_at=iso(run.started_at),
            finished_at=iso(run.finished_at),
            worker=run.worker or None,
            timeout_seconds=_seconds(spec.timeout_us),
            interval_seconds=_seconds(spec.interval_us),
            result_ttl_seconds=_seconds(spec.result_ttl_us),
            series_id=spec.series_id or None,
            cancel_requested=run.cancel_requested,
            payload=view_payload(task.payload, spec.codec),
            result=None if task.result is None else view_payload(task.result, run.codec),
            error=None if task.error is None else ErrorView.of(task.error),
        )


class Summary(msgspec.Struct, frozen=True):
    """A journal at a glance."""

    journal: str
    backend: str
    bytes: int
    events: int
    dropped: int
    commits: int
    first_at: str | None
    last_at: str | None
    head: HeadView
    torn_bytes: int
    tasks: dict[str, int]
    queues: dict[str, dict[str, int]]
    paused: list[str]
    workers: list[WorkerView]
    kinds: dict[str, int]
    read_seconds: float


class StateReport(msgspec.Struct, frozen=True):
    """The state at a point of a journal; `listed` holds the newest tasks, as many as asked for."""

    journal: str
    seq: int
    at: str | None
    tasks: dict[str, int]
    queues: dict[str, dict[str, int]]
    paused: list[str]
    workers: list[WorkerView]
    listed: list[TaskView]


class VerifyReport(msgspec.Struct, frozen=True):
    """What verifying a journal found."""

    journal: str
    backend: str
    events: int
    commits: int
    head: HeadView
    torn: Torn | None
    unchecked_events: int
    snapshots: int
    problems: list[Problem]
    read_seconds: float


async def summarize(journal: Journal) -> Summary:
    """Read a whole journal and say what is in it."""
    began = time.monotonic()
    state, kinds = await first_state(journal), Counter[type[ev.JournalEvent]]()
    commits = first_at = 0
    async for batch in journal.commits():
        first_at = first_at or batch[0].at
        commits += len(batch)
        for commit in batch:
            if commit.first_seq > state.seq:
                state.apply(commit)
            kinds.update(map(type, commit.events))
    tags = {str(kind.__struct_config__.tag): count for kind, count in kinds.items()}
    return Summary(
        journal=journal.location,
        backend=journal.backend,
        bytes=journal.bytes_on_disk(),
        events=journal.head.seq - journal.beginning.seq,
        dropped=journal.beginning.seq,
        commits=commits,
        first_at=iso(first_at),
        last_at=iso(state.at),
        head=view_head(journal.head),
        torn_bytes=journal.torn_bytes,
        tasks=_by_status(state),
        queues=_by_queue(state),
        paused=sorted(state.paused),
        workers=_workers(state),
        kinds=dict(sorted(tags.items())),
        read_seconds=round(time.monotonic() - began, 6),
    )


async def state_at(journal: Journal, seq: int | None, at: int | None, limit: int) -> StateReport:
    """Return the state after a sequence number or a time, with the newest tasks first."""
    state = await fold_until(journal, seq, at)
    newest = islice(reversed(state.tasks.values()), limit)
    return StateReport(
        journal=journal.location,
        seq=state.seq,
        at=iso(state.at),
        tasks=_by_status(state),
        queues=_by_queue(state),
        paused=sorted(state.paused),
        workers=_workers(state),
        listed=[TaskView.of(task) for task in newest],
    )


def view_head(head: Head) -> HeadView:
    """Return a head as it is shown."""
    return HeadView(head.seq, head.digest.hex())


def _by_status(state: Projection) -> dict[str, int]:
    counts = state.counts_by_status()
    return {status.value: counts[status] for status in TaskStatus}


def _by_queue(state: Projection) -> dict[str, dict[str, int]]:
    return {
        queue: {status.value: counts[status] for status in TaskStatus}
        for queue, counts in sorted(state.counts.items())
    }


def _workers(state: Projection) -> list[WorkerView]:
    return [
        WorkerView(
            id=worker.id,
            host=worker.host,
            pid=worker.pid,
            queues=list(worker.queues),
            concurrency=worker.concurrency,
            joined_at=iso(worker.joined_at),
            lease_until=iso(worker.lease_until),
            running=list(state.running.get(worker.id, ())),
        )
        for worker in state.workers.values()
    ]


def _seconds(us: int) -> float | None:
    return us / SECOND if us else None
