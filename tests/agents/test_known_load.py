"""Waking ahead of a load that is known in advance: the real agents in virtual time, with and without the profile."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from control_stage import Stage, check, nothing, play, settings

from clover.agents.goals import Goals
from clover.bus.messages import Event
from clover.core.arrivals import RateProfile
from clover.sim.world import WorldSettings

#: The load is five times as high all at once.
STEP_S, LOW_RPS, HIGH_RPS = 150.0, 6.0, 30.0


def stepping(**changes: Any) -> WorldSettings:
    load = RateProfile((0.0, STEP_S), (LOW_RPS, HIGH_RPS), STEP_S + 90.0, repeats=False)
    plain = settings(scheme="base_rightsized", rate_rps=LOW_RPS, load=load, duration_s=load.end_s, load_known=True)
    goals = Goals(lambda_=0.5, sla_ms=plain.goals.sla_ms, parking="parked")
    return dataclasses.replace(plain, goals=goals, **changes)


def serving(events: list[Event], *, until_ms: float) -> set[str]:
    """Return the GPUs that served at a moment."""
    now: set[str] = set()
    for event in events:
        if event.at_ms <= until_ms and event.kind.startswith("gpu."):
            (now.add if event.kind == "gpu.serving" else now.discard)(event.subject)
    return now


def step_ms(events: list[Event]) -> float:
    started = next(event for event in events if event.kind == "generator.started")
    return started.data["schedule_began_ms"] + 1e3 * STEP_S


def test_gpus_are_awake_before_a_step_that_is_known_and_fewer_requests_are_late() -> None:
    known, told = play(stepping(), nothing)
    unknown, seen = play(stepping(load_known=False), nothing)
    for result, events in ((known, told), (unknown, seen)):
        check(result, events)
    before = serving(told, until_ms=step_ms(told) - 60e3)
    awake = serving(told, until_ms=step_ms(told))
    assert len(before) < len(awake)
    # What it takes in the end is there in time; without the profile nothing is.
    assert awake >= serving(told, until_ms=step_ms(told) + 85e3)
    assert len(serving(seen, until_ms=step_ms(seen))) == len(before)
    ahead = [event.reason for event in told if event.kind == "decision" and event.data["trigger"] == "load"]
    assert any(f"{HIGH_RPS:.3g} ahead" in reason for reason in ahead)
    assert [event.kind for event in told if event.kind == "load.known"] == ["load.known"]
    assert not any(event.kind == "load.known" for event in seen)
    assert known["late_pct"] < 0.5 * unknown["late_pct"], (known["late_pct"], unknown["late_pct"])


def test_a_controller_that_takes_over_knows_it_from_the_events_that_are_kept() -> None:
    async def script(stage: Stage) -> None:
        await asyncio.sleep(80.0)
        stage.tasks["first"].cancel()
        stage.group.create_task(stage.world.controller(name="second"))

    result, events = play(stepping(), script)
    kinds = check(result, events)
    assert kinds["controller.took_over"] == 1
    assert kinds["load.known"] == 2
    assert len(serving(events, until_ms=step_ms(events))) > len(serving(events, until_ms=step_ms(events) - 60e3))
