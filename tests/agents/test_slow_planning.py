"""Planning takes long, the real agents in virtual time: the guard acts all the same, and the plan is taken in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from control_stage import MODEL, Stage, nothing, play, settings

from clover.agents.goals import Goals
from clover.bus.messages import Event
from clover.core.arrivals import RateProfile
from clover.sim.clock import EPOCH_S
from clover.sim.world import WorldSettings

#: When the load goes up, s after the first request.
SURGE_S = 60.0


def surge(low: float, high: float, until_s: float) -> RateProfile:
    return RateProfile((0.0, SURGE_S), (low, high), until_s, repeats=False)


def slow(monkeypatch: pytest.MonkeyPatch, takes_s: Callable[[str, int], float]) -> list[tuple[float, float]]:
    """Let planning take virtual time: what is computed, and how many plans were before, say how much.

    Return when the loop began to compute what takes time, and when it was done.
    """
    plans, took = [0], list[tuple[float, float]]()

    async def compute(function: Callable[[], Any]) -> Any:
        what, number = function.__qualname__, plans[0]
        plans[0] += "decide" in what
        if seconds := takes_s(what, number):
            now_s = asyncio.get_running_loop().time()
            took.append((now_s, now_s + seconds))
            await asyncio.sleep(seconds)
        return function()

    monkeypatch.setattr("clover.sim.world._at_once", compute)
    return took


def moments(events: list[Event], kind: str) -> list[float]:
    return [event.at_ms / 1e3 for event in events if event.kind == kind]


def surging(scheme: str, high_rps: float, *, until_s: float) -> WorldSettings:
    """Four GPUs, of which few serve when the load becomes much higher."""
    return settings(
        scheme=scheme,
        gpus=(2, 2),
        goals=Goals(lambda_=0.5, sla_ms=MODEL.table.sla_p95_ms, parking="parked"),
        rate_rps=2.0,
        load=surge(2.0, high_rps, until_s),
        duration_s=until_s,
    )


def test_the_guard_takes_measures_while_a_slow_plan_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    took = slow(monkeypatch, lambda what, number: 50.0 if number and "decide" in what else 0.0)
    result, events = play(surging("clover", 30.0, until_s=150.0), nothing)
    requests = result["requests"]
    assert requests["lost"] == requests["duplicate"] == requests["failed"] == 0
    raised = {event.subject: event.at_ms / 1e3 for event in events if event.kind == "guard.raised"}
    sla = [event.at_ms / 1e3 for event in events if event.kind == "decision" and event.data["trigger"] == "sla"]
    for level in ("wake", "dispatch"):
        assert min(abs(at_s - raised[level]) for at_s in sla) <= 1.0
    # The second of them came while the load was planned for, which is taken up again.
    assert any(began_s < raised["dispatch"] - EPOCH_S < done_s for began_s, done_s in took)
    assert 2 <= len(took) <= 4


def test_the_guard_does_not_wait_for_what_is_planned_in_spare_time(monkeypatch: pytest.MonkeyPatch) -> None:
    took = slow(monkeypatch, lambda what, _: 500.0 if "_settle" in what else 0.0)
    result, events = play(surging("exact", 25.0, until_s=100.0), nothing)
    assert result["requests"]["lost"] == 0
    raised = moments(events, "guard.raised")
    assert raised
    decided = [event.at_ms / 1e3 for event in events if event.kind == "decision" and event.data["trigger"] == "sla"]
    assert decided[0] - raised[0] <= 1.0
    assert any(began_s < raised[0] - EPOCH_S < done_s for began_s, done_s in took)


def test_nodes_that_are_lost_and_people_are_heard_while_a_plan_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, lambda what, number: 100.0 if number == 1 and "decide" in what else 0.0)

    async def script(stage: Stage) -> None:
        await asyncio.sleep(60.0)
        stage.tasks["n2"].cancel()
        await asyncio.sleep(40.0)
        stage.group.create_task(stage.world.node(1))

    result, events = play(settings(duration_s=260.0, rate_rps=4.0), script)
    # What the lost node had in hand may run out of time.
    assert result["requests"]["lost"] == result["requests"]["failed"] == 0
    (lost,), overdue = moments(events, "node.lost"), moments(events, "plan.overdue")
    joined = moments(events, "node.joined")[-1]
    # It is back before the plan without it is there, and that is told when it happens.
    assert lost < joined < lost + 60.0
    assert len(overdue) == 1
    assert overdue[0] - lost == pytest.approx(60.0, abs=2.0)
    assert len(moments(events, "decision")) <= 5
    assert [event.kind for event in events if event.kind.startswith("plan.")][-1] == "plan.serving"
