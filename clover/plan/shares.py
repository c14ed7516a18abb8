"""Shares of requests by kind of instance: from a linear program over the flows of a layout, and remembered by weight.

For a layout, load, SLA and table the programs hang on what is asked only by the ratio of its two weights, energy
against accuracy. Their constraints do not: so what is best at two ratios is best at all ratios between, and shares that
are the same at both neighbours of a ratio are found again without any program (`SharesMemory`). Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np

from clover.core.closed_form import Floats, KindArrays, service_tail
from clover.core.configuration import Configuration, FleetCounts
from clover.plan.asking import Asked
from clover.plan.points import Fleetwide
from clover.plan.problem import Problem
from clover.plan.program import QuietHighs

#: Steps to the fixed point of contention; one goes a good way into its neighbourhood.
_ROUNDS, _FIRST_RHO = 4, 0.3
#: Size of the costs in a program, far above the tolerance of HiGHS (1e-7), and the part of them that decides ties.
_COSTS, _TIE = 100.0, 1e-6
#: Digits to which shares are the same.
_DIGITS = 9
#: Layouts with their load, lines of one of them, and ratios of one line that are remembered; beyond, it is begun anew.
_MOST_FLEETS, _MOST_LINES, _MOST_PLACES, _MOST_CONTENTIONS = 64, 128, 128, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares of a layout, and what they promise if nobody waits.

    Attributes:
        rule: To dispatch by.
        key: Of the rule.
        accuracy_pct: Mean over requests.
        dynamic_j: Dynamic energy per request.
    """

    rule: Fleetwide
    key: tuple[object, ...]
    accuracy_pct: float
    dynamic_j: float


