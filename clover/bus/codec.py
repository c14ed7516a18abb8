"""Envelope version 1: how messages become fields of stream entries, and back, strictly.

Every entry has the fields `v` (version), `t` (type) and `d` (JSON header). Requests and replies are split further:
what scripts want to see stands in raw fields (`id`, and for requests `due`, `dl`, `rt`, `prio`, `acc`, `tp`), the
input or result in `p`, untouched. Whatever does not follow this raises `MessageRejectedError` with one line that
names the field, the value and what was expected; so does a number that JSON cannot carry (NaN, infinity), at
encoding already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import msgspec

from clover.bus.key_names import checked_name
from clover.bus.messages import MESSAGE_TYPES, Message, PlanRecord, Reply, Request, Target
from clover.core.outcome import Outcome
from clover.errors import MessageRejectedError

VERSION = "1"
MAX_HEADER_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 64 << 20
MAX_ID_LENGTH = 128
#: Longest number, and longest trace context (W3C's has 55 characters), in a raw field.
MAX_NUMBER_LENGTH = 64
MAX_TRACE_LENGTH = 256

M = TypeVar("M", bound=Message)

#: Field values of one encoded message, in the order in which the scripts take them.
RequestFields = tuple[str, str, str, str, str, str, str, bytes, bytes]
ReplyFields = tuple[str, bytes, bytes]
#: Names and values, alternating, as the server gives them.
RawFields = Sequence[bytes]


class _RequestHeader(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    application: str
    content_type: str = "application/octet-stream"


class _ReplyHeader(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    outcome: Outcome
    reason: str = ""
    node: str = ""
    gpu: int = -1
    profile: str = ""
    variant: str = ""
    accuracy_pct: float | None = None
    epoch: int = 0
    queue_ms: float = 0.0
    service_ms: float = 0.0
    energy_j: float | None = None
    energy_source: str = ""
    content_type: str = "application/octet-stream"
    traceparent: str = ""


_encode = msgspec.json.Encoder().encode
_decode_request_header = msgspec.json.Decoder(_RequestHeader).decode
_decode_reply_header = msgspec.json.Decoder(_ReplyHeader).decode
_TYPE_NAMES: dict[type[Message], str] = {cls: name for name, cls in MESSAGE_TYPES.items()}
_DECODERS: dict[bytes, msgspec.json.Decoder[Message]] = {
    name.encode(): msgspec.json.Decoder(cls)
    for name, cls in MESSAGE_TYPES.items()
    if cls is not Request and cls is not Reply
}
_REQUEST_NAMES = [b"v", b"t", b"id", b"due", b"dl", b"rt", b"prio", b"acc", b"tp", b"d", b"p"]
_REPLY_NAMES = [b"v", b"t", b"id", b"d", b"p"]
_VERSION = VERSION.encode()


# --- requests and replies -------------------------------------------------------------------------------------------


def encode_request(request: Request) -> RequestFields:
    """Return the values of id, due, dl, rt, prio, acc, tp, d and p."""
    accuracy = request.min_accuracy
    return (
        _checked_id(request.id),
        _number("due", request.due_ms),
        _number("dl", request.deadline_ms),
        checked_name("reply_to", request.reply_to),
        request.priority,
        "" if accuracy is None else _number("acc", accuracy),
        _trace(request.traceparent),
        _header(_RequestHeader(request.application, request.content_type)),
        _payload(request.payload),
    )


def decode_request(raw: RawFields) -> Request:
    """Return the request of an entry's raw fields."""
    try:
        version, kind, id_, due, deadline, reply_to, priority, accuracy, trace, head, payload = _values(
            raw, _REQUEST_NAMES
        )
        _check_envelope(version, kind, b"request", head, payload)
        header = _decode_request_header(head)
        return Request(
            id=_checked_id(id_.decode()),
            application=header.application,
            due_ms=_parsed("due", due),
            deadline_ms=_parsed("dl", deadline),
            reply_to=checked_name("rt", reply_to.decode()),
            priority=_priority(priority),
            min_accuracy=_parsed("acc", accuracy) if accuracy else None,
            traceparent=_trace(trace.decode()),
            content_type=header.content_type,
            payload=payload,
        )
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _rejected("request", error) from error


