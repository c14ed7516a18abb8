"""A producer's sending half against servers that are away, full, or have lost their data."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from support import a_request, done, eventually, run

from clover.agents import sending
from clover.agents.outcomes import Outstanding
from clover.agents.sending import FULL, NEVER_SENT, Sender
from clover.agents.system_clock import SystemClock
from clover.bus.embedded import EmbeddedServer
from clover.bus.redis import RedisBus, RedisLink
from clover.core.outcome import ProducerOutcome


class Producer:
    """A sender and what it ended."""

    def __init__(self, url: str, *, bound: int = 100) -> None:
        self.bus = RedisBus(url, f"s-{uuid.uuid4().hex[:12]}", "producer")
        self.outstanding = Outstanding()
        self.ended: list[tuple[str, ProducerOutcome, str]] = []
        self.sender = Sender(
            bus=self.bus, clock=SystemClock(), rng=Random(1), outstanding=self.outstanding, bound=lambda: bound,
            end=self.end,
        )  # fmt: skip

    def end(self, request_id: str, outcome: ProducerOutcome, reason: str) -> None:
        if self.outstanding.end(request_id, outcome, reason=reason):
            self.ended.append((request_id, outcome, reason))

    def make_due(self, *names: str, within_s: float = 60.0) -> None:
        for name in names:
            request = a_request(name, deadline_ms=SystemClock().now_ms() + within_s * 1e3)
            self.outstanding.add(request)
            self.sender.put(request)

    async def waiting(self) -> int:
        return (await self.bus.queue()).waiting


@asynccontextmanager
async def producing(url: str, *, bound: int = 100) -> AsyncIterator[Producer]:
    producer = Producer(url, bound=bound)
    tasks = [asyncio.create_task(producer.sender.run()), asyncio.create_task(producer.sender.watch(0.05))]
    try:
        yield producer
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await producer.bus.close()


def test_what_the_door_refuses_ends_as_overloaded(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with producing(valkey.url, bound=2) as producer:
            producer.make_due("r1", "r2", "r3")
            await eventually(lambda: _true(bool(producer.ended)))
            assert producer.ended == [("r3", ProducerOutcome.OVERLOADED, FULL)]

    run(test())


def test_after_a_loss_of_data_everything_unanswered_is_sent_again(
    valkey: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        raw = RedisLink(valkey.url, "raw")
        async with producing(valkey.url) as producer:
            producer.make_due("r1", "r2", "r3")
            await eventually(lambda: _is(producer.waiting, 3))
            [first, _] = await producer.bus.pull("c1", count=2, block_s=1)
            await producer.bus.finish([done(first)])
            replies, _ = await producer.bus.replies("generator", "0", block_s=1)
            producer.outstanding.reply(replies[0], 1.0, sla_p95_ms=100.0)
            await raw.command("FLUSHALL")
            await eventually(lambda: _is(producer.waiting, 2))
            taken = await producer.bus.pull("c2", count=5, block_s=1)
            assert [one.request.id for one in taken] == ["r2", "r3"]
            assert producer.sender.resent == 2
            # Known again: nothing is sent a third time.
            await asyncio.sleep(0.3)
            assert (producer.sender.resent, await producer.waiting()) == (2, 0)
        await raw.close()

    with caplog.at_level(logging.ERROR):
        run(test())
    assert "has lost data: 2 requests" in caplog.text


def test_what_cannot_be_sent_in_time_ends_as_lost_and_the_rest_gets_through(tmp_path: Path) -> None:
    async def test() -> None:
        server = EmbeddedServer(tmp_path)
        await server.start()
        port = server.port
        async with producing(server.url) as producer:
            producer.make_due("r0")
            await eventually(lambda: _is(producer.waiting, 1))
            await server.stop()
            producer.make_due("late", within_s=0.2)
            producer.make_due("r1")
            await eventually(lambda: _true(bool(producer.ended)))
            assert producer.ended == [("late", ProducerOutcome.LOST, NEVER_SENT)]
            async with EmbeddedServer(tmp_path, port=port):
                await eventually(lambda: _is_after_restart(producer, 2))

    run(test())


async def _true(value: bool) -> bool:
    return value


async def _is(figure: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await figure() == wanted


async def _is_after_restart(producer: Producer, wanted: int) -> bool:
    try:
        return await producer.waiting() == wanted
    except Exception:  # noqa: BLE001 - the first calls meet dead connections
        return False


def test_a_producer_refuses_what_it_can_no_longer_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        producer = Producer("redis://127.0.0.1:1")
        monkeypatch.setattr(sending, "MAX_QUEUED", 2)
        producer.make_due("r1", "r2", "r3")
        assert [(name, outcome) for name, outcome, _ in producer.ended] == [("r3", ProducerOutcome.OVERLOADED)]
        assert producer.outstanding.count == 2
        await producer.bus.close()

    run(test())
