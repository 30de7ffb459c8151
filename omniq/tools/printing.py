"""How the tools show things: for people in aligned columns, for programs as JSON.

A journal is input, perhaps from elsewhere: nothing in it may steer a terminal, so whatever does
not print is replaced. Payloads are shown if they are msgpack, and never unpickled.
"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import msgspec

from omniq.core.events import ErrorRecord, kind_of
from omniq.core.retry import RetryRule
from omniq.host import open_private, sync_file
from omniq.models import FIRST_US, LAST_US, to_datetime
from omniq.tools.naming import check_free, give_name, temporary_name

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from omniq.core.events import Codec, Commit, Event

__all__ = (
    "ErrorView",
    "EventView",
    "Output",
    "PayloadView",
    "clean",
    "clean_lines",
    "columns",
    "event_lines",
    "iso",
    "new_file",
    "show_bytes",
    "show_duration",
    "show_time",
    "view_event",
    "view_payload",
)

MAX_PAYLOAD_TEXT = 200  # characters of a decoded payload that are shown
MAX_DECODED_BYTES = 64 * 1024  # a longer payload is not decoded only to show its beginning
MAX_FIELD_TEXT = 120  # characters of any one field in a line for people
SECOND = 1_000_000

_UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
_NOT_ASCII = re.compile(r"[^\x00-\x7e]")


class PayloadView(msgspec.Struct, frozen=True):
    """A payload as it may be shown: `text` is JSON, cut after some characters, or null."""

    codec: str
    bytes: int
    text: str | None


class ErrorView(msgspec.Struct, frozen=True):
    """Why an attempt failed, with the names of the fields."""

    error_type: str
    message: str
    traceback: str
    retryable: bool

    @classmethod
    def of(cls, error: ErrorRecord) -> ErrorView:
        """Return an error as it may be shown."""
        return cls(error.error_type, error.message, error.traceback, error.retryable)


class EventView(msgspec.Struct, frozen=True):
    """One event as it may be shown; `data` holds the fields of its kind, by name."""

    seq: int
    at: str | None
    kind: str
    actor: str
    data: dict[str, object]


class Output:
    """Standard output. After the reader went away (`| head`) it swallows the rest quietly."""

    def __init__(self, *, as_json: bool) -> None:
        self.stream: TextIO = sys.stdout
        reconfigure = getattr(self.stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no error
        self.as_json = as_json
        self.is_terminal = self.stream.isatty()
        self.is_closed = False

    def line(self, text: str = "") -> None:
        """Print a line."""
        if not self.is_closed:
            try:
                self.stream.write(f"{text}\n")
            except BrokenPipeError:
                self._close()

    def lines(self, texts: Iterable[str]) -> None:
        """Print lines."""
        for text in texts:
            self.line(text)

    def json(self, value: msgspec.Struct) -> None:
        """Print a value as one line of JSON."""
        text = msgspec.json.encode(value).decode()
        # Not every terminal takes only ASCII for commands: U+009B begins one, too.
        self.line(_NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text))

    def show[T: msgspec.Struct](self, value: T, lines_of: Callable[[T], Iterable[str]]) -> None:
        """Print a value for programs, or as lines for people."""
        if self.as_json:
            self.json(value)
        else:
            self.lines(lines_of(value))

    @contextmanager
    def to_file(self, path: str | None) -> Generator[None]:
        """Print to a new file inside the block, if one is named; it appears when it is whole."""
        if path is None:
            yield
            return
        before = self.stream
        with new_file(Path(path)) as file:
            self.stream = file
            try:
                yield
            finally:
                self.stream = before

    def flush(self) -> None:
        """See that everything arrived."""
        if not self.is_closed:
            try:
                self.stream.flush()
            except BrokenPipeError:
                self._close()

    def _close(self) -> None:
        self.is_closed = True
        # What is still buffered would fail once more when the interpreter flushes it.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


# Text.


def clean(text: str) -> str:
    """Return text that a terminal shows and does not obey."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else " " if char.isspace() else _UNPRINTABLE for char in text
    )


def clean_lines(text: str) -> list[str]:
    """Return the lines of a text, each as `clean` has it."""
    return [clean(line) for line in text.expandtabs(4).split("\n")]


