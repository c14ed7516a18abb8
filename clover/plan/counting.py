"""What a replay counts: sums over requests, against BASE and right-sized BASE in the same hours. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from clover.core.objective import Baseline, Objective
from clover.core.queueing import Evaluation
from clover.core.units import footprint_g
from clover.plan.problem import Answer

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """One step of a trace.

    Attributes:
        rate_rps: Arrival rate.
        intensity_g_per_kwh: Of the grid.
        seconds: How long it lasts.
    """

    rate_rps: float
    intensity_g_per_kwh: float
    seconds: float = HOUR_S


@dataclass(slots=True, kw_only=True)
class Totals:
    """What has been counted; figures of requests are sums over requests."""

    requests: float = 0.0
    energy_j: float = 0.0
    footprint_g: float = 0.0
    base_g: float = 0.0
    rightsized_g: float = 0.0
    original_g: float = 0.0
    accuracy_pct: float = 0.0
    base_accuracy_pct: float = 0.0
    late: float = 0.0
    objective: float = 0.0
    p95_ms: float = 0.0
    base_feasible: bool = True
    replans: int = 0
    mig_changes: int = 0
    evaluations: int = 0
    explored_violations: int = 0
    change_s: float = 0.0
    answers: list[Answer] = field(default_factory=list[Answer])


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What every second of an hour is judged with.

    Attributes:
        hour: Load and intensity.
        pue: Of the building.
        base, small: BASE and right-sized BASE at that load.
        original_j: Energy per request of BASE at its own load.
        objective: Of what is asked, in that hour.
    """

    hour: Hour
    pue: float
    base: Baseline
    small: Evaluation
    original_j: float
    objective: Objective


def count(totals: Totals, grid: Grid, seen: Evaluation, seconds: float) -> None:
    """Count a stretch of time under one evaluation."""
    requests = grid.hour.rate_rps * seconds
    totals.requests += requests
    add_energy(totals, grid, requests * seen.energy_j_per_request)
    intensity = grid.hour.intensity_g_per_kwh
    totals.base_g += footprint_g(requests * grid.base.energy_j_per_request, intensity, grid.pue)
    totals.rightsized_g += footprint_g(requests * grid.small.energy_j_per_request, intensity, grid.pue)
    totals.original_g += footprint_g(requests * grid.original_j, intensity, grid.pue)
    totals.accuracy_pct += requests * seen.accuracy_pct
    totals.base_accuracy_pct += requests * grid.base.accuracy_pct
    totals.late += requests * seen.late_fraction
    totals.objective += requests * grid.objective.value(seen)
    totals.p95_ms = max(totals.p95_ms, seen.p95_ms)
    totals.base_feasible = totals.base_feasible and grid.base.feasible


def add_energy(totals: Totals, grid: Grid, energy_j: float) -> None:
    """Count energy that no request is the cause of."""
    totals.energy_j += energy_j
    totals.footprint_g += footprint_g(energy_j, grid.hour.intensity_g_per_kwh, grid.pue)
