"""Says how near the simulator is to what was measured, point by point, and whether that is near enough.

The tables were fitted to the same points, so these errors are in-sample; beside them stands what a fit says of a load
that it did not see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clover.analysis.replay import Replay, replay
from clover.core.application import ServiceModel
from clover.core.measured import LeftOut, MeasuredPoint

#: What is near enough: p95 where the fleet keeps up, served rate where it does not, energy over all points, accuracy.
P95_LIMIT_PCT = 7.0
SERVED_RATE_LIMIT_PCT = 3.0
ENERGY_RMS_LIMIT_PCT = 4.0
ACCURACY_LIMIT_POINTS = 0.1
_SEED = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The four figures that were measured."""

    p95_ms: float
    energy_j_per_request: float
    accuracy_pct: float
    served_rate_rps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatedPoint:
    """One point.

    Attributes:
        point: What was measured.
        simulated: Median over the service seeds, for each figure.
        quantile: Fraction of the service seeds whose p95 is below the measured one.
        p95_sd_pct: Standard deviation of the simulated p95 over the seeds, relative to the median.
        left_out: Errors when the fit did not see this load.
    """

    point: MeasuredPoint
    simulated: Figures
    quantile: float
    p95_sd_pct: float
    left_out: LeftOut | None

    @property
    def measured(self) -> Figures:
        """The measured figures."""
        point = self.point
        return Figures(
            p95_ms=point.p95_ms,
            energy_j_per_request=point.energy_j_per_request,
            accuracy_pct=point.accuracy_pct,
            served_rate_rps=point.served_rate_rps,
        )

    @property
    def error_pct(self) -> Figures:
        """Relative errors in per cent."""
        simulated, measured = self.simulated, self.measured
        return Figures(
            p95_ms=_error_pct(simulated.p95_ms, measured.p95_ms),
            energy_j_per_request=_error_pct(simulated.energy_j_per_request, measured.energy_j_per_request),
            accuracy_pct=_error_pct(simulated.accuracy_pct, measured.accuracy_pct),
            served_rate_rps=_error_pct(simulated.served_rate_rps, measured.served_rate_rps),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One figure over several points, and what it may be at most."""

    name: str
    value: float
    limit: float
    points: int

    @property
    def met(self) -> bool:
        """Whether it is near enough."""
        return self.value <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """All points."""

    seeds: int
    points: tuple[ValidatedPoint, ...]

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """The four criteria; one without any point is not there."""
        steady = [each for each in self.points if not each.point.saturated]
        saturated = [each for each in self.points if each.point.saturated]
        energy = [each.error_pct.energy_j_per_request for each in self.points]
        accuracy = [each.simulated.accuracy_pct - each.measured.accuracy_pct for each in self.points]
        rows = (
            ("p95_max_error_pct", [each.error_pct.p95_ms for each in steady], P95_LIMIT_PCT, _largest),
            (
                "saturated_served_rate_max_error_pct",
                [each.error_pct.served_rate_rps for each in saturated],
                SERVED_RATE_LIMIT_PCT,
                _largest,
            ),
            ("energy_rms_error_pct", energy, ENERGY_RMS_LIMIT_PCT, _rms),
            ("accuracy_max_error_points", accuracy, ACCURACY_LIMIT_POINTS, _largest),
        )
        return tuple(
            Criterion(name=name, value=summary(errors), limit=limit, points=len(errors))
            for name, errors, limit, summary in rows
            if errors
        )

    @property
    def passed(self) -> bool:
        """Whether every criterion is met."""
        return all(criterion.met for criterion in self.criteria)

    def as_dict(self) -> dict[str, Any]:
        """Return everything for `--json`."""
        return {
            "seeds": self.seeds,
            "in_sample": True,
            "passed": self.passed,
            "criteria": [
                {"name": c.name, "value": round(c.value, 4), "limit": c.limit, "points": c.points, "met": c.met}
                for c in self.criteria
            ],
            "points": [_point_dict(each) for each in self.points],
        }


def validate(
    models: Mapping[str, ServiceModel],
    points: Sequence[MeasuredPoint],
    *,
    seeds: int,
    left_out: Sequence[LeftOut] = (),
) -> Validation:
    """Replay measured points.

    Args:
        models: By application.
        points: What was measured.
        seeds: Draws of the service times per point.
        left_out: Errors of the fit at loads that it did not see, for any of the points.

    Raises:
        ValueError: `seeds` is below 1, there are no points, or a point does not fit its table.
    """
    if not points:
        raise ValueError("no measured points: expected at least one")
    others = {each.point: each for each in left_out}
    return Validation(
        seeds=seeds,
        points=tuple(
            _validated(replay(models[point.application], point, seeds=seeds, seed=(_SEED, number)), point, others)
            for number, point in enumerate(points)
        ),
    )


def _validated(seen: Replay, point: MeasuredPoint, others: Mapping[MeasuredPoint, LeftOut]) -> ValidatedPoint:
    p95_ms = float(np.median(seen.p95_ms))
    return ValidatedPoint(
        point=point,
        simulated=Figures(
            p95_ms=p95_ms,
            energy_j_per_request=float(np.median(seen.energy_j_per_request)),
            accuracy_pct=float(np.median(seen.accuracy_pct)),
            served_rate_rps=float(np.median(seen.served_rate_rps)),
        ),
        quantile=float((seen.p95_ms < point.p95_ms).mean()),
        p95_sd_pct=100.0 * float(seen.p95_ms.std()) / p95_ms,
        left_out=others.get(point),
    )


def _point_dict(each: ValidatedPoint) -> dict[str, Any]:
    point, other = each.point, each.left_out
    return {
        "app": point.application,
        "configuration": point.configuration,
        "interarrival_s": point.interarrival_s,
        "saturated": point.saturated,
        "measured": _figures_dict(each.measured),
        "simulated": _figures_dict(each.simulated),
        "error_pct": _figures_dict(each.error_pct),
        "quantile": round(each.quantile, 4),
        "p95_sd_pct": round(each.p95_sd_pct, 3),
        "leave_one_load_out_error_pct": None
        if other is None
        else {
            "p95_ms": other.p95_error_pct,
            "energy_j_per_request": other.energy_error_pct,
            "accuracy_pct": round(100.0 * other.accuracy_error_points / point.accuracy_pct, 3),
            "served_rate_rps": other.served_rate_error_pct,
        },
    }


def _figures_dict(figures: Figures) -> dict[str, float]:
    return {
        "p95_ms": round(figures.p95_ms, 3),
        "energy_j_per_request": round(figures.energy_j_per_request, 4),
        "accuracy_pct": round(figures.accuracy_pct, 4),
        "served_rate_rps": round(figures.served_rate_rps, 4),
    }


def _error_pct(found: float, measured: float) -> float:
    return 100.0 * (found / measured - 1.0)


def _largest(errors: Sequence[float]) -> float:
    return max(abs(error) for error in errors)


def _rms(errors: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))
