"""What is expected of the grid: of a replay, of live sources with and without a forecast, and on the bus."""

from __future__ import annotations

import asyncio
from random import Random

import carbon_stub
import pytest
from carbon_stub import ENVIRONMENT, ZONES, Reply, Stub
from support import eventually

from clover.agents.carbon_monitor import AHEAD, CarbonMonitor, CarbonSettings
from clover.bus.memory import MemoryBus
from clover.bus.messages import IntensityForecast
from clover.carbon.chain import SourceChain
from clover.carbon.registry import make_source
from clover.carbon.replay import TraceReplay
from clover.core.forecast import Outlook, with_band
from clover.core.intensity_trace import constant_trace, parse_trace
from clover.sim.clock import EPOCH_S, VirtualClock, run_virtual

HOUR_S = 3600.0
ROWS = "hour,intensity_g_per_kwh\n0,100\n1,200\n2,300\n3,400\n"
FORECAST = "hour,intensity_g_per_kwh,forecast_g_per_kwh\n" + "".join(
    f"{h},{100 + h},{2 * (100 + h)}\n" for h in range(24)
)


def truth(at_s: float) -> float:
    return 150.0 + (at_s // 1800.0) % 48.0


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def values(outlook: Outlook) -> list[float]:
    return [each.g_per_kwh for each in outlook.intervals]


def replay(text: str, **changes: str) -> TraceReplay:
    trace = parse_trace(text, name="t")
    for name, value in changes.items():
        object.__setattr__(trace, name, value)
    feed = TraceReplay(trace, hour_s=20.0)
    feed.start(1000.0)
    return feed


def test_of_a_replay_the_rows_to_come_are_told_and_said_to_be_that() -> None:
    outlook = replay(ROWS).ahead(1025.0, 4)
    assert outlook is not None
    assert (outlook.basis, outlook.source, outlook.issued_s, outlook.step_s) == ("trace", "trace:t", None, 20.0)
    assert values(outlook) == [300.0, 400.0, 100.0, 200.0]
    assert [each.from_s for each in outlook.intervals] == [1040.0, 1060.0, 1080.0, 1100.0]
    assert {each.high_g_per_kwh for each in outlook.intervals} == {None}


def test_a_trace_that_stops_has_nothing_behind_its_end_and_a_constant_nothing_at_all() -> None:
    ending = replay(ROWS, after_end="stop")
    first = ending.ahead(1025.0, 10)
    assert first is not None
    assert values(first) == [300.0, 400.0]
    assert ending.ahead(1075.0, 10) is None
    assert TraceReplay(constant_trace(250.0), hour_s=20.0).ahead(0.0, 10) is None


def test_what_had_been_published_for_a_trace_is_told_instead_with_the_band_of_its_past() -> None:
    early, late = replay(FORECAST).ahead(1000.0, 3), replay(FORECAST).ahead(1000.0 + 20.0 * 15, 3)
    assert early is not None
    assert late is not None
    assert early.basis == "published"
    assert values(early) == [202.0, 204.0, 206.0]
    # One pair says nothing of a band; sixteen do, and all of them came to half of what was forecast.
    assert early.intervals[0].high_g_per_kwh is None
    assert late.intervals[0].high_g_per_kwh == pytest.approx(late.intervals[0].g_per_kwh / 2.0)


def test_a_band_holds_the_middle_of_what_came() -> None:
    pairs = [(100.0 + step, 100.0) for step in range(100)]
    (found,) = with_band([(0.0, 200.0)], pairs)
    assert found.low_g_per_kwh == pytest.approx(218.0, abs=2.0)
    assert found.high_g_per_kwh == pytest.approx(380.0, abs=2.0)


def test_a_live_source_tells_its_own_forecast_else_the_same_hours_yesterday() -> None:
    async def of(name: str) -> tuple[Outlook | None, float]:
        clock = VirtualClock(asyncio.get_running_loop())
        stub = Stub(carbon_stub.PLAYS[name](clock.now_s, truth))
        source = make_source(name, zone=ZONES[name], url=None, clock=clock, transport=stub.transport())
        chain = SourceChain(source, clock=clock, rng=Random(1))
        task = asyncio.create_task(chain.run())
        await chain.ready(60.0)
        await asyncio.sleep(100.0)
        outlook = chain.ahead(clock.now_s(), 6)
        task.cancel()
        await asyncio.wait([task])
        return outlook, clock.now_s()

    told, now_s = run_virtual(of("neso"))
    assert told is not None
    assert (told.basis, told.source, told.step_s) == ("published", "neso", 1800.0)
    assert [each.g_per_kwh for each in told.intervals] == [truth(each.from_s) for each in told.intervals]
    assert now_s < told.intervals[0].from_s <= now_s + 1800.0
    assert len(told.intervals) == 6
    assert told.issued_s is not None
    assert now_s - told.issued_s < 200.0

    told, now_s = run_virtual(of("eia"))
    assert told is not None
    assert told.basis == "yesterday"
    assert [each.g_per_kwh for each in told.intervals] == pytest.approx(
        [truth((each.from_s - 86_400.0) // HOUR_S * HOUR_S) for each in told.intervals]
    )


def test_a_source_that_never_answered_expects_nothing() -> None:
    async def main() -> Outlook | None:
        clock = VirtualClock(asyncio.get_running_loop())
        stub = Stub(lambda _: Reply(refuse=True))
        source = make_source("neso", zone="GB", url=None, clock=clock, transport=stub.transport())
        return SourceChain(source, clock=clock, rng=Random(1)).ahead(clock.now_s(), 6)

    assert run_virtual(main()) is None


def test_the_monitor_publishes_it_with_every_figure_and_keeps_the_newest() -> None:
    async def main() -> tuple[IntensityForecast, IntensityForecast]:
        clock = VirtualClock(asyncio.get_running_loop())
        bus, stop = MemoryBus("t", clock.now_ms), asyncio.Event()
        monitor = CarbonMonitor(
            CarbonSettings(pue=1.5, idle_power_w=50.0),
            source=TraceReplay(parse_trace(ROWS, name="t"), hour_s=20.0), bus=bus, clock=clock, rng=Random(1),
        )  # fmt: skip

        async def newest() -> IntensityForecast | None:
            found = (await bus.carbon_now()).get("forecast")
            return found if isinstance(found, IntensityForecast) else None

        async def told() -> IntensityForecast:
            await eventually(newest)
            found = await newest()
            assert found is not None
            return found

        async with asyncio.TaskGroup() as group:
            group.create_task(monitor.run(stop))
            first = await told()
            await asyncio.sleep(20.0)
            second = await told()
            stop.set()
        return first, second

    first, second = run_virtual(main())
    assert (first.basis, first.zone, len(first.intervals)) == ("trace", "unknown", AHEAD)
    assert [each.g_per_kwh for each in first.intervals[:4]] == [200.0, 300.0, 400.0, 100.0]
    assert [each.g_per_kwh for each in second.intervals[:4]] == [300.0, 400.0, 100.0, 200.0]
    assert first.intervals[0].from_ms == pytest.approx((EPOCH_S + 20.0) * 1e3)
