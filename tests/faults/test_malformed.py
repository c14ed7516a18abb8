"""Messages that nobody should ever send: each is refused with one line, costs one dead entry, and stops nothing."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import a_request, run

from clover.bus import codec, envelope
from clover.bus.embedded import EmbeddedServer
from clover.bus.key_names import Keys
from clover.bus.messages import MESSAGE_TYPES
from clover.bus.redis import RedisBus, RedisLink
from clover.core.outcome import Outcome
from clover.errors import MessageRejectedError
from clover.sim.faults.malformed import MALFORMED

#: Values that have broken parsers before.
NASTY = st.one_of(
    st.binary(max_size=64),
    st.sampled_from(
        [
            b"", b"NaN", b"nan", b"inf", b"-Infinity", b"1e999", b"-1e999", b"0x10", b"1_000", b"9" * 400, b"\x00",
            b"\xff\xfe", b"\xed\xa0\x80", b"{", b"[]", b"null", b"[" * 3000, b'{"a":' * 600, b'"\\ud800"',
            b'{"application":1}', b'{"application":null}', b'{"outcome":"maybe"}', b"}{", b"a}b", b"../x", b"1\n2",
        ]
    ),
)  # fmt: skip
FIELDS = ("v", "t", "id", "due", "dl", "rt", "prio", "acc", "tp", "d", "p")


@given(changes=st.dictionaries(st.sampled_from(FIELDS), NASTY | st.none(), min_size=1, max_size=4), extra=st.binary())
@settings(max_examples=300, deadline=None)
def test_a_damaged_request_is_read_or_refused_in_one_line(changes: dict[str, bytes | None], extra: bytes) -> None:
    good = codec.request_entry(a_request("r1"))
    fields = dict(zip(good[::2], good[1::2], strict=True)) | {k.encode(): v for k, v in changes.items()}
    raw = [part for pair in fields.items() if pair[1] is not None for part in pair]
    try:
        request = codec.decode_request([*raw, b"extra", extra])
    except MessageRejectedError as refused:
        assert "\n" not in str(refused).partition(", expected")[0]
        assert len(str(refused)) < 1000
    else:
        # Whatever is let in can be written again and means the same: no NaN, no name that is none.
        assert codec.round_trip(request) == request
    codec.address_of(raw)


@given(raw=st.lists(NASTY, max_size=24).filter(lambda raw: len(raw) % 2 == 0))
@settings(max_examples=200, deadline=None)
def test_no_entry_at_all_stops_a_reader(raw: list[bytes]) -> None:
    for decode in (codec.decode, codec.decode_request, codec.decode_reply):
        with pytest.raises(MessageRejectedError):
            decode(raw)


@given(kind=st.sampled_from(sorted(MESSAGE_TYPES)), head=NASTY)
@settings(max_examples=200, deadline=None)
def test_a_damaged_header_of_any_type_is_refused(kind: str, head: bytes) -> None:
    assume(head.strip() != b"{}")  # an override may be empty: nothing was decided
    with pytest.raises(MessageRejectedError):
        codec.decode([b"v", b"1", b"t", kind.encode(), b"d", head])


def test_64_mib_and_one_byte_are_refused_before_they_are_decoded(valkey: EmbeddedServer) -> None:
    too_much = b"x" * (envelope.MAX_PAYLOAD_BYTES + 1)

    async def test() -> None:
        deployment = f"m-{uuid.uuid4().hex[:8]}"
        keys, raw = Keys(deployment), RedisLink(valkey.url, "raw")
        bus = RedisBus(valkey.url, deployment, "test")
        with pytest.raises(MessageRejectedError, match="field 'p'"):
            await bus.admit([a_request("r1", payload=too_much)], bound=10)
        fields = codec.request_entry(a_request("r2", payload=b""))
        await raw.command("XADD", keys.requests, "*", *fields[:-1], too_much)
        await bus.admit([a_request("r3")], bound=10)
        taken = await bus.pull("c1", count=1, block_s=0.5) or await bus.pull("c1", count=1, block_s=0.5)
        assert [delivery.request.id for delivery in taken] == ["r3"]
        replies, _ = await bus.replies("generator", "0", block_s=0.0)
        assert [(reply.id, reply.outcome) for reply in replies] == [("r2", Outcome.FAILED)]
        assert "at most" in replies[0].reason
        # What is kept of it is small.
        assert await raw.command("MEMORY", "USAGE", keys.dead) < 100_000
        assert await raw.command("XLEN", keys.requests) == 1
        await bus.close()
        await raw.close()

    run(test(), limit_s=60.0)


def test_what_the_soak_plants_is_malformed_indeed() -> None:
    for fields in MALFORMED:
        raw = [part if isinstance(part, bytes) else part.encode() for pair in fields.items() for part in pair]
        for decode in (codec.decode, codec.decode_request, codec.decode_reply):
            with pytest.raises(MessageRejectedError):
                decode(raw)


def test_what_lies_in_a_tier_that_nobody_answers_is_buried_by_the_sweeper(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        deployment = f"m-{uuid.uuid4().hex[:8]}"
        keys, raw = Keys(deployment), RedisLink(valkey.url, "raw")
        bus = RedisBus(valkey.url, deployment, "test")
        await bus.admit([a_request("r1")], bound=10)
        for stream in keys.request_streams:
            for fields in MALFORMED[:3]:
                await raw.command("XADD", stream, "*", *(part for pair in fields.items() for part in pair))
        swept = await bus.sweep(grace_s=0.5)
        assert (swept.expired, swept.vanished) == ([], [])
        assert await raw.command("XLEN", keys.dead) == 3 * len(keys.request_streams)
        assert [await raw.command("XLEN", stream) for stream in keys.request_streams if stream != keys.requests] == [
            0
        ] * (len(keys.request_streams) - 1)
        [only] = await bus.pull("c1", count=1, block_s=0.5)
        assert only.request.id == "r1"
        await bus.close()
        await raw.close()

    run(test())