@dataclass(frozen=True, slots=True)
class _Found:
    """What the rounds to the fixed point gave one after the other, rounded, and in the end; None if a round failed."""

    path: tuple[tuple[float, ...], ...]
    shares: Shares | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What shares must leave free.

    Attributes:
        utilisation: Largest busy fraction of any kind.
        late: Largest fraction of requests whose service alone is longer than the SLA.
    """

    utilisation: float
    late: float


class FleetShares:
    """Shares of one layout, load, SLA and table, remembered by the ratio of what an answer is asked for.

    Args:
        problem: Table, load and SLA.
        fleet: What the GPUs are.
    """

    def __init__(self, problem: Problem, fleet: FleetCounts) -> None:
        self._rate_rps, self._sla_s = problem.rate_rps, problem.sla_ms / 1e3
        self._arrays = KindArrays.of(problem.model, [kind for kind, _ in fleet.kinds])
        self._counts = np.array([float(n) for _, n in fleet.kinds])
        #: Mean service times and late services by contention.
        self._at_rho: dict[float, tuple[Floats, Floats]] = {}
        #: By room and floor of accuracy: (ratio, found), ascending. Tuples, so that two threads may look.
        self._lines: dict[tuple[Room, float | None], tuple[tuple[float, _Found], ...]] = {}
        #: How many programs were solved.
        self.programs = 0

    def best(self, asked: Asked, room: Room, idle_j: float) -> Shares | None:
        """Return the shares that promise most, None if there are none.

        Args:
            asked: What is to be maximised and kept.
            room: What is to be left free.
            idle_j: Energy per request that the fleet takes without any; it counts only where energy is limited.
        """
        within = asked.tightened()
        ratio = _ratio(asked)
        if within.most_energy_j is not None or ratio is None:
            return self._find(within, room, idle_j).shares
        key = (room, within.least_accuracy_pct)
        line = self._lines.get(key, ())
        place = bisect_left(line, ratio, key=lambda entry: entry[0])
        if place < len(line) and line[place][0] == ratio:
            return line[place][1].shares
        if 0 < place < len(line) and line[place - 1][1].path == line[place][1].path:
            return line[place - 1][1].shares
        found = self._find(within, room, idle_j)
        if len(line) >= _MOST_PLACES:
            line, place = (), 0
        if key not in self._lines and len(self._lines) >= _MOST_LINES:
            self._lines = {}
        self._lines[key] = tuple(_without_between((*line[:place], (ratio, found), *line[place:])))
        return found.shares

    def _find(self, asked: Asked, room: Room, idle_j: float) -> _Found:
        """Solve the programs, each at the contention that the shares before it lead to."""
        arrays, path = self._arrays, list[tuple[float, ...]]()
        rho, shares = _FIRST_RHO, np.empty(0)
        for _ in range(_ROUNDS):
            solved = self._solve(asked, room, rho, idle_j)
            if solved is None:
                return _Found(tuple(path), None)
            shares = solved
            path.append(tuple(np.round(shares, _DIGITS).tolist()))
            # The shares are busy for what they take at the contention of their own program.
            rho = min(self._rate_rps * float(shares @ self._times(rho)[0]) / float(self._counts.sum()), 1.0)
        rule = Fleetwide(name="shares", shares=dict(zip(arrays.kinds, shares.tolist(), strict=True)))
        return _Found(
            tuple(path),
            Shares(
                rule=rule,
                key=rule.key,
                accuracy_pct=float(shares @ arrays.accuracy_pct),
                dynamic_j=float(shares @ arrays.dynamic_j) * (1.0 - arrays.energy_contention * rho),
            ),
        )

    def _times(self, rho: float) -> tuple[Floats, Floats]:
        """Return mean service times in seconds and the fractions of services that are too long alone, both (K,)."""
        known = self._at_rho.get(rho)
        if known is None:
            number = len(self._counts)
            times = np.full((number, 1), self._sla_s)
            tails = service_tail(self._arrays, np.arange(number), np.full(number, rho), times)[:, 0]
            known = (self._arrays.mean_s(np.array([rho]))[0], tails)
            if len(self._at_rho) >= _MOST_CONTENTIONS:
                self._at_rho = {}
            self._at_rho[rho] = known
        return known

    def _solve(self, asked: Asked, room: Room, rho: float, idle_j: float) -> Floats | None:
        """Solve for the shares, (K,), at a given contention."""
        self.programs += 1
        arrays, number, infinite = self._arrays, len(self._counts), highspy.kHighsInf
        service, tails = self._times(rho)
        dynamic = arrays.dynamic_j * (1.0 - arrays.energy_contention * rho)
        rows: list[tuple[Floats, float, float]] = [
            (np.ones(number), 1.0, 1.0),
            (tails, -infinite, room.late),
            (arrays.accuracy_pct, asked.least_accuracy_pct or -infinite, infinite),
            (dynamic, -infinite, infinite if asked.most_energy_j is None else asked.most_energy_j - idle_j),
        ]
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = number, len(rows)
        program.sense_ = highspy.ObjSense.kMaximize
        program.col_cost_ = _costs(asked, arrays.accuracy_pct, dynamic, service)
        program.col_lower_ = np.zeros(number)
        program.col_upper_ = room.utilisation * self._counts / service / self._rate_rps
        program.row_lower_ = np.array([low for _, low, _ in rows])
        program.row_upper_ = np.array([high for _, _, high in rows])
        program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        program.a_matrix_.start_ = np.arange(len(rows) + 1) * number
        program.a_matrix_.index_ = np.tile(np.arange(number), len(rows))
        program.a_matrix_.value_ = np.concatenate([row for row, _, _ in rows])
        solver = QuietHighs()
        solver.setOptionValue("threads", 1)
        solver.passModel(program)
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        shares = np.maximum(np.array(solver.getSolution().col_value), 0.0)
        return shares / shares.sum()


def _costs(asked: Asked, accuracy_pct: Floats, dynamic_j: Floats, service_s: Floats) -> Floats:
    """Return the score of kinds, (K,), in a scale that suits the solver.

    Kinds of one variant score the same. Of these the fastest is taken: it counts a little more in accuracy and in
    energy. So there is one answer, and it is still linear in the two weights.
    """
    late = _TIE * service_s / service_s.max()
    accuracy, energy = accuracy_pct.max(), dynamic_j.max()
    scale = (asked.per_accuracy_pct * accuracy + asked.per_energy_j * energy) or 1.0
    score = asked.per_accuracy_pct * (accuracy_pct - late * accuracy) - asked.per_energy_j * (dynamic_j + late * energy)
    return score / scale * _COSTS


class SharesMemory:
    """Shares by layout, load and SLA, for one table (idle, parked and off watts apart, which change no shares)."""

    def __init__(self) -> None:
        self._fleets: dict[tuple[object, ...], FleetShares] = {}

    def of(self, problem: Problem, present: Configuration) -> FleetShares:
        """Return what is remembered of a layout at a problem's load and SLA."""
        fleet = present.fleet
        key = (fleet.kinds, problem.rate_rps, problem.sla_ms)
        known = self._fleets.get(key)
        if known is None:
            if len(self._fleets) >= _MOST_FLEETS:
                self._fleets = {}
            known = self._fleets[key] = FleetShares(problem, fleet)
        return known


def _ratio(asked: Asked) -> float | None:
    """Return what energy counts against accuracy, None if neither counts."""
    if asked.per_accuracy_pct > 0.0:
        return asked.per_energy_j / asked.per_accuracy_pct
    return math.inf if asked.per_energy_j > 0.0 else None


def _without_between(line: Sequence[tuple[float, _Found]]) -> list[tuple[float, _Found]]:
    """Leave out places between two of the same path: what they say the two say as well."""
    kept: list[tuple[float, _Found]] = []
    for entry in line:
        if len(kept) > 1 and kept[-2][1].path == kept[-1][1].path == entry[1].path:
            kept.pop()
        kept.append(entry)
    return kept
