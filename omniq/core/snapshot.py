"""A projection as bytes, and back: what a snapshot holds.

`Capture` takes hold of a state at once, by shallow copies of its indexes. The records in them are
immutable, so the bytes can be made later, part by part, while the live state goes on. A copy of
the values alone takes 15 ms for a million tasks, where one of the dictionary takes 100. `restore`
makes the projection again. It cannot be told from a fold of the journal up to the same event: the
same tasks, in the same line, under the same workers.

A snapshot is a cache of one version of OmniQ: where `VERSION` is another one, it is as good as
none, so these structs may change freely as long as the version does, too.
"""

from __future__ import annotations

from itertools import batched
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from omniq.core.events import ErrorRecord
from omniq.core.projection import Projection
from omniq.core.task import NO_RUN, Run, TaskRecord, TaskSpec, WorkerRecord
from omniq.core.transitions import TaskStatus
from omniq.errors import UnsupportedFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ("Capture", "restore")

VERSION: Final = 1
TASKS_A_PART = 500  # about a millisecond of work
PLACES_A_PART = 5000
SHARES = 64  # one dictionary of a million would be made anew, all at once, as it grows


type _Place = Annotated[int, msgspec.Meta(ge=0)]


class _Frame(msgspec.Struct, frozen=True, array_like=True, tag="frame"):
    """The first part: what is not about single tasks."""

    version: Literal[1]
    seq: int
    at: int
    workers: list[WorkerRecord]
    heard: dict[str, int]
    paused: list[str]
    series: dict[str, str]
    running: dict[str, list[str]]


class _Task(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A task's record; `spec` counts through the specs of all parts up to here."""

    id: str
    spec: _Place
    payload: bytes
    created_at: int
    due_at: int
    status: TaskStatus
    attempt: int
    run: Run | None
    error: ErrorRecord | None
    result: bytes | None


class _Tasks(msgspec.Struct, frozen=True, array_like=True, tag="tasks"):
    """Some tasks, in the order in which they were enqueued, and the specs that are new in them."""

    specs: list[TaskSpec]
    tasks: list[_Task]


class _Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """Some tasks that stand in line, by their numbers among all tasks, in the line's order."""

    places: list[_Place]


class _Later(msgspec.Struct, frozen=True, array_like=True, tag="later"):
    """Some tasks that are not due yet, each with its rank among those due at the same time."""

    places: list[tuple[_Place, int]]


_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[_Frame | _Tasks | _Ready | _Later] = msgspec.msgpack.Decoder(
    _Frame | _Tasks | _Ready | _Later
)


class Capture:
    """A state as it was when this was made, whatever becomes of the projection afterwards."""

    def __init__(self, state: Projection) -> None:
        self.seq = state.seq
        self._tasks = tuple(state.tasks.values())
        self._ready, self._later = state.waiting.copy()
        self._frame = _Frame(
            version=VERSION,
            seq=state.seq,
            at=state.at,
            workers=list(state.workers.values()),
            heard=state.heard.copy(),
            paused=sorted(state.paused),
            series=state.series.copy(),
            running={worker: list(held) for worker, held in state.running.items()},
        )

    def parts(self) -> Iterator[bytes]:
        """Yield the state as bytes, at most a few milliseconds' work at a time."""
        yield _encode(self._frame)
        specs: dict[TaskSpec, int] = {}
        places = _Places(self._tasks)
        count = 0
        for records in batched(self._tasks, TASKS_A_PART, strict=False):
            known = len(specs)
            rows = [_row(record, specs.setdefault(record.spec, len(specs))) for record in records]
            yield _encode(_Tasks(list(specs)[known:], rows))
            for place, record in enumerate(records, count):
                if record.is_waiting:
                    places.put(record.id, place)
            count += len(records)
        for records in batched(self._ready, PLACES_A_PART, strict=False):
            found = map(places.take, records)
            yield _encode(_Ready([place for place in found if place is not None]))
        for entries in batched(self._later, PLACES_A_PART, strict=False):
            ranked = [(places.take(task), rank) for _, rank, task in entries]
            yield _encode(_Later([(place, rank) for place, rank in ranked if place is not None]))


class _Places:
    """Which of all tasks the waiting ones are, until each was asked for."""

    def __init__(self, tasks: tuple[TaskRecord, ...]) -> None:
        self._tasks = tasks
        self._shares: list[dict[str, int]] = [{} for _ in range(SHARES)]

    def put(self, task_id: str, place: int) -> None:
        self._shares[hash(task_id) % SHARES][task_id] = place

    def take(self, task: TaskRecord) -> int | None:
        """Return a task's place; None for an entry whose record was replaced, which is void."""
        share = self._shares[hash(task.id) % SHARES]
        place = share.get(task.id)
        if place is None or self._tasks[place] is not task:
            return None
        del share[task.id]  # a little at a time, not all at the end
        return place


def restore(parts: Iterable[bytes]) -> Iterator[Projection]:
    """Yield the projection as it grows, after each part; the last one is whole.

    Raises `UnsupportedFormat` for parts of another version, or of nobody's making. That they are
    what was written, all of it, the caller has verified.
    """
    try:
        yield from _grow(parts)
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, RecursionError) as error:
        raise UnsupportedFormat(
            f"the parts of a snapshot cannot be read ({error}); another version of OmniQ may have "
            "written them"
        ) from None


def _grow(parts: Iterable[bytes]) -> Iterator[Projection]:
    state = Projection()
    specs: list[TaskSpec] = []
    tasks: list[tuple[TaskRecord, ...]] = []  # all parts but the last have the same number

    def at(place: int) -> TaskRecord:
        return tasks[place // TASKS_A_PART][place % TASKS_A_PART]

    for part in parts:
        match _decoder.decode(part):
            case _Frame() as frame:
                state.seq, state.at = frame.seq, frame.at
                state.workers = {worker.id: worker for worker in frame.workers}
                state.heard, state.series = frame.heard, frame.series
                state.paused = set(frame.paused)
                state.running.update(
                    (worker, dict.fromkeys(held)) for worker, held in frame.running.items()
                )
            case _Tasks() as some:
                specs.extend(map(state.share, some.specs))
                tasks.append(tuple([_record(row, specs[row.spec]) for row in some.tasks]))
                for task in tasks[-1]:
                    state.put_back(task)
            case _Ready(places):
                for place in places:
                    state.waiting.put_back(at(place))
            case _Later(places):
                for place, rank in places:
                    state.waiting.put_back_later(at(place), rank)
        yield state


def _row(task: TaskRecord, spec: int) -> _Task:
    run = None if task.run is NO_RUN else task.run
    return _Task(
        task.id,
        spec,
        task.payload,
        task.created_at,
        task.due_at,
        task.status,
        task.attempt,
        run,
        task.error,
        task.result,
    )


def _record(row: _Task, spec: TaskSpec) -> TaskRecord:
    return TaskRecord(
        row.id,
        spec,
        row.payload,
        row.created_at,
        row.due_at,
        row.status,
        row.attempt,
        row.run or NO_RUN,
        row.error,
        row.result,
    )