def encode_reply(reply: Reply) -> ReplyFields:
    """Return the values of id, d and p."""
    header = _ReplyHeader(
        reply.outcome,
        reply.reason,
        reply.node,
        reply.gpu,
        reply.profile,
        reply.variant,
        reply.accuracy_pct,
        reply.epoch,
        reply.queue_ms,
        reply.service_ms,
        reply.energy_j,
        reply.energy_source,
        reply.content_type,
        reply.traceparent,
    )
    return _checked_id(reply.id), _header(header), _payload(reply.payload)


def decode_reply(raw: RawFields) -> Reply:
    """Return the reply of an entry's raw fields."""
    try:
        version, kind, id_, head, payload = _values(raw, _REPLY_NAMES)
        _check_envelope(version, kind, b"reply", head, payload)
        header = _decode_reply_header(head)
        return Reply(
            id=_checked_id(id_.decode()),
            outcome=header.outcome,
            reason=header.reason,
            node=header.node,
            gpu=header.gpu,
            profile=header.profile,
            variant=header.variant,
            accuracy_pct=header.accuracy_pct,
            epoch=header.epoch,
            queue_ms=header.queue_ms,
            service_ms=header.service_ms,
            energy_j=header.energy_j,
            energy_source=header.energy_source,
            content_type=header.content_type,
            traceparent=header.traceparent,
            payload=payload,
        )
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _rejected("reply", error) from error


# --- all other messages ---------------------------------------------------------------------------------------------


def encode(message: Message) -> tuple[str, bytes]:
    """Return the values of t and d of any message but a request or reply."""
    name = _TYPE_NAMES.get(type(message))
    if name is None or isinstance(message, (Request, Reply)):
        raise MessageRejectedError(f"field 't': {type(message).__name__}, expected one of {_expected_types()}")
    return name, _header(message)


def type_name(message: Message) -> str:
    """Return what stands in the field `t` of a message."""
    return _TYPE_NAMES[type(message)]


def decode(raw: RawFields) -> Message:
    """Return the message of an entry's (or a hash's) raw fields; the field `epoch` overrides the one in the header."""
    fields = dict(zip(raw[::2], raw[1::2], strict=True))
    version, kind, head = (_field(fields, name) for name in (b"v", b"t", b"d"))
    decoder = _DECODERS.get(kind)
    _check_envelope(version, kind, kind if decoder else b"", head)
    try:
        message = cast("msgspec.json.Decoder[Message]", decoder).decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _rejected(kind.decode(), error) from error
    epoch = fields.get(b"epoch")
    if epoch is not None and isinstance(message, (Target, PlanRecord)):
        return msgspec.structs.replace(message, epoch=_epoch(epoch))
    return message


def decode_as(expected: type[M], raw: RawFields) -> M:
    """Return the message of raw fields that must be of one type."""
    message = decode(raw)
    if not isinstance(message, expected):
        raise MessageRejectedError(f"field 't': {_TYPE_NAMES[type(message)]!r}, expected {_TYPE_NAMES[expected]!r}")
    return message


def round_trip(message: M) -> M:
    """Return the message as a reader on the other side of the wire would see it."""
    if isinstance(message, Request):
        return cast("M", decode_request(request_entry(message)))
    if isinstance(message, Reply):
        return cast("M", decode_reply(reply_entry(message)))
    name, head = encode(message)
    return decode_as(type(message), [b"v", _VERSION, b"t", name.encode(), b"d", head])


def request_entry(request: Request) -> list[bytes]:
    """Return all fields of a request's entry, names and values alternating."""
    values = [VERSION, "request", *encode_request(request)]
    return _interleaved(_REQUEST_NAMES, values)


def reply_entry(reply: Reply) -> list[bytes]:
    """Return all fields of a reply's entry, names and values alternating."""
    return _interleaved(_REPLY_NAMES, [VERSION, "reply", *encode_reply(reply)])


