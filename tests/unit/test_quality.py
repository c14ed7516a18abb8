"""Dispatch by accuracy in `exact`: the estimate, what it wins, what fewer GPUs cannot win, and shared certificates."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from clover.analysis.cases import Case, own_rate_rps, problem_of, with_table
from clover.analysis.parking import by_number, ruled_out, serving_alone
from clover.catalog import load_service
from clover.core.configuration import InstanceKind
from clover.core.queueing import FleetSearch
from clover.plan.exact import ExactScheme
from clover.plan.problem import Problem
from clover.plan.prover import Proofs
from clover.plan.quality import erlang_b, estimate
from clover.plan.sweep import sweep

YOLO = load_service("yolov5", "a100-40gb")


def question(gpus: int = 10, load: float = 1.0, **changes: Any) -> Problem:
    rate = own_rate_rps(YOLO, gpus, load)
    return problem_of(YOLO, Case(gpus=gpus, rate_rps=rate, lambda_=0.1, parking="parked", **changes))


def test_erlang_b_is_the_known_one() -> None:
    # B(1, a) = a / (1 + a); B(2, a) = a^2 / 2 / (1 + a + a^2 / 2); nobody there turns everybody away.
    found = erlang_b(np.array([1.0, 2.0, 0.0]), np.array([0.5, 1.5, 0.7]))
    assert found == pytest.approx([1.0 / 3.0, 1.125 / 3.625, 1.0])


def test_the_estimate_is_near_what_the_simulator_sees() -> None:
    kinds = [InstanceKind("7g", "yolov5x6"), InstanceKind("3g", "yolov5x"), InstanceKind("2g", "yolov5l")]
    counts = np.array([[2.0, 2.0, 0.0], [3.0, 0.0, 4.0], [1.0, 2.0, 2.0]])
    seen = sweep(YOLO, kinds, counts, 5.0, sla_ms=YOLO.table.sla_p95_ms, rule="accurate", requests=20_000)
    guess = estimate(FleetSearch(YOLO, kinds, YOLO.table.sla_p95_ms), counts, 5.0)
    assert guess.accuracy_pct == pytest.approx(seen.accuracy_pct, abs=0.5)
    assert guess.dynamic_j == pytest.approx(seen.dynamic_j, rel=0.1)
    assert guess.late_fraction == pytest.approx(seen.late_fraction, abs=0.02)


def test_accuracy_first_beats_longest_idle_where_large_variants_sit_on_the_sla() -> None:
    asked = question()
    simple, any_rule = ExactScheme(any_routing=False).plan(asked), ExactScheme().plan(asked)
    assert any_rule.objective > simple.objective + 2e-3
    assert any_rule.late_upper is not None
    assert any_rule.late_upper <= 0.05
    assert any_rule.upper_bound is not None
    assert any_rule.upper_bound > any_rule.objective
    assert {rule.name for rule in any_rule.dispatch.values()} == {"accurate"}


def test_a_rate_in_whole_requests_is_a_rate() -> None:
    asked = question(gpus=2)
    whole, same = (dataclasses.replace(asked, rate_rps=rate) for rate in (5, 5.0))
    assert ExactScheme().plan(whole).objective == ExactScheme().plan(same).objective


def test_fewer_gpus_than_the_objective_wants_are_ruled_out_by_the_bound() -> None:
    asked = question(gpus=2)
    answer = ExactScheme().plan(asked)
    assert answer.configuration.fleet.active == 2
    assert ruled_out(asked, 1, answer)
    assert not ruled_out(asked, 2, answer)


def test_certificates_are_shared_where_only_watts_differ() -> None:
    proofs: Proofs = {}
    first = ExactScheme(proofs=proofs).plan(question(gpus=2))
    known = len(proofs)
    asked = question(gpus=2)
    cold = dataclasses.replace(asked, model=with_table(asked.model, parked_power_w=30.0))
    second, alone = ExactScheme(proofs=proofs).plan(cold), ExactScheme().plan(cold)
    assert known > 0
    assert len(proofs) == known
    assert second.objective == alone.objective
    assert second.configuration == alone.configuration == first.configuration


def test_each_number_of_serving_gpus_is_scored_as_a_plan_of_the_whole_fleet() -> None:
    asked = question(gpus=2)
    answer = ExactScheme(seed=0).plan(asked)
    found = by_number("yolov5", 2, 0.1)
    one, two = found["rows"]
    assert found["active_gpus"] == 2
    assert two["score"] == pytest.approx(answer.score, abs=1e-6)
    assert two["upper_bound"] >= two["score"]
    assert one["upper_bound"] < two["score"]


def test_gpus_that_serve_alone_weigh_joules_against_accuracy_as_the_whole_fleet_does() -> None:
    asked = question()
    whole, part = (each.asked(each.baseline()) for each in (asked, serving_alone(asked, 4)))
    assert part.per_energy_j / part.per_accuracy_pct == pytest.approx(whole.per_energy_j / whole.per_accuracy_pct)
    assert part.per_energy_j != pytest.approx(whole.per_energy_j)
