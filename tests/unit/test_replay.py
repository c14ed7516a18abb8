"""Replays: what is charged to whom, and that the ladder of schemes stands as it must."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from clover.catalog import load_service, load_trace
from clover.core.configuration import PARKED, Configuration, FleetCounts, GpuConfiguration, GpuId, InstanceKind
from clover.core.control import Decide
from clover.core.load import LoadEstimate, rate_to_plan
from clover.core.queueing import evaluate
from clover.plan.changing import change_between
from clover.plan.counting import Hour, Totals
from clover.plan.exact import ExactScheme
from clover.plan.following import LayoutKeeper
from clover.plan.problem import Answer, Problem, Scheme
from clover.plan.replay import Replay
from clover.plan.rows import Row, row_of
from clover.plan.schemes import make_scheme
from clover.plan.uniform import UniformSpace, best_static
from mig.partition import maximal_multisets
from mig.profiles import gpu_model

MODEL = load_service("efficientnet", "a100-40gb")
TRACE = load_trace("ciso-march").values_g_per_kwh[:24]
IDS = (GpuId("n1", 0), GpuId("n1", 1))


def problem(**changes: Any) -> Problem:
    values: dict[str, Any] = {
        "model": MODEL,
        "multisets": maximal_multisets(gpu_model("a100-40gb")),
        "gpus": IDS,
        "rate_rps": 1.0,
        "sla_ms": MODEL.table.sla_p95_ms,
        "lambda_": 0.1,
        "intensity_g_per_kwh": 250.0,
        "pue": 1.5,
    }
    return Problem(**(values | changes))


def hours(rate: float = 1.0) -> list[Hour]:
    return [Hour(rate_rps=rate, intensity_g_per_kwh=g) for g in TRACE]


def run(scheme: Scheme, asked: Problem, **settings: Any) -> tuple[Totals, Row]:
    totals = Replay(scheme, asked, **settings).run(hours(asked.rate_rps))
    row = row_of(totals, asked, scheme=scheme.name, trace="ciso-march", duration_s=3600.0 * len(TRACE))
    return totals, row


def test_base_saves_nothing_and_changes_nothing() -> None:
    _, row = run(make_scheme("base", seed=0), problem())
    assert row.saved_pct == pytest.approx(0.0, abs=1e-9)
    assert row.accuracy_loss_pct == pytest.approx(0.0, abs=1e-9)
    assert (row.mig_changes, row.explored_violations) == (0, 0)
    assert row.saved_pct_original_way == pytest.approx(0.0, abs=1e-9)  # this is its own load
    assert row.replans >= 3


def test_right_sized_base_is_what_it_is_compared_with() -> None:
    _, row = run(
        make_scheme("base_rightsized", seed=0),
        problem(rate_rps=5.0, gpus=tuple(GpuId("n1", index) for index in range(10))),
    )
    assert row.saved_pct_rightsized == pytest.approx(0.0, abs=1e-9)
    assert row.saved_pct > 5.0


def test_the_ladder_stands() -> None:
    asked = problem(parking="parked")
    exact = ExactScheme()
    exact.look_ahead(asked)
    steady = {name: run(make_scheme(name, seed=1), asked, charge=False)[1] for name in ("oracle", "clover", "base")}
    best = run(exact, asked, charge=False)[1]
    assert best.feasible
    assert best.objective >= max(row.objective for row in steady.values()) - 1e-4


def test_static_is_the_best_that_never_changes() -> None:
    asked, space = problem(), UniformSpace()
    each = [dataclasses.replace(asked, intensity_g_per_kwh=h.intensity_g_per_kwh) for h in hours()]
    static = run(best_static(each, space=space), asked)[1]
    assert static.mig_changes == 0
    oracle = run(make_scheme("oracle", seed=0), asked, charge=False)[1]
    assert static.objective <= oracle.objective + 1e-9
    equal = run(best_static(each, least_accuracy_pct=oracle.accuracy_pct, space=space), asked)[1]
    assert equal.accuracy_pct >= oracle.accuracy_pct - 1e-9
    assert best_static(each, least_accuracy_pct=99.0, space=space).layout is None


def test_exploring_on_live_traffic_costs_time_changes_and_violations() -> None:
    model, live = (run(make_scheme(name, seed=2), problem(rate_rps=5.0)) for name in ("clover", "clover_live"))
    assert live[0].change_s > model[0].change_s
    assert live[1].mig_changes > model[1].mig_changes
    assert live[1].explored_violations > 0
    assert model[1].explored_violations == 0
    assert live[1].late_pct > run(make_scheme("clover_live", seed=2), problem(rate_rps=5.0), charge=False)[1].late_pct


def test_a_change_is_charged_by_what_it_takes() -> None:
    whole, halves = (GpuConfiguration((InstanceKind("7g", "b3"),)), GpuConfiguration((InstanceKind("3g", "b3"),) * 2))
    other = GpuConfiguration((InstanceKind("7g", "b1"),))
    times = MODEL.table.change

    def to(first: GpuConfiguration, second: GpuConfiguration) -> Configuration:
        return Configuration.of(dict(zip(IDS, (first, second), strict=True)))

    assert change_between(MODEL, to(whole, whole), to(whole, whole)).seconds == 0.0
    restart = change_between(MODEL, to(whole, whole), to(whole, other))
    assert (restart.mig_changes, restart.seconds) == (0, times.worker_start_s)
    cut = change_between(MODEL, to(whole, whole), to(halves, halves))
    assert cut.mig_changes == 6
    assert cut.seconds == 2 * (times.destroy_s + 2 * times.create_s + times.worker_start_s)  # one GPU after the other
    wake = change_between(MODEL, to(whole, PARKED), to(whole, whole))
    idle_w = MODEL.table.idle_power_w - MODEL.table.parked_power_w
    assert wake.wake_j == pytest.approx(idle_w * (times.create_s + times.worker_start_s))


class _Noting:
    """`base_rightsized` that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Problem] = []
        self._inner = make_scheme("base_rightsized", seed=0)

    @property
    def name(self) -> str:
        return self._inner.name

    def plan(self, problem: Problem) -> Answer:
        self.asked.append(problem)
        return self._inner.plan(problem)