def columns(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Return one line for each row, with the cells aligned; `right` names columns of numbers."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    numbers = frozenset(right)
    return [
        "  ".join(
            cell.rjust(widths[index]) if index in numbers else cell.ljust(widths[index])
            for index, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]


def iso(at_us: int) -> str | None:
    """Return a stored time as ISO 8601 in UTC, None for 0, which stands for no time."""
    if not at_us:
        return None
    if not FIRST_US <= at_us <= LAST_US:
        return f"{at_us} us"  # beyond the years 1 to 9999
    return to_datetime(at_us).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def show_time(at_us: int) -> str:
    """Return a stored time for people, in UTC."""
    text = iso(at_us)
    return "-" if text is None else text.replace("T", " ").removesuffix("Z")


def show_duration(us: int) -> str:
    """Return a duration for people, in the unit that fits, such as `1.2 ms`."""
    sign, us = ("-", -us) if us < 0 else ("", us)
    if us < 1000:  # noqa: PLR2004 - microseconds in a millisecond
        return f"{sign}{us} µs"
    if us < SECOND:
        return f"{sign}{us / 1000:.1f} ms"
    if us < 60 * SECOND:
        return f"{sign}{us / SECOND:.1f} s"
    minutes, seconds = divmod(us // SECOND, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{sign}{days} d {hours} h"
    return f"{sign}{hours} h {minutes} min" if hours else f"{sign}{minutes} min {seconds} s"


def show_bytes(count: int) -> str:
    """Return a size for people, such as `1.5 MiB`."""
    if count < 1024:  # noqa: PLR2004 - bytes in a KiB
        return f"{count} bytes"
    size, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if size < 1024:  # noqa: PLR2004 - as above
            break
        size, unit = size / 1024, larger
    return f"{size:.1f} {unit}"


# Events.


def view_payload(payload: bytes, codec: Codec) -> PayloadView:
    """Return a payload as it may be shown; only data is decoded, and only a bounded part shown."""
    text: str | None = None
    if codec == "msgpack" and len(payload) <= MAX_DECODED_BYTES:
        try:
            text = _text_of(msgspec.msgpack.decode(payload))
        except (msgspec.DecodeError, TypeError, ValueError, RecursionError):
            text = None  # it is shown by its size
    if text is not None and len(text) > MAX_PAYLOAD_TEXT:
        text = f"{text[: MAX_PAYLOAD_TEXT - 1]}…"
    return PayloadView(codec, len(payload), text)


def _text_of(value: object) -> str:
    """Return JSON, or Python's notation for what JSON cannot say."""
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError):
        return repr(value)


def view_event(seq: int, commit: Commit, event: Event) -> EventView:
    """Return an event as it may be shown."""
    fields = event.__struct_fields__
    codec: Codec = getattr(event, "codec", "msgpack")
    return EventView(
        seq,
        iso(commit.at),
        kind_of(event),
        commit.actor,
        {name: _view(name, getattr(event, name), codec) for name in fields if name != "codec"},
    )


def _view(name: str, value: object, codec: Codec) -> object:
    if isinstance(value, bytes):
        return view_payload(value, codec)
    if isinstance(value, ErrorRecord):
        return ErrorView.of(value)
    if isinstance(value, RetryRule):
        return msgspec.structs.asdict(value)
    if isinstance(value, int) and name.endswith(("_at", "_until")):
        return iso(value)
    return value


@contextmanager
def new_file(path: Path) -> Generator[TextIO]:
    """Open a file that has its name, for its owner alone, once the block has ended well."""
    check_free(path)
    hidden = temporary_name(path, "tmp")
    try:
        descriptor = open_private(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "w", encoding="ascii", newline="\n") as file:
            yield file
            file.flush()
            sync_file(descriptor)
        give_name(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)


def event_lines(view: EventView) -> list[str]:
    """Return an event as one line for people; what says nothing is left out."""
    data = dict(view.data)
    subject = next((name for name in ("task_id", "worker", "queue") if name in data), None)
    words = [] if subject is None else [_show(data.pop(subject))]
    words.extend(
        f"{name}={_show(value)}" for name, value in data.items() if value or value is False
    )
    at = "-" if view.at is None else view.at.replace("T", " ").removesuffix("Z")
    return [f"{view.seq:>10}  {at}  {view.kind:<21}  {' '.join(words)}  by {clean(view.actor)}"]


def _show(value: object) -> str:
    if isinstance(value, PayloadView):
        text = value.text
        if text is None:
            return f"<{show_bytes(value.bytes)} of {value.codec}>"
    elif isinstance(value, ErrorView):
        text = json.dumps(f"{value.error_type}: {value.message}", ensure_ascii=False)
    else:
        text = value if isinstance(value, str) else _text_of(value)
    text = clean(text)
    return text if len(text) <= MAX_FIELD_TEXT else f"{text[: MAX_FIELD_TEXT - 1]}…"
