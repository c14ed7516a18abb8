from __future__ import annotations

import asyncio
import contextlib
import io
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_support import run

from clover.serving.framing import (
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    Exhausted,
    Failed,
    FrameError,
    FromWorker,
    Job,
    Ready,
    Refused,
    Result,
    Start,
    encode,
    read_from_worker,
    read_to_worker,
)
from clover.serving.recipe import Recipe

FROM_WORKER = (
    Ready(load_s=1.5, warm_up_s=0.25),
    Failed(reason="no weights", hint="install them"),
    Result(number=3, content_type="application/json", payload=b"{}", cpu_s=0.5),
    Refused(number=4, reason="not a picture"),
    Exhausted(number=5, reason="out of memory"),
)


async def _read(content: bytes, *, ends: bool = True) -> FromWorker | None:
    stream = asyncio.StreamReader()
    stream.feed_data(content)
    if ends:
        stream.feed_eof()
    return await read_from_worker(stream)


def test_frames_of_a_worker_come_through_in_order() -> None:
    async def scenario() -> None:
        stream = asyncio.StreamReader()
        stream.feed_data(b"".join(encode(frame) for frame in FROM_WORKER))
        stream.feed_eof()
        assert [await read_from_worker(stream) for _ in FROM_WORKER] == list(FROM_WORKER)
        assert await read_from_worker(stream) is None

    run(scenario())


@given(payload=st.binary(max_size=2000), number=st.integers(0, 2**31), kind=st.text(max_size=30))
def test_jobs_come_through_unchanged(payload: bytes, number: int, kind: str) -> None:
    start = Start(recipe=Recipe(application="a", family="f", variant="v"), fraction=2 / 7)
    job = Job(number=number, content_type=kind, payload=payload)
    stream = io.BytesIO(encode(start) + encode(job))
    assert read_to_worker(stream) == start
    assert read_to_worker(stream) == job
    assert read_to_worker(stream) is None


@given(cut=st.integers(min_value=0, max_value=200))
def test_a_frame_torn_by_a_death_is_the_end_of_the_stream(cut: int) -> None:
    whole = encode(Result(number=1, content_type="text/plain", payload=b"x" * 200, cpu_s=0.1))
    run(_assert_ends(whole[:cut]))
    assert read_to_worker(io.BytesIO(encode(Job(number=1, content_type="", payload=b"x" * 200))[:cut])) is None


async def _assert_ends(content: bytes) -> None:
    assert await _read(content) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"type": "ready"}),
        msgspec.msgpack.encode({"type": "job", "number": 1, "content_type": "", "payload": b""}),
        msgspec.msgpack.encode({"type": "result", "number": "1", "content_type": "", "payload": b"", "cpu_s": 1.0}),
        msgspec.msgpack.encode([1, 2, 3]),
    ],
)
def test_what_is_not_a_frame_of_a_worker_is_an_error(body: bytes) -> None:
    async def scenario() -> None:
        with pytest.raises(FrameError):
            await _read(struct.pack(">I", len(body)) + body)

    run(scenario())


def test_printed_text_is_an_error_at_once_and_not_a_long_wait() -> None:
    async def scenario() -> None:
        with pytest.raises(FrameError, match="above the limit"):
            await _read(b"Downloading weights ...\n", ends=False)

    run(scenario())


@given(garbage=st.binary(min_size=4, max_size=64))
def test_garbage_never_raises_anything_else(garbage: bytes) -> None:
    with contextlib.suppress(FrameError):
        read_to_worker(io.BytesIO(garbage))


def test_sizes_are_limited_on_both_sides() -> None:
    assert len(encode(Job(number=1, content_type="image/png", payload=bytes(MAX_PAYLOAD_BYTES)))) <= MAX_FRAME_BYTES + 4
    with pytest.raises(FrameError, match="above the limit"):
        encode(Job(number=1, content_type="image/png", payload=bytes(MAX_FRAME_BYTES)))
    with pytest.raises(FrameError, match="above the limit"):
        read_to_worker(io.BytesIO(struct.pack(">I", MAX_FRAME_BYTES + 1)))
