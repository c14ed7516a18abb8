"""A fleet under Poisson arrivals and longest-idle dispatch: shares, latency, accuracy and energy in closed form.

The formulas are in `clover.core.closed_form`; here they are applied to one fleet, or to many at once for a search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clover.core.application import ServiceModel
from clover.core.closed_form import (
    WAIT_STEPS,
    Booleans,
    Floats,
    KindArrays,
    OperatingPoints,
    integrates_gpu,
    latency_quantile,
    latency_tail,
    mean_accuracy_pct,
    mean_dynamic_j,
    mix_waiting,
    operating_points,
    service_tail,
    waiting,
)
from clover.core.configuration import FleetCounts, InstanceKind

#: Values of rho at which a search knows the tails of the service times; linear between them.
_RHO_GRID = 257
#: Points of contention (of the second kind) at which tails are worked out, rows of the grid at which those in between
#: are checked, and how near they must be.
_CHEBYSHEV = (1.0 - np.cos(np.pi * np.arange(20) / 19)) / 2.0
_CHECKED, _SMOOTH = np.array([2, 17, 53, 101, 150, 199, 236, 253]), 1e-8
#: Rows of a search that are worked on at once, so that the intermediate arrays stay in the cache.
_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What the model says of a fleet at a load.

    Attributes:
        rate_rps: Arrival rate.
        served_rate_rps: What is really served; below the arrival rate if the fleet is overloaded.
        utilisation: Mean busy fraction of the instances (rho).
        p95_ms: 95th percentile of due time to receipt; inf if overloaded.
        late_fraction: P(latency > SLA); 1 if overloaded.
        accuracy_pct: Mean over served requests.
        dynamic_j: Dynamic energy per served request.
        idle_power_w: Of all GPUs, whatever they do.
        shares: Fraction of requests per kind; sums to 1.
    """

    rate_rps: float
    served_rate_rps: float
    utilisation: float
    p95_ms: float
    late_fraction: float
    accuracy_pct: float
    dynamic_j: float
    idle_power_w: float
    shares: Mapping[InstanceKind, float]

    @property
    def stable(self) -> bool:
        """Whether the fleet can carry the load."""
        return math.isfinite(self.p95_ms)

    @property
    def energy_j_per_request(self) -> float:
        """Energy of the whole fleet per served request, in J."""
        return self.dynamic_j + self.idle_power_w / self.served_rate_rps

    def meets(self, late_limit: float) -> bool:
        """Return whether at most this fraction of requests is late."""
        return self.late_fraction <= late_limit


def idle_power_w(model: ServiceModel, fleet: FleetCounts) -> float:
    """Return the power of the fleet without any request, in W."""
    table = model.table
    return fleet.active * table.idle_power_w + fleet.parked * table.parked_power_w + fleet.off * table.off_power_w


