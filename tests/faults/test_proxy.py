"""Each toxic of the proxy does to a connection what its name says; the bus lives with all of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
from support import a_request, done, persistently, run

from clover.bus.embedded import EmbeddedServer
from clover.bus.redis import RedisBus, RedisLink
from clover.bus.values import Admission
from clover.sim.faults.proxy import Proxy
from clover.sim.faults.toxics import (
    Bandwidth,
    BlackHole,
    CutBeforeReply,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Toxic,
)


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                self.heard += data
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.closed.set()
            writer.close()


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[Echo, Proxy]]:
    behind = Echo()
    server = await asyncio.start_server(behind.serve, "127.0.0.1", 0)
    try:
        async with Proxy(server.sockets[0].getsockname()[1]) as proxy:
            yield behind, proxy
    finally:
        server.close()


async def call(proxy: Proxy, data: bytes) -> bytes:
    """Send and return what came back until the connection ended or all of it was there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(data)
        return await reader.readexactly(len(data))
    except asyncio.IncompleteReadError as cut:
        return cut.partial
    finally:
        writer.close()


class Pauses:
    """Counts the seconds that a toxic would have slept."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_everything_passes_an_idle_proxy() -> None:
    async def test() -> None:
        async with echo() as (_, proxy):
            data = bytes(range(256)) * 4000
            assert await call(proxy, data) == data

    run(test())


def test_latency_delays_within_its_jitter() -> None:
    async def test() -> None:
        pauses = Pauses()
        async with echo() as (_, proxy):
            with proxy.spoilt(Latency(latency_s=5.0, jitter_s=1.0, rng=Random(1), sleep=pauses)):
                assert await call(proxy, b"hello") == b"hello"
        assert len(pauses.slept) == 2
        assert all(4.0 <= pause <= 6.0 for pause in pauses.slept)

    run(test())


def test_bandwidth_takes_its_time() -> None:
    async def test() -> None:
        pauses = Pauses()
        async with echo() as (_, proxy):
            with proxy.spoilt(Bandwidth(rate_kb_s=1.0, upstream=False, sleep=pauses)):
                assert await call(proxy, b"x" * 3072) == b"x" * 3072
        assert sum(pauses.slept) == pytest.approx(3.0)

    run(test())


def test_slicer_cuts_into_crumbs_and_loses_none() -> None:
    async def test() -> None:
        slicer = Slicer(average=10, variation=5, rng=Random(1))
        pieces = [piece async for piece in slicer.through(b"y" * 1000, 0)]
        assert b"".join(pieces) == b"y" * 1000
        assert all(5 <= len(piece) <= 15 for piece in pieces[:-1])
        async with echo() as (_, proxy):
            with proxy.spoilt(slicer):
                assert await call(proxy, bytes(range(200))) == bytes(range(200))

    run(test())


def test_reset_peer_resets() -> None:
    async def test() -> None:
        async with echo() as (behind, proxy):
            with proxy.spoilt(ResetPeer()), pytest.raises(ConnectionResetError):
                await call(proxy, b"hello")
            assert behind.heard == b""
            assert await call(proxy, b"again") == b"again"

    run(test())


def test_cut_before_the_reply_lets_the_request_through() -> None:
    async def test() -> None:
        async with echo() as (behind, proxy):
            toxic = CutBeforeReply(times=1)
            with proxy.spoilt(toxic):
                assert await call(proxy, b"hello") == b""
                assert behind.heard == b"hello"
                assert await call(proxy, b"again") == b"again"
            assert toxic.cuts == 1

    run(test())


def test_a_black_hole_holds_everything_until_it_goes() -> None:
    async def test() -> None:
        async with echo() as (behind, proxy):
            with proxy.spoilt(BlackHole()):
                waiting = asyncio.ensure_future(call(proxy, b"hello"))
                await asyncio.sleep(0.1)
                assert behind.heard == b""
                assert not waiting.done()
            assert await waiting == b"hello"

    run(test())


def test_limit_data_closes_after_so_much() -> None:
    async def test() -> None:
        async with echo() as (_, proxy):
            with proxy.spoilt(LimitData(limit=3, upstream=False)):
                assert await call(proxy, b"hello") == b"hel"

    run(test())


def test_slow_close_holds_the_end_back() -> None:
    async def test() -> None:
        async with echo() as (behind, proxy):
            with proxy.spoilt(SlowClose(delay_s=0.2)):
                await call(proxy, b"hello")
                assert not behind.closed.is_set()
                await behind.closed.wait()

    run(test())


def test_cut_ends_what_is_open() -> None:
    async def test() -> None:
        async with echo() as (_, proxy):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            assert proxy.connections == 1
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            writer.close()

    run(test())


# --- the bus behind each of them


@pytest.mark.parametrize(
    "toxic",
    [
        Latency(latency_s=0.01, jitter_s=0.01, rng=Random(1)),
        Bandwidth(rate_kb_s=256.0),
        Slicer(average=7, variation=6, rng=Random(2)),
        LimitData(limit=12_000),
        SlowClose(delay_s=0.05),
        CutBeforeReply(times=5),
    ],
    ids=lambda toxic: type(toxic).__name__,
)
def test_the_whole_cycle_behind_a_toxic(valkey: EmbeddedServer, toxic: Toxic) -> None:
    async def test() -> None:
        async with Proxy(valkey.port) as proxy:
            bus = RedisBus(proxy.url, f"p-{uuid.uuid4().hex[:8]}", "test")
            with proxy.spoilt(toxic):
                for number in range(10):
                    one = a_request(f"r{number}", payload=b"z" * 300)
                    answer = await persistently(lambda one=one: bus.admit([one], bound=100))
                    assert answer[0] in {Admission.ADMITTED, Admission.DUPLICATE}
                answered = 0
                while answered < 10:
                    # After each error: what was delivered to us, unnoticed or not, is in our pending list.
                    held = await persistently(lambda: bus.own_pending("c1"))
                    held = held or await persistently(lambda: bus.pull("c1", count=3, block_s=0.1))
                    if held:
                        first = await persistently(lambda held=held: bus.finish([done(one) for one in held]))
                        # Not first: a call of ours whose answer was cut off had been.
                        assert all(first) or isinstance(toxic, (CutBeforeReply, LimitData))
                    answered += len(held)
                found: list[str] = []
                cursor = "0"
                while len(found) < 10:
                    replies, cursor = await persistently(
                        lambda cursor=cursor: bus.replies("generator", cursor, block_s=0.1)
                    )
                    found += [reply.id for reply in replies]
            await bus.close()
        assert sorted(found) == sorted(f"r{number}" for number in range(10))

    run(test())


def test_an_admission_whose_answer_was_cut_off_is_not_doubled(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        deployment = f"p-{uuid.uuid4().hex[:8]}"
        async with Proxy(valkey.port) as proxy:
            bus = RedisBus(proxy.url, deployment, "test")
            await bus.ping()
            toxic = CutBeforeReply(times=3)
            with proxy.spoilt(toxic):
                batch = [a_request(f"r{number}") for number in range(50)]
                answers = await persistently(lambda: bus.admit(batch, bound=100))
            assert toxic.cuts == 3
            assert set(answers) <= {Admission.ADMITTED, Admission.DUPLICATE}
            raw = RedisLink(valkey.url, "raw")
            assert await raw.command("XLEN", f"{{{deployment}}}:req") == 50
            await raw.close()
            await bus.close()

    run(test())
