"""P5: carbon data that is missing, wrong or old never costs a request its SLA. The real agents, in virtual time."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import carbon_stub
import pytest
from carbon_stub import Play, Reply, Stub

from clover.agents.fleet import make_fleet
from clover.agents.goals import Goals
from clover.bus.messages import DecisionData, Event, IntensityReading, RequestLog, RequestRecord, data_of
from clover.bus.values import Feed
from clover.carbon.chain import SourceChain
from clover.carbon.port import IntensityFeed
from clover.carbon.registry import make_source
from clover.catalog import load_service, load_trace
from clover.core.clock import Clock
from clover.core.intensity_trace import constant_trace
from clover.sim.clock import EPOCH_S, run_virtual
from clover.sim.world import World, WorldSettings

HOUR_S = 3600.0
#: The outage, and within it the moment at which a node leaves, so that a plan has to be made without news of the grid.
DOWN = (EPOCH_S + 0.5 * HOUR_S, EPOCH_S + 5.5 * HOUR_S)
NODE_LEAVES = EPOCH_S + 4.75 * HOUR_S
MODEL = load_service("albert", "a100-40gb")


@dataclass
class Seen:
    """What was told during a run."""

    readings: list[IntensityReading] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    records: list[RequestRecord] = field(default_factory=list)


def _settings(source: Callable[[Clock], IntensityFeed] | None) -> WorldSettings:
    return WorldSettings(
        fleet=make_fleet(backend="sim", board="a100-40gb", model=MODEL),
        gpus=(1, 1),
        scheme="clover",
        goals=Goals(lambda_=0.5, sla_ms=MODEL.table.sla_p95_ms),
        trace=load_trace("constant:250"),
        hour_s=HOUR_S,
        rate_rps=0.8,
        duration_s=6.0 * HOUR_S,
        telemetry_s=30.0,
        source=source,
    )


def _failing(wrong: Callable[[Play], Play]) -> Callable[[Clock], IntensityFeed]:
    """Return a live source that is right, but for the time of the outage."""

    def source(clock: Clock) -> IntensityFeed:
        right = carbon_stub.neso(clock.now_s, lambda at_s: 100.0 if (at_s // 1800.0) % 2 else 300.0)
        broken = wrong(right)

        def play(ask: carbon_stub.Ask) -> Reply:
            return broken(ask) if DOWN[0] <= clock.now_s() < DOWN[1] else right(ask)

        stub = Stub(play)
        live = make_source("neso", zone="GB", url=None, clock=clock, transport=stub.transport())
        return SourceChain(live, clock=clock, rng=Random(0), fallback=constant_trace(999.0))

    return source


async def _watched(world: World, *, monitor: Callable[[], Any]) -> Seen:
    seen, leave = Seen(), asyncio.Event()

    async def node_leaves() -> None:
        await asyncio.sleep(NODE_LEAVES - world.clock.now_s())
        leave.set()

    async with asyncio.TaskGroup() as group:
        for work in (world.node(0), world.node(1, leave), world.controller(), monitor(), node_leaves()):
            group.create_task(work)
        group.create_task(world.generator.run(world.stop))
        cursors = dict.fromkeys(Feed, "0")
        while not world.summary.complete:
            for entry in await world.bus.follow(cursors, block_s=HOUR_S):
                cursors[entry.feed] = entry.id
                world.summary.take(entry.message)
                match entry.message:
                    case IntensityReading():
                        seen.readings.append(entry.message)
                    case Event():
                        seen.events.append(entry.message)
                    case RequestLog(records=records):
                        seen.records += records
                    case _:
                        continue
        world.stop.set()
    return seen


def _sla_is_kept(seen: Seen) -> None:
    during = [one for one in seen.records if DOWN[0] * 1e3 <= one.due_ms < DOWN[1] * 1e3]
    assert len(during) > 9000
    assert [one for one in seen.records if not one.outcome.answered] == []
    for records in (during, [one for one in during if one.due_ms > NODE_LEAVES * 1e3 + 300e3]):
        assert statistics.quantiles([one.latency_ms or 0.0 for one in records], n=20)[18] <= MODEL.table.sla_p95_ms


def _triggers(seen: Seen) -> list[tuple[float, str]]:
    decisions = [event for event in seen.events if event.kind == "decision"]
    return [(event.at_ms / 1e3, data.trigger) for event in decisions if (data := data_of(event, DecisionData))]


FAULTS: dict[str, Callable[[Play], Play]] = {
    "errors": lambda _: lambda _ask: Reply(status=500),
    "refused": lambda _: lambda _ask: Reply(refuse=True),
    "garbage": lambda _: lambda _ask: Reply(body=b"<html>maintenance</html>"),
    "cut off": lambda right: lambda ask: Reply(body=right(ask).body, cut=True),
    "nothing known": lambda _: lambda _ask: Reply(body={"data": []}),
}


@pytest.mark.parametrize(
    "fault",
    [
        "errors",
        "garbage",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("refused", "cut off", "nothing known")),
    ],
)
def test_a_source_that_fails_costs_no_request_its_sla(fault: str) -> None:
    async def main() -> Seen:
        world = World(_settings(_failing(FAULTS[fault])))
        return await _watched(world, monitor=world.carbon_monitor)

    seen = run_virtual(main())
    _sla_is_kept(seen)
    # What stood in is marked, what was old is called stale, and that is told.
    assert {one.fallback_level for one in seen.readings} > {0}
    assert {"carbon.fallback", "carbon.stale", "carbon.recovered"} <= {event.kind for event in seen.events}
    stale_s = next(event.at_ms for event in seen.events if event.kind == "carbon.stale") / 1e3
    recovered_s = next(event.at_ms for event in seen.events if event.kind == "carbon.recovered") / 1e3
    assert DOWN[0] < stale_s < NODE_LEAVES < DOWN[1] < recovered_s
    # On old news nothing is planned for the grid's sake, but a node that leaves is planned for all the same.
    without_news = [trigger for at_s, trigger in _triggers(seen) if stale_s <= at_s < recovered_s]
    assert without_news == ["fleet"]


def test_no_monitor_at_all_costs_no_request_its_sla() -> None:
    async def main() -> Seen:
        world = World(_settings(None))

        async def until_the_outage() -> None:
            dead = asyncio.Event()
            asyncio.get_running_loop().call_later(DOWN[0] - world.clock.now_s(), dead.set)
            await world.carbon_monitor(dead)
            await asyncio.sleep(DOWN[1] - world.clock.now_s())
            await world.carbon_monitor()

        return await _watched(world, monitor=until_the_outage)

    seen = run_virtual(main())
    _sla_is_kept(seen)
    assert "fleet" in [trigger for at_s, trigger in _triggers(seen) if DOWN[0] <= at_s < DOWN[1]]
