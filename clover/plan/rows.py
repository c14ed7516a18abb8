"""Rows of `clover experiment`: what a replay comes to, in the words of the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clover.core.objective import LATE_LIMIT
from clover.plan.counting import Totals
from clover.plan.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scheme on one trace; names and units as in `experiment --json` (`lambda_` is `lambda` there).

    Attributes:
        rate_rps: Mean arrival rate.
        energy_j_per_request: Of the whole fleet, changes and exploration included.
        saved_pct: Carbon saved against BASE at the same load on the same GPUs.
        saved_pct_rightsized: Against BASE on the fewest GPUs that keep the promise, the rest parked.
        saved_pct_original_way: Per request, against BASE at its own load, as the original reports it.
        p95_ms: The highest of any stretch of time, None if one was overloaded.
        late_pct: Over all requests.
        feasible: At most 5 % late; rows that are not are not ranked.
        objective: Request-weighted mean.
        seconds: That the caller measured, None if it did not.
    """

    scheme: str
    app: str
    trace: str
    rate_rps: float
    gpus: int
    lambda_: float
    parking: str
    footprint_g: float
    energy_j_per_request: float
    saved_pct: float
    saved_pct_rightsized: float
    saved_pct_original_way: float
    baseline_feasible: bool
    accuracy_pct: float
    accuracy_loss_pct: float
    p95_ms: float | None
    sla_p95_ms: float
    late_pct: float
    feasible: bool
    objective: float
    replans: int
    mig_changes: int
    evaluations: int
    explored_violations: int
    seconds: float | None = None


def row_of(totals: Totals, problem: Problem, *, scheme: str, trace: str, duration_s: float) -> Row:
    """Return the row of a replay of `duration_s` seconds of trace.

    Raises:
        ValueError: Nothing was served.
    """
    if totals.requests <= 0:
        raise ValueError("no request was served: expected a trace of at least one hour")
    accuracy = totals.accuracy_pct / totals.requests
    base_accuracy = totals.base_accuracy_pct / totals.requests
    late = totals.late / totals.requests
    return Row(
        scheme=scheme,
        app=problem.model.application.name,
        trace=trace,
        rate_rps=totals.requests / duration_s,
        gpus=len(problem.gpus),
        lambda_=problem.lambda_,
        parking=problem.parking,
        footprint_g=totals.footprint_g,
        energy_j_per_request=totals.energy_j / totals.requests,
        saved_pct=_saved(totals.footprint_g, totals.base_g),
        saved_pct_rightsized=_saved(totals.footprint_g, totals.rightsized_g),
        saved_pct_original_way=_saved(totals.footprint_g, totals.original_g),
        baseline_feasible=totals.base_feasible,
        accuracy_pct=accuracy,
        accuracy_loss_pct=100.0 * (base_accuracy - accuracy) / base_accuracy,
        p95_ms=totals.p95_ms if math.isfinite(totals.p95_ms) else None,
        sla_p95_ms=problem.sla_ms,
        late_pct=100.0 * late,
        feasible=late <= LATE_LIMIT,
        objective=totals.objective / totals.requests,
        replans=totals.replans,
        mig_changes=totals.mig_changes,
        evaluations=totals.evaluations,
        explored_violations=totals.explored_violations,
    )


def _saved(grams: float, than: float) -> float:
    """Return how much less that is, in per cent; 0 on a grid without any carbon."""
    return 100.0 * (1.0 - grams / than) if than > 0 else 0.0
