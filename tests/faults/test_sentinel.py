"""A primary with a replica behind three sentinels, all real: failover by death and by order, in mid-load."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from servers import REDIS_SENTINEL, REDIS_SERVER, RealServer, required, running
from support import a_request, done, eventually, run

from clover.agents.backoff import Backoff
from clover.agents.care import Sweeper
from clover.agents.outcomes import Outstanding
from clover.agents.sending import Sender
from clover.agents.system_clock import SystemClock
from clover.bus.key_names import Keys
from clover.bus.redis import RedisBus, RedisLink
from clover.bus.values import Admission
from clover.core.outcome import ProducerOutcome
from clover.errors import BusUnavailableError, ConfigurationError

SERVICE = "main"


class Cluster:
    """Primary, replica and sentinels."""

    def __init__(self, folder: Path) -> None:
        durable = ("appendonly yes", 'save ""', "repl-diskless-sync-delay 0", "repl-ping-replica-period 1")
        self.first = RealServer(folder / "first", *durable)
        self.second = RealServer(folder / "second", *durable, f"replicaof 127.0.0.1 {self.first.port}")
        watch = (
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.first.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 3000",
        )
        self.sentinels = [RealServer(folder / f"s{i}", *watch, binary=REDIS_SENTINEL) for i in range(3)]
        places = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        self.url = f"redis+sentinel://{places}/{SERVICE}"
        self.links = [RedisLink(f"redis://127.0.0.1:{one.port}", "test") for one in self.sentinels]
        self.servers = [RedisLink(f"redis://127.0.0.1:{one.port}", "test") for one in (self.first, self.second)]

    async def ready(self) -> None:
        """Wait until every sentinel knows the replica and the two others."""

        async def knows() -> bool:
            for link in self.links:
                answer = await link.command("SENTINEL", "MASTER", SERVICE)
                facts = dict(zip(answer[::2], answer[1::2], strict=True))
                if (facts[b"num-slaves"], facts[b"num-other-sentinels"], facts[b"flags"]) != (b"1", b"2", b"master"):
                    return False
            return True

        await eventually(knows, limit_s=30.0)

    async def close(self) -> None:
        for link in (*self.links, *self.servers):
            await link.close()


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    required(REDIS_SERVER, REDIS_SENTINEL)
    one = Cluster(folder)
    async with running(one.first, one.second, *one.sentinels):
        try:
            await one.ready()
            yield one
        finally:
            await one.close()


class Load:
    """A producer and a consumer that answer what they can; every request ends in one outcome."""

    def __init__(self, url: str) -> None:
        self.bus = RedisBus(url, "failover", "load")
        self.outstanding = Outstanding()
        self.ended: Counter[str] = Counter()
        self.sent = 0
        #: For each request the replies read, as the cursor of the read that brought it: it is at or before that place.
        self.read: dict[str, list[tuple[int, int]]] = {}
        self.serving = asyncio.Event()
        self.serving.set()
        self.last_reply_at = time.monotonic()
        self.widest_gap_s = 0.0
        self.sender = Sender(
            bus=self.bus, clock=SystemClock(), rng=Random(1), outstanding=self.outstanding, bound=lambda: 10_000,
            end=self.end,
        )  # fmt: skip

    def end(self, request_id: str, outcome: ProducerOutcome, reason: str) -> None:
        if self.outstanding.end(request_id, outcome, reason=reason):
            self.ended[outcome.value] += 1

    async def arrive(self, rate_rps: float, seconds: float, *, deadline_s: float = 15.0) -> None:
        for number in range(int(rate_rps * seconds)):
            now_ms = SystemClock().now_ms()
            request = a_request(f"r{number}", due_ms=now_ms, deadline_ms=now_ms + deadline_s * 1e3)
            self.outstanding.add(request)
            self.sender.put(request)
            self.sent += 1
            await asyncio.sleep(1.0 / rate_rps)

    async def receive(self) -> None:
        cursor, backoff = "0", Backoff(Random(2))
        while True:
            try:
                replies, cursor = await self.bus.replies("generator", cursor, block_s=1.0)
                backoff.reset()
            except BusUnavailableError:
                await asyncio.sleep(backoff.next_s())
                continue
            for reply in replies:
                self.read.setdefault(reply.id, []).append(place_of(cursor))
                record = self.outstanding.reply(reply, SystemClock().now_ms(), sla_p95_ms=1e9)
                if record is not None:
                    self.ended[record.outcome.value] += 1
                    self.widest_gap_s = max(self.widest_gap_s, time.monotonic() - self.last_reply_at)
                    self.last_reply_at = time.monotonic()

    async def serve(self) -> None:
        backoff = Backoff(Random(3))
        while True:
            await self.serving.wait()
            try:
                for one in await self.bus.own_pending("c1") or await self.bus.pull("c1", count=16, block_s=0.5):
                    await self.bus.finish([done(one)])
                backoff.reset()
            except BusUnavailableError:
                await asyncio.sleep(backoff.next_s())

    async def lose(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            for request_id in self.outstanding.overdue(SystemClock().now_ms() - 2e3):
                self.end(request_id, ProducerOutcome.LOST, "no reply")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        parts = (self.sender.run(), self.sender.watch(0.5), self.receive(), self.serve(), self.lose())
        tasks = [asyncio.create_task(part) for part in (*parts, Sweeper(self.bus, period_s=0.5).run())]
        try:
            yield
        finally:
            broken = [task.exception() for task in tasks if task.done() and not task.cancelled()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.bus.close()
            assert broken == []

    async def all_ended(self) -> None:
        async def none_open() -> bool:
            return self.outstanding.count == 0

        await eventually(none_open, limit_s=20.0)

    async def judge(self, survivor: RedisLink) -> None:
        """Check that no request was answered twice but for what the former primary had not passed on.

        Admission by id and the first acknowledgement make one reply per request in the history of one server. The
        surviving server's history is a beginning of the former primary's, and then its own. So of several replies
        to one request that a producer has read, all but the last are in that part of the former primary's history
        which the survivor never got: none of them is in its stream, whose one reply came later.
        """
        entries = await survivor.command("XRANGE", Keys("failover").replies("generator"), "-", "+")
        kept: dict[str, list[tuple[int, int]]] = {}
        for entry_id, fields in entries:
            pairs = dict(zip(fields[::2], fields[1::2], strict=True))
            kept.setdefault(pairs[b"id"].decode(), []).append(place_of(entry_id.decode()))
        assert {name: places for name, places in kept.items() if len(places) > 1} == {}
        for name, places in self.read.items():
            for before in places[:-1]:
                assert kept.get(name, [(0, 0)])[0] > before, f"{name}: {places}, on the survivor {kept.get(name)}"
        assert self.outstanding.duplicates == sum(len(places) - 1 for places in self.read.values())


def place_of(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)


@pytest.mark.slow
def test_the_death_of_the_primary_in_mid_load_costs_nobody_an_answer(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as one:
            load = Load(one.url)
            async with load.running():
                async with asyncio.TaskGroup() as group:
                    arrivals = group.create_task(load.arrive(100.0, 8.0))
                    await asyncio.sleep(2.0)
                    await one.first.kill()
                    await arrivals
                await load.all_ended()
                await load.judge(one.servers[1])
            assert load.ended == {"ok": 800}
            assert load.widest_gap_s < 10.0

    run(test(), limit_s=90.0)


@pytest.mark.slow
def test_an_ordered_failover_is_followed_at_once_and_what_was_lost_is_sent_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as one:
            load = Load(one.url)
            async with load.running():
                async with asyncio.TaskGroup() as group:
                    arrivals = group.create_task(load.arrive(100.0, 8.0))
                    await asyncio.sleep(2.0)
                    await one.links[0].command("SENTINEL", "FAILOVER", SERVICE)
                    await arrivals
                await load.all_ended()
                await load.judge(one.servers[1])
            # The former primary lives on for seconds: who stayed with it would lose all that.
            assert load.ended == {"ok": 800}

    run(test(), limit_s=90.0)


@pytest.mark.slow
def test_what_a_dead_primary_had_answered_and_not_passed_on_is_answered_again_and_nothing_else(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as one:
            load = Load(one.url)
            first, second = one.servers
            async with load.running():
                async with asyncio.TaskGroup() as group:
                    arrivals = group.create_task(load.arrive(100.0, 5.0))
                    await eventually(lambda: at_least(lambda: load.ended["ok"], 50))
                    load.serving.clear()
                    await eventually(lambda: waits(second, 30))
                    await cut_replication(first, second)
                    passed_on = {name for name in await ids_of(second) if load.outstanding.has(name)}
                    load.serving.set()
                    await eventually(lambda: at_least(lambda: len(passed_on & load.read.keys()), len(passed_on)))
                    await one.first.kill()
                    await arrivals
                await load.all_ended()
                answered_again = {name for name, places in load.read.items() if len(places) > 1}
                await load.judge(second)
            assert load.ended == {"ok": 500}
            assert len(passed_on) >= 30
            assert answered_again == passed_on

    run(test(), limit_s=90.0)


async def at_least(number: Callable[[], int], least: int) -> bool:
    return number() >= least


async def ids_of(server: RedisLink) -> set[str]:
    """Return the requests in a server's stream."""
    entries = await server.command("XRANGE", Keys("failover").requests, "-", "+")
    return {dict(zip(fields[::2], fields[1::2], strict=True))[b"id"].decode() for _, fields in entries}


