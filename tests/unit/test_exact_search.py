"""The parts by which `exact` searches: bounds solved from where they ended, looks of a certificate, neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from clover.catalog import load_service
from clover.core.configuration import FleetCounts, InstanceKind
from clover.core.objective import Baseline
from clover.plan.accurate_search import AccurateFleets
from clover.plan.asking import Asked, by_objective
from clover.plan.bound import relaxed_bound
from clover.plan.certify import LEAST_REQUESTS, certify
from clover.plan.flow import FlowModel, Interval
from clover.plan.points import PlanPoint
from clover.plan.pool import Enumeration, Fleets
from clover.plan.problem import baseline
from clover.plan.simulator import simulate
from clover.plan.space import all_gpu_configurations
from clover.plan.traffic import Traffic, one_agent
from mig.partition import maximal_multisets
from mig.profiles import gpu_model

MULTISETS = maximal_multisets(gpu_model("a100-40gb"))
YOLO = load_service("yolov5", "a100-40gb")
SLA_MS = YOLO.table.sla_p95_ms


# --- bounds


def _flow() -> FlowModel:
    spare_w = YOLO.table.parked_power_w
    return FlowModel(YOLO, MULTISETS, 10, rate_rps=12.5, sla_ms=SLA_MS, spare_power_w=spare_w)


def test_a_bound_that_goes_on_from_another_intensity_is_that_of_a_new_program() -> None:
    base: Baseline = baseline(YOLO, "7g", 10, 12.5, SLA_MS)
    kept = _flow()
    for lambda_, place in ((0.1, 50.0), (0.1, 750.0), (0.5, 250.0), (0.1, 120.0), (0.1, 50.0)):
        asked = by_objective(lambda_, base, place)
        fresh = relaxed_bound(_flow(), asked)
        assert relaxed_bound(kept, asked).upper_bound == pytest.approx(fresh.upper_bound, abs=1e-8)


def test_what_no_plan_can_reach_is_not_solved_in_whole_numbers() -> None:
    flow, asked = _flow(), by_objective(0.1, baseline(YOLO, "7g", 10, 12.5, SLA_MS), 250.0)
    everything = Interval(low=0.0, high=1.0)
    found = flow.solve(asked, everything)
    assert found is not None
    assert flow.solve(asked, everything, cutoff=found.bound + 1e-3) is None
    again = flow.solve(asked, everything, cutoff=found.bound - 1e-3)
    assert again is not None
    assert again.bound == pytest.approx(found.bound, abs=2e-5)


# --- certificates

FLEET = FleetCounts(kinds=((InstanceKind("3g", "yolov5l"), 3), (InstanceKind("4g", "yolov5x"), 3)), active=3)
TRAFFIC = Traffic(rate_rps=16.0)


@pytest.fixture(scope="module")
def truth() -> float:
    return simulate(YOLO, one_agent(FLEET), TRAFFIC, sla_ms=350.0, requests=2_000_000, seed=99).evaluation.late_fraction


def test_good_plans_are_not_given_up_early(truth: float) -> None:
    for seed in range(8):
        found = certify(YOLO, one_agent(FLEET), TRAFFIC, sla_ms=350.0, limit=truth + 0.006, seed=seed)
        assert found.requests >= LEAST_REQUESTS
        assert found.certified


def test_bad_plans_are_given_up_early(truth: float) -> None:
    for seed in range(4):
        found = certify(YOLO, one_agent(FLEET), TRAFFIC, sla_ms=350.0, limit=truth - 0.02, longer=5, seed=seed)
        assert not found.certified
        assert found.requests < LEAST_REQUESTS / 2


def test_what_fails_narrowly_is_simulated_on_and_pays_for_the_second_look(truth: float) -> None:
    limit = truth + 0.002
    once = [certify(YOLO, one_agent(FLEET), TRAFFIC, sla_ms=350.0, limit=limit, seed=seed) for seed in range(6)]
    twice = [
        certify(YOLO, one_agent(FLEET), TRAFFIC, sla_ms=350.0, limit=limit, longer=5, seed=seed) for seed in range(6)
    ]
    assert sum(found.certified for found in twice) > sum(found.certified for found in once)
    assert any(found.requests >= 5 * LEAST_REQUESTS and found.certified for found in twice)
    for first, second in zip(once, twice, strict=True):
        if second.requests == first.requests:
            # The same draws, each look with half of the error.
            assert second.late_fraction == first.late_fraction
            assert second.late_upper > first.late_upper


# --- neighbours


def _fleets(fleets: Fleets, rows: list[int]) -> Fleets:
    return Fleets(counts=fleets.counts[rows], idle_w=fleets.idle_w[rows], layout=lambda row: fleets.layout(rows[row]))


def test_a_planted_better_neighbour_is_found_and_always_the_same() -> None:
    rate = 2.5 * YOLO.application.default_rate_rps_per_gpu * 2
    asked = by_objective(0.1, baseline(YOLO, "7g", 2, rate, SLA_MS), 375.0)
    enumeration = Enumeration(YOLO, all_gpu_configurations(YOLO, MULTISETS), SLA_MS)

    def best(fleets: Fleets, *, neighbours: bool) -> PlanPoint | None:
        around = enumeration.neighbours if neighbours else None
        search = AccurateFleets(
            YOLO, enumeration.search, [fleets], neighbours=around, as_nodes=None, rate_rps=rate, sla_ms=SLA_MS
        )
        return search.best(asked, at_least=-np.inf)

    top = best(enumeration.mixed_fleets(2, 0), neighbours=False)
    assert top is not None
    near = enumeration.neighbours(top.layout, resize=False)
    others = [row for row in range(len(near.counts)) if near.layout(row) != top.layout]
    start = best(_fleets(near, others), neighbours=False)
    assert start is not None
    row = next(row for row in others if near.layout(row) == start.layout)
    found = [best(_fleets(near, [row]), neighbours=True) for _ in range(2)]
    assert found[0] is not None
    assert found[0] == found[1]
    assert _score(asked, start) < _score(asked, top) - 2e-5
    assert _score(asked, found[0]) >= _score(asked, top) - 2e-5


def _score(asked: Asked, point: PlanPoint) -> float:
    return asked.score(point.evaluation.accuracy_pct, point.evaluation.energy_j_per_request)
