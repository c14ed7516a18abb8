"""What the figures hang on: energy contention, a step of power per busy GPU, the grid's level and shape, forecasts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clover.analysis import ladder
from clover.analysis.cases import APPLICATIONS
from clover.analysis.long_traces import load_long_traces
from clover.catalog import load_trace
from clover.core.application import ServiceModel
from clover.core.configuration import FleetCounts, GpuConfiguration, InstanceKind
from clover.core.objective import base_gpu, rightsized
from clover.core.queueing import Evaluation, evaluate
from clover.core.units import J_PER_KWH
from clover.plan.exact import ExactScheme
from clover.plan.points import Layout, layout_of
from clover.plan.problem import Problem

TRACE = "ciso-march"
PARKED_W = 25.0
LAMBDA = 0.5
STEPS_W = (0.0, 15.0, 30.0)


def all_keys() -> list[tuple[str]]:
    """Return (application,) of all parts."""
    return [(app,) for app in APPLICATIONS]


def run(application: str) -> dict[str, Any]:
    """Return the ladder under changed assumptions: the grid's level and shape, and c = 0; and the step of power."""
    trace = np.array(load_trace(TRACE).values_g_per_kwh)
    mean = float(trace.mean())
    problem, scheme = ladder.question(application, parked_w=PARKED_W, lambda_=LAMBDA), ExactScheme(seed=0)
    other = ladder.question(application, parked_w=PARKED_W, lambda_=LAMBDA, energy_contention=0.0)
    cases = {
        "as it is": ladder.follow_problem(problem, trace.tolist(), scheme=scheme),
        "intensity x 0.5": ladder.follow_problem(problem, (0.5 * trace).tolist(), scheme=scheme),
        "intensity x 2": ladder.follow_problem(problem, (2.0 * trace).tolist(), scheme=scheme),
        "flat at the mean": ladder.follow_problem(problem, [mean] * len(trace), scheme=scheme),
        "c = 0": ladder.follow_problem(other, trace.tolist()),
    }
    rows = [{"app": application, "case": name} | ladder.figures(hourly) for name, hourly in cases.items()]
    return {"rows": rows, "steps": _steps(problem, scheme, mean)}


def forecast(application: str, folder: str) -> dict[str, Any]:
    """Plan on the published forecast and count on what the grid then emitted, a year in Great Britain."""
    series = next(found for found in load_long_traces(Path(folder)) if found.forecast is not None)
    if series.forecast is None:
        raise ValueError("no series with a forecast")
    actual = np.array(series.trace.values_g_per_kwh)
    problem, scheme = ladder.question(application, parked_w=PARKED_W, lambda_=LAMBDA), ExactScheme(seed=0)
    grams: dict[str, float] = {}
    for name, seen in (("actual", series.trace), ("forecast", series.forecast)):
        hourly = ladder.follow_problem(problem, seen.values_g_per_kwh, scheme=scheme)
        grams[name] = float((hourly.energy_j * actual).sum()) * problem.pue / J_PER_KWH
        grams[f"{name} accuracy_pct"] = float((hourly.accuracy * hourly.requests).sum() / hourly.requests.sum())
        grams["base"] = float((hourly.requests * hourly.base_j * actual).sum()) * problem.pue / J_PER_KWH
    error = float(np.abs(np.array(series.forecast.values_g_per_kwh) - actual).mean())
    return {"app": application, "mean_error_g_per_kwh": error, "grams": grams}


# --- a step of power


def _steps(problem: Problem, scheme: ExactScheme, mean_g_per_kwh: float) -> list[dict[str, Any]]:
    """Add a step "any instance of the GPU is busy" to the plans as they are, BASE and right-sized BASE alike."""
    answer = scheme.plan(replace(problem, intensity_g_per_kwh=mean_g_per_kwh))
    base = problem.baseline().evaluation
    whole = base_gpu(problem.model, problem.whole)
    gpus = len(problem.gpus)
    small = rightsized(problem.model, problem.whole, gpus, problem.rate_rps, problem.sla_ms)
    active = _active(problem, small)
    fleets: dict[str, tuple[Layout, Evaluation]] = {
        "base": (((whole, gpus),), base),
        "base_rightsized": (((whole, active),), small),
        "exact": (layout_of(gpu for _, gpu in answer.configuration.gpus), answer.evaluation),
    }
    rows: list[dict[str, Any]] = []
    for step_w in STEPS_W:
        joules = {
            name: seen.energy_j_per_request + step_w * busy_gpus(problem.model, layout, seen) / problem.rate_rps
            for name, (layout, seen) in fleets.items()
        }
        saved = {name: 100.0 * (1.0 - energy / joules["base"]) for name, energy in joules.items()}
        rows.append({"app": problem.model.application.name, "step_w": step_w, "saved_pct": saved})
    return rows


def _active(problem: Problem, small: Evaluation) -> int:
    kind = InstanceKind(problem.whole, problem.model.application.largest.name)
    for active in range(1, len(problem.gpus) + 1):
        fleet = FleetCounts(kinds=((kind, active),), active=active, parked=len(problem.gpus) - active)
        if evaluate(problem.model, fleet, problem.rate_rps, problem.sla_ms) == small:
            return active
    return len(problem.gpus)


def busy_gpus(model: ServiceModel, layout: Layout, seen: Evaluation) -> float:
    """Return the mean number of GPUs of which at least one instance is busy, instances taken as independent."""
    counts: dict[InstanceKind, int] = {}
    for gpu, n in layout:
        for kind in gpu.instances:
            counts[kind] = counts.get(kind, 0) + n

    def busy(kind: InstanceKind) -> float:
        each_rps = seen.shares.get(kind, 0.0) * seen.served_rate_rps / counts[kind]
        return min(1.0, each_rps * model.mean_ms(kind.variant, kind.profile, seen.utilisation) / 1e3)

    def any_busy(gpu: GpuConfiguration) -> float:
        return 1.0 - float(np.prod([1.0 - busy(kind) for kind in gpu.instances]))

    return sum(n * any_busy(gpu) for gpu, n in layout if gpu.mode == "serving")
