"""Entries that cannot be read are buried once, answered where that is possible, and stop nobody."""

from __future__ import annotations

import asyncio
from typing import Any

from bus_world import world
from support import a_plan, a_request, a_target, an_event, done, run

from clover.bus import codec
from clover.bus.embedded import EmbeddedServer
from clover.bus.keys import GROUP
from clover.bus.values import Feed
from clover.core.outcome import Outcome


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
