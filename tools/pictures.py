"""Draws the pictures of docs/images from a run of the real agents in virtual time: `make pictures`.

    python tools/pictures.py [--folder docs/images]

Ten simulated A100s on two nodes serve ALBERT under California's grid for four minutes, as `clover up` would.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path

from cli.dashboard_options import ViewOptions
from cli.dashboard_picture import save_svg
from clover.agents.fleet import make_fleet
from clover.agents.goals import Goals
from clover.analysis.view import DeploymentView
from clover.bus.values import Feed
from clover.catalog import load_service, load_trace
from clover.sim.clock import run_virtual
from clover.sim.world import World, WorldSettings

_RUN_S = 240.0
_STEP_S = 1.0
_PAGES = {
    "overview": "dashboard",
    "gpus": "dashboard-gpus",
    "decisions": "dashboard-decisions",
    "requests": "dashboard-requests",
}


def watched() -> tuple[DeploymentView, float]:
    """Run, and return what a dashboard would know shortly before the end."""
    model = load_service("albert", "a100-40gb")
    settings = WorldSettings(
        fleet=make_fleet(backend="sim", board="a100-40gb", model=model),
        gpus=(5, 5),
        scheme="exact",
        goals=Goals(lambda_=0.5, sla_ms=model.table.sla_p95_ms, parking="parked"),
        trace=load_trace("ciso-march"),
        hour_s=20.0,
        rate_rps=12.5,
        duration_s=_RUN_S,
    )

    async def main() -> tuple[DeploymentView, float]:
        world, view = World(settings), DeploymentView()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.run())
            cursors, now_ms = dict.fromkeys(Feed, "0"), 0.0
            for _ in range(int((_RUN_S - 10.0) / _STEP_S)):
                await asyncio.sleep(_STEP_S)
                now_ms = world.clock.now_ms()
                view.set_plan(await world.bus.plan())
                view.set_queue(await world.bus.queue())
                view.set_alive(await world.bus.alive(), now_ms=now_ms)
                for entry in await world.bus.follow(cursors, block_s=0.0, count=10_000):
                    cursors[entry.feed] = entry.id
                    view.take(entry.message, now_ms=now_ms)
            await running
        return view, now_ms

    return run_virtual(main())


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    folder: Path = parser.parse_args().folder
    # Times of day in a picture must not depend on where it was drawn.
    os.environ["TZ"] = "UTC"
    time.tzset()
    view, now_ms = watched()
    snapshot = view.snapshot(now_ms)
    for page, name in _PAGES.items():
        save_svg(folder / f"{name}.svg", snapshot, ViewOptions(page=page), 120, 40)


if __name__ == "__main__":
    main()
