"""Every error that OmniQ raises, in one tree, arranged by what the caller can do about it.

    OmniqError
    ├── ConfigError          fix a setting or an argument of the set-up
    ├── Refused              the call was not accepted; nothing was written
    │   ├── SerializationError   change the value, or the type annotation
    │   ├── PayloadTooLarge      store the data elsewhere and pass a reference
    │   ├── TaskNotAllowed       register the function, or allow its module
    │   ├── TaskNotFound         the id is unknown to this journal
    │   └── QueueFull            slow down, then try again
    ├── TaskFailed           the task ended in FAILED; `.error` says why
    ├── TaskCancelled        the task ended in CANCELLED
    └── StorageError         the journal could not be read or written
        ├── JournalConflict      someone else appended first (internal: decided anew)
        ├── CorruptJournal       the bytes are damaged; run the replay tool
        ├── IllegalEvent         an event that cannot follow; the journal was tampered with
        ├── UnsupportedFormat    not an OmniQ journal, or one from a newer version
        ├── StorageFull          no room on the disk; works again once there is
        └── StorageClosed        the storage was closed, or a failed sync ended it

Waiting too long raises the built-in `TimeoutError`. Messages name the thing, the values and the
next step; what a program may want to read is an attribute as well. What a journal says may be in
a message, and a message is printed: characters that could steer a terminal are escaped in it.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omniq.models import TaskError

__all__ = (
    "ConfigError",
    "CorruptJournal",
    "IllegalEvent",
    "JournalConflict",
    "OmniqError",
    "PayloadTooLarge",
    "QueueFull",
    "Refused",
    "SerializationError",
    "StorageClosed",
    "StorageError",
    "StorageFull",
    "TaskCancelled",
    "TaskFailed",
    "TaskNotAllowed",
    "TaskNotFound",
    "UnsupportedFormat",
    "printable",
)


class OmniqError(Exception):
    """The root of every error that OmniQ raises on purpose."""


class ConfigError(OmniqError, ValueError):
    """A setting or an argument of the set-up is wrong; the message names it and what is allowed."""


class Refused(OmniqError):
    """The call was not accepted, and nothing was written."""


class SerializationError(Refused, ValueError):
    """A value cannot be encoded, or what was stored does not fit the annotated type."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class PayloadTooLarge(SerializationError):
    """Encoded arguments or a result are larger than `Settings.max_payload_bytes`."""


class TaskNotAllowed(Refused):
    """The callable may not be used as a task here: not importable, not registered, not allowed."""


class TaskNotFound(Refused, LookupError):
    """No task with this id is known to the journal."""


class QueueFull(Refused):
    """More calls of this process wait to be written than its limit allows; try again later."""


class TaskFailed(OmniqError):
    """The task ended in FAILED. `.error` is the `TaskError` of its last attempt."""

    def __init__(self, task_id: str, error: TaskError) -> None:
        message = f"task {task_id} failed: {error.error_type}: {error.message}"
        super().__init__(printable(message, but="\n\t"))
        if error.traceback:
            traceback = printable(error.traceback.rstrip(), but="\n\t")
            self.add_note(f"In the worker:\n{traceback}")
        self.task_id = task_id
        self.error = error

    def __reduce__(self) -> tuple[type[TaskFailed], tuple[str, TaskError]]:
        return type(self), (self.task_id, self.error)


class TaskCancelled(OmniqError):
    """The task ended in CANCELLED.

    `.reason` is what its canceller gave, perhaps empty, or how its attempt ended if it was running
    and did not end by that.
    """

    def __init__(self, task_id: str, reason: str = "") -> None:
        message = f"task {task_id} was cancelled" + (f": {reason}" if reason else "")
        super().__init__(printable(message, but="\n\t"))
        self.task_id = task_id
        self.reason = reason

    def __reduce__(self) -> tuple[type[TaskCancelled], tuple[str, str]]:
        return type(self), (self.task_id, self.reason)


class StorageError(OmniqError):
    """The journal could not be read or written."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class JournalConflict(StorageError):
    """The journal had moved on before a compare-and-append; decide again on the newer state."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"the journal ends at sequence {found}, not at the expected {expected}")
        self.expected = expected
        self.found = found


class CorruptJournal(StorageError):
    """Bytes that were once durable do not verify. The journal was not opened and not touched.

    `segment` and `offset` say where, `sequence` which event should begin there, `last_sequence`
    which one is the last that is damaged, unless that is unknown (None), `expected` and `found`
    what was compared.
    """

    def __init__(
        self,
        journal: str,
        *,
        segment: str,
        offset: int,
        sequence: int,
        expected: str,
        found: str,
        last_sequence: int | None = None,
    ) -> None:
        until = "on" if last_sequence is None else f"to {last_sequence}"
        super().__init__(
            f"journal {journal} is damaged: {segment}, offset {offset}, from sequence {sequence} "
            f"{until}: expected {expected}, found {found}. Nothing was changed. "
            f"Next: python -m omniq.tools.replay verify {shlex.quote(journal)} says how much is "
            f"damaged, and python -m omniq.tools.replay recover {shlex.quote(journal)} TARGET "
            "makes a new journal of what is not"
        )
        self.journal = journal
        self.segment = segment
        self.offset = offset
        self.sequence = sequence
        self.last_sequence = last_sequence
        self.expected = expected
        self.found = found


class IllegalEvent(StorageError):
    """An event that the state before it does not allow: tampering, or a bug in OmniQ."""

    def __init__(self, task_id: str, kind: str, state: str) -> None:
        super().__init__(
            f"{kind} of task {task_id} cannot follow the state {state}. "
            "Next: python -m omniq.tools.replay verify JOURNAL"
        )
        self.task_id = task_id
        self.kind = kind
        self.state = state


class UnsupportedFormat(StorageError):
    """The path holds no OmniQ journal, or one that a newer version wrote. It was not touched."""


class StorageFull(StorageError):
    """There is no room on the disk. The journal is valid; appends work again once there is room."""


class StorageClosed(StorageError):
    """The storage was closed, or a failed sync ended this handle; open the journal again."""


def printable(text: str, *, but: str = "") -> str:
    """Return text in which what does not print is escaped, but for these characters."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in but else ascii(char)[1:-1] for char in text
    )
