"""The chain of sources over hours of virtual time: levels, ages, recovery, patience, and a soak of random faults."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import carbon_stub
import pytest
from carbon_stub import ENVIRONMENT, PLAYS, ZONES, Ask, Play, Reply, Stub

from clover.carbon.chain import SourceChain, chain_settings
from clover.carbon.http import BREAKER_FAILURES, CircuitBreaker
from clover.carbon.past import ReadingCache
from clover.carbon.port import NoValueError, SourceUnavailableError
from clover.carbon.registry import make_source
from clover.carbon.replay import TraceReplay
from clover.core.carbon import FALLBACK_LEVELS, CarbonIntensity
from clover.core.intensity_trace import constant_trace, parse_trace
from clover.sim.clock import EPOCH_S, VirtualClock, run_virtual

HOUR_S = 3600.0


def truth(at_s: float) -> float:
    return 150.0 + (at_s // 1800.0) % 48.0


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


class Outage:
    """Plays right answers until told otherwise."""

    def __init__(self, play: Play) -> None:
        self.right, self.fault = play, None

    fault: Callable[[], Reply] | None

    def __call__(self, ask: Ask) -> Reply:
        return self.right(ask) if self.fault is None else self.fault()


@contextlib.asynccontextmanager
async def running(name: str = "neso", **options: Any) -> AsyncIterator[tuple[SourceChain, Outage, Stub, VirtualClock]]:
    clock = VirtualClock(asyncio.get_running_loop())
    outage = Outage(PLAYS[name](clock.now_s, truth))
    stub = Stub(outage)
    source = make_source(name, zone=ZONES[name], url=None, clock=clock, transport=stub.transport())
    options = {"fallback": constant_trace(333.0)} | options
    chain = SourceChain(source, clock=clock, rng=Random(1), **options)
    task = asyncio.create_task(chain.run())
    await chain.ready(60.0)
    try:
        yield chain, outage, stub, clock
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_an_outage_goes_down_the_chain_and_up_again() -> None:
    async def main() -> list[tuple[float, CarbonIntensity]]:
        seen: list[tuple[float, CarbonIntensity]] = []
        async with running() as (chain, outage, _, clock):
            await asyncio.sleep(300.0)
            for half_hours in range(200):
                outage.fault = (lambda: Reply(status=500)) if 4 <= half_hours < 160 else None
                await asyncio.sleep(1800.0)
                seen.append((clock.now_s(), chain.at(clock.now_s())))
        return seen

    seen = run_virtual(main())
    levels = [figure.fallback_level for _, figure in seen]
    # Live, then cached for one interval, then the published two days, then the constant (what was seen before the
    # outage is older than yesterday by then), then live again.
    assert levels[:7] == [0, 0, 0, 0, 1, 2, 2]
    assert levels == sorted(levels[:160]) + [0] * 40
    assert {0, 1, 2, 4} <= set(levels)
    for at_s, figure in seen:
        age_s = figure.age_s(at_s)
        if figure.fallback_level in {0, 2}:
            assert figure.g_per_kwh == truth(at_s)
        assert (age_s is None) == (figure.fallback_level == 4)
        assert bool(figure.note) == (figure.fallback_level > 0)
    stale = [figure.stale for _, figure in seen]
    # The limit of NESO is 3 h, however good the forecast is that stands in.
    assert stale == [False] * 10 + [True] * 150 + [False] * 40


def test_yesterdays_hour_stands_in_where_there_is_no_forecast() -> None:
    async def main() -> tuple[CarbonIntensity, float]:
        async with running("eia") as (chain, outage, _, clock):
            outage.fault = lambda: Reply(status=503)
            await asyncio.sleep(31 * HOUR_S)
            return chain.at(clock.now_s()), clock.now_s()

    figure, now_s = run_virtual(main())
    assert figure.fallback_level == 4
    assert figure.stale

    async def closer() -> tuple[CarbonIntensity, float]:
        settings = None
        async with running("electricitymaps") as (chain, outage, _, clock):
            outage.right = _without(outage.right, "forecast")
            outage.fault = lambda: Reply(status=503)
            await asyncio.sleep(4 * HOUR_S)
            chain._ahead = type(chain._ahead)()
            return chain.at(clock.now_s()), clock.now_s() + (settings or 0.0)

    figure, now_s = run_virtual(closer())
    assert (figure.fallback_level, figure.status) == (3, "estimated")
    assert figure.source == "electricitymaps:yesterday"
    assert figure.g_per_kwh == truth((now_s - 86_400.0) // 3600 * 3600)
    assert figure.from_s <= now_s < figure.to_s
    assert figure.age_s(now_s) == pytest.approx(86_400.0 - 3600.0, abs=3600.0)


def _without(play: Play, word: str) -> Play:
    return lambda ask: Reply(status=403) if word in ask.path else play(ask)


def test_polls_are_at_slot_boundaries_and_few() -> None:
    async def main() -> list[float]:
        at: list[float] = []
        async with running() as (_, outage, _stub, clock):
            right = outage.right

            def noted(ask: Ask) -> Reply:
                if ask.path == "/intensity":
                    at.append(clock.now_s() % 1800.0)
                return right(ask)

            outage.right = noted
            await asyncio.sleep(24 * HOUR_S)
        return at

    at = run_virtual(main())
    assert len(at) == 48
    assert all(offset == pytest.approx(30.0) for offset in at)


def test_retry_after_is_honoured_and_a_source_that_keeps_failing_is_left_alone() -> None:
    async def main(reply: Callable[[], Reply]) -> list[float]:
        async with running() as (_, outage, stub, clock):
            outage.fault = reply
            before = len(stub.asked)
            began, at = clock.now_s(), list[float]()
            original = stub.play

            def noted(ask: Ask) -> Reply:
                at.append(clock.now_s() - began)
                return original(ask)

            stub.play = noted
            await asyncio.sleep(4 * HOUR_S)
            assert len(stub.asked) > before
            return at

    patient = run_virtual(main(lambda: Reply(status=429, headers={"Retry-After": "600"})))
    assert all(b - a >= 600.0 for a, b in itertools.pairwise(patient))
    failing = run_virtual(main(lambda: Reply(status=500)))
    # Without back-off and breaker these would be thousands.
    assert 10 <= len(failing) <= 120


def test_the_breaker_opens_doubles_its_pause_and_closes() -> None:
    now = [0.0]
    breaker = CircuitBreaker(lambda: now[0])
    for _ in range(BREAKER_FAILURES):
        breaker.check("x")
        breaker.failed()
    with pytest.raises(SourceUnavailableError, match="left alone for another 60 s"):
        breaker.check("x")
    now[0] = 60.0
    breaker.check("x")
    breaker.failed()
    with pytest.raises(SourceUnavailableError, match="another 120 s"):
        breaker.check("x")
    now[0] = 200.0
    breaker.succeeded()
    breaker.check("x")


def test_without_fallback_and_without_any_answer_there_is_no_figure() -> None:
    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        stub = Stub(lambda _: Reply(status=500))
        source = make_source("neso", zone="GB", url=None, clock=clock, transport=stub.transport())
        chain = SourceChain(source, clock=clock, rng=Random(0))
        task = asyncio.create_task(chain.run())
        await chain.ready(60.0)
        with pytest.raises(NoValueError, match="HTTP 500"):
            chain.at(clock.now_s())
        task.cancel()

    run_virtual(main())


def test_a_restart_during_an_outage_goes_by_what_was_kept(tmp_path: Path) -> None:
    cache = ReadingCache(tmp_path / "carbon" / "neso.json")

    async def first() -> None:
        async with running(cache=cache):
            await asyncio.sleep(HOUR_S)

    async def second() -> CarbonIntensity:
        clock = VirtualClock(asyncio.get_running_loop())
        stub = Stub(lambda _: Reply(refuse=True))
        source = make_source("neso", zone="GB", url=None, clock=clock, transport=stub.transport())
        chain = SourceChain(source, clock=clock, rng=Random(0), cache=cache, fallback=constant_trace(333.0))
        task = asyncio.create_task(chain.run())
        await chain.ready(60.0)
        task.cancel()
        return chain.at(clock.now_s() + 4 * HOUR_S)

    run_virtual(first())
    figure = run_virtual(second())
    assert figure.fallback_level == 2
    assert "refused" in figure.note
    assert figure.g_per_kwh == truth(EPOCH_S + 4 * HOUR_S)
    (tmp_path / "carbon" / "neso.json").write_bytes(b"{not json")
    assert cache.load(make_source("neso", zone="GB", url=None, clock=_Zero()).traits) == ([], [], None)


class _Zero:
    def now_s(self) -> float:
        return 0.0

    def now_ms(self) -> float:
        return 0.0


@pytest.mark.parametrize("name", sorted(set(PLAYS) - {"watttime"}))
def test_a_soak_of_random_faults_never_stops_it_and_never_yields_an_unlabelled_figure(name: str) -> None:
    rng = Random(name)
    faults: list[Callable[[], Reply]] = [
        lambda: Reply(status=500),
        lambda: Reply(status=429),
        lambda: Reply(status=429, headers={"Retry-After": "900"}),
        lambda: Reply(status=403),
        lambda: Reply(b"<html>"),
        lambda: Reply(b'{"data": ['),
        lambda: Reply({"data": []}),
        lambda: Reply(slow=True, body={}),
        lambda: Reply(cut=True, body={}),
        lambda: Reply(refuse=True),
        lambda: Reply({"zone": None, "data": [{"from": "x"}], "records": [{}], "response": {"data": [{}]}}),
    ]

    async def main() -> list[tuple[float, CarbonIntensity]]:
        seen: list[tuple[float, CarbonIntensity]] = []
        async with running(name) as (chain, outage, _, clock):
            for _ in range(60):
                outage.fault = rng.choice(faults) if rng.random() < 0.6 else None
                await asyncio.sleep(rng.uniform(60.0, 4.0 * 3600.0))
                seen.append((clock.now_s(), chain.at(clock.now_s())))
        return seen

    seen = run_virtual(main())
    assert {figure.fallback_level for _, figure in seen} >= {0}
    for at_s, figure in seen:
        assert figure.from_s <= at_s < figure.to_s
        assert figure.zone == ZONES[name]
        assert figure.kind == "average"
        assert figure.source
        level = FALLBACK_LEVELS[figure.fallback_level]
        if level == "live":
            observed = figure.observed_to_s
            assert observed is not None
            assert figure.g_per_kwh == pytest.approx(truth(figure.from_s))
        elif level == "fixed fallback":
            assert (figure.g_per_kwh, figure.status) == (333.0, "assumed")
        else:
            assert figure.note
            assert figure.age_s(at_s) is not None


# --- replays ----------------------------------------------------------------------------------------------------------

_TRACE = "hour,intensity_g_per_kwh,status\n0,100,measured\n1,200,interpolated\n2,400,measured\n"


def _replay(text: str, **how: Any) -> TraceReplay:
    import dataclasses  # noqa: PLC0415

    replay = TraceReplay(dataclasses.replace(parse_trace(text, name="t"), **how), hour_s=10.0)
    replay.start(0.0)
    return replay


def test_a_step_replay_gives_every_row_once_and_wraps() -> None:
    rows = _replay(_TRACE).between(-1.0, 45.0)
    assert [(r.from_s, r.g_per_kwh) for r in rows] == [(0, 100), (10, 200), (20, 400), (30, 100), (40, 200)]
    assert "interpolated" in rows[1].note
    again = _replay(_TRACE).between(45.0, 46.0)
    assert [r.from_s for r in again] == [40.0]


def test_a_linear_replay_has_the_same_mean_and_a_stopped_one_says_so() -> None:
    rows = _replay(_TRACE, interpolation="linear").between(-1.0, 9.99)
    assert len(rows) == 12
    assert sum(r.g_per_kwh for r in rows) / 12 == pytest.approx(150.0)
    assert all(b.from_s == pytest.approx(a.to_s) for a, b in itertools.pairwise(rows))
    last = _replay(_TRACE, after_end="stop").between(0.0, 55.0)[-1]
    assert (last.g_per_kwh, last.stale) == (400.0, True)
    assert "ended" in last.note


def test_settings_scale_with_a_shorter_poll() -> None:
    source = make_source("neso", zone="GB", url=None, clock=_Zero())
    assert chain_settings(source).poll_s == 1800.0
    quick = chain_settings(source, poll_s=1.0, stale_s=3.0)
    assert (quick.poll_s, quick.stale_s) == (1.0, 3.0)
    assert quick.lag_s == 3.0


def test_the_stub_itself_answers_what_it_should() -> None:
    stub = Stub(carbon_stub.neso(lambda: EPOCH_S, truth))
    reply = stub.answer("/intensity", {})
    assert reply.body["data"][0]["intensity"]["actual"] is None
