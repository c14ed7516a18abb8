"""A deployment in virtual time that a script may break, and what must hold whatever it breaks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from clover.agents.fleet import make_fleet
from clover.agents.goals import Goals
from clover.bus.messages import Event, GpuTarget, InstanceTarget, Override, Pin
from clover.bus.values import Feed
from clover.catalog import load_service, load_trace
from clover.sim.clock import run_virtual
from clover.sim.world import World, WorldSettings

MODEL = load_service("albert", "a100-40gb")


def settings(**changes: Any) -> WorldSettings:
    values: dict[str, Any] = {
        "fleet": make_fleet(backend="sim", board="a100-40gb", model=MODEL),
        "gpus": (4, 4),
        "scheme": "clover",
        "goals": Goals(lambda_=0.5, sla_ms=MODEL.table.sla_p95_ms),
        "trace": load_trace("constant:250"),
        "hour_s": 3600.0,
        "rate_rps": 10.0,
        "duration_s": 300.0,
    }
    return WorldSettings(**(values | changes))


@dataclass(slots=True)
class Stage:
    """What a script may break: the world, and the tasks of its nodes and of its first controller."""

    world: World
    group: asyncio.TaskGroup
    tasks: dict[str, asyncio.Task[None]]


Script = Callable[[Stage], Awaitable[None]]


def play(
    world_settings: WorldSettings, script: Script, make: type[World] = World
) -> tuple[dict[str, Any], list[Event]]:
    """Run a world while a script breaks things; return the summary and all events."""

    async def main() -> tuple[dict[str, Any], list[Event]]:
        world, events = make(world_settings), list[Event]()

        async def observe() -> None:
            cursors = dict.fromkeys(Feed, "0")
            while not world.summary.complete:
                for entry in await world.bus.follow(cursors, block_s=60.0):
                    cursors[entry.feed] = entry.id
                    world.summary.take(entry.message)
                    if isinstance(entry.message, Event):
                        events.append(entry.message)

        async with asyncio.TaskGroup() as group:
            tasks = {f"n{index + 1}": group.create_task(world.node(index)) for index in range(len(world_settings.gpus))}
            tasks["first"] = group.create_task(world.controller(name="first"))
            group.create_task(world.carbon_monitor())
            group.create_task(world.generator.run(world.stop))
            observer = group.create_task(observe())
            breaking = group.create_task(_script(script, Stage(world, group, tasks)))
            await observer
            breaking.cancel()
            world.stop.set()
        return world.summary.result(), events

    return run_virtual(main())


async def _script(script: Script, stage: Stage) -> None:
    await script(stage)


async def nothing(stage: Stage) -> None:
    """Break nothing."""


def check(result: dict[str, Any], events: list[Event], *, most_plans: int = 12) -> Counter[str]:
    requests = result["requests"]
    assert requests["lost"] == requests["duplicate"] == requests["failed"] == requests["expired"] == 0
    kinds = Counter(event.kind for event in events)
    assert kinds["decision"] <= most_plans, "plans flap"
    return kinds


def pin_all(gpu: str, variant: str, *, nodes: int = 2, gpus: int = 4) -> Override:
    def pin(node: int, index: int) -> Pin:
        target = GpuTarget(index=index, mode="serving", instances=(InstanceTarget(profile=gpu, variant=variant),))
        return Pin(node=f"n{node + 1}", gpu=target)

    pins = tuple(pin(node, index) for node in range(nodes) for index in range(gpus))
    return Override(by="test", pins=pins)