def address_of(raw: RawFields) -> tuple[str, str] | None:
    """Return id and producer of a malformed request if these two can be read, so that it can be answered."""
    fields = dict(zip(raw[::2], raw[1::2], strict=False))
    try:
        return (
            _checked_id(_field(fields, b"id").decode()),
            checked_name("rt", _field(fields, b"rt").decode()),
        )
    except (MessageRejectedError, UnicodeDecodeError):
        return None


# --- pieces ---------------------------------------------------------------------------------------------------------


def _interleaved(names: list[bytes], values: Sequence[str | bytes]) -> list[bytes]:
    entry: list[bytes] = []
    for name, value in zip(names, values, strict=True):
        entry += (name, value.encode() if isinstance(value, str) else value)
    return entry


def _values(raw: RawFields, names: list[bytes]) -> list[bytes]:
    # Our own writers always use this order; anything else is sorted out by name.
    if raw[::2] == names:
        return list(raw[1::2])
    fields = dict(zip(raw[::2], raw[1::2], strict=True))
    return [_field(fields, name) for name in names]


def _field(fields: Mapping[bytes, bytes], name: bytes) -> bytes:
    try:
        return fields[name]
    except KeyError:
        present = ", ".join(sorted(field.decode(errors="replace")[:20] for field in fields)[:12])
        raise MessageRejectedError(
            f"field {name.decode()!r}: missing, expected beside {present or 'nothing'}"
        ) from None


def _check_envelope(version: bytes, kind: bytes, expected: bytes, head: bytes, payload: bytes = b"") -> None:
    if version != _VERSION:
        raise MessageRejectedError(f"field 'v': {_shown(version)}, expected {VERSION!r}")
    if kind != expected:
        wanted = repr(expected.decode()) if expected else f"one of {_expected_types()}"
        raise MessageRejectedError(f"field 't': {_shown(kind)}, expected {wanted}")
    if len(head) > MAX_HEADER_BYTES:
        raise MessageRejectedError(f"field 'd': {len(head)} bytes, expected at most {MAX_HEADER_BYTES}")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageRejectedError(f"field 'p': {len(payload)} bytes, expected at most {MAX_PAYLOAD_BYTES}")


def _header(header: msgspec.Struct) -> bytes:
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


def _checked_id(text: str) -> str:
    if not text.isascii() or not text.isprintable() or not 0 < len(text) <= MAX_ID_LENGTH:
        raise MessageRejectedError(
            f"field 'id': {text[:80]!r}, expected 1 to {MAX_ID_LENGTH} printable ASCII characters"
        )
    return text


def _trace(text: str) -> str:
    if text and (not text.isascii() or len(text) > MAX_TRACE_LENGTH):
        raise MessageRejectedError(f"field 'tp': {text[:80]!r}, expected at most {MAX_TRACE_LENGTH} ASCII characters")
    return text


def _payload(payload: bytes) -> bytes:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageRejectedError(f"field 'p': {len(payload)} bytes, expected at most {MAX_PAYLOAD_BYTES}")
    return payload


def _number(field: str, value: float) -> str:
    if not math.isfinite(value):
        raise MessageRejectedError(f"field {field!r}: {value}, expected a finite number")
    return repr(value)


def _parsed(field: str, text: bytes) -> float:
    try:
        # Measured before it is read: a number of megabytes would keep the reader busy.
        value = float(text) if len(text) <= MAX_NUMBER_LENGTH else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise MessageRejectedError(f"field {field!r}: {_shown(text)}, expected a finite number")
    return value


def _priority(text: bytes) -> Literal["normal", "high"]:
    if text == b"normal":
        return "normal"
    if text == b"high":
        return "high"
    raise MessageRejectedError(f"field 'prio': {_shown(text)}, expected 'normal' or 'high'")


def _epoch(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise MessageRejectedError(f"field 'epoch': {_shown(text)}, expected a whole number")
    return int(text)


def _shown(value: bytes) -> str:
    return repr(value[:80].decode(errors="backslashreplace"))


def _expected_types() -> str:
    return ", ".join(sorted(name.decode() for name in _DECODERS))


def _rejected(kind: str, error: Exception) -> MessageRejectedError:
    return MessageRejectedError(f"field 'd': {error}, expected a header of type {kind!r} in UTF-8")
