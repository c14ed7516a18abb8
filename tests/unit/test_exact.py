"""Scheme `exact`: proof, bound, parking, reserve, asks, and what it says when something cannot be had."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest

from clover.catalog import load_service
from clover.core.configuration import PARKED, Configuration, GpuConfiguration, GpuId, InstanceKind
from clover.core.queueing import evaluate
from clover.core.units import footprint_g
from clover.plan.exact import ExactScheme
from clover.plan.points import Fleetwide, assign, fleet_of, layout_of
from clover.plan.problem import Problem
from clover.plan.schemes import make_scheme
from clover.plan.space import all_gpu_configurations
from mig.partition import maximal_multisets
from mig.profiles import gpu_model

A100 = gpu_model("a100-40gb")
MODELS = {app: load_service(app, "a100-40gb") for app in ("albert", "efficientnet", "yolov5")}


def problem(app: str = "efficientnet", gpus: int = 2, load: float = 1.0, **changes: Any) -> Problem:
    model = MODELS[app]
    values: dict[str, Any] = {
        "model": model,
        "multisets": maximal_multisets(A100),
        "gpus": tuple(GpuId("n1", index) for index in range(gpus)),
        "rate_rps": gpus * load * model.application.default_rate_rps_per_gpu,
        "sla_ms": model.table.sla_p95_ms,
        "lambda_": 0.5,
        "intensity_g_per_kwh": 250.0,
        "pue": 1.5,
    }
    return Problem(**(values | changes))


@pytest.mark.parametrize("app", ["albert", "efficientnet"])
@pytest.mark.parametrize("lambda_", [0.1, 0.5])
def test_ten_gpus_at_five_times_the_load_are_certified_and_near_the_bound(app: str, lambda_: float) -> None:
    answer = ExactScheme().plan(problem(app, 10, 5.0, lambda_=lambda_))
    assert answer.meets_sla
    assert answer.late_upper is not None
    assert answer.late_upper <= 0.05
    assert answer.gap is not None
    assert answer.gap <= 1e-3
    assert answer.score == pytest.approx(answer.objective, abs=1e-9)


@pytest.mark.parametrize("app", ["efficientnet", "yolov5"])
@pytest.mark.parametrize("load", [1.0, 5.0])
def test_no_scheme_with_one_configuration_for_all_does_better(app: str, load: float) -> None:
    asked = problem(app, 2, load, lambda_=0.1)
    exact = ExactScheme().plan(asked)
    assert exact.upper_bound is not None
    for name in ("oracle", "clover", "blover", "threshold", "co2opt"):
        other = make_scheme(name, seed=1).plan(asked)
        if other.meets_sla:
            assert exact.objective >= other.objective - 1e-6
            assert exact.upper_bound >= other.objective - 1e-9


def test_the_same_question_has_the_same_answer() -> None:
    asked = problem("yolov5", 10, 2.5, lambda_=0.1)
    assert ExactScheme(seed=3).plan(asked) == ExactScheme(seed=3).plan(asked)


@pytest.mark.parametrize("gpus", [2, 10])
@pytest.mark.parametrize("app", ["albert", "efficientnet"])
def test_parking_reaches_what_it_can(app: str, gpus: int) -> None:
    asked = problem(app, gpus, 1.0, parking="parked")
    model, rate = asked.model, asked.rate_rps
    least = next(
        k
        for k in range(1, gpus + 1)
        if any(
            evaluate(model, fleet_of(((gpu, k),)), rate, asked.sla_ms).meets(0.047)
            for gpu in all_gpu_configurations(model, asked.multisets)
        )
    )
    most_w = (gpus - least) * (model.table.idle_power_w - model.table.parked_power_w)
    answer = ExactScheme().plan(asked)
    saved_w = gpus * model.table.idle_power_w - answer.evaluation.idle_power_w
    assert answer.meets_sla
    assert saved_w >= 0.95 * most_w > 0


def test_gpus_that_are_off_draw_nothing() -> None:
    answer = ExactScheme().plan(problem("efficientnet", 2, 1.0, parking="off"))
    modes = Counter(gpu.mode for _, gpu in answer.configuration.gpus)
    assert modes == {"serving": 1, "off": 1}
    assert answer.evaluation.idle_power_w == MODELS["efficientnet"].table.idle_power_w


def test_a_reserve_serves_beside_what_the_load_needs() -> None:
    without = ExactScheme().plan(problem("efficientnet", 4, 0.5, parking="parked"))
    reserved = ExactScheme().plan(problem("efficientnet", 4, 0.5, parking="parked", reserve=1))
    assert reserved.configuration.fleet.active == without.configuration.fleet.active + 1
    assert reserved.meets_sla
    with pytest.raises(ValueError, match="reserve = 2: expected 0 to 1 of 2 GPUs"):
        problem("efficientnet", 2, reserve=2)


def test_an_accuracy_floor_costs_the_least_energy_that_keeps_it() -> None:
    scheme = ExactScheme()
    floors = [scheme.plan(problem(lambda_=0.5, accuracy_floor_pct=floor)) for floor in (79.0, 82.0, 83.5, 84.4)]
    for floor, answer in zip((79.0, 82.0, 83.5, 84.4), floors, strict=True):
        assert answer.asked_met
        assert answer.evaluation.accuracy_pct >= floor
    energies = [answer.evaluation.energy_j_per_request for answer in floors]
    assert energies == sorted(energies)


def test_a_carbon_budget_buys_the_most_accuracy() -> None:
    scheme = ExactScheme()
    for grams in (12.0, 8.5):
        answer = scheme.plan(problem(carbon_budget_g=grams))
        spent = footprint_g(1e3 * answer.evaluation.energy_j_per_request, 250.0, 1.5)
        assert answer.asked_met
        assert spent <= grams
    poor = scheme.plan(problem(carbon_budget_g=0.001))
    assert not poor.asked_met
    assert "not feasible now: the least is" in poor.reason
    assert poor.evaluation.energy_j_per_request == pytest.approx(
        scheme.plan(problem(accuracy_floor_pct=1.0)).evaluation.energy_j_per_request, rel=1e-3
    )


def test_an_accuracy_floor_above_what_the_load_allows_gets_the_highest_there_is() -> None:
    answer = ExactScheme().plan(problem("efficientnet", 2, 5.0, accuracy_floor_pct=84.58))
    assert not answer.asked_met
    assert answer.meets_sla
    assert "at most" in answer.reason
    assert 80.0 < answer.evaluation.accuracy_pct < 84.58


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rate_rps": 0.0}, "rate_rps = 0.0: expected a finite number above 0"),
        ({"gpus": ()}, "fleet of 0 GPUs"),
        ({"accuracy_floor_pct": 99.0}, "expected at most 84.582, the accuracy of b7"),
        ({"lambda_": 1.5}, "lambda = 1.5: expected a number from 0 to 1"),
        ({"carbon_budget_g": -1.0}, "carbon budget = -1.0: expected a number above 0"),
        ({"accuracy_floor_pct": 80.0, "carbon_budget_g": 1.0}, "expected at most one of them"),
        ({"sla_ms": float("nan")}, "sla_ms = nan"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(problem(), **changes)


def test_an_impossible_sla_says_what_would_be_possible() -> None:
    answer = ExactScheme().plan(problem(sla_ms=100.0))
    assert not answer.meets_sla
    assert answer.late_upper is None
    assert "no plan for 2 GPUs keeps p95 within 100 ms" in answer.reason
    assert "feasible: p95 within" in answer.reason


def test_a_rate_above_capacity_says_which_would_be_possible() -> None:
    answer = ExactScheme().plan(problem(rate_rps=500.0))
    assert not answer.meets_sla
    feasible = float(answer.reason.split("feasible: ")[1].split(" requests/s")[0])
    assert ExactScheme().plan(problem(rate_rps=0.98 * feasible)).meets_sla


def test_a_layout_that_is_nearly_as_good_stays() -> None:
    scheme = ExactScheme()
    first = scheme.plan(problem("albert", 2, 1.0, lambda_=0.1))
    scheme.look_ahead(problem("albert", 2, 1.0, lambda_=0.1))
    for intensity in (251.0, 249.0):
        asked = problem("albert", 2, 1.0, lambda_=0.1, intensity_g_per_kwh=intensity, present=first.configuration)
        answer = scheme.plan(asked)
        assert answer.evaluations == 0
        best = scheme.plan(dataclasses.replace(asked, present=None))
        assert answer.configuration == first.configuration or answer.objective > first.objective
        assert answer.objective >= best.objective - 1e-4


def test_after_looking_ahead_nothing_is_simulated_when_the_grid_moves() -> None:
    scheme = ExactScheme()
    asked = problem("yolov5", 2, 2.5)
    scheme.plan(asked)
    scheme.look_ahead(asked)
    for intensity in range(40, 500, 20):
        answer = scheme.plan(dataclasses.replace(asked, intensity_g_per_kwh=float(intensity)))
        assert answer.evaluations == 0
        assert answer.upper_bound is not None
        assert answer.upper_bound >= answer.objective - 1e-9


def test_gpus_keep_what_they_are_and_what_is_new_begins_where_nobody_serves() -> None:
    big, small = (GpuConfiguration((InstanceKind("7g", v),)) for v in ("b7", "b1"))
    ids = tuple(GpuId("n1", index) for index in range(4))
    present = Configuration.of({ids[0]: PARKED, ids[1]: big, ids[2]: PARKED, ids[3]: small})
    same = assign(layout_of([big, small, PARKED, PARKED]), ids, present)
    assert same == present
    changed = assign(layout_of([small, small, PARKED, PARKED]), ids, present).as_dict()
    assert changed == {ids[0]: small, ids[1]: PARKED, ids[2]: PARKED, ids[3]: small}


def test_nodes_get_equal_parts_and_their_shares_add_up() -> None:
    first, second = (GpuConfiguration((InstanceKind("7g", v),)) for v in ("b7", "b3"))
    ids = tuple(GpuId(node, index) for node in ("n1", "n2") for index in range(3))
    configuration = assign(layout_of([first] * 2 + [second] * 4), ids)
    assert all(
        Counter(gpu for gpu_id, gpu in configuration.gpus if gpu_id.node == node) == {first: 1, second: 2}
        for node in ("n1", "n2")
    )
    rule = Fleetwide(name="shares", shares={first.instances[0]: 0.25, second.instances[0]: 0.75})
    for own in rule.by_node(configuration).values():
        assert own.shares == pytest.approx({first.instances[0]: 0.25, second.instances[0]: 0.75})
