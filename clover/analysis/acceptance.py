"""What `exact` is held to besides the 54 cases and parking: gaps at fleet sizes, and a proof of right-sized BASE."""

from __future__ import annotations

from typing import Any

from clover.analysis import ladder
from clover.analysis.cases import APPLICATIONS, Case, own_rate_rps, problem_of
from clover.catalog import load_service
from clover.core.objective import LATE_LIMIT, base_gpu
from clover.plan.certify import certify
from clover.plan.exact import ExactScheme
from clover.plan.points import assign
from clover.plan.traffic import Traffic, agents_of
from clover.plan.uniform import fewest_gpus

BOARD = "a100-40gb"
PARKED_W = 25.0
GAP_GPUS = (10, 100, 1000)


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
