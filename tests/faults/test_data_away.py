"""What the bus does when its data, groups, scripts or entries are gone."""

from __future__ import annotations

import asyncio

from bus_world import world
from support import a_request, done, run

from clover.bus.embedded import EmbeddedServer
from clover.bus.values import Admission, Swept
from clover.core.outcome import Outcome


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
