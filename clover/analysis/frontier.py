"""What a load allows: energy against accuracy, of certified plans and of the fleets around them; and its pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clover.core.objective import PLANNED_LATE_LIMIT
from clover.core.queueing import FleetSearch
from clover.core.units import footprint_g
from clover.errors import ConfigurationError
from clover.plan.exact import ExactScheme
from clover.plan.points import PlanPoint
from clover.plan.problem import Problem
from clover.plan.space import all_gpu_configurations, count_matrix, kinds_of

#: Weights of carbon for which plans are looked for.
_LAMBDAS = (0.1, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """One plan or fleet.

    Attributes:
        kind: `certified` (a plan with its proof), `uniform` (all serving GPUs alike, by the closed form).
        feasible: Keeps the promise.
        accuracy_pct, energy_j_per_request, footprint_g_per_1000: Of the whole fleet.
        p95_ms: None if it was not computed, or unbounded.
        late_pct: Certified upper bound for plans, otherwise by the closed form.
        active_gpus: Serving GPUs.
        best_for_some_weight: Vertex of the hull: no other certified plan is better for some weight of carbon.
        plan: In words.
    """

    kind: str
    feasible: bool
    accuracy_pct: float
    energy_j_per_request: float
    footprint_g_per_1000: float
    p95_ms: float | None
    late_pct: float
    active_gpus: int
    best_for_some_weight: bool
    plan: str


def frontier(problem: Problem, *, seed: int = 0) -> tuple[list[FrontierPoint], list[FrontierPoint]]:
    """Return the certified plans of a load, by energy, and the fleets whose serving GPUs are all alike.

    Args:
        problem: Fleet, load and SLA; its lambda and the usual ones are planned for, for all intensities.
        seed: Of the certificates.
    """
    scheme = ExactScheme(seed=seed)
    plans = scheme.plans(problem)
    for lambda_ in sorted({problem.lambda_, *_LAMBDAS}):
        scheme.plan(replace(problem, lambda_=lambda_))
        scheme.look_ahead(replace(problem, lambda_=lambda_))
    vertices = {id(point) for point in plans.frontier.hull()}
    best = [
        _certified(problem, point, vertex=id(point) in vertices) for point in _undominated(plans.frontier.certified())
    ]
    return best, _uniform(problem)


def _undominated(points: list[PlanPoint]) -> list[PlanPoint]:
    kept: list[PlanPoint] = []
    for point in points:
        if not kept or point.evaluation.accuracy_pct > kept[-1].evaluation.accuracy_pct + 1e-9:
            kept.append(point)
    return kept


def _certified(problem: Problem, point: PlanPoint, *, vertex: bool) -> FrontierPoint:
    seen = point.evaluation
    return FrontierPoint(
        kind="certified",
        feasible=True,
        accuracy_pct=seen.accuracy_pct,
        energy_j_per_request=seen.energy_j_per_request,
        footprint_g_per_1000=_grams(problem, seen.energy_j_per_request),
        p95_ms=seen.p95_ms if seen.stable else None,
        late_pct=100.0 * (point.late_upper if point.late_upper is not None else seen.late_fraction),
        active_gpus=point.active,
        best_for_some_weight=vertex,
        plan=f"{point}; {point.dispatch.name}",
    )


def _uniform(problem: Problem) -> list[FrontierPoint]:
    """Evaluate every configuration on all GPUs, those that are too late included."""
    model, gpus = problem.model, len(problem.gpus)
    configurations = all_gpu_configurations(model, problem.multisets)
    kinds = kinds_of(configurations)
    search = FleetSearch(model, kinds, problem.sla_ms)
    seen = search.evaluate(count_matrix(configurations, kinds) * gpus, problem.rate_rps)
    energy = seen.energy_j_per_request(gpus * model.table.idle_power_w)
    return [
        FrontierPoint(
            kind="uniform",
            feasible=bool(seen.late_fraction[row] <= PLANNED_LATE_LIMIT),
            accuracy_pct=float(seen.accuracy_pct[row]),
            energy_j_per_request=float(energy[row]),
            footprint_g_per_1000=_grams(problem, float(energy[row])),
            p95_ms=None,
            late_pct=100.0 * float(seen.late_fraction[row]),
            active_gpus=gpus,
            best_for_some_weight=False,
            plan=f"{gpus} x [{gpu}]; longest_idle",
        )
        for row, gpu in enumerate(configurations)
    ]


def _grams(problem: Problem, energy_j: float) -> float:
    return footprint_g(1e3 * energy_j, problem.intensity_g_per_kwh, problem.pue)


def pyplot() -> Any:
    """Return matplotlib's pyplot without a window; raises ConfigurationError with the way to get it."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(
            "pictures need matplotlib, which is not installed", hint="pip install 'clover-serve[analysis]'"
        ) from error
    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    return plt


def draw(
    best: list[FrontierPoint], others: list[FrontierPoint], path: Path, *, title: str, grams: bool = False
) -> None:
    """Write a picture: J or g per request against accuracy; what is not feasible is hollow.

    Raises:
        ConfigurationError: matplotlib is missing, or the file cannot be written.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.0, 4.5), layout="constrained")
    for feasible, face in ((False, "none"), (True, "tab:gray")):
        chosen = [p for p in others if p.feasible == feasible]
        label = f"one configuration for all GPUs, {'keeps the SLA' if feasible else 'too late'}"
        axes.scatter(
            [p.accuracy_pct for p in chosen],
            _values(chosen, grams=grams),
            s=14,
            facecolors=face,
            edgecolors="tab:gray",
            linewidths=0.6,
            label=label,
        )
    axes.plot(
        [p.accuracy_pct for p in best], _values(best, grams=grams), "o-", color="tab:green", label="certified plans"
    )
    axes.set(xlabel="accuracy, %", ylabel="gCO2e per 1000 requests" if grams else "J per request", title=title)
    axes.set_ylim(bottom=0.0, top=_top(best, others, grams=grams))
    axes.legend(fontsize="small")
    try:
        figure.savefig(path)
    except OSError as error:
        raise ConfigurationError(f"picture {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigurationError(f"picture {path}: {error}") from error
    finally:
        plt.close(figure)


def _values(points: list[FrontierPoint], *, grams: bool) -> list[float]:
    return [p.footprint_g_per_1000 if grams else p.energy_j_per_request for p in points]


def _top(best: list[FrontierPoint], others: list[FrontierPoint], *, grams: bool) -> float:
    """Leave out the few fleets that are far above all others."""
    values = _values(others, grams=grams)
    return 1.1 * max([float(np.quantile(values, 0.98)), *_values(best, grams=grams)])