async def waits(server: RedisLink, number: int) -> bool:
    return len(await ids_of(server)) >= number


async def cut_replication(primary: RedisLink, replica: RedisLink) -> None:
    """End the replica's connection and let none of its next logins succeed."""
    await replica.command("CONFIG", "SET", "masterauth", "wrong")
    await primary.command("CLIENT", "KILL", "TYPE", "replica")

    async def alone() -> bool:
        return b"connected_slaves:0" in await primary.command("INFO", "replication")

    await eventually(alone)


def test_the_primary_is_found_with_its_data_scripts_and_state(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as one:
            bus = RedisBus(one.url, "failover", "test")
            await bus.admit([a_request("r1")], bound=10)
            [delivery] = await bus.pull("c1", count=1, block_s=1)
            await bus.close()
            for wrong in (one.url.replace(SERVICE, "other"), "redis+sentinel://127.0.0.1:1/main"):
                bus = RedisBus(wrong, "failover", "test")
                with pytest.raises(BusUnavailableError, match="sentinels names a primary") as caught:
                    await bus.ping()
                assert caught.value.hint
                await bus.close()
            # Straight at the replica: refused for now, as after a switch that is not over.
            bus = RedisBus(f"redis://127.0.0.1:{one.second.port}", "failover", "test")
            await asyncio.sleep(0.2)
            with pytest.raises(BusUnavailableError):
                await bus.finish([done(delivery)])
            await bus.close()
            bus = RedisBus(one.url, "failover", "test")
            assert await bus.own_pending("c1") == [delivery]
            assert await bus.admit([a_request("r1")], bound=10) == [Admission.DUPLICATE]
            await bus.close()

    run(test(), limit_s=60.0)


def test_a_service_without_a_name_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="service"):
        RedisBus("redis+sentinel://127.0.0.1:1", "failover", "test")
