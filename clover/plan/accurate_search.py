"""Chooses fleets whose most accurate idle instance takes the next request: listed ones, and their neighbours.

The estimate of `clover.plan.quality` sorts, a short simulation side by side judges. All fleets see the same draws,
so that what a certificate says of one corrects what is expected of the others. Where several nodes pull, each has its
own contention: the best are then simulated once more as the nodes that they would be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clover.core.application import ServiceModel
from clover.core.closed_form import Booleans, Floats
from clover.core.objective import LATE_LIMIT
from clover.core.queueing import Evaluation, FleetSearch
from clover.plan.asking import Asked
from clover.plan.points import Fleetwide, Layout, PlanPoint
from clover.plan.pool import Fleets
from clover.plan.quality import Estimate, best_served, estimate
from clover.plan.sweep import sweep

#: How much later than allowed an estimate may be, so that no good fleet is left out for it.
_SLACK = 0.006
#: What is later by a first guess is not looked at again.
_WORTH_LATE = LATE_LIMIT + 0.03
_SIMULATED, _REQUESTS, _WARM_UP = 48, 8_000, 1_000
#: What a short simulation may say of a fleet that is certified afterwards.
NEARLY = LATE_LIMIT + 0.002
#: So many times others are simulated while all are too late, and so often a better neighbour is followed.
_PAGES, _MOVES = 3, 4
#: What a neighbour must score above a fleet to be followed.
_BETTER = 2e-5

#: What a late service costs in bounds of a fleet's score; any number bounds, and none is best for all.
_PRICES = (0.0, 0.1, 0.5, 2.0)

#: So many of the best are simulated as nodes.
_AS_NODES = 6

Neighbours = Callable[[Layout], Fleets]
"""Returns the fleets that differ from one in a single GPU."""
AsNodes = Callable[[PlanPoint], PlanPoint]
"""Returns a plan as a short simulation of its nodes sees it."""


class _Listed:
    """Fleets with their estimates, which are made when first needed."""

    def __init__(self, fleets: Iterable[Fleets]) -> None:
        # A fleet of one kind does the same under any rule.
        found = [(each, np.flatnonzero((each.counts > 0).sum(axis=1) > 1)) for each in fleets]
        self.counts = np.concatenate([each.counts[rows] for each, rows in found])
        self.idle_w = np.concatenate([each.idle_w[rows] for each, rows in found])
        self._sources = [(each.layout, rows) for each, rows in found]
        self._ends = np.cumsum([len(rows) for _, rows in found])
        self.estimate = Estimate(*np.full((3, len(self.counts)), np.nan))

    def layout(self, row: int) -> Layout:
        place = int(np.searchsorted(self._ends, row, side="right"))
        layout, rows = self._sources[place]
        return layout(int(rows[row - self._ends[place]]))

    def estimate_rows(self, search: FleetSearch, rows: NDArray[np.intp], rate_rps: float) -> None:
        unknown = rows[np.isnan(self.estimate.late_fraction[rows])]
        if len(unknown):
            self.estimate.put(unknown, estimate(search, self.counts[unknown], rate_rps, worth_late=_WORTH_LATE))


class AccurateFleets:
    """Chooses fleets to be dispatched by accuracy, for one load.

    Args:
        model: Application and table.
        search: Of the enumeration that the fleets come from.
        fleets: To choose from.
        neighbours: Of a fleet, which are looked at too; None if all fleets are listed anyway.
        as_nodes: Looks at a plan with the nodes that it would have; None if there is only one.
        rate_rps, sla_ms: Load and promise.
    """

    def __init__(
        self,
        model: ServiceModel,
        search: FleetSearch,
        fleets: Iterable[Fleets],
        *,
        neighbours: Neighbours | None,
        as_nodes: AsNodes | None,
        rate_rps: float,
        sla_ms: float,
    ) -> None:
        self._model, self._search, self._neighbours = model, search, neighbours
        self._rate_rps, self._sla_ms = rate_rps, sla_ms
        self._listed = _Listed(fleets)
        self._near: dict[Layout, _Listed] = {}
        self._simulated: dict[bytes, Evaluation] = {}
        self._as_nodes = as_nodes
        self._looked_at: dict[Layout, PlanPoint] = {}

    def best(
        self, asked: Asked, *, at_least: float, latest: float = NEARLY, known: Layout | None = None
    ) -> PlanPoint | None:
        """Return a plan that seems to score more than what is known and to keep the promise, the best that is found.

        Args:
            asked: What is to be maximised and kept.
            at_least: Score of what is known.
            latest: Largest P(late) that the short simulation may show.
            known: A fleet that keeps the promise under another rule; its neighbours are looked at too.
        """
        best = self._best_of(self._listed, asked, at_least, latest, _PAGES)
        if self._neighbours is None:
            return best
        starts = [layout for layout in (best.layout if best else None, known) if layout is not None]
        for start in starts:
            best = self._climb(asked, start, best, at_least, latest)
        return best

    def _climb(
        self, asked: Asked, start: Layout, best: PlanPoint | None, at_least: float, latest: float
    ) -> PlanPoint | None:
        """Go from fleet to better neighbour; return the best of them and of what there was."""
        for _ in range(_MOVES):
            if start not in self._near:
                self._near[start] = _Listed([self._neighbours(start)] if self._neighbours else [])
            floor = max(at_least, _score(asked, best) + _BETTER) if best else at_least
            found = self._best_of(self._near[start], asked, floor, latest, 1)
            if found is None:
                break
            best, start = found, found.layout
        return best

    def _best_of(self, listed: _Listed, asked: Asked, at_least: float, latest: float, pages: int) -> PlanPoint | None:
        candidates = self._promising(listed, asked, at_least, latest + _SLACK)
        listed.estimate_rows(self._search, candidates, self._rate_rps)
        candidates = candidates[listed.estimate.late_fraction[candidates] <= latest + _SLACK]
        energy = listed.estimate.dynamic_j[candidates] + listed.idle_w[candidates] / self._rate_rps
        score = _scores(asked, listed.estimate.accuracy_pct[candidates], energy)
        order = [int(place) for place in np.argsort(-score, kind="stable") if score[place] > at_least]
        rows = [int(candidates[place]) for place in order[: pages * _SIMULATED]]
        for first in range(0, len(rows), _SIMULATED):
            points = self._points(listed, rows[first : first + _SIMULATED])
            keeps = [p for p in points if p.evaluation.late_fraction <= latest and _score(asked, p) > at_least]
            if found := self._first_as_nodes(sorted(keeps, key=lambda p: -_score(asked, p)), asked, at_least, latest):
                return found
        return None

    def _first_as_nodes(
        self, points: Sequence[PlanPoint], asked: Asked, at_least: float, latest: float
    ) -> PlanPoint | None:
        """Return the best of some plans, the best first, that its nodes bear out."""
        if self._as_nodes is None:
            return points[0] if points else None
        for point in points[:_AS_NODES]:
            if point.layout not in self._looked_at:
                self._looked_at[point.layout] = self._as_nodes(point)
            seen = self._looked_at[point.layout]
            if seen.evaluation.late_fraction <= latest and _score(asked, seen) > at_least:
                return seen
        return None

    def _promising(self, listed: _Listed, asked: Asked, at_least: float, late: float) -> NDArray[np.intp]:
        """Return the fleets whose estimate may score more than what is known and be no later than this."""
        arrays = self._search.arrays
        least_j = arrays.dynamic_j * (1.0 - arrays.energy_contention)
        worth = asked.per_accuracy_pct * arrays.accuracy_pct - asked.per_energy_j * least_j
        slow = self._search.late_service(np.zeros(1))[0]
        base = asked.constant - asked.per_energy_j * listed.idle_w / self._rate_rps
        alone = np.where(listed.counts > 0, worth, -np.inf).max(axis=1, initial=-np.inf)
        rows = np.flatnonzero(base + alone > at_least)
        for price in _PRICES:
            served = best_served(arrays, listed.counts[rows], self._rate_rps, worth - price * slow)
            rows = rows[base[rows] + served + price * late > at_least]
        return rows

    def _points(self, listed: _Listed, rows: Sequence[int]) -> list[PlanPoint]:
        self._simulate([listed.counts[row] for row in rows])
        dispatch = Fleetwide(name="accurate")
        points: list[PlanPoint] = []
        for row in rows:
            seen = self._simulated[listed.counts[row].tobytes()]
            evaluation = replace(seen, idle_power_w=float(listed.idle_w[row]))
            points.append(PlanPoint(layout=listed.layout(row), dispatch=dispatch, evaluation=evaluation))
        return points

    def _simulate(self, fleets: Sequence[Floats]) -> None:
        new = {counts.tobytes(): counts for counts in fleets if counts.tobytes() not in self._simulated}
        if not new:
            return
        seen = sweep(
            self._model,
            self._search.kinds,
            np.array(list(new.values())),
            self._rate_rps,
            sla_ms=self._sla_ms,
            rule="accurate",
            requests=_REQUESTS,
            warm_up=_WARM_UP,
        )
        for place, key in enumerate(new):
            shares = {kind: float(s) for kind, s in zip(self._search.kinds, seen.shares[place], strict=True) if s > 0.0}
            self._simulated[key] = Evaluation(
                rate_rps=self._rate_rps,
                served_rate_rps=self._rate_rps,
                utilisation=float(seen.rho[place]),
                p95_ms=float(seen.p95_ms[place]),
                late_fraction=float(seen.late_fraction[place]),
                accuracy_pct=float(seen.accuracy_pct[place]),
                dynamic_j=float(seen.dynamic_j[place]),
                idle_power_w=0.0,
                shares=shares,
            )


def _score(asked: Asked, point: PlanPoint) -> float:
    seen = point.evaluation
    return float(_scores(asked, np.array([seen.accuracy_pct]), np.array([seen.energy_j_per_request]))[0])


def _scores(asked: Asked, accuracy_pct: Floats, energy_j: Floats) -> Floats:
    """Return scores, minus infinity for what does not keep what is asked."""
    score = asked.constant + asked.per_accuracy_pct * accuracy_pct - asked.per_energy_j * energy_j
    kept: Booleans = np.ones(len(score), dtype=bool)
    if asked.least_accuracy_pct is not None:
        kept &= accuracy_pct >= asked.least_accuracy_pct
    if asked.most_energy_j is not None:
        kept &= energy_j <= asked.most_energy_j
    return np.where(kept, score, -np.inf)
