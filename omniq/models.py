"""What users see of the queue: tasks, results, retry policies, in Python's own types.

Times are aware datetimes in UTC, durations are seconds or `timedelta` where they are given and
`timedelta` where they are returned.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from omniq.core.events import Commit, ErrorRecord, Event, kind_of
from omniq.core.retry import RetryRule
from omniq.core.transitions import TaskStatus
from omniq.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from omniq.core.task import TaskRecord, WorkerRecord

__all__ = (
    "Duration",
    "HistoryEvent",
    "QueueStats",
    "RetryPolicy",
    "Schedule",
    "Task",
    "TaskError",
    "TaskResult",
    "Worker",
    "class_name",
    "clean_text",
    "from_datetime",
    "to_datetime",
    "to_us",
    "unknown_names",
)

type Duration = float | timedelta

MICROSECOND = timedelta(microseconds=1)
# The beginning of the year 1 and the end of the year 9999, between which Python has dates.
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
_MAX_US = 100 * 365 * 24 * 3600 * 1_000_000  # a century; more is a mistake in the unit


def to_us(duration: Duration, name: str) -> int:
    """Return a duration in microseconds; raises `ConfigError` if it is no sensible one."""
    if isinstance(duration, bool) or not isinstance(duration, int | float | timedelta):
        raise ConfigError(f"{name} must be seconds or a timedelta, not {duration!r}")
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    microseconds = seconds * 1_000_000
    if not 0 <= microseconds <= _MAX_US:  # also false for NaN
        raise ConfigError(f"{name} must be between 0 and 100 years, not {duration!r}")
    return round(microseconds)


def to_datetime(at_us: int) -> datetime:
    """Return a stored time as an aware datetime in UTC, the nearest one that Python has."""
    at_us = min(max(at_us, FIRST_US), LAST_US)  # no clock says so, but a journal may
    return datetime.fromtimestamp(at_us // 1_000_000, UTC) + at_us % 1_000_000 * MICROSECOND


def from_datetime(moment: datetime, name: str) -> int:
    """Return a datetime in microseconds since 1970 UTC; raises `ConfigError` if it is naive."""
    if not isinstance(moment, datetime):
        raise ConfigError(f"{name} must be a datetime, not {moment!r}")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise ConfigError(
            f"{name} is a naive datetime ({moment.isoformat()}), which means another moment on "
            "another machine. Next: give it a time zone, such as datetime.now(UTC)"
        )
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // MICROSECOND


def unknown_names(what: str, given: Iterable[str], known: Iterable[str]) -> ConfigError | None:
    """Return the error for names that are not known, with the nearest one; None if all are."""
    names = list(known)
    for name in given:
        if name not in names:
            import difflib  # noqa: PLC0415 - nobody else needs it

            near = difflib.get_close_matches(name, names, 1)
            advice = f"did you mean {near[0]}?" if near else f"use one of {', '.join(names)}"
            return ConfigError(f"{what} {name}. Next: {advice}")
    return None


def clean_text(value: object) -> str:
    """Return `value` as text that a journal can hold: what UTF-8 cannot encode is escaped."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def class_name(kind: type[BaseException]) -> str:
    """Return the name by which a retry rule knows a class of exceptions."""
    return f"{kind.__module__}:{kind.__qualname__}"


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a failed attempt is followed by another one.

    At most `1 + max_retries` attempts start. The n-th retry waits at most
    `min(max_delay, base_delay * factor ** (n - 1))`; `jitter`, a share between 0 and 1, is drawn
    from that wait and never added. Exceptions in `never_on` are not retried, nor are those that
    are not in `retry_on`. The death of a worker always counts as an attempt and is always retried.
    """

    max_retries: int = 3
    base_delay: Duration = 1.0
    factor: float = 2.0
    max_delay: Duration = 3600.0
    jitter: float = 0.25
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    never_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.max_retries, bool) or not isinstance(self.max_retries, int):
            raise ConfigError(f"max_retries must be an integer, not {self.max_retries!r}")
        if not 0 <= self.max_retries <= 1_000_000:  # noqa: PLR2004 - said in the message
            raise ConfigError(f"max_retries must be between 0 and 1000000, not {self.max_retries}")
        for name, lowest, highest in (("factor", 1, 1000), ("jitter", 0, 1)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not lowest <= value <= highest:
                raise ConfigError(f"{name} must be between {lowest} and {highest}, not {value!r}")
        to_us(self.base_delay, "base_delay")
        to_us(self.max_delay, "max_delay")
        for name in ("retry_on", "never_on"):
            kinds: Any = getattr(self, name)
            if type(kinds) not in (tuple, list, set, frozenset):
                raise ConfigError(
                    f"{name} must be a tuple of exception classes, such as (OSError,), "
                    f"not {kinds!r}"
                )
            for kind in kinds:
                if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                    raise ConfigError(f"{name} must hold exception classes, not {kind!r}")

    def to_rule(self) -> RetryRule:
        """Return the policy as events store it."""
        return RetryRule(
            max_retries=self.max_retries,
            base_delay_us=to_us(self.base_delay, "base_delay"),
            factor=float(self.factor),
            max_delay_us=to_us(self.max_delay, "max_delay"),
            jitter=float(self.jitter),
            retry_on=tuple(map(class_name, self.retry_on)),
            never_on=tuple(map(class_name, self.never_on)),
        )


class Schedule(msgspec.Struct, frozen=True):
    """When a task runs: not before `eta`, and again every `interval` if there is one.

    The runs of an interval share `series_id`, the id of the first of them.
    """

    eta: datetime
    interval: timedelta | None = None
    series_id: str | None = None


class TaskError(msgspec.Struct, frozen=True):
    """Why an attempt failed. `traceback` is text without the values of variables.

    `retry_count` is the number of retries before this attempt.
    """

    error_type: str
    message: str
    timestamp: datetime
    traceback: str = ""
    retry_count: int = 0
    is_retryable: bool = True

    @classmethod
    def of(cls, task: TaskRecord, error: ErrorRecord) -> TaskError:
        return cls(
            error_type=error.error_type,
            message=error.message,
            timestamp=to_datetime(task.run.finished_at),
            traceback=error.traceback,
            retry_count=max(0, task.attempt - 1),
            is_retryable=error.retryable,
        )


class Task(msgspec.Struct, frozen=True):
    """A task as it stands. `attempts` counts those that started and count."""

    id: str
    name: str
    queue: str
    status: TaskStatus
    priority: int
    attempts: int
    max_retries: int
    created_at: datetime
    schedule: Schedule
    timeout: timedelta | None = None
    worker: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cancel_requested: bool = False
    progress: float | None = None
    progress_message: str = ""
    error: TaskError | None = None

    @classmethod
    def of(cls, task: TaskRecord) -> Task:
        spec, run = task.spec, task.run
        return cls(
            id=task.id,
            name=spec.name,
            queue=spec.queue,
            status=task.status,
            priority=spec.priority,
            attempts=task.attempt,
            max_retries=spec.retry.max_retries,
            created_at=to_datetime(task.created_at),
            schedule=Schedule(
                to_datetime(task.due_at),
                spec.interval_us * MICROSECOND if spec.interval_us else None,
                spec.series_id or None,
            ),
            timeout=spec.timeout_us * MICROSECOND if spec.timeout_us else None,
            worker=run.worker or None,
            started_at=to_datetime(run.started_at) if run.started_at else None,
            finished_at=to_datetime(run.finished_at) if run.finished_at else None,
            cancel_requested=run.cancel_requested,
            progress=run.fraction if run.fraction or run.message else None,
            progress_message=run.message,
            error=TaskError.of(task, task.error) if task.error else None,
        )


class TaskResult(msgspec.Struct, frozen=True):
    """How a task ended. `value` is None unless it succeeded, `error` is None if it did."""

    task_id: str
    status: TaskStatus
    value: object
    error: TaskError | None
    attempts: int
    finished_at: datetime

    @classmethod
    def of(cls, task: TaskRecord, decode: Callable[[TaskRecord], object]) -> TaskResult:
        return cls(
            task_id=task.id,
            status=task.status,
            value=decode(task) if task.status is TaskStatus.SUCCESS else None,
            error=TaskError.of(task, task.error) if task.error else None,
            attempts=task.attempt,
            finished_at=to_datetime(task.run.finished_at),
        )


class HistoryEvent(msgspec.Struct, frozen=True):
    """One event of a task's history, with its place in the journal.

    `actor` is the process that appended it; `event` holds what its kind says besides.
    """

    seq: int
    at: datetime
    kind: str
    actor: str
    event: Event

    @classmethod
    def of(cls, seq: int, commit: Commit, event: Event) -> HistoryEvent:
        return cls(seq, to_datetime(commit.at), kind_of(event), commit.actor, event)


class Worker(msgspec.Struct, frozen=True):
    """A worker that is alive as far as the journal knows, and what it is running."""

    id: str
    host: str
    pid: int
    queues: tuple[str, ...]
    concurrency: int
    joined_at: datetime
    running: tuple[str, ...] = ()

    @classmethod
    def of(cls, worker: WorkerRecord, running: tuple[str, ...]) -> Worker:
        return cls(
            id=worker.id,
            host=worker.host,
            pid=worker.pid,
            queues=worker.queues,
            concurrency=worker.concurrency,
            joined_at=to_datetime(worker.joined_at),
            running=running,
        )


class QueueStats(msgspec.Struct, frozen=True):
    """How many tasks the journal knows, finished ones included until their `result_ttl` ends.

    Every status is a key of `by_status`, with 0 if no task has it.
    """

    by_status: dict[TaskStatus, int]
    by_queue: dict[str, int]
    workers: list[Worker]
    paused: frozenset[str] = frozenset()