def evaluate(
    model: ServiceModel, fleet: FleetCounts, rate_rps: float, sla_ms: float, *, with_p95: bool = True
) -> Evaluation:
    """Evaluate a fleet under longest-idle dispatch.

    Args:
        model: Application and table.
        fleet: Instances by kind and states of the GPUs; at least one instance.
        rate_rps: Poisson arrival rate, above 0.
        sla_ms: Latency beyond which a request is late.
        with_p95: Whether the 95th percentile is needed, which costs most; nan if not.

    Raises:
        ValueError: The rate or the SLA is not above 0, there is no instance, or a variant is unknown or does not fit on
            its profile.
    """
    _check_positive("rate_rps", rate_rps)
    _check_positive("sla_ms", sla_ms)
    if fleet.instances == 0:
        raise ValueError("fleet has no instance: expected at least one")
    arrays = KindArrays.of(model, [kind for kind, _ in fleet.kinds])
    counts = np.array([[n for _, n in fleet.kinds]], dtype=np.float64)
    if counts.min() < 0:
        raise ValueError(f"fleet has {int(counts.min())} instances of a kind: expected 0 or more")
    points = operating_points(arrays, counts, np.array([rate_rps]))
    waits = waiting(arrays, points)
    return Evaluation(
        rate_rps=rate_rps,
        served_rate_rps=float(points.served_rps[0]) if points.overloaded[0] else rate_rps,
        utilisation=float(points.rho[0]),
        p95_ms=float(latency_quantile(arrays, points, waits, 0.95)[0]) * 1e3 if with_p95 else math.nan,
        late_fraction=float(latency_tail(arrays, points, waits, np.array([sla_ms / 1e3]))[0]),
        accuracy_pct=float(mean_accuracy_pct(arrays, points)[0]),
        dynamic_j=float(mean_dynamic_j(arrays, points)[0]),
        idle_power_w=idle_power_w(model, fleet),
        shares=dict(zip(arrays.kinds, points.shares[0].tolist(), strict=True)),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluations:
    """What the model says of C fleets; the words are those of `Evaluation`, every array has shape (C,).

    Attributes:
        points: Rates by kind and contention.
        late_fraction: P(latency > SLA), interpolated in rho; 1 if overloaded.
        accuracy_pct, dynamic_j, served_rate_rps: Per fleet.
    """

    points: OperatingPoints
    late_fraction: Floats
    accuracy_pct: Floats
    dynamic_j: Floats
    served_rate_rps: Floats

    @property
    def stable(self) -> Booleans:
        """Whether each fleet can carry its load."""
        return ~self.points.overloaded

    def energy_j_per_request(self, idle_power_w: Floats | float) -> Floats:
        """Return the energy of each whole fleet per served request, given what it draws when idle."""
        return self.dynamic_j + idle_power_w / self.served_rate_rps


class FleetSearch:
    """Evaluates many fleets of the same kinds against one SLA, a few microseconds each.

    The tails of the service times are computed once on a grid of rho, so P(latency > SLA) differs from `evaluate` by
    interpolation only: below 1e-5 with the shipped tables (held by tests/unit/test_closed_form.py).

    Args:
        model: Application and table.
        kinds: Columns of the counts.
        sla_ms: Latency beyond which a request is late.
    """

    def __init__(self, model: ServiceModel, kinds: Sequence[InstanceKind], sla_ms: float) -> None:
        _check_positive("sla_ms", sla_ms)
        self._arrays = KindArrays.of(model, kinds)
        self._sla_s = sla_ms / 1e3
        times = self._sla_s * (1.0 - np.arange(WAIT_STEPS + 1) / WAIT_STEPS)
        grid = np.linspace(0.0, 1.0, _RHO_GRID)
        self._tails = np.stack([self._tails_of(kind, grid, times) for kind in range(len(kinds))])
        self._late_alone = np.ascontiguousarray(self._tails[:, :, 0].T)

    def _tails_of(self, kind: int, grid: Floats, times: Floats) -> Floats:
        """Return P(S > t) of a kind at each rho of the grid, (_RHO_GRID, WAIT_STEPS + 1).

        It is smooth in rho unless services hardly vary: then a few Chebyshev points say all, which others confirm.
        """

        def tails(rho: Floats) -> Floats:
            where = np.full(len(rho), kind)
            return service_tail(self._arrays, where, rho, np.broadcast_to(times, (len(rho), len(times))))

        if len(np.unique(integrates_gpu(self._arrays, np.full(len(grid), kind), grid))) == 1:
            every = _CHEBYSHEV_TO_GRID @ tails(_CHEBYSHEV)
            if np.abs(every[_CHECKED] - tails(grid[_CHECKED])).max() < _SMOOTH:
                return every
        return tails(grid)

    @property
    def kinds(self) -> tuple[InstanceKind, ...]:
        """Columns of the counts."""
        return self._arrays.kinds

    @property
    def arrays(self) -> KindArrays:
        """What the table says of the kinds."""
        return self._arrays

    def operating(self, counts: Floats, rate_rps: Floats | float) -> OperatingPoints:
        """Solve shares and contention of fleets given as counts of shape (C, K).

        Raises:
            ValueError: A shape is wrong, a row has no instance or a negative number, or a rate is not above 0.
        """
        fleets = np.asarray(counts, dtype=np.float64)
        if fleets.ndim != 2 or fleets.shape[1] != len(self.kinds):
            raise ValueError(f"counts of shape {fleets.shape}: expected (fleets, {len(self.kinds)})")
        if len(fleets) and (fleets.min() < 0 or fleets.sum(axis=1).min() < 1):
            raise ValueError("counts: expected no negative number and at least one instance in every row")
        rates = np.broadcast_to(np.asarray(rate_rps, dtype=np.float64), (len(fleets),))
        if len(rates) and not (np.isfinite(rates).all() and rates.min() > 0):
            raise ValueError(f"rate_rps = {rates.min()}: expected finite numbers above 0")
        return operating_points(self._arrays, fleets, rates)

    def capacity_rps(self, counts: Floats) -> Floats:
        """Return the requests/s that fleets serve when all instances are busy, (C,)."""
        return (counts / self._arrays.mean_s(np.ones(1))).sum(axis=1)

    def late_fraction(self, points: OperatingPoints) -> Floats:
        """Return P(latency > SLA) of shape (C,); 1 if overloaded."""
        parts = range(0, len(points.rho), _ROWS)
        return np.concatenate([np.empty(0), *(self._late(_rows(points, slice(i, i + _ROWS))) for i in parts)])

    def evaluate(self, counts: Floats, rate_rps: Floats | float) -> Evaluations:
        """Evaluate fleets given as counts of shape (C, K); errors as `operating`."""
        points = self.operating(counts, rate_rps)
        return Evaluations(
            points=points,
            late_fraction=self.late_fraction(points),
            accuracy_pct=mean_accuracy_pct(self._arrays, points),
            dynamic_j=mean_dynamic_j(self._arrays, points),
            served_rate_rps=np.where(points.overloaded, points.served_rps, points.rate_rps),
        )

    def late_service(self, rho: Floats) -> Floats:
        """Return P(S > SLA) by kind without waiting, (C, K), for busy fractions of shape (C,)."""
        below, fraction = _between(rho)
        first = self._late_alone[below]
        return first + fraction * (self._late_alone[below + 1] - first)

    def _late(self, points: OperatingPoints) -> Floats:
        below, fraction = _between(points.rho)
        mixed = np.zeros((len(below), WAIT_STEPS + 1))
        shares = points.shares
        for k in range(len(self.kinds)):
            (rows,) = np.nonzero(points.counts[:, k])
            first, second = self._tails[k, below[rows]], self._tails[k, below[rows] + 1]
            mixed[rows] += shares[rows, k, None] * (first + fraction[rows] * (second - first))
        sla = np.full(len(below), self._sla_s)
        return mix_waiting(mixed, points, waiting(self._arrays, points), sla)


def _rows(points: OperatingPoints, part: slice) -> OperatingPoints:
    return OperatingPoints(
        counts=points.counts[part],
        rate_rps=points.rate_rps[part],
        rho=points.rho[part],
        rates=points.rates[part],
        overloaded=points.overloaded[part],
    )


def _between(rho: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Return the row of the grid below each rho, (C,), and how far beyond it rho is, (C, 1)."""
    place = rho * (_RHO_GRID - 1)
    below = np.minimum(place.astype(np.intp), _RHO_GRID - 2)
    return below, (place - below)[:, None]


def _interpolation(at: Floats, to: Floats) -> Floats:
    """Return the matrix that takes values at Chebyshev points to others (barycentric; Berrut and Trefethen 2004)."""
    weights = np.where(np.arange(len(at)) % 2, -1.0, 1.0)
    weights[[0, -1]] /= 2.0
    apart: Floats = to[:, None] - at
    # Where a point is met its own weight is all that counts.
    parts: Floats = weights / np.where(np.abs(apart) < 1e-14, 1e-200, apart)
    return parts / parts.sum(axis=1, keepdims=True)


_CHEBYSHEV_TO_GRID = _interpolation(_CHEBYSHEV, np.linspace(0.0, 1.0, _RHO_GRID))


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} = {value}: expected a finite number above 0")
