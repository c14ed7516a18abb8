"""The grid moves and the layout stays: only dispatch is sent. The real agents in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from clover.agents.fleet import make_fleet
from clover.agents.goals import Goals
from clover.bus.messages import GpuTarget, InstanceTarget, Override, Pin, PlanRecord, Target
from clover.catalog import load_service
from clover.core.application import ServiceModel
from clover.core.intensity_trace import IntensityTrace
from clover.sim.clock import run_virtual
from clover.sim.world import World, WorldSettings

ALBERT, YOLO = (load_service(app, "a100-40gb") for app in ("albert", "yolov5"))
#: Seconds from the first row of the trace to the second, and from telemetry to telemetry.
HOUR_S, TELEMETRY_S = 60.0, 1.0


def settings(
    before: float, after: float, *, model: ServiceModel, gpus: tuple[int, int], rate_rps: float, lambda_: float
) -> WorldSettings:
    trace = IntensityTrace(name="step", zone="none", values_g_per_kwh=(before, after), after_end="stop")
    return WorldSettings(
        fleet=make_fleet(backend="sim", board="a100-40gb", model=model),
        gpus=gpus,
        scheme="exact",
        goals=Goals(lambda_=lambda_, sla_ms=model.table.sla_p95_ms),
        trace=trace,
        hour_s=HOUR_S,
        rate_rps=rate_rps,
        duration_s=1.5 * HOUR_S,
        telemetry_s=TELEMETRY_S,
    )


Sent = list[tuple[float, PlanRecord, Sequence[Target]]]


def watched(world_settings: WorldSettings, override: Override | None = None) -> tuple[Sent, dict[str, Any]]:
    """Run a world; return what was sent, with seconds since the first row of the trace began, and the summary."""
    sent: Sent = []

    async def main() -> dict[str, Any]:
        world = World(world_settings)
        began_s, publish = world.clock.now_s(), world.bus.publish_plan

        async def publish_watched(
            holder: str, plan: PlanRecord, targets: Sequence[Target], *, above: int = 0
        ) -> int | None:
            sent.append((world.clock.now_s() - began_s, plan, targets))
            return await publish(holder, plan, targets, above=above)

        world.bus.publish_plan = publish_watched
        if override is not None:
            await world.bus.set_override(override)
        return await world.run()

    result = run_virtual(main())
    return sent, result


def test_an_intensity_change_sends_only_dispatch() -> None:
    """The best plan of all has another layout then, which is not worth a change."""
    sent, result = watched(settings(220.0, 260.0, model=YOLO, gpus=(1, 1), rate_rps=5.0, lambda_=0.1))
    *first, (at_s, plan, targets) = sent
    assert {each.trigger for _, each, _ in first} == {"start"}
    assert plan.trigger == "intensity"
    assert "the layout stays" in plan.reason
    # Within one telemetry interval of the change.
    assert HOUR_S <= at_s <= HOUR_S + TELEMETRY_S
    old = {target.node: target for target in first[-1][2]}
    assert {target.node for target in targets} == set(old) == {"n1", "n2"}
    for target in targets:
        assert target.gpus == old[target.node].gpus
        assert target.dispatch != old[target.node].dispatch
        assert target.epoch == 0 or target.epoch > old[target.node].epoch
    # The first layout, and nothing after it.
    assert result["mig_changes"] == 0
    assert (result["replans"], result["reconfigurations"]) == (1, 0)
    requests = result["requests"]
    assert requests["lost"] == requests["failed"] == requests["duplicate"] == requests["expired"] == 0


def test_dispatch_follows_the_grid_at_once_although_planning_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    planning_s = 12.0

    async def slowly(function: Callable[[], Any]) -> Any:
        await asyncio.sleep(planning_s)
        return function()

    monkeypatch.setattr("clover.sim.world._at_once", slowly)
    sent, result = watched(settings(220.0, 260.0, model=YOLO, gpus=(1, 1), rate_rps=5.0, lambda_=0.1))
    before = [targets for at_s, _, targets in sent if at_s < HOUR_S][-1]
    after = [(at_s, targets) for at_s, _, targets in sent if at_s >= HOUR_S]
    at_s, targets = after[0]
    # From the reading of the intensity to the targets; the plan itself takes longer.
    assert at_s <= HOUR_S + TELEMETRY_S < HOUR_S + planning_s
    old = {target.node: target for target in before}
    assert [target.gpus for target in targets] == [old[target.node].gpus for target in targets]
    assert all(target.dispatch != old[target.node].dispatch for target in targets)
    # The plan finds nothing better; and that it took long was no reason to lose a node.
    assert [target.dispatch for target in after[-1][1]] == [target.dispatch for target in targets]
    assert result["replans"] == 1
    assert result["mig_changes"] == 0
    assert result["requests"]["lost"] == result["requests"]["duplicate"] == 0


def _pinned(node: str, *instances: tuple[str, str]) -> Pin:
    wanted = tuple(InstanceTarget(profile=profile, variant=variant) for profile, variant in instances)
    return Pin(node=node, gpu=GpuTarget(index=0, mode="serving", instances=wanted))


def test_dispatch_on_pinned_gpus_follows_the_grid() -> None:
    pins = (_pinned("n1", ("7g", "yolov5x6")), _pinned("n2", ("3g", "yolov5x"), ("2g", "yolov5l"), ("2g", "yolov5l")))
    asked = settings(120.0, 400.0, model=YOLO, gpus=(1, 1), rate_rps=5.0, lambda_=0.3)
    sent, result = watched(asked, Override(pins=pins))
    assert [plan.trigger for _, plan, _ in sent] == ["start", "intensity"]
    assert HOUR_S <= sent[-1][0] <= HOUR_S + TELEMETRY_S
    clean, dirty = ({target.node: target for target in targets} for _, _, targets in sent)
    for pin in pins:
        assert clean[pin.node].gpus == dirty[pin.node].gpus == (pin.gpu,)
    # While the grid is clean accuracy comes first; then the smaller instances serve all.
    assert [(target.dispatch.name, target.dispatch.weight) for target in clean.values()] == [("accurate", 1.0)] * 2
    assert (dirty["n1"].dispatch.weight, dirty["n2"].dispatch.weight) == (0.0, 1.0)
    assert dirty["n2"].dispatch.name == "shares"
    assert (result["mig_changes"], result["requests"]["lost"]) == (0, 0)


def test_a_change_that_is_worth_it_changes_the_layout() -> None:
    sent, result = watched(settings(166.0, 292.0, model=ALBERT, gpus=(5, 5), rate_rps=12.5, lambda_=0.5))
    before, after = ({target.node: target.gpus for target in targets} for _, _, targets in (sent[0], sent[-1]))
    assert before != after
    assert result["reconfigurations"] == 1
    assert result["requests"]["lost"] == 0
