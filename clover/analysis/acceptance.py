"""What `exact` is held to besides the 54 cases: parking against its analytic maximum, and gaps at fleet sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from clover.analysis import ladder
from clover.analysis.cases import APPLICATIONS, Case, own_rate_rps, problem_of
from clover.catalog import load_service
from clover.core.application import ServiceModel
from clover.core.objective import LATE_LIMIT, PLANNED_LATE_LIMIT, base_gpu
from clover.core.queueing import FleetSearch
from clover.plan.bound import bound
from clover.plan.certify import certify
from clover.plan.exact import ExactScheme
from clover.plan.flow import FlowModel
from clover.plan.points import assign
from clover.plan.problem import Answer, Problem
from clover.plan.space import all_gpu_configurations, count_matrix, kinds_of, mixed_fleets
from clover.plan.traffic import Traffic, agents_of
from clover.plan.uniform import fewest_gpus

BOARD = "a100-40gb"
PARKING_GPUS = (2, 10)
PARKED_W = 25.0
GAP_GPUS = (10, 100, 1000)
LEAST_PART = 0.95
#: Parking is judged where carbon alone counts: then both plans serve the same variant.
PARKING_LAMBDAS = (1.0, 0.5, 0.1)


def parking_keys() -> list[tuple[str, int, float]]:
    """Return (application, GPUs, lambda) of the parking cases."""
    return [(app, gpus, lambda_) for app in APPLICATIONS for gpus in PARKING_GPUS for lambda_ in PARKING_LAMBDAS]


def parking(application: str, gpus: int, lambda_: float) -> dict[str, Any]:
    """Compare what parking saves per request at 1x with (n - k_min) x (P_idle - P_park) / rate.

    k_min is the smallest number of GPUs with which any fleet keeps the promise, by brute force; dynamic energy may
    differ between the two plans (another mix of variants, higher contention) and is told apart. Fewer GPUs than the
    objective wants are no goal: `k_wanted` is the smallest number that a sound bound does not rule out, so that every
    plan with fewer GPUs, whatever its configuration and routing, scores less than the plan that was found.
    """
    model = load_service(application, BOARD)
    rate = own_rate_rps(model, gpus)
    problem = problem_of(model, Case(gpus=gpus, rate_rps=rate, lambda_=lambda_, parking="parked"))
    answers = {how: ExactScheme(seed=0).plan(replace(problem, parking=how)) for how in ("none", "parked")}
    k_min = fewest(problem_of(model, Case(gpus=gpus, rate_rps=rate)))
    k_wanted = k_min
    while k_wanted < answers["parked"].configuration.fleet.active and ruled_out(problem, k_wanted, answers["parked"]):
        k_wanted += 1
    watts = model.table.idle_power_w - model.table.parked_power_w
    maximum, wanted = (gpus - k_min) * watts / rate, (gpus - k_wanted) * watts / rate
    all_on, parked = answers["none"].evaluation, answers["parked"].evaluation
    saved = all_on.energy_j_per_request - parked.energy_j_per_request
    return {
        "app": application,
        "gpus": gpus,
        "lambda": lambda_,
        "k_min": k_min,
        "k_wanted": k_wanted,
        "active_gpus": answers["parked"].configuration.fleet.active,
        "gap": answers["parked"].gap,
        "analytic_j": maximum,
        "wanted_j": wanted,
        "saved_j": saved,
        "idle_saved_j": (all_on.idle_power_w - parked.idle_power_w) / rate,
        "part": saved / maximum if maximum > 0 else None,
        "part_of_wanted": None if wanted <= 0 else (all_on.idle_power_w - parked.idle_power_w) / rate / wanted,
        "accuracy_pct": {"none": all_on.accuracy_pct, "parked": parked.accuracy_pct},
        "certified": answers["parked"].late_upper is not None,
        "idle_w": model.table.idle_power_w,
    }


def rightsized_keys() -> list[tuple[str]]:
    """Return (application,) of the proofs of right-sized BASE."""
    return [(app,) for app in APPLICATIONS]


def rightsized_proof(application: str) -> dict[str, Any]:
    """Hold right-sized BASE of the ladder, chosen by the closed form, to the certificate that plans of `exact` need."""
    problem = ladder.question(application, parked_w=PARKED_W)
    model = problem.model
    layout, closed = fewest_gpus(problem, base_gpu(model, problem.whole), LATE_LIMIT)
    configuration = assign(layout, problem.gpus)
    proof = certify(model, agents_of(configuration, {}), Traffic(rate_rps=problem.rate_rps), sla_ms=problem.sla_ms)
    return {
        "app": application,
        "active_gpus": configuration.fleet.active,
        "closed_late_pct": 100.0 * closed.late_fraction,
        "late_pct": 100.0 * proof.late_fraction,
        "late_upper_pct": 100.0 * proof.late_upper,
        "certified": proof.certified,
    }


def ruled_out(problem: Problem, active: int, answer: Answer) -> bool:
    """Return whether no plan with at most so many serving GPUs can score as much as an answer."""
    flow = FlowModel(
        problem.model,
        problem.multisets,
        len(problem.gpus),
        rate_rps=problem.rate_rps,
        sla_ms=problem.sla_ms,
        spare_power_w=problem.model.table.parked_power_w,
        most_active=active,
    )
    return bound(flow, problem.asked(problem.baseline())).upper_bound < answer.objective


def fewest(problem: Problem) -> int:
    """Return the smallest number of serving GPUs that can keep the promise, by looking at all fleets.

    Every fleet of GPUs that differ is looked at up to two GPUs, above that every one whose GPUs are alike.
    """
    configurations = all_gpu_configurations(problem.model, problem.multisets)
    for active in range(1, len(problem.gpus) + 1):
        if active == 2:
            space = mixed_fleets(configurations, 2)
            kinds, counts = space.kinds, space.counts
        else:
            kinds = kinds_of(configurations)
            counts = count_matrix(configurations, kinds) * active
        if _least_late(problem.model, kinds, counts, problem) <= PLANNED_LATE_LIMIT:
            return active
    return len(problem.gpus)


def _least_late(model: ServiceModel, kinds: Any, counts: Any, problem: Problem) -> float:
    search = FleetSearch(model, kinds, problem.sla_ms)
    stable = ~search.operating(counts, problem.rate_rps).overloaded
    if not stable.any():
        return 1.0
    return float(np.min(search.evaluate(counts[stable], problem.rate_rps).late_fraction))


def gap_keys() -> list[tuple[str, int, float]]:
    """Return (application, GPUs, lambda) of the gap table, small fleets first."""
    return [(app, gpus, lambda_) for gpus in GAP_GPUS for app in APPLICATIONS for lambda_ in (0.1, 0.5)]


def gap(application: str, gpus: int, lambda_: float) -> dict[str, Any]:
    """Plan at 5x without parking and return objective, bound and gap."""
    model = load_service(application, BOARD)
    case = Case(gpus=gpus, nodes=min(2, gpus), rate_rps=own_rate_rps(model, gpus, 5.0), lambda_=lambda_)
    answer = ExactScheme(seed=0).plan(problem_of(model, case))
    return {
        "app": application,
        "gpus": gpus,
        "lambda": lambda_,
        "objective": answer.objective,
        "upper_bound": answer.upper_bound,
        "gap": answer.gap,
        "certified": answer.late_upper is not None and answer.meets_sla,
        "late_upper_pct": None if answer.late_upper is None else 100.0 * answer.late_upper,
        "accuracy_pct": answer.evaluation.accuracy_pct,
        "candidates_tried": answer.evaluations,
    }
