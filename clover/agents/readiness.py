"""When a deployment serves: its plan is in force on nodes that live."""

from __future__ import annotations

import asyncio

from clover.agents.backoff import Backoff
from clover.bus.messages import PlanRecord
from clover.bus.port import Bus
from clover.bus.values import Feed
from clover.errors import BusUnavailableError


async def plan_in_force(bus: Bus, *, seen_after_ms: float) -> PlanRecord | None:
    """Return the plan if living nodes have applied it, None otherwise.

    Args:
        bus: The deployment.
        seen_after_ms: Nodes that have not been heard of since then do not count: an earlier run may have left them.
    """
    plan = await bus.plan()
    if plan is None or plan.state != "serving":
        return None
    states = await bus.node_states()
    nodes = [states.get(node) for node in plan.configuration]
    applied = all(n is not None and n.at_ms >= seen_after_ms and n.applied_epoch >= plan.epoch for n in nodes)
    return plan if applied else None


async def wait_until_serving(
    bus: Bus, *, seen_after_ms: float, block_s: float, backoff: Backoff, stop: asyncio.Event
) -> PlanRecord | None:
    """Wait until a plan is in force; None if `stop` is set first.

    Looks again whenever something happens in the deployment, and at least every `block_s`.
    """
    while not stop.is_set():
        try:
            cursor = await bus.newest_id(Feed.EVENTS)
            plan = await plan_in_force(bus, seen_after_ms=seen_after_ms)
            if plan is not None:
                return plan
            await bus.follow({Feed.EVENTS: cursor}, block_s=block_s)
            backoff.reset()
        except BusUnavailableError:
            await asyncio.sleep(backoff.next_s())
    return None
