"""The dashboard drawn from a real (virtual-time) run, at the sizes that people use."""

from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from cli.dashboard import status_line
from cli.dashboard import view as render
from clover.agents.fleet import make_fleet
from clover.agents.goals import Goals
from clover.analysis.summary import RunSummary
from clover.analysis.view import DeploymentView
from clover.bus.values import Feed
from clover.catalog import load_service, load_trace
from clover.sim.clock import run_virtual
from clover.sim.world import World, WorldSettings


@pytest.fixture(scope="module")
def seen() -> tuple[DeploymentView, float]:
    """A view of one minute of a deployment, and the moment of its end."""
    model = load_service("albert", "a100-40gb")
    settings = WorldSettings(
        fleet=make_fleet(backend="sim", board="a100-40gb", model=model),
        gpus=(5, 5),
        scheme="clover",
        goals=Goals(lambda_=0.5, sla_ms=model.table.sla_p95_ms),
        trace=load_trace("ciso-march"),
        hour_s=20.0,
        rate_rps=12.5,
        duration_s=60.0,
    )

    async def main() -> tuple[DeploymentView, float]:
        world = World(settings)
        view = DeploymentView(RunSummary(sla_p95_ms=model.table.sla_p95_ms))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.run())
            await asyncio.sleep(55.0)
            for entry in await world.bus.follow(dict.fromkeys(Feed, "0"), block_s=0.0, count=10_000):
                view.take(entry.message, now_ms=world.clock.now_ms())
            view.set_plan(await world.bus.plan())
            now_ms = world.clock.now_ms()
            await running
        return view, now_ms

    return run_virtual(main())


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
def test_a_frame_fits_and_says_what_matters(seen: tuple[DeploymentView, float], width: int, height: int) -> None:
    view, now_ms = seen
    console = Console(file=io.StringIO(), record=True, width=width, height=height, force_terminal=True)
    console.print(render(view.snapshot(now_ms), width, height))
    lines = console.export_text().rstrip("\n").splitlines()
    assert len(lines) <= height
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    for word in ("SIM", "saved", "gCO2e/kWh", "BASE", "p95", "serving", "decision", "q quit"):
        assert word in text, word


def test_nothing_known_yet_is_no_error() -> None:
    view = DeploymentView(RunSummary(sla_p95_ms=100.0))
    console = Console(file=io.StringIO(), record=True, width=80, height=24)
    console.print(render(view.snapshot(1e12), 80, 24))
    assert console.export_text()
    assert status_line(view.snapshot(1e12))


def test_the_status_line_is_one_line(seen: tuple[DeploymentView, float]) -> None:
    view, now_ms = seen
    line = status_line(view.snapshot(now_ms))
    assert "\n" not in line
    assert "g/kWh" in line
    assert "SIM" in line
