"""How messages become fields of stream entries, and back, strictly: envelope version 1 (`clover.bus.envelope`).

Every entry has the fields `v` (version), `t` (type) and `d` (JSON header). Requests and replies are split further:
what scripts want to see stands in raw fields (`id`, and for requests `due`, `dl`, `rt`, `prio`, `acc`, `tp`), the
input or result in `p`, untouched. Whatever does not follow this raises `MessageRejectedError` with one line that
names the field, the value and what was expected; so does a number that JSON cannot carry (NaN, infinity), at
encoding already.
"""

from __future__ import annotations

from typing import TypeVar, cast

import msgspec

from clover.bus.envelope import (
    VERSION,
    RawFields,
    check_envelope,
    checked_id,
    checked_payload,
    checked_trace,
    encoded_header,
    field_of,
    interleaved,
    listed,
    number_text,
    parsed_epoch,
    parsed_number,
    parsed_priority,
    rejected,
    values_of,
)
from clover.bus.key_names import checked_name
from clover.bus.messages import MESSAGE_TYPES, Message, PlanRecord, Reply, Request, Target
from clover.core.outcome import Outcome
from clover.errors import MessageRejectedError

M = TypeVar("M", bound=Message)

#: Field values of one encoded message, in the order in which the scripts take them.
RequestFields = tuple[str, str, str, str, str, str, str, bytes, bytes]
ReplyFields = tuple[str, bytes, bytes]


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
_REQUEST, _REPLY = (b"request",), (b"reply",)


# --- requests and replies -------------------------------------------------------------------------------------------


def encode_request(request: Request) -> RequestFields:
    """Return the values of id, due, dl, rt, prio, acc, tp, d and p."""
    accuracy = request.min_accuracy
    return (
        checked_id(request.id),
        number_text("due", request.due_ms),
        number_text("dl", request.deadline_ms),
        checked_name("reply_to", request.reply_to),
        request.priority,
        "" if accuracy is None else number_text("acc", accuracy),
        checked_trace(request.traceparent),
        encoded_header(_RequestHeader(request.application, request.content_type)),
        checked_payload(request.payload),
    )


def decode_request(raw: RawFields) -> Request:
    """Return the request of an entry's raw fields."""
    try:
        version, kind, id_, due, deadline, reply_to, priority, accuracy, trace, head, payload = values_of(
            raw, _REQUEST_NAMES
        )
        check_envelope(version, kind, _REQUEST, head, payload)
        header = _decode_request_header(head)
        return Request(
            id=checked_id(id_.decode()),
            application=header.application,
            due_ms=parsed_number("due", due),
            deadline_ms=parsed_number("dl", deadline),
            reply_to=checked_name("rt", reply_to.decode()),
            priority=parsed_priority(priority),
            min_accuracy=parsed_number("acc", accuracy) if accuracy else None,
            traceparent=checked_trace(trace.decode()),
            content_type=header.content_type,
            payload=payload,
        )
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise rejected("request", error) from error


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
    return checked_id(reply.id), encoded_header(header), checked_payload(reply.payload)


def decode_reply(raw: RawFields) -> Reply:
    """Return the reply of an entry's raw fields."""
    try:
        version, kind, id_, head, payload = values_of(raw, _REPLY_NAMES)
        check_envelope(version, kind, _REPLY, head, payload)
        header = _decode_reply_header(head)
        return Reply(
            id=checked_id(id_.decode()),
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
        raise rejected("reply", error) from error


# --- all other messages ---------------------------------------------------------------------------------------------


def encode(message: Message) -> tuple[str, bytes]:
    """Return the values of t and d of any message but a request or reply."""
    name = _TYPE_NAMES.get(type(message))
    if name is None or isinstance(message, (Request, Reply)):
        raise MessageRejectedError(f"field 't': {type(message).__name__}, expected {listed(_DECODERS)}")
    return name, encoded_header(message)


def type_name(message: Message) -> str:
    """Return what stands in the field `t` of a message."""
    return _TYPE_NAMES[type(message)]


def decode(raw: RawFields) -> Message:
    """Return the message of an entry's (or a hash's) raw fields; the field `epoch` overrides the one in the header."""
    fields = dict(zip(raw[::2], raw[1::2], strict=True))
    version, kind, head = (field_of(fields, name) for name in (b"v", b"t", b"d"))
    check_envelope(version, kind, _DECODERS, head)
    try:
        message = _DECODERS[kind].decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise rejected(kind.decode(), error) from error
    epoch = fields.get(b"epoch")
    if epoch is not None and isinstance(message, (Target, PlanRecord)):
        return msgspec.structs.replace(message, epoch=parsed_epoch(epoch))
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
    return interleaved(_REQUEST_NAMES, values)


def reply_entry(reply: Reply) -> list[bytes]:
    """Return all fields of a reply's entry, names and values alternating."""
    return interleaved(_REPLY_NAMES, [VERSION, "reply", *encode_reply(reply)])


def address_of(raw: RawFields) -> tuple[str, str] | None:
    """Return id and producer of a malformed request if these two can be read, so that it can be answered."""
    fields = dict(zip(raw[::2], raw[1::2], strict=False))
    try:
        return (
            checked_id(field_of(fields, b"id").decode()),
            checked_name("rt", field_of(fields, b"rt").decode()),
        )
    except (MessageRejectedError, UnicodeDecodeError):
        return None
