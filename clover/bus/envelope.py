"""Envelope version 1: the raw fields of an entry, what each may hold, and how headers become JSON.

What the fields of one kind of message mean together is told by `clover.bus.codec`. Whatever a field may not hold raises
`MessageRejectedError` with one line that names the field, the value and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, cast

import msgspec

from clover.errors import MessageRejectedError

VERSION = "1"
MAX_HEADER_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 64 << 20
MAX_ID_LENGTH = 128
#: Longest number, and longest trace context (W3C's has 55 characters), in a raw field.
MAX_NUMBER_LENGTH = 64
MAX_TRACE_LENGTH = 256

#: Names and values, alternating, as the server gives them.
RawFields = Sequence[bytes]

_VERSION = VERSION.encode()
_encode = msgspec.json.Encoder().encode


# --- entries


def interleaved(names: list[bytes], values: Sequence[str | bytes]) -> list[bytes]:
    """Return an entry: names and values, alternating."""
    entry: list[bytes] = []
    for name, value in zip(names, values, strict=True):
        entry += (name, value.encode() if isinstance(value, str) else value)
    return entry


def values_of(raw: RawFields, names: list[bytes]) -> list[bytes]:
    """Return the values of the fields of these names, in this order."""
    # Our own writers always use this order; anything else is sorted out by name.
    if raw[::2] == names:
        return list(raw[1::2])
    fields = dict(zip(raw[::2], raw[1::2], strict=True))
    return [field_of(fields, name) for name in names]


def field_of(fields: Mapping[bytes, bytes], name: bytes) -> bytes:
    """Return the value of a field that must be there."""
    try:
        return fields[name]
    except KeyError:
        present = ", ".join(sorted(field.decode(errors="replace")[:20] for field in fields)[:12])
        raise MessageRejectedError(
            f"field {name.decode()!r}: missing, expected beside {present or 'nothing'}"
        ) from None


def check_envelope(version: bytes, kind: bytes, expected: Collection[bytes], head: bytes, payload: bytes = b"") -> None:
    """Refuse another version, a type that is not among the expected ones, and what is too long."""
    if version != _VERSION:
        raise MessageRejectedError(f"field 'v': {_shown(version)}, expected {VERSION!r}")
    if kind not in expected:
        raise MessageRejectedError(f"field 't': {_shown(kind)}, expected {listed(expected)}")
    if len(head) > MAX_HEADER_BYTES:
        raise MessageRejectedError(f"field 'd': {len(head)} bytes, expected at most {MAX_HEADER_BYTES}")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageRejectedError(f"field 'p': {len(payload)} bytes, expected at most {MAX_PAYLOAD_BYTES}")


def listed(kinds: Collection[bytes]) -> str:
    """Return types for people: one as it is written, several as `one of ...`."""
    names = sorted(kind.decode() for kind in kinds)
    return repr(names[0]) if len(names) == 1 else f"one of {', '.join(names)}"


# --- headers


def encoded_header(header: msgspec.Struct) -> bytes:
    """Return a header as JSON; refuses numbers that JSON cannot carry, and what is too long."""
    try:
        encoded = _encode(header)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MessageRejectedError(f"{type(header).__name__} cannot be written as JSON: {error}") from error
    # Non-finite numbers come out as null, so that only messages with a null need to be searched for them.
    if b"null" in encoded:
        _refuse_non_finite(header, "")
    if len(encoded) > MAX_HEADER_BYTES:
        raise MessageRejectedError(
            f"header of {type(header).__name__}: {len(encoded)} bytes, expected at most {MAX_HEADER_BYTES}"
        )
    return encoded


def rejected(kind: str, error: Exception) -> MessageRejectedError:
    """Return the refusal of a header that could not be decoded."""
    return MessageRejectedError(f"field 'd': {error}, expected a header of type {kind!r} in UTF-8")


def _refuse_non_finite(value: Any, path: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise MessageRejectedError(f"field {path!r}: {value}, expected a finite number")
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _refuse_non_finite(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            _refuse_non_finite(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(cast("Sequence[Any]", value)):
            _refuse_non_finite(item, f"{path}[{index}]")


# --- single fields


def checked_id(text: str) -> str:
    """Return the id of a request, if it is one."""
    if not text.isascii() or not text.isprintable() or not 0 < len(text) <= MAX_ID_LENGTH:
        raise MessageRejectedError(
            f"field 'id': {text[:80]!r}, expected 1 to {MAX_ID_LENGTH} printable ASCII characters"
        )
    return text


def checked_trace(text: str) -> str:
    """Return a trace context, if it may be one; empty is none."""
    if text and (not text.isascii() or len(text) > MAX_TRACE_LENGTH):
        raise MessageRejectedError(f"field 'tp': {text[:80]!r}, expected at most {MAX_TRACE_LENGTH} ASCII characters")
    return text


def checked_payload(payload: bytes) -> bytes:
    """Return a payload, if it is not too long."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageRejectedError(f"field 'p': {len(payload)} bytes, expected at most {MAX_PAYLOAD_BYTES}")
    return payload


def number_text(field: str, value: float) -> str:
    """Return a finite number as it stands in a raw field."""
    if not math.isfinite(value):
        raise MessageRejectedError(f"field {field!r}: {value}, expected a finite number")
    return repr(value)


def parsed_number(field: str, text: bytes) -> float:
    """Return the finite number of a raw field."""
    try:
        # Measured before it is read: a number of megabytes would keep the reader busy.
        value = float(text) if len(text) <= MAX_NUMBER_LENGTH else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise MessageRejectedError(f"field {field!r}: {_shown(text)}, expected a finite number")
    return value


def parsed_priority(text: bytes) -> Literal["normal", "high"]:
    """Return the priority of a request."""
    if text == b"normal":
        return "normal"
    if text == b"high":
        return "high"
    raise MessageRejectedError(f"field 'prio': {_shown(text)}, expected 'normal' or 'high'")


def parsed_epoch(text: bytes) -> int:
    """Return the epoch of a plan or target."""
    if not text.isdigit() or len(text) > 18:
        raise MessageRejectedError(f"field 'epoch': {_shown(text)}, expected a whole number")
    return int(text)


def _shown(value: bytes) -> str:
    return repr(value[:80].decode(errors="backslashreplace"))
