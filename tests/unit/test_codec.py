"""The envelope: what goes in comes out, what does not follow it is refused with one line."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import a_checkpoint, a_plan, a_reply, a_request, a_target, an_event, intensity, ledger, telemetry

from clover.bus import codec, envelope
from clover.bus.messages import (
    EnergyCounters,
    Event,
    LogLine,
    Message,
    Reply,
    Request,
    RequestLog,
    RequestRecord,
    Target,
)
from clover.core.outcome import Outcome, ProducerOutcome
from clover.errors import MessageRejectedError

finite = st.floats(allow_nan=False, allow_infinity=False)
unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ids = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,40}", fullmatch=True)

requests = st.builds(
    Request,
    id=ids,
    application=unicode,
    due_ms=finite,
    deadline_ms=finite,
    reply_to=names,
    priority=st.sampled_from(["normal", "high"]),
    min_accuracy=st.none() | finite,
    traceparent=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60),
    content_type=unicode,
    payload=st.binary(max_size=200),
)
replies = st.builds(
    Reply,
    id=ids,
    outcome=st.sampled_from(Outcome),
    reason=unicode,
    node=unicode,
    gpu=st.integers(-1, 100),
    profile=unicode,
    variant=unicode,
    accuracy_pct=st.none() | finite,
    epoch=st.integers(0, 2**53),
    queue_ms=finite,
    service_ms=finite,
    energy_j=st.none() | finite,
    energy_source=unicode,
    content_type=unicode,
    payload=st.binary(max_size=200),
)
SAMPLES: list[Message] = [
    telemetry(), intensity(), ledger(), a_checkpoint(), a_target(), a_plan(), an_event(),
    LogLine(at_ms=1.0, level="error", source="node:n1", text="§ \u2028 \x00"),
    RequestLog(producer="p", sent=1, duplicates=0, records=(
        RequestRecord(id="r1", due_ms=1.0, received_ms=None, outcome=ProducerOutcome.LOST, latency_ms=None),
    )),
]  # fmt: skip


def raw(name: str, header: bytes, **more: bytes) -> list[bytes]:
    fields = [b"v", b"1", b"t", name.encode(), b"d", header]
    return fields + [part for key, value in more.items() for part in (key.encode(), value)]


def change(entry: list[bytes], field: bytes, value: bytes | None) -> list[bytes]:
    at = entry[::2].index(field) * 2
    return entry[:at] + ([] if value is None else [field, value]) + entry[at + 2 :]


@given(requests)
def test_requests_come_out_as_they_went_in(request: Request):
    assert codec.round_trip(request) == request


@given(replies)
def test_replies_come_out_as_they_went_in(reply: Reply):
    assert codec.round_trip(reply) == reply


@given(requests, st.randoms(use_true_random=False))
def test_the_order_of_fields_does_not_matter(request: Request, rng: Any):
    entry = codec.request_entry(request)
    pairs = list(zip(entry[::2], entry[1::2], strict=True))
    rng.shuffle(pairs)
    assert codec.decode_request([part for pair in [*pairs, (b"new", b"field")] for part in pair]) == request


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_other_messages_come_out_as_they_went_in(message: Message):
    assert codec.round_trip(message) == message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | finite | unicode,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(unicode, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(unicode, json_values, max_size=4))
def test_events_carry_any_json(data: dict[str, Any]):
    event = Event(at_ms=1.0, kind="test", source="test", data=data)
    assert codec.round_trip(event) == event


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=30), max_size=24).filter(lambda parts: len(parts) % 2 == 0))
def test_garbage_is_refused_and_nothing_else_happens(garbage: list[bytes]):
    for decode in (codec.decode, codec.decode_request, codec.decode_reply):
        with pytest.raises(MessageRejectedError):
            decode(garbage)
    codec.address_of(garbage)


@settings(max_examples=300)
@given(requests, st.integers(0, 10), st.binary(max_size=30))
def test_a_damaged_request_is_read_or_refused(request: Request, place: int, damage: bytes):
    entry = codec.request_entry(request)
    entry[2 * place + 1] = damage
    try:
        assert isinstance(codec.decode_request(entry), Request)
    except MessageRejectedError as error:
        assert "\n" not in str(error)


@given(st.sampled_from(["telemetry", "target", "plan", "event", "requests", "log"]), st.binary(max_size=60))
def test_garbage_in_a_header_is_refused(name: str, header: bytes):
    with pytest.raises(MessageRejectedError, match="field 'd'"):
        codec.decode(raw(name, header))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (b"v", b"2", "field 'v': '2', expected '1'"),
        (b"v", None, "field 'v': missing"),
        (b"t", b"reply", "field 't': 'reply', expected 'request'"),
        (b"id", b"", "field 'id'"),
        (b"id", b"\xff", "utf-8"),
        (b"id", b"a\nb", "field 'id'"),
        (b"due", b"soon", "field 'due': 'soon', expected a finite number"),
        (b"dl", b"inf", "field 'dl': 'inf', expected a finite number"),
        (b"rt", b"a}b", "field 'rt'"),
        (b"prio", b"urgent", "field 'prio': 'urgent', expected 'normal' or 'high'"),
        (b"acc", b"nan", "field 'acc'"),
        (b"tp", b"\xff", "utf-8"),
        (b"d", b"{}", "field 'd'"),
        (b"d", b'{"application": 1}', "field 'd'"),
        (b"d", b'{"application": "\xff"}', "field 'd'"),
        (b"d", b" " * (envelope.MAX_HEADER_BYTES + 1), "expected at most 1048576"),
        (b"p", None, "field 'p': missing"),
        (b"p", bytes(envelope.MAX_PAYLOAD_BYTES + 1), "expected at most 67108864"),
    ],
)
def test_what_is_wrong_is_said(field: bytes, value: bytes | None, says: str):
    entry = change(codec.request_entry(a_request("r1")), field, value)
    with pytest.raises(MessageRejectedError) as caught:
        codec.decode_request(entry)
    assert says in str(caught.value)


def test_unknown_types_and_wrong_types_are_refused():
    with pytest.raises(MessageRejectedError, match=r"field 't': 'nonsense', expected one of .*telemetry"):
        codec.decode(raw("nonsense", b"{}"))
    with pytest.raises(MessageRejectedError, match="expected 'target'"):
        codec.decode_as(Target, raw("ledger", codec.encode(ledger())[1]))
    with pytest.raises(MessageRejectedError, match="InstanceTarget|EnergyCounters"):
        codec.encode(EnergyCounters())
    with pytest.raises(MessageRejectedError):
        codec.encode(a_request("r1"))


def test_unknown_fields_of_a_newer_writer_are_ignored():
    header = msgspec.json.encode({**msgspec.to_builtins(ledger()), "new": {"figure": 1}})
    assert codec.decode(raw("ledger", header, new=b"x")) == ledger()


def test_telemetry_of_an_earlier_version_says_nothing_of_leaving_and_power_commands():
    header = msgspec.to_builtins(telemetry())
    assert (header.pop("leaving"), header.pop("power_on_s")) == (False, 0.0)
    assert [gpu.pop("power_limit_s") for gpu in header["gpus"]] == [0.0]
    assert codec.decode(raw("telemetry", msgspec.json.encode(header))) == telemetry()


def test_the_raw_epoch_overrides_the_one_in_the_header():
    header = codec.encode(a_target(epoch=1))[1]
    assert codec.decode(raw("target", header, epoch=b"7")) == a_target(epoch=7)
    with pytest.raises(MessageRejectedError, match="field 'epoch'"):
        codec.decode(raw("target", header, epoch=b"-7"))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_carry_are_refused_by_name(number: float):
    wrong: list[tuple[Message, str]] = [
        (a_request("r1", due_ms=number), "due"),
        (a_request("r1", min_accuracy=number), "acc"),
        (a_reply("r1", service_ms=number), "service_ms"),
        (a_reply("r1", energy_j=number), "energy_j"),
        (intensity(number), "g_per_kwh"),
        (msgspec.structs.replace(telemetry(), host_j=number), "host_j"),
        (Event(at_ms=1.0, kind="k", source="s", data={"a": [{"b": number}]}), "data.a[0].b"),
    ]
    for message, field in wrong:
        with pytest.raises(MessageRejectedError) as caught:
            codec.round_trip(message)
        assert field in str(caught.value)


def test_nulls_that_are_meant_pass():
    assert codec.round_trip(a_plan()).prediction.p95_ms is None


@pytest.mark.parametrize("data", [{"x": object()}, {"x": "\ud800"}])
def test_what_json_cannot_carry_is_refused(data: dict[str, Any]):
    event = Event(at_ms=1.0, kind="k", source="s", data=data)
    with pytest.raises(MessageRejectedError):
        codec.round_trip(event)


def test_too_much_is_refused_by_the_writer():
    with pytest.raises(MessageRejectedError, match="field 'p'"):
        codec.encode_request(a_request("r1", payload=bytes(envelope.MAX_PAYLOAD_BYTES + 1)))
    with pytest.raises(MessageRejectedError, match="header of"):
        codec.encode_reply(a_reply("r1", reason="x" * envelope.MAX_HEADER_BYTES))
    with pytest.raises(MessageRejectedError, match="field 'tp'"):
        codec.encode_request(a_request("r1", traceparent="ü"))
