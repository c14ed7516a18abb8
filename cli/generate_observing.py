"""What `clover generate` sees of the whole deployment while its requests are answered: energy, carbon, plans."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from cli.connection import connected
from cli.following import follow_into
from clover.agents.lifetime import happens_within
from clover.analysis.summary import RunSummary
from clover.analysis.view import DeploymentView
from clover.bus.messages import Event, PlanData
from clover.bus.values import Feed

if TYPE_CHECKING:
    from cli.options import Where
    from clover.bus.messages import PlanRecord
    from clover.bus.port import Bus

Told = TypeVar("Told")

#: After the last answer the ledger has this long to catch up.
LEDGER_WITHIN_S = 15.0

#: What is taken from the account of the whole deployment.
_DEPLOYMENT = (
    "energy_j",
    "energy_j_per_request",
    "footprint_g",
    "saved_pct",
    "saved_pct_rightsized",
    "baseline",
    "baseline_late_pct",
    "baseline_feasible",
    "energy_source",
    "replans",
    "mig_changes",
)


async def observed(
    where: Where, plan: PlanRecord, summary: RunSummary, work: Callable[[], Awaitable[Told]]
) -> tuple[Told, bool]:
    """Do work beside what is observed of a deployment; return what came of it, and whether the ledger has caught up.

    Args:
        where: Deployment and server; it is observed by a connection of its own.
        plan: In force at the beginning.
        summary: Takes in what is observed.
        work: Sends requests, and returns when the last one has ended.
    """
    done, complete = asyncio.Event(), asyncio.Event()

    def seen() -> None:
        if summary.complete:
            complete.set()

    watcher = await connected(where, "generate-watch")
    try:
        cursors = {feed: await watcher.newest_id(feed) for feed in Feed}
        await _take_present(watcher, plan, summary)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(
                follow_into(watcher, DeploymentView(summary), done, cursors=cursors, seen=seen)
            )
            told = await work()
            await happens_within(complete, LEDGER_WITHIN_S)
            done.set()
            await following
    finally:
        await watcher.close()
    return told, complete.is_set()


async def _take_present(bus: Bus, plan: PlanRecord, summary: RunSummary) -> None:
    """Tell a summary what was so before it began: the grid, and the plan in force with its baselines."""
    import msgspec  # noqa: PLC0415

    for message in (await bus.carbon_now()).values():
        summary.take(message)
    data = PlanData(
        prediction=plan.step_prediction,
        base=plan.base,
        base_rightsized=plan.base_rightsized,
        decision=plan.decision,
    )
    summary.take(
        Event(
            at_ms=plan.since_ms,
            kind="plan.serving",
            source="controller",
            epoch=plan.epoch,
            data=msgspec.to_builtins(data),
        )
    )


def of_deployment(summary: RunSummary, *, complete: bool) -> dict[str, Any]:
    """Return energy and footprint of the whole deployment per request that it answered."""
    result = summary.result()
    answered = result["requests"]["ok"] + result["requests"]["late"]
    if not complete:
        return {"energy_j_per_request": None, "footprint_g_per_request": None, "whole_deployment": None}
    return {
        "energy_j_per_request": result["energy_j_per_request"],
        "footprint_g_per_request": result["footprint_g"] / answered if answered else None,
        "whole_deployment": {name: result[name] for name in _DEPLOYMENT}
        | {"answered": answered, "scope": "all producers, from the first request to the last answer, warm-up included"},
    }
