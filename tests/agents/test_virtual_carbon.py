"""The whole deployment in virtual time on a live source that fails, and on year-long series where they are there."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import carbon_stub
import pytest
from carbon_stub import Reply, Stub

from clover.agents.fleet import make_fleet
from clover.agents.goals import Goals
from clover.bus.messages import Event, IntensityReading, LedgerReading
from clover.bus.values import Feed
from clover.carbon.chain import SourceChain
from clover.carbon.dialects import Options, read_table
from clover.carbon.factors import load_factors
from clover.carbon.importing import import_table
from clover.carbon.port import IntensityFeed
from clover.carbon.registry import make_source
from clover.catalog import load_service, load_trace
from clover.core.clock import Clock
from clover.core.intensity_trace import IntensityTrace, constant_trace
from clover.core.timeline import StepFunction
from clover.sim.clock import EPOCH_S, run_virtual
from clover.sim.world import World, WorldSettings

HOUR_S = 3600.0


def _settings(**changes: Any) -> WorldSettings:
    model = load_service("albert", "a100-40gb")
    values: dict[str, Any] = {
        "fleet": make_fleet(backend="sim", board="a100-40gb", model=model),
        "gpus": (2,),
        "scheme": "co2opt",
        "goals": Goals(lambda_=0.5, sla_ms=model.table.sla_p95_ms),
        "trace": load_trace("constant:250"),
        "hour_s": HOUR_S,
        "rate_rps": 0.1,
        "duration_s": 14 * HOUR_S,
        "telemetry_s": 60.0,
    }
    return WorldSettings(**(values | changes))


def truth(at_s: float) -> float:
    """One half-hour in two is dirty: every change is a reason to plan anew."""
    return 100.0 if (at_s // 1800.0) % 2 else 300.0


async def _watched(world: World) -> tuple[list[IntensityReading], list[Event], list[LedgerReading]]:
    """Run a world to its end and return what the carbon feed and the events told."""
    readings, events, ledgers = list[IntensityReading](), list[Event](), list[LedgerReading]()
    async with asyncio.TaskGroup() as group:
        for work in (world.node(0), world.controller(), world.carbon_monitor(), world.generator.run(world.stop)):
            group.create_task(work)
        cursors = dict.fromkeys(Feed, "0")
        while not world.summary.complete:
            for entry in await world.bus.follow(cursors, block_s=HOUR_S):
                cursors[entry.feed] = entry.id
                world.summary.take(entry.message)
                match entry.message:
                    case IntensityReading():
                        readings.append(entry.message)
                    case Event():
                        events.append(entry.message)
                    case LedgerReading():
                        ledgers.append(entry.message)
                    case _:
                        continue
        world.stop.set()
    return readings, events, ledgers


def test_a_source_that_is_down_for_hours_costs_neither_the_plan_nor_the_totals() -> None:
    down = (EPOCH_S + 3 * HOUR_S, EPOCH_S + 9 * HOUR_S)

    def source(clock: Clock) -> IntensityFeed:
        right = carbon_stub.neso(clock.now_s, truth)
        stub = Stub(lambda ask: Reply(status=500) if down[0] <= clock.now_s() < down[1] else right(ask))
        live = make_source("neso", zone="GB", url=None, clock=clock, transport=stub.transport())
        return SourceChain(live, clock=clock, rng=Random(0), fallback=constant_trace(999.0))

    async def main() -> tuple[World, tuple[list[IntensityReading], list[Event], list[LedgerReading]]]:
        world = World(_settings(source=source))
        return world, await _watched(world)

    world, (readings, events, ledgers) = run_virtual(main())
    result = world.summary.result()
    assert result["requests"]["lost"] == 0
    # The published forecast stood in, so that even the grams of the outage are right; the marks say that it did.
    levels = [r.fallback_level for r in readings]
    assert {0, 1, 2} == set(levels)
    assert {r.note for r in readings if r.fallback_level} == {"neso /intensity: HTTP 500"} | {
        r.note for r in readings if "left alone" in r.note
    }
    stale = [r for r in readings if r.stale]
    assert stale
    assert down[0] + 2.4 * HOUR_S <= stale[0].from_ms / 1e3 <= down[0] + 4 * HOUR_S
    decisions = [e.at_ms for e in events if e.kind == "decision"]
    recovered = next(e.at_ms for e in events if e.kind == "carbon.recovered")
    began_stale = next(e.at_ms for e in events if e.kind == "carbon.stale")
    # Plans follow the grid every half-hour, but not on old news.
    assert sum(at < began_stale for at in decisions) >= 6
    assert [at for at in decisions if began_stale <= at < recovered] == []
    assert sum(at >= recovered for at in decisions) >= 6
    total = ledgers[-1]
    assert total.unresolved_j == 0.0
    published = StepFunction((r.from_ms, r.g_per_kwh * r.pue) for r in readings)
    grams = sum(
        (after.energy_j - before.energy_j) / 3.6e6 * published.mean(before.at_ms, after.at_ms)
        for before, after in pairwise(ledgers)
    )
    assert total.footprint_g - ledgers[0].footprint_g == pytest.approx(grams, rel=1e-9)
    # Only the half-hour for which the cached figure was used is not as the grid really was.
    right = sum(
        (after.energy_j - before.energy_j) / 3.6e6 * 1.5 * truth(after.at_ms / 1e3 - 1.0)
        for before, after in pairwise(ledgers)
    )
    assert grams == pytest.approx(right, rel=0.04)


def test_a_source_that_never_answers_does_not_keep_a_deployment_from_serving() -> None:
    def source(clock: Clock) -> IntensityFeed:
        live = make_source(
            "neso", zone="GB", url=None, clock=clock, transport=Stub(lambda _: Reply(refuse=True)).transport()
        )
        return SourceChain(live, clock=clock, rng=Random(0), fallback=constant_trace(250.0))

    async def main() -> tuple[dict[str, Any], list[IntensityReading]]:
        world = World(_settings(source=source, duration_s=HOUR_S))
        readings, _, _ = await _watched(world)
        return world.summary.result(), readings

    result, readings = run_virtual(main())
    assert result["requests"]["ok"] > 100
    assert {(r.fallback_level, r.status, r.stale, r.source) for r in readings} == {
        (4, "assumed", True, "fallback:constant:250")
    }
    assert "refused" in readings[0].note


# --- years ------------------------------------------------------------------------------------------------------------


def _year(name: str, column: str | None) -> IntensityTrace:
    folder = os.environ.get("CLOVER_LONG_TRACES", "")
    if not folder:
        pytest.skip("CLOVER_LONG_TRACES names no folder with year-long series")
    options = Options(column=column, factors=load_factors("lifecycle"))
    table = read_table((Path(folder) / name).read_text(), name=name, options=options)
    return import_table(table, name=name, zone="X")[0]


@pytest.mark.parametrize(
    ("name", "column"), [("pjm-2022-eia930.csv", "avg_CI"), ("gb-2021-neso-actual-forecast.csv", None)]
)
def test_long_trace_replays_a_whole_year(name: str, column: str | None) -> None:
    """A node and the carbon monitor; a controller would plan some thousand times, which is another test's business."""
    trace = _year(name, column)
    hours = len(trace.values_g_per_kwh)

    async def main() -> tuple[list[IntensityReading], LedgerReading]:
        # An hour of the trace lasts a minute of virtual time: leases and the like tick in seconds.
        world = World(_settings(gpus=(1,), trace=trace, hour_s=60.0, telemetry_s=60.0))
        readings = list[IntensityReading]()
        async with asyncio.TaskGroup() as group:
            group.create_task(world.node(0))
            group.create_task(world.carbon_monitor())
            cursor = "0"
            for _ in range(hours):
                await asyncio.sleep(60.0)
                for entry in await world.bus.follow({Feed.CARBON: cursor}, block_s=0.0):
                    cursor = entry.id
                    if isinstance(entry.message, IntensityReading):
                        readings.append(entry.message)
            ledger = (await world.bus.carbon_now())["ledger"]
            world.stop.set()
        assert isinstance(ledger, LedgerReading)
        return readings, ledger

    readings, ledger = run_virtual(main())
    assert [r.g_per_kwh for r in readings][:hours] == list(trace.values_g_per_kwh)
    filled = sum(status != "measured" for status in trace.statuses)
    assert sum(bool(r.note) for r in readings[:hours]) == filled > 0
    mean = sum(trace.values_g_per_kwh) / hours
    assert ledger.footprint_g == pytest.approx(ledger.energy_j / 3.6e6 * 1.5 * mean, rel=1e-3)
    idle_power_w = load_service("albert", "a100-40gb").table.idle_power_w
    assert ledger.energy_j == pytest.approx(idle_power_w * 60.0 * hours, rel=1e-3)
