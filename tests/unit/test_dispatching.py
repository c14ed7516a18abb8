"""Dispatch on a configuration that stays: certified, never worse than longest-idle, and following the grid."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from clover.analysis.cases import Case, own_rate_rps, problem_of
from clover.catalog import load_service
from clover.core.configuration import Configuration, GpuConfiguration, InstanceKind
from clover.plan.certify import certify
from clover.plan.dispatching import best_dispatch, shares_of
from clover.plan.problem import Problem
from clover.plan.prover import Proofs
from clover.plan.traffic import Traffic, agents_of

YOLO = load_service("yolov5", "a100-40gb")
LARGE = GpuConfiguration((InstanceKind("7g", "yolov5x6"),))
MIXED = GpuConfiguration((InstanceKind("3g", "yolov5x"), InstanceKind("2g", "yolov5l"), InstanceKind("2g", "yolov5l")))


def question(**changes: Any) -> Problem:
    case = Case(gpus=4, nodes=2, rate_rps=own_rate_rps(YOLO, 4, 1.5), lambda_=0.3, parking="parked")
    asked = problem_of(YOLO, case)
    layout = dict(zip(asked.gpus, (LARGE, MIXED, LARGE, MIXED), strict=True))
    return dataclasses.replace(asked, present=Configuration.of(layout), **changes)


def test_shares_follow_the_grid_on_gpus_that_stay_and_are_certified() -> None:
    proofs: Proofs = {}
    clean, dirty = (best_dispatch(question(intensity_g_per_kwh=g), proofs=proofs) for g in (20.0, 900.0))
    assert clean is not None
    assert dirty is not None
    assert clean.evaluation.accuracy_pct > dirty.evaluation.accuracy_pct
    assert clean.evaluation.energy_j_per_request > dirty.evaluation.energy_j_per_request
    assert set(dirty.dispatch) == {"n1", "n2"}
    for plan in (clean, dirty):
        assert plan.late_upper <= 0.05
        assert plan.simulated > 0


def test_the_certificate_is_that_of_the_nodes_as_they_are() -> None:
    asked = question()
    plan = best_dispatch(asked, seed=3)
    assert plan is not None
    assert asked.present is not None
    again = certify(
        YOLO,
        agents_of(asked.present, dict(plan.dispatch)),
        Traffic(rate_rps=asked.rate_rps),
        sla_ms=asked.sla_ms,
        seed=3,
    )
    assert again.certified
    assert again.late_upper == plan.late_upper


def test_what_was_simulated_is_not_simulated_again_and_plans_travel_between_processes() -> None:
    proofs: Proofs = {}
    first = best_dispatch(question(), proofs=proofs)
    known = len(proofs)
    second = best_dispatch(pickle.loads(pickle.dumps(question())), proofs=proofs)
    assert first is not None
    assert second is not None
    assert second.simulated == 0
    assert len(proofs) == known
    assert second.dispatch == first.dispatch
    assert pickle.loads(pickle.dumps(first)) == first


def test_an_accuracy_floor_is_kept_and_one_that_nobody_can_keep_gives_nothing() -> None:
    plan = best_dispatch(question(accuracy_floor_pct=53.0))
    assert plan is not None
    assert plan.evaluation.accuracy_pct >= 53.0
    assert best_dispatch(question(accuracy_floor_pct=54.99)) is None


def test_shares_promise_what_the_flows_add_up_to() -> None:
    asked = question()
    assert asked.present is not None
    found = shares_of(asked, asked.present, asked.asked(asked.baseline()), utilisation=0.8, late=0.05)
    assert found is not None
    assert sum(found[1].shares.values()) == pytest.approx(1.0)
    assert shares_of(asked, asked.present, asked.asked(asked.baseline()), utilisation=0.01, late=0.05) is None


def test_without_a_configuration_that_serves_there_is_nothing_to_dispatch() -> None:
    with pytest.raises(ValueError, match="present = None: expected a configuration"):
        best_dispatch(dataclasses.replace(question(), present=None))
