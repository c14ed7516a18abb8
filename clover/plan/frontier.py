"""The frontier of one load, fleet and SLA: certified plans, looked up by what is asked; certified when first chosen.

Neither latency nor energy depends on the grid, so the plans are good for every intensity; only which of them is best
changes. Plans that another one beats in both accuracy and energy are never looked at.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clover.core.closed_form import Floats
from clover.plan.asking import Asked
from clover.plan.points import PlanPoint
from clover.plan.pool import Pool

#: Slack of comparisons, far below any figure that is told.
_SLACK = 1e-9

Certify = Callable[[PlanPoint], PlanPoint | None]
"""Returns a plan with its certificate, or None if it does not keep the promise."""


@dataclass(slots=True, kw_only=True)
class Tried:
    """How many certificates were asked for, and how many of them failed."""

    certificates: int = 0
    failed: int = 0


class Frontier:
    """Plans to choose from.

    Args:
        certify: Proves a plan.
        point: Makes the plan of a layout that the closed form has evaluated.
    """

    def __init__(self, certify: Certify, point: Callable[[Pool, int], PlanPoint]) -> None:
        self._certify, self._make = certify, point
        self._pools: list[Pool] = []
        self._accuracy: Floats = np.empty(0)
        self._energy: Floats = np.empty(0)
        self._source: list[tuple[int, int]] = []
        self._points: dict[int, PlanPoint] = {}
        self._dead: set[int] = set()
        #: Certified plans in order, None when there is a new one.
        self._listed: tuple[PlanPoint, ...] | None = None
        self._skyline: NDArray[np.intp] = np.empty(0, dtype=np.intp)
        self.tried = Tried()

    def add_pool(self, pool: Pool) -> None:
        """Add plans that still have to be certified."""
        number = len(self._pools)
        self._pools.append(pool)
        self._source += [(number, row) for row in range(len(pool))]
        self._accuracy = np.concatenate([self._accuracy, pool.accuracy_pct])
        self._energy = np.concatenate([self._energy, pool.energy_j])
        self._refresh()

    def add_point(self, point: PlanPoint) -> None:
        """Add a plan that is certified."""
        self._points[len(self._source)] = point
        self._listed = None
        self._source.append((-1, 0))
        self._accuracy = np.append(self._accuracy, point.evaluation.accuracy_pct)
        self._energy = np.append(self._energy, point.evaluation.energy_j_per_request)
        self._refresh()

    def best(self, asked: Asked) -> PlanPoint | None:
        """Return the certified plan with the highest score, None if none keeps what is asked."""
        while (row := self._top(asked)) is not None:
            if (point := self._certified(row)) is not None:
                return point
        return None

    def best_accuracy_pct(self) -> float | None:
        """Return the highest accuracy of any plan here, certified."""
        point = self.best(Asked(what="accuracy_pct", per_accuracy_pct=1.0, per_energy_j=1e-9))
        return None if point is None else point.evaluation.accuracy_pct

    def hull(self) -> list[PlanPoint]:
        """Return the plans that are best for some weight of carbon, from the least energy to the highest accuracy."""
        first = self.best(Asked(what="-energy_j_per_request", per_energy_j=1.0, per_accuracy_pct=1e-9))
        last = self.best(Asked(what="accuracy_pct", per_accuracy_pct=1.0, per_energy_j=1e-9))
        if first is None or last is None:
            return []
        return [first, *self._between(first, last)]

    def certified(self) -> list[PlanPoint]:
        """Return every plan that has been certified, by energy."""
        if self._listed is None:
            alive = [point for row, point in self._points.items() if row not in self._dead]
            alive.sort(key=lambda point: (point.evaluation.energy_j_per_request, str(point)))
            self._listed = tuple(alive)
        return list(self._listed)

    def candidates(self) -> tuple[Floats, Floats]:
        """Return accuracy and energy of all plans that nothing beats in both, certified or not yet, by energy."""
        return self._accuracy[self._skyline], self._energy[self._skyline]

    # --- inside

    def _between(self, first: PlanPoint, last: PlanPoint) -> list[PlanPoint]:
        """Return the vertices after `first` up to `last`: the farthest beyond their chord, and then on both sides."""
        accuracy = last.evaluation.accuracy_pct - first.evaluation.accuracy_pct
        energy = last.evaluation.energy_j_per_request - first.evaluation.energy_j_per_request
        if accuracy <= _SLACK or energy <= _SLACK:
            return []
        asked = Asked(what="chord", per_accuracy_pct=energy, per_energy_j=accuracy)
        middle = self.best(asked)
        if middle is None or _score(asked, middle) <= _score(asked, first) + _SLACK * energy:
            return [last]
        return [*self._between(first, middle), *self._between(middle, last)]

    def _refresh(self) -> None:
        """Find the plans that no other beats in both accuracy and energy."""
        alive = np.ones(len(self._energy), dtype=bool)
        alive[list(self._dead)] = False
        rows = np.flatnonzero(alive)
        order = rows[np.lexsort((-self._accuracy[rows], self._energy[rows]))]
        accuracy = self._accuracy[order]
        before = np.concatenate([[-np.inf], np.maximum.accumulate(accuracy)[:-1]]) if len(order) else accuracy
        self._skyline = order[accuracy > before]

    def _top(self, asked: Asked) -> int | None:
        rows = self._skyline
        accuracy, energy = self._accuracy[rows], self._energy[rows]
        score = asked.constant + asked.per_accuracy_pct * accuracy - asked.per_energy_j * energy
        if asked.least_accuracy_pct is not None:
            score = np.where(accuracy >= asked.least_accuracy_pct - _SLACK, score, -np.inf)
        if asked.most_energy_j is not None:
            score = np.where(energy <= asked.most_energy_j * (1.0 + _SLACK), score, -np.inf)
        best = int(np.argmax(score)) if len(rows) else 0
        return int(rows[best]) if len(rows) and np.isfinite(score[best]) else None

    def _certified(self, row: int) -> PlanPoint | None:
        if row in self._points:
            return self._points[row]
        pool, index = self._source[row]
        self.tried.certificates += 1
        point = self._certify(self._make(self._pools[pool], index))
        if point is None:
            self.tried.failed += 1
            self._dead.add(row)
            self._refresh()
            return None
        self._points[row] = point
        self._listed = None
        return point


class ConvexBound:
    """Upper bounds of a score that is the largest of functions linear in one number, such as the intensity.

    Such a score is convex in that number: between two places its bound is at most the straight line between theirs.
    """

    def __init__(self) -> None:
        self._places: list[tuple[float, float]] = []

    def add(self, place: float, bound: float) -> None:
        """Remember a bound."""
        insort(self._places, (place, bound))

    def at(self, place: float) -> float | None:
        """Return the bound at a place, None outside of what is known."""
        index = bisect_left(self._places, (place, -np.inf))
        if index < len(self._places) and self._places[index][0] == place:
            return self._places[index][1]
        if index == 0 or index == len(self._places):
            return None
        (left, at_left), (right, at_right) = self._places[index - 1], self._places[index]
        return at_left + (at_right - at_left) * (place - left) / (right - left)


def _score(asked: Asked, point: PlanPoint) -> float:
    return asked.score(point.evaluation.accuracy_pct, point.evaluation.energy_j_per_request)
