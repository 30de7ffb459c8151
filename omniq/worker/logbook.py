"""What a worker logs: how its attempts ended, as the journal has it, and which workers died.

Only what is written is told, so the log and the journal agree. Arguments and results are never
logged. Of an exception its message is, and its traceback, which has no values of variables.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from omniq.core import events as ev
from omniq.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from omniq.core.task import TaskRecord

__all__ = ("tell", "tell_loss", "tell_not_run", "untold")

type _Kinds = frozenset[type[ev.JournalEvent]]

# There may be 100,000 of these a second, so nothing is called for them.
_NEVER: _Kinds = frozenset({ev.TaskEnqueued})
_USUALLY_NOT: _Kinds = frozenset({ev.TaskEnqueued, ev.TaskStarted, ev.TaskSucceeded})

_log = logging.getLogger("omniq.worker")


def untold() -> _Kinds:
    """Return the kinds of events of which nothing is logged just now: nearly all that come."""
    return _NEVER if _log.isEnabledFor(logging.DEBUG) else _USUALLY_NOT


def tell(event: ev.Event, at: int, worker: str, tasks: Mapping[str, TaskRecord]) -> None:
    """Log what happened at this time, if it happened to this worker or to an attempt of its."""
    if getattr(event, "worker", None) != worker:
        return
    if isinstance(event, ev.WorkerLost):
        _log.warning(
            "worker %s was taken for dead: %s. It goes on under another name",
            worker,
            printable(event.reason),
            extra={"action": "worker_taken_for_dead", "worker": worker},
        )
        return
    told = _OF_ATTEMPTS.get(type(event))
    if told is not None:
        level, words = told
        _say(level, event, words(event, at), tasks)


def tell_loss(events: Sequence[ev.Event]) -> None:
    """Log that this process found a worker dead, and what became of its tasks."""
    for event in events:
        if isinstance(event, ev.WorkerLost):
            again = sum(isinstance(other, ev.TaskRetried) for other in events)
            failed = sum(isinstance(other, ev.TaskFailed) for other in events)
            _log.warning(
                "worker %s is dead: %s. Of its tasks %d run again, and %d had no attempt left",
                printable(event.worker),
                printable(event.reason),
                again,
                failed,
                extra={"action": "worker_lost", "worker": event.worker, "tasks": again + failed},
            )


def tell_not_run(name: str, why_missing: str | None) -> None:
    """Log that tasks of this name are due and left alone: for want of the function, or of trust."""
    reason = why_missing or (
        f"tasks {name!r} have pickled arguments, which could run any code. "
        'Next: if you trust who wrote them, set serializer="cloudpickle" here too'
    )
    fields = {"action": "task_not_runnable", "task_name": name}
    _log.warning("left alone: %s", reason, extra=fields)


def _say(level: int, event: Any, words: str, tasks: Mapping[str, TaskRecord]) -> None:
    task = tasks.get(event.task_id)
    name = "?" if task is None else task.spec.name
    said = printable(f"attempt {event.attempt} at task {event.task_id} ({name}) {words}")
    frames = _frames(event.error) if isinstance(event, ev.TaskFailed) else ""
    fields = {
        "action": ev.kind_of(event).replace(".", "_"),
        "task_id": event.task_id,
        "task_name": name,
        "attempt": event.attempt,
        "worker": event.worker,
    }
    _log.log(level, "%s%s", said, frames, extra=fields)


def _wait(event: ev.TaskRetried, at: int) -> str:
    return f"{max(0, event.retry_at - at) / 1_000_000:.3g} s"


def _words(error: ev.ErrorRecord) -> str:
    return f"{error.error_type}: {error.message}".removesuffix(": ")


def _frames(error: ev.ErrorRecord) -> str:
    """Return the traceback, on lines of its own, if it says more than the error itself."""
    has_frames = 'File "' in error.traceback
    return f"\n{printable(error.traceback.rstrip(), but='\n')}" if has_frames else ""


# What to say of an attempt, and how loud. Its beginning and success are told at DEBUG alone.
_OF_ATTEMPTS: dict[type[ev.JournalEvent], tuple[int, Callable[[Any, int], str]]] = {
    ev.TaskStarted: (logging.DEBUG, lambda _, __: "begins"),
    ev.TaskSucceeded: (logging.DEBUG, lambda _, __: "succeeded"),
    ev.TaskReleased: (logging.INFO, lambda event, _: f"was given back: {event.reason}"),
    ev.TaskCancelled: (logging.INFO, lambda event, _: f"was cancelled: {event.reason}"),
    ev.TaskRetried: (
        logging.WARNING,
        lambda event, at: f"failed, and runs again in {_wait(event, at)}: {_words(event.error)}",
    ),
    ev.TaskFailed: (
        logging.ERROR,
        lambda event, _: f"failed, and was the last one: {_words(event.error)}",
    ),
    ev.TaskLate: (
        logging.WARNING,
        lambda event, _: f"ended too late, as {event.outcome}: it had lost its task",
    ),
}
