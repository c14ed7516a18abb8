"""What every bus does with feeds, state, the lease, plans and targets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
from support import a_checkpoint, a_plan, a_target, an_event, intensity, ledger, telemetry

from clover.bus.messages import Event, GpuTarget, InstanceTarget, Override, Pin
from clover.bus.port import Bus
from clover.bus.values import Feed, entry_order
from clover.errors import MessageRejectedError

Check = Callable[[Callable[[Bus], Coroutine[Any, Any, None]]], None]


def test_feeds_are_read_in_order_from_a_cursor(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.newest_id(Feed.EVENTS) == "0-0"
        await bus.publish(Feed.EVENTS, [an_event(i) for i in range(5)])
        entries = await bus.follow({Feed.EVENTS: "0"}, block_s=0, count=3)
        assert [entry.message for entry in entries] == [an_event(i) for i in range(3)]
        entries = await bus.follow({Feed.EVENTS: entries[-1].id}, block_s=0)
        assert [entry.message for entry in entries] == [an_event(3), an_event(4)]
        assert await bus.newest_id(Feed.EVENTS) == entries[-1].id
        assert await bus.follow({Feed.EVENTS: entries[-1].id}, block_s=0) == []

    check(test)


def test_follow_waits_on_several_feeds(check: Check) -> None:
    async def test(bus: Bus) -> None:
        cursors = {Feed.EVENTS: "0-0", Feed.TELEMETRY: "0-0"}
        assert await bus.follow(cursors, block_s=0.05) == []
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(bus.follow(cursors, block_s=10))
            await asyncio.sleep(0.02)
            await bus.publish_telemetry(telemetry())
        assert [(entry.feed, entry.message) for entry in waiting.result()] == [(Feed.TELEMETRY, telemetry())]

    check(test)


def test_two_followers_each_get_everything(check: Check) -> None:
    async def test(bus: Bus) -> None:
        async with asyncio.TaskGroup() as group:
            both = [group.create_task(bus.follow({Feed.EVENTS: "0"}, block_s=10)) for _ in range(2)]
            await asyncio.sleep(0.02)
            await bus.publish(Feed.EVENTS, [an_event()])
        assert [len(task.result()) for task in both] == [1, 1]

    check(test)


def test_a_feed_refuses_what_json_cannot_carry(check: Check) -> None:
    async def test(bus: Bus) -> None:
        wrong = Event(at_ms=1.0, kind="test", source="test", data={"figures": [1.0, float("inf")]})
        with pytest.raises(MessageRejectedError, match="figures"):
            await bus.publish(Feed.EVENTS, [an_event(), wrong])
        assert await bus.follow({Feed.EVENTS: "0"}, block_s=0) == []

    check(test)


# --- state


def test_node_states(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.node_states() == {}
        for node in ("n1", "n2", "n1"):
            await bus.publish_telemetry(telemetry(node))
        assert await bus.node_states() == {"n1": telemetry("n1"), "n2": telemetry("n2")}
        assert len(await bus.follow({Feed.TELEMETRY: "0"}, block_s=0)) == 3

    check(test)


def test_the_state_of_a_node_that_leaves_is_not_kept(check: Check) -> None:
    async def test(bus: Bus) -> None:
        for node in ("n1", "n2"):
            await bus.publish_telemetry(telemetry(node))
        gone = msgspec.structs.replace(telemetry("n1"), leaving=True)
        for _ in range(2):
            await bus.publish_telemetry(gone)
            assert await bus.node_states() == {"n2": telemetry("n2")}
        told = [entry.message for entry in await bus.follow({Feed.TELEMETRY: "0"}, block_s=0)]
        assert told[-2:] == [gone, gone]
        await bus.publish_telemetry(telemetry("n1"))
        assert set(await bus.node_states()) == {"n1", "n2"}

    check(test)


def test_carbon_and_checkpoint(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.carbon_now() == {}
        assert await bus.checkpoint() is None
        await bus.publish_carbon([intensity(100.0), ledger(1.0)], a_checkpoint())
        await bus.publish_carbon([ledger(2.0)], a_checkpoint())
        assert await bus.carbon_now() == {"intensity": intensity(100.0), "ledger": ledger(2.0)}
        assert await bus.checkpoint() == a_checkpoint()
        entries = await bus.follow({Feed.CARBON: "0"}, block_s=0)
        assert [entry.message for entry in entries] == [intensity(100.0), ledger(1.0), ledger(2.0)]

    check(test)


def test_heartbeats(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.alive() == {}
        await bus.beat("node:n1")
        await asyncio.sleep(0.05)
        await bus.beat("controller")
        alive = await bus.alive()
        assert set(alive) == {"node:n1", "controller"}
        assert 0.0 <= alive["controller"] < alive["node:n1"] < 5.0

    check(test)


# --- control


def test_one_holds_the_lease(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.acquire_lease("a", ttl_s=10)
        assert await bus.acquire_lease("a", ttl_s=10)
        assert not await bus.acquire_lease("b", ttl_s=10)
        await bus.release_lease("b")
        assert not await bus.acquire_lease("b", ttl_s=10)
        await bus.release_lease("a")
        assert await bus.acquire_lease("b", ttl_s=0.05)
        await asyncio.sleep(0.1)
        assert await bus.acquire_lease("a", ttl_s=10)

    check(test)


def test_plans_and_targets_are_fenced(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.plan() is None
        assert await bus.target("n1") is None
        assert await bus.publish_plan("a", a_plan(), [a_target()]) is None
        assert not await bus.update_plan("a", a_plan())
        assert await bus.plan() is None
        await bus.acquire_lease("a", ttl_s=10)
        assert await bus.publish_plan("a", a_plan(epoch=77), [a_target("n1"), a_target("n2", epoch=5)]) == 1
        assert await bus.publish_plan("b", a_plan(), [a_target()]) is None
        assert await bus.plan() == a_plan(epoch=1)
        assert await bus.target("n1") == a_target("n1", epoch=1)
        assert await bus.target("n2") == a_target("n2", epoch=1)
        assert await bus.publish_plan("a", a_plan(), [a_target("n1")]) == 2
        assert await bus.update_plan("a", a_plan(state="serving"))
        assert await bus.plan() == a_plan(epoch=2, state="serving")
        assert await bus.target("n2") == a_target("n2", epoch=1)

    check(test)


def test_a_target_by_hand_raises_the_epoch_and_leaves_the_plan(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.send_by_hand(a_target("n1", reason="by hand")) == 1
        assert await bus.lease_holder() == ""
        await bus.acquire_lease("a", ttl_s=10)
        assert await bus.lease_holder() == "a"
        assert await bus.publish_plan("a", a_plan(), [a_target("n1")]) == 2
        assert await bus.send_by_hand(a_target("n1", reason="by hand"), above=41) == 42
        assert await bus.target("n1") == a_target("n1", epoch=42, reason="by hand")
        assert await bus.plan() == a_plan(epoch=2)
        assert await bus.publish_plan("a", a_plan(), [a_target("n1")]) == 43

    check(test)


def test_what_people_have_decided_is_kept(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.override() == Override()
        decided = Override(nodes=("n1",), reason="a fan is broken", by="me@here", at_ms=1.0)
        await bus.set_override(decided)
        assert await bus.override() == decided
        gpu = GpuTarget(index=0, mode="serving", instances=(InstanceTarget(profile="7g", variant="large"),))
        pinned = Override(pins=(Pin(node="n1", gpu=gpu, until_ms=5.0),), paused=True, paused_until_ms=7.0)
        await bus.set_override(pinned)
        assert await bus.override() == pinned
        await bus.set_override(Override(paused=True))
        assert await bus.override() == Override(paused=True)

    check(test)


def test_an_epoch_is_above_what_nodes_have_reached(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.acquire_lease("a", ttl_s=10)
        # As after a loss of the counter: nodes remember epoch 41.
        assert await bus.publish_plan("a", a_plan(), [a_target("n1")], above=41) == 42
        assert await bus.next_target("n1", after_epoch=41, block_s=1) == a_target("n1", epoch=42)
        assert await bus.plan() == a_plan(epoch=42)
        assert await bus.publish_plan("a", a_plan(), [a_target("n1")], above=7) == 43

    check(test)


def test_next_target_gives_the_newest_beyond_an_epoch(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.acquire_lease("a", ttl_s=10)
        assert await bus.next_target("n1", after_epoch=0, block_s=0) is None
        for reason in ("first", "second"):
            await bus.publish_plan("a", a_plan(), [a_target(reason=reason)])
        assert await bus.next_target("n1", after_epoch=0, block_s=1) == a_target(epoch=2, reason="second")
        assert await bus.next_target("n1", after_epoch=2, block_s=0.05) is None
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(bus.next_target("n1", after_epoch=2, block_s=10))
            await asyncio.sleep(0.02)
            await bus.publish_plan("a", a_plan(), [a_target("n2")])
            await bus.publish_plan("a", a_plan(), [a_target("n1")])
        assert waiting.result() == a_target("n1", epoch=4)

    check(test)


def test_close_may_be_called_twice(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.ping()
        await bus.close()
        await bus.close()

    check(test)


def test_the_extent_of_a_feed_tells_what_it_keeps_and_what_is_gone(check: Check) -> None:
    async def test(bus: Bus) -> None:
        nothing = await bus.extent(Feed.EVENTS)
        assert (nothing.first_id, nothing.last_id, nothing.length, nothing.added) == ("0-0", "0-0", 0, 0)
        await bus.publish(Feed.EVENTS, [an_event(number) for number in range(3)])
        entries = await bus.follow({Feed.EVENTS: "0"}, block_s=1)
        extent = await bus.extent(Feed.EVENTS)
        assert (extent.first_id, extent.last_id) == (entries[0].id, entries[-1].id)
        assert (extent.length, extent.added) == (3, 3)
        batch = [an_event(number) for number in range(5000)]
        for _ in range(23):
            await bus.publish(Feed.EVENTS, batch)
        extent = await bus.extent(Feed.EVENTS)
        assert extent.added == 115_003
        assert 100_000 <= extent.length < 115_003
        assert entry_order(extent.first_id) > entry_order(entries[-1].id)

    check(test)