def test_loads_are_planned_for_as_the_controller_plans_for_them() -> None:
    asked = problem(parking="parked")
    loads = (0.8, 0.9, 0.92, 0.05, 0.05)
    scheme, energy_j = _Noting(), [0.0]
    Replay(scheme, asked, charge=False).run(
        [Hour(rate_rps=rate, intensity_g_per_kwh=250.0) for rate in loads],
        tell=lambda _number, totals: energy_j.append(totals.energy_j),
    )
    # At the start as told; more load at once, with headroom; a little more is within that; less when it has lasted.
    planned = [rate_to_plan(LoadEstimate.sure(rate)) for rate in (0.9, 0.05)]
    assert [each.rate_rps for each in scheme.asked] == [0.8, *planned]
    whole = InstanceKind("7g", MODEL.application.largest.name)
    high, low = (
        evaluate(
            MODEL, FleetCounts(kinds=((whole, n),), active=n, parked=2 - n), 0.05, asked.sla_ms
        ).energy_j_per_request
        for n in (2, 1)
    )
    assert energy_j[4] - energy_j[3] == pytest.approx(0.05 * (120.0 * high + 3480.0 * low))
    assert energy_j[5] - energy_j[4] == pytest.approx(0.05 * 3600.0 * low)


class _Stays(LayoutKeeper):
    """Keeps whatever is there when the grid moves."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.triggers: list[str] = []

    def kept(self, ask: Decide, problem: Problem, best: Answer) -> Answer:
        self.triggers.append(ask.trigger)
        assert (ask.present, ask.rate_rps) == (problem.present, problem.rate_rps)
        return best if ask.present is None else dataclasses.replace(best, configuration=ask.present)


def test_exact_keeps_layouts_where_changes_are_charged() -> None:
    asked, exact = problem(rate_rps=2.5), ExactScheme()
    keeper = _Stays()
    free, charged = run(exact, asked, charge=False, keeper=keeper)[0], run(exact, asked, keeper=keeper)[0]
    assert keeper.triggers == ["start"] + ["intensity"] * charged.replans
    assert charged.replans == free.replans > 0
    assert len({answer.configuration for answer in charged.answers}) == 1
    others = _Stays()
    run(make_scheme("oracle", seed=0), asked, keeper=others)
    assert others.triggers == []


def test_an_empty_trace_is_refused() -> None:
    totals = Replay(make_scheme("base", seed=0), problem()).run([])
    with pytest.raises(ValueError, match="no request was served"):
        row_of(totals, problem(), scheme="base", trace="none", duration_s=0.0)
