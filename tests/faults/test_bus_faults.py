"""What the bus does when the server, its data or its peers misbehave."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support import (
    a_checkpoint,
    a_plan,
    a_request,
    a_target,
    an_event,
    done,
    eventually,
    intensity,
    persistently,
    run,
    telemetry,
)

from clover.bus import codec
from clover.bus.embedded import EmbeddedServer
from clover.bus.keys import GROUP, Keys
from clover.bus.port import Admission, Feed, Swept
from clover.bus.redis import RedisBus, RedisLink, connect
from clover.core.outcome import Outcome
from clover.errors import BusError, BusUnavailableError, ConfigurationError


class World:
    """A bus on a server, and a way past it to the raw keys."""

    def __init__(self, url: str) -> None:
        deployment = f"f-{uuid.uuid4().hex[:12]}"
        self.bus = RedisBus(url, deployment, "test")
        self.keys = Keys(deployment)
        self.raw = RedisLink(url, "raw").command

    async def dead(self) -> list[dict[bytes, bytes]]:
        entries = await self.raw("XRANGE", self.keys.dead, "-", "+")
        return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]


@asynccontextmanager
async def world(url: str) -> AsyncIterator[World]:
    one = World(url)
    try:
        yield one
    finally:
        await one.bus.close()
        await one.raw.__self__.close()


# --- the server goes away


def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    async def test() -> None:
        server = EmbeddedServer(tmp_path / "data")
        await server.start()
        port = server.port
        async with world(server.url) as w:
            await w.bus.admit([a_request(f"r{i}") for i in range(3)], bound=10)
            first, second = await w.bus.pull("c1", count=2, block_s=1)
            await w.bus.finish([done(first)])
            await w.bus.acquire_lease("c", ttl_s=60)
            await w.bus.publish_plan("c", a_plan(), [a_target()])
            await w.bus.publish_carbon([intensity()], a_checkpoint())
            await w.bus.publish_telemetry(telemetry())
            await server.stop()
            with pytest.raises(BusUnavailableError):
                await w.bus.ping()
            server = EmbeddedServer(tmp_path / "data", port=port)
            async with server:
                await w.bus.ping()
                # Every connection learns of the restart from its first error, and is new after that.
                assert await persistently(lambda: w.bus.own_pending("c1")) == [second]
                again = [a_request("r1")]
                assert await persistently(lambda: w.bus.admit(again, bound=10)) == [Admission.DUPLICATE]
                assert await persistently(lambda: w.bus.finish([done(second)])) == [True]
                [third] = await persistently(lambda: w.bus.pull("c1", count=5, block_s=1))
                assert third.request.id == "r2"
                replies, _ = await persistently(lambda: w.bus.replies("generator", "0", block_s=0))
                assert [reply.id for reply in replies] == ["r0", "r1"]
                assert await w.bus.plan() == a_plan(epoch=1)
                assert await w.bus.target("n1") == a_target(epoch=1)
                assert await w.bus.checkpoint() == a_checkpoint()
                assert set(await w.bus.node_states()) == {"n1"}
                assert not await w.bus.acquire_lease("other", ttl_s=1)

    run(test())


async def answers(bus: RedisBus) -> bool:
    try:
        await bus.beat("someone")
        await bus.pull("someone", count=1, block_s=0)
    except BusUnavailableError:
        return False
    return True


def test_a_stopped_server_does_not_stall_anyone(tmp_path: Path) -> None:
    async def test() -> None:
        async with EmbeddedServer(tmp_path) as server, world(server.url) as w:
            await w.bus.pull("c1", count=1, block_s=0)
            await w.bus.beat("c1")
            os.kill(server.pid, signal.SIGSTOP)
            try:
                calls = [
                    w.bus.ping(),
                    w.bus.beat("c1"),
                    w.bus.admit([a_request("r1")], bound=10),
                    w.bus.pull("c1", count=1, block_s=10),
                    w.bus.replies("p1", "0", block_s=10),
                    w.bus.follow({Feed.EVENTS: "0"}, block_s=10),
                    w.bus.next_target("n1", after_epoch=0, block_s=10),
                ]
                began = time.monotonic()
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert time.monotonic() - began < 3.0
                assert [type(result) for result in results] == [BusUnavailableError] * len(calls)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            await eventually(lambda: answers(w.bus))
            # Whether the first try came through nobody knows; trying again is safe.
            await w.bus.admit([a_request("r1")], bound=10)
            assert await w.bus.admit([a_request("r1")], bound=10) == [Admission.DUPLICATE]
            held = await w.bus.own_pending("c1") or await w.bus.pull("c1", count=1, block_s=1)
            assert [delivery.request.id for delivery in held] == ["r1"]

    run(test())


def test_a_server_that_never_was(tmp_path: Path) -> None:
    async def test() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            urls = [f"redis://127.0.0.1:{unused.getsockname()[1]}", f"unix://{tmp_path}/none.sock"]
            for url in urls:
                async with world(url) as w:
                    for call in (w.bus.ping, w.bus.queue, lambda w=w: w.bus.pull("c1", count=1, block_s=5)):
                        with pytest.raises(BusUnavailableError):
                            await call()

    run(test())


def test_calls_after_close_are_refused(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            await w.bus.close()
            with pytest.raises(BusError, match="closed"):
                await w.bus.ping()

    run(test())


def test_a_wrong_password_is_said_with_a_hint(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(f"redis://someone:secret@127.0.0.1:{valkey.port}") as w:
            with pytest.raises(BusError) as caught:
                await w.bus.ping()
            assert not isinstance(caught.value, BusUnavailableError)
            assert caught.value.hint
            assert "secret" not in str(caught.value)

    run(test())


@pytest.mark.parametrize(
    "url", ["", "localhost", "http://localhost", "redis://", "redis://h:port", "redis://h:99999", "unix://"]
)
def test_nonsense_urls_are_configuration_errors(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connect(url, "clover", "test")
    assert caught.value.hint


def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    async def test() -> None:
        # A path in the temporary directory of a test may be too long for a socket.
        path = f"{tempfile.gettempdir()}/clover-{uuid.uuid4().hex[:12]}.sock"
        async with EmbeddedServer(tmp_path, extra={"unixsocket": path}), world(f"unix://{path}") as w:
            assert await w.bus.admit([a_request("r1")], bound=10) == [Admission.ADMITTED]

    run(test())


# --- the data goes away


def test_emptying_the_server_heals(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            await w.bus.admit([a_request("r1")], bound=10)
            await w.bus.pull("c1", count=1, block_s=1)
            for call in (
                lambda: w.bus.pull("c1", count=1, block_s=0),
                lambda: w.bus.own_pending("c1"),
                w.bus.queue,
                lambda: w.bus.claim("c1", min_idle_s=0, count=1),
                lambda: w.bus.admit([a_request("r1")], bound=10),
            ):
                await w.raw("FLUSHALL")
                await call()
            assert len(await w.bus.pull("c1", count=1, block_s=1)) == 1

    run(test())


def test_a_blocked_reader_survives_the_end_of_its_stream(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            await w.bus.pull("c1", count=1, block_s=0)
            async with asyncio.TaskGroup() as group:
                pull = group.create_task(w.bus.pull("c1", count=1, block_s=10))
                await asyncio.sleep(0.05)
                await w.raw("DEL", w.keys.requests, w.keys.requests_high)
                await w.bus.admit([a_request("r1")], bound=10)
            assert [delivery.request.id for delivery in pull.result()] == ["r1"]

    run(test())


def test_forgotten_scripts_heal(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            for number in range(2):
                await w.raw("SCRIPT", "FLUSH")
                assert await w.bus.admit([a_request(f"r{number}")], bound=10) == [Admission.ADMITTED]

    run(test())


def test_trimmed_entries_are_reported_as_vanished(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            await w.bus.admit([a_request(f"r{i}") for i in range(3)], bound=10)
            taken = await w.bus.pull("c1", count=2, block_s=1)
            await w.raw("XDEL", w.keys.requests, taken[0].entry_id)
            assert await w.bus.own_pending("c1") == taken[1:]
            claimed = await w.bus.claim("c2", min_idle_s=0, count=10)
            assert claimed.vanished_ids == [taken[0].entry_id]
            assert [delivery.request.id for delivery in claimed.deliveries] == ["r1"]

    run(test())


def test_what_was_trimmed_is_answered_with_the_cause(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            await w.bus.admit([a_request(f"r{i}") for i in range(4)], bound=10)
            held, orphan = await w.bus.pull("c1", count=2, block_s=1)
            assert await w.bus.sweep(grace_s=0) == Swept(expired=[], vanished=[])
            await w.raw("XTRIM", w.keys.requests, "MAXLEN", "1")
            # r2 was never read: nobody holds it. What is in work may still end well, so it is left alone.
            assert (await w.bus.sweep(grace_s=0)).vanished == ["r2"]
            assert await w.bus.finish([done(held)]) == [True]
            assert (await w.bus.claim("c2", min_idle_s=0, count=9)).vanished_ids == [orphan.entry_id]
            assert (await w.bus.sweep(grace_s=0)).vanished == ["r1"]
            assert await w.bus.sweep(grace_s=0) == Swept(expired=[], vanished=[])
            replies, _ = await w.bus.replies("generator", "0", block_s=0)
            assert [(reply.id, reply.outcome) for reply in replies] == [
                ("r2", Outcome.FAILED),
                ("r0", Outcome.OK),
                ("r1", Outcome.FAILED),
            ]
            assert "trimmed" in replies[0].reason

    run(test())


def test_who_leaves_with_trimmed_work_leaves_it_to_the_sweeper(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            await w.bus.admit([a_request("r1"), a_request("r2")], bound=10)
            await w.bus.pull("c1", count=2, block_s=1)
            await w.raw("XTRIM", w.keys.requests, "MAXLEN", "1")
            assert await w.bus.leave("c1") == 2
            assert (await w.bus.sweep(grace_s=0)).vanished == ["r1"]
            assert [one.request.id for one in (await w.bus.claim("c2", min_idle_s=9, count=9)).deliveries] == ["r2"]

    run(test())


def test_a_server_that_lost_its_data_knows_no_ids_and_takes_them_again(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            await w.bus.admit([a_request("r1")], bound=10)
            await w.raw("FLUSHALL")
            assert await w.bus.known(["r1"]) == [False]
            assert await w.bus.admit([a_request("r1")], bound=10) == [Admission.ADMITTED]

    run(test())


# --- malformed entries


def entry(**changes: Any) -> list[bytes]:
    fields = codec.request_entry(a_request("bad"))
    pairs = dict(zip(fields[::2], fields[1::2], strict=True)) | {k.encode(): v for k, v in changes.items()}
    return [part for pair in pairs.items() if pair[1] is not None for part in pair]


def test_malformed_requests_are_buried_and_answered(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            await w.bus.pull("c1", count=1, block_s=0)
            bad = [entry(v=b"9"), entry(d=b"\xff", p=b"x" * 9000), entry(rt=b"a}b"), [b"\xff", b"\x00"]]
            for fields in bad:
                await w.raw("XADD", w.keys.requests, "*", *fields)
            await w.bus.admit([a_request("good")], bound=10)
            [delivery] = await w.bus.pull("c1", count=10, block_s=1)
            assert delivery.request.id == "good"
            replies, _ = await w.bus.replies("generator", "0", block_s=0)
            assert [(reply.id, reply.outcome) for reply in replies] == [("bad", Outcome.FAILED)] * 2
            assert "field 'v': '9', expected '1'" in replies[0].reason
            dead = await w.dead()
            assert [one[b"stream"].decode() for one in dead] == [w.keys.requests] * 4
            assert dead[0][b"raw:v"] == b"9"
            assert b"expected '1'" in dead[0][b"reason"]
            sizes = [sum(len(k) + len(v) for k, v in one.items() if k.startswith(b"raw:")) for one in dead]
            assert 3000 < max(sizes) <= 4096
            status = await w.bus.queue()
            assert (status.waiting, status.pending) == (0, 1)

    run(test())


def test_malformed_entries_in_pending_lists_are_buried(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            await w.bus.pull("c1", count=1, block_s=0)
            for method in (lambda: w.bus.own_pending("c1"), lambda: w.bus.claim("c2", min_idle_s=0, count=5)):
                await w.raw("XADD", w.keys.requests, "*", *entry(v=b"9"))
                await w.raw("XREADGROUP", "GROUP", GROUP, "c1", "STREAMS", w.keys.requests, ">")
                await method()
                assert (await w.bus.queue()).pending == 0
            assert len(await w.dead()) == 2

    run(test())


def test_malformed_entries_of_other_streams_are_buried_once(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            streams = [*(w.keys.feed(feed) for feed in Feed), w.keys.replies("p1"), w.keys.target("n1")]
            for stream in streams:
                await w.raw("XADD", stream, "*", "v", "1", "t", "nonsense", "d", "{}")
            cursors = dict.fromkeys(Feed, "0")
            assert await asyncio.gather(*(w.bus.follow(cursors, block_s=0) for _ in range(3))) == [[], [], []]
            assert (await w.bus.replies("p1", "0", block_s=0))[0] == []
            assert await w.bus.target("n1") is None
            assert sorted(one[b"stream"].decode() for one in await w.dead()) == sorted(streams)

    run(test())


def test_reading_goes_on_behind_malformed_entries(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            await w.bus.acquire_lease("c", ttl_s=60)
            await w.bus.publish_plan("c", a_plan(), [a_target()])
            for stream in (w.keys.feed(Feed.EVENTS), w.keys.target("n1")):
                await w.raw("XADD", stream, "*", "v", "1", "t", "target", "d", "[]", "epoch", "9")
            await w.bus.publish(Feed.EVENTS, [an_event()])
            [found] = await w.bus.follow({Feed.EVENTS: "0"}, block_s=1)
            assert found.message == an_event()
            assert await w.bus.next_target("n1", after_epoch=0, block_s=1) == a_target(epoch=1)
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(w.bus.follow({Feed.EVENTS: found.id}, block_s=10))
                await asyncio.sleep(0.05)
                await w.raw("XADD", w.keys.feed(Feed.EVENTS), "*", "junk", "junk")
                await asyncio.sleep(0.05)
                await w.bus.publish(Feed.EVENTS, [an_event(2)])
            assert [one.message for one in waiting.result()] == [an_event(2)]

    run(test())


def test_an_exhausted_request_goes_to_the_dead_stream(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            await w.bus.admit([a_request("r1")], bound=10)
            [delivery] = await w.bus.pull("c1", count=1, block_s=1)
            await w.bus.finish([done(delivery, "three tries"), done(delivery, "three tries")])
            [dead] = await w.dead()
            assert (dead[b"id"].decode(), dead[b"reason"]) == (delivery.entry_id, b"three tries")
            assert dead[b"raw:id"] == b"r1"

    run(test())


# --- the embedded server itself


def test_a_port_in_use_is_a_configuration_error(tmp_path: Path) -> None:
    async def test() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(ConfigurationError, match="cannot be used"):
                await EmbeddedServer(tmp_path, port=taken.getsockname()[1]).start()

    run(test())


def test_a_directory_in_use_is_a_configuration_error(tmp_path: Path) -> None:
    async def test() -> None:
        async with EmbeddedServer(tmp_path):
            with pytest.raises(ConfigurationError, match="in use"):
                await EmbeddedServer(tmp_path).start()
        async with EmbeddedServer(tmp_path):
            pass

    run(test())


def test_a_program_that_is_no_server_is_a_configuration_error(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(ConfigurationError, match="ended at once"):
            await EmbeddedServer(tmp_path, binary=Path("/bin/false"), port=0).start()
        with pytest.raises(ConfigurationError, match="cannot be started"):
            await EmbeddedServer(tmp_path, binary=tmp_path / "none", port=0).start()

    run(test())


def test_a_hanging_server_is_killed(tmp_path: Path) -> None:
    async def test() -> None:
        server = EmbeddedServer(tmp_path, stop_limit_s=0.2)
        await server.start()
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
        await server.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(test())
