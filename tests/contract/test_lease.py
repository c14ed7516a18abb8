"""The lease over every bus: held by one process, whatever the names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any, cast

import pytest
from support import a_plan, a_target, run

from clover.agents.control_writer import ControlWriter
from clover.agents.lease import Lease, LeaseLostError, holder_of, name_of
from clover.agents.system_clock import SystemClock
from clover.bus.memory import MemoryBus
from clover.bus.messages import Event
from clover.bus.port import Bus
from clover.bus.values import Feed
from clover.core.identifiers import uuid7

if TYPE_CHECKING:
    from clover.agents.decision import DecisionMaker

Check = Callable[[Callable[[Bus], Coroutine[Any, Any, None]]], None]


def a_lease(bus: Bus, number: int, *, ttl_s: float = 10.0) -> Lease:
    return Lease("controller", uuid7(1e12, Random(number)), bus=bus, ttl_s=ttl_s, rng=Random(number))


def test_of_two_controllers_of_one_name_one_acts(check: Check) -> None:
    async def test(bus: Bus) -> None:
        first, second = a_lease(bus, 1), a_lease(bus, 2, ttl_s=0.3)
        await first.win()
        waiting = asyncio.create_task(second.win())
        await asyncio.sleep(0.15)
        assert not waiting.done()
        assert await bus.lease_holder() == first.holder
        assert name_of(first.holder) == name_of(second.holder) == "controller"
        assert await bus.publish_plan(second.holder, a_plan(), [a_target()]) is None
        assert not await bus.update_plan(second.holder, a_plan())
        assert await bus.publish_plan(first.holder, a_plan(), [a_target()]) == 1
        # What is not ours is not given back; what is, is free at once.
        await second.give_back()
        assert await bus.lease_holder() == first.holder
        await first.give_back()
        async with asyncio.timeout(5.0):
            await waiting
        assert await bus.publish_plan(second.holder, a_plan(), [a_target()]) == 2
        assert await bus.publish_plan(first.holder, a_plan(), [a_target()]) is None

    check(test)


def test_one_that_died_is_replaced_by_one_of_the_same_name_when_its_lease_has_run_out(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await a_lease(bus, 1, ttl_s=0.5).win()
        second = a_lease(bus, 2, ttl_s=0.3)
        async with asyncio.timeout(5.0):
            await second.win()
        assert await bus.lease_holder() == second.holder

    check(test)


def test_a_lease_that_was_not_extended_in_time_is_lost_whoever_has_it() -> None:
    async def scenario() -> None:
        lease = a_lease(MemoryBus("d", lambda: 0.0), 1, ttl_s=0.2)
        with pytest.raises(LeaseLostError):
            lease.check()
        await lease.win()
        lease.check()
        await asyncio.sleep(0.2)
        with pytest.raises(LeaseLostError):
            lease.check()
        await lease.win()
        lease.check()

    run(scenario())


def test_nothing_is_said_once_the_lease_has_run_out() -> None:
    async def scenario() -> None:
        bus = MemoryBus("d", lambda: 0.0)
        lease = a_lease(bus, 1, ttl_s=0.2)
        writer = ControlWriter(lease, bus=bus, clock=SystemClock(), maker=cast("DecisionMaker", None))
        await lease.win()
        await writer.say("node.joined", "n1", "1 GPUs")
        # As after SIGSTOP: what comes next is old news.
        await asyncio.sleep(0.2)
        with pytest.raises(LeaseLostError):
            await writer.say("node.lost", "n1", "silent for 8 s")
        told = [entry.message for entry in await bus.follow({Feed.EVENTS: "0"}, block_s=0)]
        assert [one.kind for one in told if isinstance(one, Event)] == ["node.joined"]

    run(scenario())


def test_a_holder_has_a_name_for_people() -> None:
    boot = uuid7(1e12, Random(1))
    assert name_of(holder_of("host.example", boot)) == "host.example"
    # As a controller of an earlier version writes it.
    assert [name_of(old) for old in ("c1", "host.example", "")] == ["c1", "host.example", ""]
