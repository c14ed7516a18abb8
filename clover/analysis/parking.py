"""Parking against its analytic maximum, and what each number of serving GPUs is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from clover.analysis.cases import APPLICATIONS, Case, own_rate_rps, problem_of
from clover.catalog import load_service
from clover.core.application import ServiceModel
from clover.core.objective import PLANNED_LATE_LIMIT
from clover.core.queueing import FleetSearch
from clover.plan.bound import bound
from clover.plan.exact import ExactScheme
from clover.plan.flow import FlowModel
from clover.plan.problem import Answer, Problem
from clover.plan.space import all_gpu_configurations, count_matrix, kinds_of, mixed_fleets

BOARD = "a100-40gb"
PARKING_GPUS = (2, 10)
#: At 1 and 0.5 the cheapest plan that keeps the promise is wanted, at 0.1 accuracy is worth more than some GPUs' watts.
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


def number_keys() -> list[tuple[str, int, float]]:
    """Return (application, GPUs, lambda) of the cases in which the number of serving GPUs is a question of accuracy."""
    return [(app, max(PARKING_GPUS), min(PARKING_LAMBDAS)) for app in APPLICATIONS]


def by_number(application: str, gpus: int, lambda_: float) -> dict[str, Any]:
    """Plan with each number of serving GPUs by itself, up to one more than the best plan of all uses.

    Returns for each number `k` the best certified plan that was found with exactly so many serving, scored as a plan of
    the whole fleet with the rest parked, and the bound on every plan with exactly so many.
    """
    model = load_service(application, BOARD)
    rate = own_rate_rps(model, gpus)
    problem = problem_of(model, Case(gpus=gpus, rate_rps=rate, lambda_=lambda_, parking="parked"))
    answer = ExactScheme(seed=0).plan(problem)
    numbers = range(1, min(answer.configuration.fleet.active + 1, gpus) + 1)
    return {
        "app": application,
        "gpus": gpus,
        "lambda": lambda_,
        "active_gpus": answer.configuration.fleet.active,
        "score": answer.score,
        "rows": [_number(problem, k) for k in numbers],
    }


def _number(problem: Problem, active: int) -> dict[str, Any]:
    part = serving_alone(problem, active)
    found, asked = ExactScheme(seed=0).plan(part), problem.asked(problem.baseline())
    parked_j = (len(problem.gpus) - active) * problem.model.table.parked_power_w / problem.rate_rps
    energy_j = found.evaluation.energy_j_per_request + parked_j
    score = asked.score(found.evaluation.accuracy_pct, energy_j)
    weight = asked.per_accuracy_pct / part.asked(part.baseline()).per_accuracy_pct
    return {
        "k": active,
        "score": score if found.meets_sla else None,
        "upper_bound": None if found.gap is None else score + weight * found.gap,
        "accuracy_pct": found.evaluation.accuracy_pct,
        "energy_j": energy_j,
        "plan": str(found.configuration),
    }


def serving_alone(problem: Problem, active: int) -> Problem:
    """Return the question for some GPUs of a fleet alone, all on, joules and accuracy weighing as before.

    What the parked rest draws is the same for every plan, so the best plan for these is the best with the rest parked.
    """
    whole = problem.baseline()
    part = replace(problem, gpus=problem.gpus[:active], parking="none")
    energy_j = part.baseline().energy_j_per_request
    # f weighs a joule with lambda / C_base: where BASE of fewer GPUs takes less, lambda is less in the same proportion.
    odds = problem.lambda_ / (1.0 - problem.lambda_) * energy_j / whole.energy_j_per_request
    return replace(part, lambda_=odds / (1.0 + odds))


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
