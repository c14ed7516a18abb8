"""A node taken from the controller by hand in the middle of a run, in virtual time, with the real agents."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from clover.agents.by_hand import ByHand
from clover.agents.fleet import make_fleet
from clover.agents.goals import Goals
from clover.agents.orders import cut, empty
from clover.bus.messages import Override
from clover.bus.values import Feed
from clover.catalog import load_service, load_trace
from clover.errors import ConfigurationError, NodeError, NotReadyError
from clover.sim.clock import run_virtual
from clover.sim.world import World, WorldSettings

Steps = Callable[[World, ByHand], Awaitable[None]]


def run_with(steps: Steps, *, controller: bool = True) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        model = load_service("albert", "a100-40gb")
        world = World(
            WorldSettings(
                fleet=make_fleet(backend="sim", board="a100-40gb", model=model),
                gpus=(2, 2),
                scheme="base",
                goals=Goals(lambda_=0.5, sla_ms=model.table.sla_p95_ms),
                trace=load_trace("constant:250"),
                hour_s=20.0,
                rate_rps=1.0,
                duration_s=150.0,
            )
        )
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(world.node(0)), group.create_task(world.node(1))]
            if controller:
                tasks += [group.create_task(world.controller()), group.create_task(world.carbon_monitor())]
                group.create_task(world.generator.run(world.stop))
            await asyncio.sleep(30.0)
            await steps(world, ByHand(world.bus, world.clock, "n2", wait_s=60.0))
            if controller:
                await _observe(world)
            for task in tasks:
                task.cancel()
        return world.summary.result() if controller else {}

    return run_virtual(main())


async def _observe(world: World) -> None:
    cursors = dict.fromkeys(Feed, "0")
    while not world.summary.complete:
        for entry in await world.bus.follow(cursors, block_s=60.0):
            cursors[entry.feed] = entry.id
            world.summary.take(entry.message)


async def planned_nodes(world: World) -> set[str]:
    plan = await world.bus.plan()
    assert plan is not None
    return set(plan.configuration)


def test_a_node_is_taken_used_and_given_back_and_nothing_is_lost() -> None:
    async def steps(world: World, by_hand: ByHand) -> None:
        with pytest.raises(ConfigurationError, match="acts and would replace"):
            await by_hand.allowed()
        await by_hand.take()
        await by_hand.take()
        await by_hand.allowed()
        sent = await by_hand.send(empty("parked"), None, what="drain")
        seen = await by_hand.in_force(sent, idle=True)
        assert [gpu.phase for gpu in seen.gpus] == ["parked", "parked"]
        await asyncio.sleep(10.0)
        assert await planned_nodes(world) == {"n1"}
        sent = await by_hand.send(cut(["3g", "3g"], ["base"]), [1], what="configure")
        await asyncio.sleep(30.0)
        seen = await by_hand.in_force(sent)
        assert [[i.profile for i in gpu.instances] for gpu in seen.gpus] == [[], ["3g", "3g"]]
        await by_hand.release()
        await asyncio.sleep(30.0)
        assert await planned_nodes(world) == {"n1", "n2"}

    requests = run_with(steps)["requests"]
    assert requests["lost"] == requests["failed"] == requests["duplicate"] == requests["expired"] == 0


def test_a_paused_controller_lets_through_what_is_sent_by_hand() -> None:
    async def steps(world: World, by_hand: ByHand) -> None:
        await world.bus.set_override(Override(paused=True))
        await by_hand.allowed()

    run_with(steps)


def test_what_came_after_and_what_never_comes_are_said() -> None:
    async def steps(world: World, by_hand: ByHand) -> None:
        first = await by_hand.send(cut(["7g"], ["base"]), None, what="first")
        second = await by_hand.send(cut(["4g"], ["base"]), None, what="second")
        await by_hand.in_force(second)
        with pytest.raises(NodeError, match="came after 1 and replaced it: by hand .* second"):
            await by_hand.in_force(first)
        hasty = ByHand(world.bus, world.clock, "n2", wait_s=0.5)
        with pytest.raises(NotReadyError, match=r"not in force within 0\.5 s: gpu0 changing"):
            await hasty.in_force(await hasty.send(cut(["7g"], ["large"]), None, what="third"))
        refused = await by_hand.send(cut(["7g"], ["huge"]), [0], what="fourth")
        with pytest.raises(NodeError, match="refuses the target: variant 'huge'"):
            await by_hand.in_force(refused)
        # What was refused is not carried on.
        await by_hand.in_force(await by_hand.send(empty("off"), [1], what="fifth"))
        with pytest.raises(NodeError, match="'n7' is not heard of, expected one of n1, n2"):
            await ByHand(world.bus, world.clock, "n7", wait_s=1.0).telemetry()

    run_with(steps, controller=False)
