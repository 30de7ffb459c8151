"""Values to bytes and back: arguments and results, checked on the way in, typed on the way out.

The safe codec is msgspec's msgpack: data only, and what comes out has the annotated type.
cloudpickle runs code when it is read, so it is used only where the settings of the writing and of
the reading side both say so; a payload names its codec, and cannot choose how it is read.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
import typing
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from itertools import chain, repeat
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeIs, cast

import msgspec

if sys.version_info >= (3, 14):
    import annotationlib

from omniq.errors import ConfigError, PayloadTooLarge, SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from omniq.config import Serializer
    from omniq.core.events import Codec

__all__ = ("Arguments", "Call", "Codecs", "Signature", "convert")

type Call = tuple[Any, ...] | Mapping[str, Any]  # of several calls: by position, or by name
type Arguments = tuple[list[object], dict[str, object]]
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what msgspec raises
_UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError, UnicodeError)
_NOT_THERE = (NameError, AttributeError)  # of a name in an annotation, with or without a dot
_PLAIN = (str, int, float, bool, bytes, type(None))


class Signature:
    """The parameters of a task's function: which calls fit, and which types they are read as.

    Types are looked up when they are first needed, as they may be defined below the function.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self.name = f"{function.__module__}:{function.__qualname__}"
        self._function = function
        self._signature = _signature_of(function)
        parameters = self._signature.parameters.values()
        self._positional = [
            p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        self._required = sum(
            1
            for p in parameters
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        )
        self._rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self._extra = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        self._needs_keywords = any(
            p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters
        )

    @cached_property
    def _types(self) -> dict[str, Any]:
        """The annotated types, by parameter; without one, a value is taken as it was read."""
        return _types_of(self._function)

    @cached_property
    def _plain_calls(self) -> dict[int, list[Any]]:
        """The types of positional arguments that need no look, by their number."""
        kinds: list[Any] = [self._types.get(name, Any) for name in self._positional]
        calls = [kinds[:count] for count in range(self._required, len(kinds) + 1)]
        if self._needs_keywords:
            return {}
        return {len(call): call for call in calls if all(kind in _PLAIN for kind in call)}

    @cached_property
    def returns(self) -> Any:
        """The annotated type of what the function returns."""
        return self._types.get("return", Any)

    def takes_plainly(self, args: Sequence[object]) -> bool:
        """Whether a call fits with these arguments alone, which are read just as they are written.

        So it is if each is plain data of exactly the annotated type. Most calls are like that,
        and it takes a tenth of the time of checking and converting each argument.
        """
        return [type(value) for value in args] == self._plain_calls.get(len(args))

    def takes_all_plainly(self, calls: Sequence[Call]) -> TypeIs[Sequence[tuple[Any, ...]]]:
        """Whether several calls fit like that, found by looking at each parameter's values."""
        if {*map(type, calls)} != {tuple}:
            return False
        try:
            columns = list(zip(*calls, strict=True))
        except ValueError:  # they are of different lengths
            return False
        kinds = self._plain_calls.get(len(columns))
        return kinds is not None and all(
            {*map(type, values)} == {kind} for kind, values in zip(kinds, columns, strict=True)
        )

    def check(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Raise `SerializationError` if the function cannot be called like this."""
        fits = not kwargs and not self._needs_keywords and self._required <= len(args)
        if fits and len(args) <= len(self._positional):
            return  # the common case, at a tenth of the cost of binding
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise SerializationError(
                f"{self.name}{self._signature} cannot be called like this: {error}"
            ) from None

    def named(
        self, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> list[tuple[str, object]]:
        """Return the arguments with the names of their parameters."""
        pairs = [(self._name_of(index), value) for index, value in enumerate(args)]
        return [*pairs, *kwargs.items()]

    def type_of(self, name: str) -> Any:
        """Return the annotated type of a parameter, or of `**kwargs` for a name they take."""
        if name not in self._signature.parameters and self._extra is not None:
            name = self._extra
        return self._types.get(name, Any)

    def convert(self, arguments: Arguments) -> Arguments:
        """Return arguments that were read, converted to the annotated types."""
        args, kwargs = arguments
        converted = [
            self._convert_one(self._name_of(index), value) for index, value in enumerate(args)
        ]
        return converted, {name: self._convert_one(name, value) for name, value in kwargs.items()}

    def _name_of(self, index: int) -> str:
        if index < len(self._positional):
            return self._positional[index]
        return self._rest or f"argument {index + 1}"

    def _convert_one(self, name: str, value: object) -> object:
        kind = self.type_of(name)
        if kind is Any or type(value) is kind:
            return value
        return convert(value, kind, f"argument {name!r} of {self.name}")


class Codecs:
    """Encodes and decodes under one set of settings."""

    def __init__(self, serializer: Serializer, max_payload_bytes: int) -> None:
        self.codec: Codec = serializer
        self.limit = max_payload_bytes

    def encode_arguments(
        self, signature: Signature | None, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> bytes:
        """Return the arguments of a call as bytes; raises `SerializationError` naming the culprit.

        With a signature they are checked against it, as the worker will read them.
        """
        is_plain = signature is not None and not kwargs and signature.takes_plainly(args)
        if signature is not None and not is_plain:
            signature.check(args, kwargs)
        if self.codec == "cloudpickle":
            payload = _pickle((args, kwargs), f"the arguments of {_name(signature)}")
        else:
            try:
                payload = _encoder.encode((args, kwargs))
            except _UNENCODABLE:
                _name_culprit(signature, args, kwargs)
                raise  # it is none of the arguments by itself
            if not is_plain:
                _check_each(signature, args, kwargs, payload)
        if len(payload) > self.limit:
            raise self._too_large(payload, f"the arguments of {_name(signature)}")
        return payload

    def encode_calls(self, signature: Signature | None, calls: Sequence[Call]) -> list[bytes]:
        """Return the arguments of several calls as bytes, as `encode_arguments` does."""
        is_safe = self.codec == "msgpack"
        if signature is None or not is_safe or not signature.takes_all_plainly(calls):
            return [self.encode_arguments(signature, *_as_call(call)) for call in calls]
        no_names = dict[str, object]()
        try:
            payloads = list(map(_encoder.encode, zip(calls, repeat(no_names), strict=False)))
        except _UNENCODABLE:
            return [self.encode_arguments(signature, args, {}) for args in calls]  # says which
        for payload in payloads:
            if len(payload) > self.limit:
                raise self._too_large(payload, f"the arguments of {signature.name}")
        return payloads

    def decode_arguments(self, signature: Signature, payload: bytes, codec: Codec) -> Arguments:
        """Return the arguments of a call, of the annotated types."""
        if len(payload) > self.limit:
            raise self._too_large(payload, f"the stored arguments of {signature.name}")
        if codec == "cloudpickle":
            args, kwargs = self._unpickle(payload, f"the stored arguments of {signature.name}")
            return list(args), dict(kwargs)
        try:
            args, kwargs = arguments = _arguments_decoder.decode(payload)
        except _UNREADABLE as error:
            what = f"the stored arguments of {signature.name}"
            raise SerializationError(f"{what} cannot be read: {error}") from None
        if not kwargs and signature.takes_plainly(args):
            return arguments
        return signature.convert(arguments)

    def encode_result(self, value: object, name: str) -> bytes:
        """Return what a task returned as bytes."""
        what = f"the result of {name}"
        if self.codec == "cloudpickle":
            payload = _pickle(value, what)
        elif value is None:
            return _NONE
        else:
            _refuse_naive_datetimes(value, what)
            payload = _encode(value, what)
        if len(payload) > self.limit:
            raise self._too_large(payload, what)
        return payload

    def decode_result(self, payload: bytes, codec: Codec, kind: Any, name: str) -> object:
        """Return what a task returned, of type `kind`."""
        what = f"the result of {name}"
        if len(payload) > self.limit:
            raise self._too_large(payload, what)
        if codec == "cloudpickle":
            return self._unpickle(payload, what)
        try:
            value = _decoder.decode(payload)
        except _UNREADABLE as error:
            raise SerializationError(f"{what} cannot be read: {error}") from None
        return value if kind is Any or type(value) is kind else convert(value, kind, what)

    @property
    def readable(self) -> frozenset[Codec]:
        """The codecs whose payloads are read here at all."""
        return frozenset(("msgpack", self.codec))

    def _too_large(self, payload: bytes, what: str) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"{what} are {len(payload)} bytes, more than max_payload_bytes={self.limit}. "
            "Next: store the data elsewhere and pass a reference, or raise the setting"
        )

    def _unpickle(self, payload: bytes, what: str) -> Any:
        if self.codec != "cloudpickle":
            raise SerializationError(
                f"{what} are pickled, and reading them could run any code; it was not done. "
                'Next: if you trust who wrote this journal, set serializer="cloudpickle" here too'
            )
        import pickle  # noqa: PLC0415 - only for those who opted in

        try:
            return pickle.loads(payload)  # noqa: S301 - the settings of this side say so
        except Exception as error:
            raise SerializationError(f"{what} cannot be unpickled: {error}") from error


def convert(value: object, kind: Any, what: str) -> object:
    """Return a value that was read as an instance of `kind`; raises `SerializationError`."""
    try:
        return msgspec.convert(value, kind, dec_hook=_decode_hook)
    except msgspec.ValidationError as error:
        raise SerializationError(f"{what}: {error}, for {value!r:.100}") from None
    except (TypeError, RecursionError) as error:
        if "is not supported" in str(error) or "unsupported" in str(error):
            return value  # an annotation that msgspec does not know: the value as it was read
        raise SerializationError(f"{what}: {error}") from None


def _as_call(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(call, Mapping):
        return (), dict(call)
    if isinstance(call, tuple | list):
        return tuple(call), {}
    raise ConfigError(
        "each call must be a tuple of arguments or a mapping of keyword arguments, "
        f"not {call!r:.80}"
    )


def _name_culprit(
    signature: Signature | None, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """Raise `SerializationError` for the first argument that cannot be encoded, if it is one."""
    for where, value in _named(signature, args, kwargs):
        _encode(value, f"argument {where!r} of {_name(signature)}")


def _check_each(
    signature: Signature | None,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    payload: bytes,
) -> None:
    """Raise `SerializationError` for an argument that will not be read as it is annotated."""
    for where, value in _named(signature, args, kwargs):
        if type(value) not in _PLAIN:
            _refuse_naive_datetimes(value, f"argument {where!r} of {_name(signature)}")
    if signature is not None:
        signature.convert(_arguments_decoder.decode(payload))


def _name(signature: Signature | None) -> str:
    return "the task" if signature is None else signature.name


def _named(
    signature: Signature | None, args: tuple[object, ...], kwargs: dict[str, object]
) -> list[tuple[str, object]]:
    if signature is not None:
        return signature.named(args, kwargs)
    return [*((f"{index + 1}", value) for index, value in enumerate(args)), *kwargs.items()]


def _encode(value: object, what: str) -> bytes:
    try:
        return _encoder.encode(value)
    except _UNENCODABLE as error:
        raise SerializationError(
            f"{what} cannot be encoded: {error}. Next: pass plain data, dataclasses or "
            'msgspec.Struct, or opt in to serializer="cloudpickle"'
        ) from None


def _pickle(value: object, what: str) -> bytes:
    cloudpickle: Any = importlib.import_module("cloudpickle")  # only for those who opted in
    try:
        pickled: bytes = cloudpickle.dumps(value)
    except Exception as error:
        raise SerializationError(f"{what} cannot be pickled: {error}") from error
    return pickled


def _refuse_naive_datetimes(value: object, what: str) -> None:
    """Raise `SerializationError` for a datetime without a time zone anywhere in `value`."""
    if type(value) in _PLAIN:
        return
    if isinstance(value, datetime) and value.tzinfo is None:
        raise SerializationError(
            f"{what} holds a naive datetime ({value.isoformat()}), which means another moment "
            "on another machine. Next: give it a time zone, such as datetime.now(UTC)"
        )
    for item in _parts_of(value):
        _refuse_naive_datetimes(item, what)


def _parts_of(value: Any) -> Iterable[object]:
    """Return the items of a collection, or the fields of a dataclass, Struct or attrs object."""
    if isinstance(value, dict):
        return chain.from_iterable(cast("dict[object, object]", value).items())
    if isinstance(value, list | tuple | set | frozenset):
        return cast("Iterable[object]", value)
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    elif dataclasses.is_dataclass(value):
        names = tuple(field.name for field in dataclasses.fields(value))
    else:
        names = tuple(field.name for field in getattr(cast("object", value), "__attrs_attrs__", ()))
    return [getattr(value, name) for name in names]


def _signature_of(function: Callable[..., object]) -> inspect.Signature:
    """Return the parameters, whether or not the names in their annotations are there by now."""
    if sys.version_info >= (3, 14):
        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _types_of(function: Callable[..., object]) -> dict[str, Any]:
    """Return the annotated types, but for those whose names are not there.

    Such are imports that only type checkers see, and classes within another function.
    """
    with suppress(*_NOT_THERE):
        return typing.get_type_hints(function, include_extras=True)
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    found: dict[str, Any] = {}
    for name, annotation in _annotations_of(function).items():

        def one() -> None: ...

        one.__annotations__ = {name: annotation}
        with suppress(*_NOT_THERE):
            found |= typing.get_type_hints(one, scope, include_extras=True)
    return found


def _annotations_of(function: Callable[..., object]) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        return annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(function)


def _encode_hook(value: object) -> object:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} is not plain data")


def _decode_hook(kind: type, value: object) -> object:
    if not isinstance(kind, type):
        return value  # an annotation such as Iterable[str]: the value as it was read
    if issubclass(kind, PurePath) and isinstance(value, str):
        return kind(value)
    if isinstance(value, kind):
        return value
    raise TypeError(f"type {kind!r} is not supported")


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_hook)
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()
_arguments_decoder: msgspec.msgpack.Decoder[Arguments] = msgspec.msgpack.Decoder(
    tuple[list[Any], dict[str, Any]]
)
_NONE = _encoder.encode(None)
