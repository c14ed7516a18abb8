"""The ladder: what each step adds at equal accuracy, from BASE to a planner that follows the grid.

base -> base_rightsized -> static + parking -> exact + parking, under a constant load. `static` is blind to the grid:
one mixture of two certified plans of those that `exact` had, the same in every hour, with the accuracy that `exact`
had; so the last step is nothing but what following the grid gives. `uniform static` is the best single configuration
for all serving GPUs in hindsight at no less than that accuracy.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clover.analysis.cases import Case, own_rate_rps, problem_of, with_table
from clover.catalog import load_service
from clover.core.closed_form import Floats
from clover.core.objective import rightsized
from clover.core.queueing import Evaluation, evaluate
from clover.core.units import J_PER_KWH
from clover.plan.counting import HOUR_S, Hour, Totals
from clover.plan.exact import ExactScheme
from clover.plan.following import LayoutKeeper
from clover.plan.points import fleet_of
from clover.plan.problem import Problem
from clover.plan.replay import Replay
from clover.plan.uniform import StaticScheme, UniformSpace, best_static

BOARD = "a100-40gb"
GPUS, NODES = 10, 2
#: Watts of a parked GPU; 0 is a GPU that is off.
PARKED_W = (0.0, 18.0, 25.0, 30.0, 34.0, 38.0)
#: Of one node without its GPUs, where host power is included.
HOST_W = 150.0
RUNGS = ("base", "base_rightsized", "static", "exact")
WEEK_HOURS = 168
DRAWS = 2000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hourly:
    """`exact` on a trace, hour by hour, and what it is compared with.

    Attributes:
        intensity: g/kWh, (H,).
        requests: Per hour, (H,).
        energy_j: Of the whole fleet, changes included, (H,).
        accuracy: Request-weighted mean of the hour in %, (H,).
        late: Fraction of late requests, (H,).
        base_j, small_j: Energy per request of BASE and right-sized BASE.
        base_accuracy: In %.
        hull: (accuracy, energy per request) of the plans that a blind mixture may use, ascending.
        uniform: (accuracy, energy per request) of the uniform static, None if there is none.
        mig_changes, replans: Of `exact`.
        pue, hosts: Of the building, and how many nodes it has.
    """

    intensity: Floats
    requests: Floats
    energy_j: Floats
    accuracy: Floats
    late: Floats
    base_j: float
    small_j: float
    base_accuracy: float
    hull: tuple[Floats, Floats]
    uniform: tuple[float, float] | None
    mig_changes: int
    replans: int
    pue: float
    hosts: int

    def static_j(self, accuracy: Floats | float) -> Floats:
        """Return the energy per request of the blind mixture at an accuracy."""
        return np.asarray(np.interp(accuracy, *self.hull))


def follow(
    application: str, trace: Sequence[float], *, parked_w: float, lambda_: float, load: float = 1.0, **table: float
) -> Hourly:
    """Replay `exact` with parking on hourly intensities.

    Args:
        application: By name.
        trace: g/kWh by hour.
        parked_w: Of a parked GPU.
        lambda_: Weight of carbon.
        load: In multiples of BASE's own.
        table: Other figures of the table to change.
    """
    return follow_problem(question(application, parked_w=parked_w, lambda_=lambda_, load=load, **table), trace)


def question(application: str, *, parked_w: float, lambda_: float = 0.5, load: float = 1.0, **table: float) -> Problem:
    """Return what the ladder asks; arguments as those of `follow`."""
    model = with_table(load_service(application, BOARD), parked_power_w=parked_w, **table)
    case = Case(gpus=GPUS, nodes=NODES, rate_rps=own_rate_rps(model, GPUS, load), lambda_=lambda_, parking="parked")
    return problem_of(model, case)


def follow_problem(
    problem: Problem,
    trace: Sequence[float],
    *,
    scheme: ExactScheme | None = None,
    keeper: LayoutKeeper | None = None,
    space: UniformSpace | None = None,
) -> Hourly:
    """Replay `exact` for a question, hour by hour; scheme, keeper and space may know something from other replays."""
    scheme = scheme or ExactScheme(seed=0)
    scheme.look_ahead(problem)
    intensity = np.array(trace, dtype=np.float64)
    seen: list[tuple[float, float, float, float]] = []

    def note(_number: int, totals: Totals) -> None:
        seen.append((totals.requests, totals.energy_j, totals.accuracy_pct, totals.late))

    replay = Replay(scheme, problem, keeper=keeper)
    totals = replay.run([Hour(rate_rps=problem.rate_rps, intensity_g_per_kwh=float(g)) for g in trace], tell=note)
    requests, energy, accuracy, late = np.diff(np.array([(0.0, 0.0, 0.0, 0.0), *seen]), axis=0).T
    mean_accuracy = float(accuracy.sum() / requests.sum())
    small = rightsized(problem.model, problem.whole, len(problem.gpus), problem.rate_rps, problem.sla_ms)
    return Hourly(
        intensity=intensity,
        requests=requests,
        energy_j=energy,
        accuracy=accuracy / requests,
        late=late / requests,
        base_j=problem.baseline().energy_j_per_request,
        small_j=small.energy_j_per_request,
        base_accuracy=problem.baseline().accuracy_pct,
        hull=_lower_hull(
            [
                *(point.evaluation for point in scheme.plans(problem).frontier.certified()),
                # Layouts that stay are dispatched in ways that the frontier need not hold.
                *(replay.steady(a, problem.rate_rps) for a in totals.answers if a.late_upper is not None),
            ]
        ),
        uniform=_uniform(problem, mean_accuracy, space),
        mig_changes=totals.mig_changes,
        replans=totals.replans,
        pue=problem.pue,
        hosts=len({gpu.node for gpu in problem.gpus}),
    )


def _lower_hull(plans: Sequence[Evaluation]) -> tuple[Floats, Floats]:
    """Return accuracy and energy of the vertices from the least energy to the highest accuracy, ascending."""
    pairs = sorted({(seen.accuracy_pct, seen.energy_j_per_request) for seen in plans})
    least = min(energy for _, energy in pairs)
    pairs = [pair for pair in pairs if pair[0] >= max(a for a, e in pairs if e == least)]
    hull: list[tuple[float, float]] = []
    for accuracy, energy in pairs:
        if hull and accuracy == hull[-1][0]:
            continue
        while len(hull) > 1 and _above((*hull[-2], *hull[-1]), accuracy, energy):
            hull.pop()
        hull.append((accuracy, energy))
    return np.array([a for a, _ in hull]), np.array([e for _, e in hull])


def _above(edge: tuple[float, float, float, float], accuracy: float, energy: float) -> bool:
    a0, e0, a1, e1 = edge
    return (e1 - e0) * (accuracy - a0) >= (energy - e0) * (a1 - a0)


def _uniform(problem: Problem, least_accuracy_pct: float, space: UniformSpace | None) -> tuple[float, float] | None:
    scheme: StaticScheme = best_static([problem], least_accuracy_pct=least_accuracy_pct, space=space)
    if scheme.layout is None:
        return None
    seen = evaluate(problem.model, fleet_of(scheme.layout), problem.rate_rps, problem.sla_ms)
    return seen.accuracy_pct, seen.energy_j_per_request


# --- figures


def figures(hourly: Hourly, *, host_w: float = 0.0) -> dict[str, Any]:
    """Return grams, kWh and savings of every rung.

    Args:
        hourly: What was replayed.
        host_w: Power of a node without its GPUs, the same on every rung.
    """
    energy = _energy_by_rung(hourly, host_w)
    weight = hourly.pue * hourly.intensity / J_PER_KWH
    grams = {rung: float((joules * weight).sum()) for rung, joules in energy.items()}
    kwh = {rung: float(joules.sum()) / J_PER_KWH for rung, joules in energy.items()}
    mean = _mean_accuracy(hourly)
    follows = grams["static"] - grams["exact"]
    return {
        "hours": len(hourly.intensity),
        "host_w": host_w,
        "grams": grams,
        "kwh": kwh,
        "saved_pct": {rung: 100.0 * (1.0 - g / grams["base"]) for rung, g in grams.items()},
        "accuracy_pct": mean,
        "accuracy_loss_pct": 100.0 * (hourly.base_accuracy - mean) / hourly.base_accuracy,
        "late_pct": 100.0 * float((hourly.late * hourly.requests).sum() / hourly.requests.sum()),
        "following_g_pct": 100.0 * follows / grams["static"],
        "following_kwh_pct": 100.0 * (kwh["static"] - kwh["exact"]) / kwh["static"],
        "uniform_static": _uniform_figures(hourly, host_w),
        "mig_changes": hourly.mig_changes,
        "replans": hourly.replans,
    }


def _mean_accuracy(hourly: Hourly) -> float:
    return float((hourly.accuracy * hourly.requests).sum() / hourly.requests.sum())


def _energy_by_rung(hourly: Hourly, host_w: float) -> dict[str, Floats]:
    host = np.full(len(hourly.requests), host_w * hourly.hosts * HOUR_S)
    static_j = float(hourly.static_j(_mean_accuracy(hourly)))
    return {
        "base": hourly.requests * hourly.base_j + host,
        "base_rightsized": hourly.requests * hourly.small_j + host,
        "static": hourly.requests * static_j + host,
        "exact": hourly.energy_j + host,
    }


def _uniform_figures(hourly: Hourly, host_w: float) -> dict[str, float] | None:
    if hourly.uniform is None:
        return None
    accuracy, energy_j = hourly.uniform
    host_j = host_w * hourly.hosts * HOUR_S
    weight = hourly.intensity
    base = float(((hourly.requests * hourly.base_j + host_j) * weight).sum())
    own = float(((hourly.requests * energy_j + host_j) * weight).sum())
    return {"accuracy_pct": accuracy, "saved_pct": 100.0 * (1.0 - own / base)}


def bootstrap(hourly: Hourly, *, host_w: float = 0.0, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of savings and of the gain from following, by drawing whole weeks with replacement.

    In every draw `static` is set anew to the accuracy that `exact` had in those weeks. Series shorter than two weeks
    have no interval.
    """
    weeks = len(hourly.intensity) // WEEK_HOURS
    if weeks < 2:
        return {}
    weight = hourly.pue * hourly.intensity / J_PER_KWH
    host = host_w * hourly.hosts * HOUR_S

    def by_week(values: Floats) -> Floats:
        return values[: weeks * WEEK_HOURS].reshape(weeks, WEEK_HOURS).sum(axis=1)

    asked, host_g = by_week(hourly.requests * weight), by_week(host * weight)
    exact, served = by_week((hourly.energy_j + host) * weight), by_week(hourly.requests)
    accuracy = by_week(hourly.accuracy * hourly.requests)
    drawn = np.random.default_rng(seed).integers(0, weeks, (DRAWS, weeks))

    def total(values: Floats) -> Floats:
        return values[drawn].sum(axis=1)

    base = total(asked) * hourly.base_j + total(host_g)
    small = total(asked) * hourly.small_j + total(host_g)
    static = total(asked) * hourly.static_j(total(accuracy) / total(served)) + total(host_g)
    gains = {
        "base_rightsized": 1.0 - small / base,
        "static": 1.0 - static / base,
        "exact": 1.0 - total(exact) / base,
        "following": 1.0 - total(exact) / static,
    }
    low_high = {name: np.quantile(100.0 * values, [0.025, 0.975]) for name, values in gains.items()}
    return {name: (float(low), float(high)) for name, (low, high) in low_high.items()}


def zero_watts(by_watts: dict[float, float]) -> float | None:
    """Return the parked watts at which a saving falls to zero, by straight lines; None if it stays above it."""
    watts = sorted(by_watts)
    for low, high in itertools.pairwise(watts):
        if by_watts[low] > 0.0 >= by_watts[high]:
            return low + (high - low) * by_watts[low] / (by_watts[low] - by_watts[high])
    return None
