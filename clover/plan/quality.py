"""Fleets whose most accurate idle instance takes the next request, the others what is left over (rule `accurate`).

Nobody waits while an instance is idle, and small instances beside large ones keep contention low: with few GPUs this
often serves more accurately than fixed shares. What a fleet would do is estimated for all fleets at once, by Erlang's B
from one variant to the next; the best are simulated side by side, and the best of those are certified.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clover.core.application import ServiceModel
from clover.core.closed_form import Booleans, Floats, KindArrays
from clover.core.objective import LATE_LIMIT
from clover.core.queueing import Evaluation, FleetSearch
from clover.plan.asking import Asked
from clover.plan.points import Fleetwide, PlanPoint
from clover.plan.pool import Fleets
from clover.plan.sweep import sweep

_ROUNDS = 5
#: How much later than allowed an estimate may be, so that no good fleet is left out for it.
_SLACK = 0.006
#: Of those that wait, this part is counted late in the estimate.
_WAITERS_LATE = 0.3
_SIMULATED, _REQUESTS, _WARM_UP = 48, 8_000, 1_000
#: What a short simulation may say of a fleet that is certified afterwards.
_NEARLY = LATE_LIMIT + 0.002


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimate:
    """What fleets would do under `accurate`, all of shape (C,)."""

    accuracy_pct: Floats
    dynamic_j: Floats
    late_fraction: Floats


def erlang_b(servers: Floats, offered: Floats) -> Floats:
    """Return the fraction that is turned away by so many servers (Erlang 1917), 1 if there is none, (C,)."""
    blocked = np.ones(len(servers))
    for number in range(1, int(servers.max(initial=0.0)) + 1):
        more = offered * blocked / (number + offered * blocked)
        blocked = np.where(number <= servers, more, blocked)
    return blocked


def estimate(search: FleetSearch, counts: Floats, rate_rps: float) -> Estimate:
    """Estimate fleets under `accurate`, (C, K); what a variant turns away goes to the next less accurate one."""
    arrays = search.arrays
    rho = np.full(len(counts), 0.3)
    rates, turned_away = np.zeros_like(counts), np.zeros(len(counts))
    for _ in range(_ROUNDS):
        service = arrays.mean_s(rho)
        rates, turned_away = _overflow(arrays, counts, counts / service, rate_rps)
        rho = np.minimum((rates * service).sum(axis=1) / counts.sum(axis=1), 1.0)
    shares = rates / rates.sum(axis=1, keepdims=True)
    late = (shares * search.late_service(rho)).sum(axis=1) + _WAITERS_LATE * turned_away / rate_rps
    overloaded = (counts / arrays.mean_s(np.ones(len(counts)))).sum(axis=1) <= rate_rps
    return Estimate(
        accuracy_pct=shares @ arrays.accuracy_pct,
        dynamic_j=(shares @ arrays.dynamic_j) * (1.0 - arrays.energy_contention * rho),
        late_fraction=np.where(overloaded, 1.0, late),
    )


def _overflow(arrays: KindArrays, counts: Floats, full: Floats, rate_rps: float) -> tuple[Floats, Floats]:
    """Return requests/s by kind, (C, K), and those that find everybody busy, (C,)."""
    left = np.full(len(counts), rate_rps)
    rates = np.zeros_like(counts)
    for accuracy in np.unique(arrays.accuracy_pct)[::-1]:
        own = arrays.accuracy_pct == accuracy
        servers, most = counts[:, own].sum(axis=1), full[:, own].sum(axis=1)
        there = np.maximum(most, 1e-12)
        taken = left * (1.0 - erlang_b(servers, left * servers / there))
        rates[:, own] = full[:, own] * (taken / there)[:, None]
        left = left - taken
    # Those that wait are served by whoever is free first.
    spare = np.maximum(full - rates, 0.0)
    total = np.maximum(spare.sum(axis=1), 1e-12)
    return rates + spare * (left / total)[:, None], left


class AccurateFleets:
    """Chooses fleets to be dispatched by accuracy, for one load.

    Args:
        model: Application and table.
        search: Of the enumeration that the fleets come from.
        fleets: To choose from.
        rate_rps, sla_ms: Load and promise.
    """

    def __init__(
        self, model: ServiceModel, search: FleetSearch, fleets: Iterable[Fleets], *, rate_rps: float, sla_ms: float
    ) -> None:
        self._model, self._search = model, search
        self._rate_rps, self._sla_ms = rate_rps, sla_ms
        # A fleet of one kind does the same under any rule.
        found = [(each, np.flatnonzero((each.counts > 0).sum(axis=1) > 1)) for each in fleets]
        self._counts = np.concatenate([each.counts[rows] for each, rows in found])
        self._idle_w = np.concatenate([each.idle_w[rows] for each, rows in found])
        self._sources = [(each.layout, int(row)) for each, rows in found for row in rows]
        unknown = np.full(len(self._counts), np.nan)
        self._estimate = Estimate(accuracy_pct=unknown, dynamic_j=unknown.copy(), late_fraction=unknown.copy())
        self._simulated: dict[int, Evaluation] = {}

    def best(self, asked: Asked, *, at_least: float) -> list[PlanPoint]:
        """Return plans that seem to score more than what is known and to keep the promise, the best first."""
        candidates = np.flatnonzero(self._at_best(asked) > at_least)
        self._estimate_rows(candidates[np.isnan(self._estimate.late_fraction[candidates])])
        candidates = candidates[self._estimate.late_fraction[candidates] <= LATE_LIMIT + _SLACK]
        energy = self._estimate.dynamic_j[candidates] + self._idle_w[candidates] / self._rate_rps
        score = _scores(asked, self._estimate.accuracy_pct[candidates], energy)
        order = np.argsort(-score, kind="stable")[:_SIMULATED]
        rows = [int(candidates[place]) for place in order if score[place] > at_least]
        self._simulate([row for row in rows if row not in self._simulated])
        points = [self._point(row) for row in rows if self._simulated[row].late_fraction <= _NEARLY]
        scored = [(asked.score(p.evaluation.accuracy_pct, p.evaluation.energy_j_per_request), p) for p in points]
        return [point for value, point in sorted(scored, key=lambda item: -item[0]) if value > at_least]

    def _at_best(self, asked: Asked) -> Floats:
        """Return a score that no fleet exceeds: all requests served by its best kind, at full contention's energy."""
        arrays = self._search.arrays
        least_j = arrays.dynamic_j * (1.0 - arrays.energy_contention)
        worth = asked.per_accuracy_pct * arrays.accuracy_pct - asked.per_energy_j * least_j
        best = np.where(self._counts > 0, worth, -np.inf).max(axis=1, initial=-np.inf)
        return asked.constant + best - asked.per_energy_j * self._idle_w / self._rate_rps

    def _estimate_rows(self, rows: NDArray[np.intp]) -> None:
        if len(rows):
            seen = estimate(self._search, self._counts[rows], self._rate_rps)
            self._estimate.accuracy_pct[rows] = seen.accuracy_pct
            self._estimate.dynamic_j[rows] = seen.dynamic_j
            self._estimate.late_fraction[rows] = seen.late_fraction

    def _simulate(self, rows: Sequence[int]) -> None:
        if not rows:
            return
        seen = sweep(
            self._model,
            self._search.kinds,
            self._counts[rows],
            self._rate_rps,
            sla_ms=self._sla_ms,
            rule="accurate",
            requests=_REQUESTS,
            warm_up=_WARM_UP,
        )
        for place, row in enumerate(rows):
            shares = {kind: float(s) for kind, s in zip(self._search.kinds, seen.shares[place], strict=True) if s > 0.0}
            self._simulated[row] = Evaluation(
                rate_rps=self._rate_rps,
                served_rate_rps=self._rate_rps,
                utilisation=float(seen.rho[place]),
                p95_ms=float(seen.p95_ms[place]),
                late_fraction=float(seen.late_fraction[place]),
                accuracy_pct=float(seen.accuracy_pct[place]),
                dynamic_j=float(seen.dynamic_j[place]),
                idle_power_w=float(self._idle_w[row]),
                shares=shares,
            )

    def _point(self, row: int) -> PlanPoint:
        layout, own = self._sources[row]
        return PlanPoint(layout=layout(own), dispatch=Fleetwide(name="accurate"), evaluation=self._simulated[row])


def _scores(asked: Asked, accuracy_pct: Floats, energy_j: Floats) -> Floats:
    score = asked.constant + asked.per_accuracy_pct * accuracy_pct - asked.per_energy_j * energy_j
    kept: Booleans = np.ones(len(score), dtype=bool)
    if asked.least_accuracy_pct is not None:
        kept &= accuracy_pct >= asked.least_accuracy_pct
    if asked.most_energy_j is not None:
        kept &= energy_j <= asked.most_energy_j
    return np.where(kept, score, -np.inf)
