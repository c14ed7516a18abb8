"""Planning takes long, the real agents in virtual time: the guard acts all the same, and the plan is taken in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from control_stage import MODEL, Stage, check, nothing, play, settings

from clover.agents.goals import Goals
from clover.bus.messages import Event
from clover.core.arrivals import RateProfile

#: When the load goes up, s after the first request.
SURGE_S = 120.0


def surge(low: float, high: float, until_s: float) -> RateProfile:
    return RateProfile((0.0, SURGE_S), (low, high), until_s, repeats=False)


def slow(monkeypatch: pytest.MonkeyPatch, takes_s: Callable[[str, int], float]) -> None:
    """Let planning take virtual time: what is computed, and how many were before, say how much."""
    count = [0]

    async def compute(function: Callable[[], Any]) -> Any:
        number, count[0] = count[0], count[0] + 1
        await asyncio.sleep(takes_s(getattr(function, "__qualname__", ""), number))
        return function()

    monkeypatch.setattr("clover.sim.world._at_once", compute)


def moments(events: list[Event], kind: str) -> list[float]:
    return [event.at_ms / 1e3 for event in events if event.kind == kind]


@pytest.mark.parametrize("planning_s", [50.0, 200.0])
def test_the_guard_wakes_gpus_while_a_slow_plan_is_made(planning_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, lambda what, number: planning_s if number and "decide" in what else 0.0)
    result, events = play(
        settings(
            scheme="clover",
            goals=Goals(lambda_=0.5, sla_ms=MODEL.table.sla_p95_ms, parking="parked"),
            rate_rps=3.0,
            load=surge(3.0, 60.0, 600.0),
            duration_s=600.0,
        ),
        nothing,
    )
    requests = result["requests"]
    assert requests["lost"] == requests["duplicate"] == requests["failed"] == 0
    began_s = moments(events, "generator.started")[0]
    woken = [e.at_ms / 1e3 - began_s for e in events if e.kind == "guard.raised" and e.subject == "wake"]
    assert woken
    assert woken[0] < SURGE_S + 45.0
    decided = [(e.at_ms / 1e3 - began_s, e.data["trigger"]) for e in events if e.kind == "decision"]
    after = [(at_s, trigger) for at_s, trigger in decided if at_s > SURGE_S]
    # The measure is the first decision, at once; what was being planned for is taken up later.
    assert after[0] == (pytest.approx(woken[0], abs=1.0), "sla")
    assert "load" in [trigger for _, trigger in after]
    serving = [at_s - began_s for at_s in moments(events, "gpu.serving") if at_s - began_s > SURGE_S]
    assert serving
    assert min(serving) < woken[0] + 15.0
    assert len(decided) <= 20


def test_the_guard_does_not_wait_for_what_is_planned_in_spare_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, lambda what, _: 500.0 if "_settle" in what else 0.0)
    result, events = play(
        settings(
            scheme="exact",
            gpus=(2, 2),
            goals=Goals(lambda_=0.5, sla_ms=MODEL.table.sla_p95_ms, parking="parked"),
            rate_rps=2.0,
            load=surge(2.0, 25.0, 300.0),
            duration_s=300.0,
        ),
        nothing,
    )
    assert result["requests"]["lost"] == 0
    raised = moments(events, "guard.raised")
    assert raised
    decided = [event.at_ms / 1e3 for event in events if event.kind == "decision" and event.data["trigger"] == "sla"]
    assert decided[0] - raised[0] <= 1.0


def test_nodes_that_are_lost_and_people_are_heard_while_a_plan_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, lambda what, number: 100.0 if number == 1 and "decide" in what else 0.0)

    async def script(stage: Stage) -> None:
        await asyncio.sleep(60.0)
        stage.tasks["n2"].cancel()
        await asyncio.sleep(40.0)
        stage.group.create_task(stage.world.node(1))

    result, events = play(settings(duration_s=400.0), script)
    kinds = check(result, events)
    (lost,), overdue = moments(events, "node.lost"), moments(events, "plan.overdue")
    joined = moments(events, "node.joined")[-1]
    # It is back before the plan without it is there, and that is told when it happens.
    assert lost < joined < lost + 60.0
    assert len(overdue) == 1
    assert overdue[0] - lost == pytest.approx(60.0, abs=2.0)
    assert kinds["decision"] <= 5
    assert [event.kind for event in events if event.kind.startswith("plan.")][-1] == "plan.serving"
