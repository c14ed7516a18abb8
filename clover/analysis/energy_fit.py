"""Fits dynamic energy per request, its fall with contention, and idle power to measured points.

Model: J per request = P_idle / served rate + sum over kinds of share x e(v) x (1 - c x rho), with e(v) = e_app x (work
of v / work of the largest)^p. Served rate, shares and rho are those of the replayed point. Unknown are P_idle, c, p and
one e_app per application, by least squares of relative errors; for given (c, p) the rest is linear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clover.analysis.replay import Replay
from clover.core.closed_form import Floats
from clover.core.measured import MeasuredPoint, Prior

_REFINEMENTS = 12
_GRID = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyFit:
    """The fitted parameters.

    Attributes:
        idle_power_w: Of one GPU.
        contention: c, the relative fall of dynamic energy at rho = 1.
        exponent: p, by which dynamic energy grows with a variant's work.
        largest_j: e of the largest variant, by application.
        rms: Root mean square of the relative errors of the points it was fitted to.
    """

    idle_power_w: float
    contention: float
    exponent: float
    largest_j: Mapping[str, float]
    rms: float

    def dynamic_j(self, application: str, variant: str, prior: Prior) -> float:
        """Return e(v) in J per request."""
        return self.largest_j[application] * prior.relative_work(variant) ** self.exponent

    def predict_j(self, point: MeasuredPoint, seen: Replay, prior: Mapping[str, Prior]) -> float:
        """Return J per request at a point, whether or not it was fitted."""
        row = _Row.of(point, seen, prior)
        return row.idle(self.idle_power_w) + self.largest_j[point.application] * row.factor(
            self.contention, self.exponent
        )


def fit_energy(
    points: Sequence[MeasuredPoint],
    replays: Sequence[Replay],
    prior: Mapping[str, Prior],
    *,
    idle_power_w: float | None = None,
) -> EnergyFit:
    """Fit to points and their replays.

    Args:
        points: What was measured, of one or several applications.
        replays: In the same order.
        prior: By application.
        idle_power_w: Of one GPU; fitted if None.
    """
    rows = [_Row.of(point, seen, prior) for point, seen in zip(points, replays, strict=True)]
    centre, width = np.array([0.3, 1.2]), np.array([0.3, 0.6])
    best = _linear(rows, centre[0], centre[1], idle_power_w)
    for _ in range(_REFINEMENTS):
        steps = np.linspace(-1.0, 1.0, _GRID)
        tried = [
            _linear(rows, max(0.0, c), p, idle_power_w)
            for c in centre[0] + width[0] * steps
            for p in centre[1] + width[1] * steps
        ]
        best = min([best, *tried], key=lambda fit: fit.rms)
        centre, width = np.array([best.contention, best.exponent]), width / 2.0
    return best


@dataclass(frozen=True, slots=True)
class _Row:
    """One point, reduced to what the fit needs."""

    point: MeasuredPoint
    served_rps: float
    rho: float
    shares: Floats
    work: Floats

    @staticmethod
    def of(point: MeasuredPoint, seen: Replay, prior: Mapping[str, Prior]) -> _Row:
        known = prior[point.application]
        return _Row(
            point=point,
            served_rps=float(np.median(seen.served_rate_rps)),
            rho=float(np.median(seen.rho)),
            shares=seen.shares.mean(axis=0),
            work=np.array([known.relative_work(kind.variant) for kind in seen.kinds.kinds]),
        )

    def idle(self, power_w: float) -> float:
        return power_w * self.point.gpus / self.served_rps

    def factor(self, c: float, p: float) -> float:
        return float(self.shares @ self.work**p) * (1.0 - c * self.rho)


def _linear(rows: Sequence[_Row], c: float, p: float, idle_power_w: float | None) -> EnergyFit:
    applications = sorted({row.point.application for row in rows})
    columns = [
        [row.factor(c, p) if row.point.application == app else 0.0 for app in applications] + [row.idle(1.0)]
        for row in rows
    ]
    measured = np.array([row.point.energy_j_per_request for row in rows])
    design = np.array(columns) / measured[:, None]
    if idle_power_w is None:
        solution = np.linalg.lstsq(design, np.ones(len(rows)), rcond=None)[0]
    else:
        target = 1.0 - design[:, -1] * idle_power_w
        solution = np.append(np.linalg.lstsq(design[:, :-1], target, rcond=None)[0], idle_power_w)
    error = design @ solution - 1.0
    return EnergyFit(
        idle_power_w=float(solution[-1]),
        contention=float(c),
        exponent=float(p),
        largest_j=dict(zip(applications, solution[:-1].tolist(), strict=True)),
        rms=float(np.sqrt((error**2).mean())),
    )
