"""From flows to plans: which of them are certified, the best first.

The flow model leaves waiting out, so its best answer may fail. Then less is asked of it: a lower utilisation or a
smaller part of slow services, whichever costs less; the candidates wait in a queue ordered by their score.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from clover.core.objective import LATE_LIMIT, PLANNED_LATE_LIMIT
from clover.core.queueing import evaluate
from clover.plan.asking import Asked
from clover.plan.bound import bound, relaxed_bound
from clover.plan.flow import FlowModel, FlowSolution, Interval
from clover.plan.points import Fleetwide, PlanPoint, fill, fleet_of
from clover.plan.prover import Proof

#: Longest-idle dispatch is preferred to shares that score no better than this.
_SIMPLER = 1e-5
_UTILISATION_STEP = 0.03
_LEAST_UTILISATION = 0.3
_LEAST_LATE_STEP = 0.0015
_FAR_OFF = 0.01
_LEAST_LATE = 0.004
#: What candidates are worth solving for; coarser than the bound.
_NARROW, _WHOLE_AT, _PROGRAMS, _GAP = 1.0 / 80.0, 1.0 / 20.0, 5, 1e-4
#: Fleets of up to so many GPUs: whole numbers make programs hard and contention coarse, so that fewer programs of wider
#: intervals do better there. Flows are then looked for down to this part of the contention of those before.
_FEW_GPUS, _LESS_BUSY = 16, 0.75

#: By how much a short simulation may be wrong about a score.
_GLANCE_ERROR = 5e-4

#: Give up after so many simulations (unless told otherwise), or so many different requests for room.
MOST_PROOFS, _MOST_ROOMS, _MOST_ROOMS_AHEAD = 10, 12, 6

Prove = Callable[[PlanPoint], Proof]
Glance = Callable[[PlanPoint], PlanPoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """What is asked of the flow model: how busy a kind may be, and how many services may be too long."""

    utilisation: float = 1.0
    late: float = LATE_LIMIT

    def less(self, used: _Room, excess: float) -> Iterator[_Room]:
        """Return what to try if a solution that used so much was late by `excess` too much.

        What is asked has to be less than what was used, or the same solution would come again.
        """
        # Waiting is cured by less utilisation, slow services by fewer of them.
        slow = used.late > LATE_LIMIT / 2.0
        step = _UTILISATION_STEP if excess < _FAR_OFF else 2.0 * _UTILISATION_STEP
        utilisation = round(min(self.utilisation, used.utilisation) - step, 6)
        if utilisation >= _LEAST_UTILISATION:
            yield replace(self, utilisation=utilisation)
        late = round(min(self.late, used.late) - max(_LEAST_LATE_STEP, 1.1 * min(excess, _FAR_OFF)), 6)
        if slow and late >= _LEAST_LATE:
            yield replace(self, late=late)


@dataclass(order=True, slots=True)
class _Entry:
    order: tuple[float, int]
    room: _Room = field(compare=False)
    used: _Room = field(compare=False)
    point: PlanPoint = field(compare=False)
    solution: FlowSolution = field(compare=False)


class FlowPlanner:
    """Finds certified plans with the flow model.

    Args:
        flow: Fleet, load and SLA.
        prove: Simulates a plan.
        glance: Simulates it shortly.
        off: Whether spare GPUs are off rather than parked.
    """

    def __init__(self, flow: FlowModel, prove: Prove, glance: Glance, *, off: bool = False) -> None:
        self._flow, self._prove, self._glance, self._off = flow, prove, glance, off
        self._known: dict[tuple[object, ...], Proof] = {}
        self._room = _Room()
        self.proofs = self.failed = self._pushed = 0

    def best(
        self, asked: Asked, *, at_least: float = -np.inf, most_proofs: int = MOST_PROOFS, careful: bool = False
    ) -> tuple[PlanPoint | None, float]:
        """Return the best plan that could be certified, and a bound that no plan exceeds.

        Args:
            asked: What is to be maximised and kept.
            at_least: Score of a plan that is known; nothing below it is looked for.
            most_proofs: Give up after so many simulations.
            careful: Begin with as much room for waiting as the last plan needed, and bound without whole numbers.
        """
        bounded = relaxed_bound(self._flow, asked) if careful else bound(self._flow, asked, cutoff=at_least)
        if bounded.upper_bound <= at_least:
            return None, bounded.upper_bound
        queue: list[_Entry] = []
        start = self._room if careful else _Room()
        tried = {start}
        unlimited = start == _Room() and not asked.constrained and not careful
        first = bounded.nearest if unlimited else self._solve(asked, start, at_least, bounded.nearest)
        self._push(queue, asked, start, first)
        left = most_proofs
        while queue and left > 0:
            entry = heapq.heappop(queue)
            if -entry.order[0] <= at_least:
                break
            planned = PLANNED_LATE_LIMIT if entry.point.dispatch.name == "longest_idle" else LATE_LIMIT
            excess = entry.point.evaluation.late_fraction - planned
            if excess <= 0.0 and self._disappoints(asked, entry.point, at_least):
                break
            if excess <= 0.0:
                proof, new = self._proof(entry.point)
                left -= new
                if proof.point is not None and _keeps(asked, proof.point):
                    self._room = entry.room
                    return proof.point, bounded.upper_bound
                excess = proof.late_fraction - LATE_LIMIT
            for room in entry.room.less(entry.used, max(excess, 0.0)):
                if room not in tried and len(tried) < (_MOST_ROOMS_AHEAD if careful else _MOST_ROOMS):
                    tried.add(room)
                    self._push(queue, asked, room, self._solve(asked, room, at_least, entry.solution))
        return None, bounded.upper_bound

    def _disappoints(self, asked: Asked, point: PlanPoint, at_least: float) -> bool:
        """Return whether a plan with shares scores less than what is known as soon as it is simulated.

        When requests wait for too long, shares give way, and other kinds serve than the flows say.
        """
        if point.dispatch.name != "shares" or at_least == -np.inf or asked.constrained:
            return False
        return asked_score(asked)(self._glance(point)) < at_least - _GLANCE_ERROR

    def _solve(self, asked: Asked, room: _Room, cutoff: float, before: FlowSolution | None) -> FlowSolution | None:
        """Return flows that use no more room; looked for near the contention that is known, if any is.

        They need not be the best: what is told of them is worked out anew.
        """
        tight = asked.tightened()
        if before is not None and self._flow.gpus <= _FEW_GPUS:
            rho = self._flow.contention(before.counts, before.flows)
            near = Interval(low=_LESS_BUSY * rho, high=min(1.0, rho + _NARROW))
            found = self._solve_near(tight, room, near, cutoff)
            if found is not None:
                rho = self._flow.contention(found.counts, found.flows)
                close = Interval(low=max(0.0, rho - _NARROW), high=min(1.0, rho + _NARROW))
                found = self._solve_near(tight, room, close, cutoff) or found
                return found if found.bound > cutoff else None
        return bound(
            self._flow,
            tight,
            late_limit=room.late,
            utilisation=room.utilisation,
            narrow=_NARROW,
            most_programs=_PROGRAMS,
            absolute_gap=_GAP,
            whole_at=_WHOLE_AT,
            cutoff=cutoff,
        ).nearest

    def _solve_near(self, asked: Asked, room: _Room, near: Interval, cutoff: float) -> FlowSolution | None:
        found = self._flow.solve(
            asked, near, late_limit=room.late, utilisation=room.utilisation, absolute_gap=_GAP, cutoff=cutoff
        )
        return found if found is not None and found.found else None

    def _push(self, queue: list[_Entry], asked: Asked, room: _Room, solution: FlowSolution | None) -> None:
        if solution is None:
            return
        tidy, score = self._tidy(solution), asked_score(asked)
        for point in self._points(tidy):
            simpler = _SIMPLER if point.dispatch.name == "longest_idle" else 0.0
            if _keeps(asked, point):
                self._pushed += 1
                heapq.heappush(
                    queue, _Entry((-score(point) - simpler, self._pushed), room, self._used(tidy), point, tidy)
                )

    def _used(self, solution: FlowSolution) -> _Room:
        """Return how busy the busiest kind is, and which part of the services is too long."""
        flow, rho = self._flow, self._flow.contention(solution.counts, solution.flows)
        busy = solution.flows * flow.arrays.mean_s(np.array([rho]))[0]
        there = solution.counts > 0
        late = float(solution.flows @ flow.late_of_kinds(rho)) / flow.rate_rps
        return _Room(utilisation=float((busy[there] / solution.counts[there]).max()), late=late)

    def _proof(self, point: PlanPoint) -> tuple[Proof, int]:
        key = (point.layout, point.dispatch.key)
        if key in self._known:
            return self._known[key], 0
        self._known[key] = proof = self._prove(point)
        self.proofs += 1
        self.failed += proof.point is None
        return proof, 1

    def _tidy(self, solution: FlowSolution) -> FlowSolution:
        """Give instances that serve nothing the variant that serves most on their size."""
        counts, kinds = solution.counts.copy(), self._flow.arrays.kinds
        for index in np.flatnonzero((counts > 0) & (solution.flows == 0)):
            alike = [
                k for k, kind in enumerate(kinds) if kind.profile == kinds[index].profile and solution.flows[k] > 0
            ]
            if alike:
                counts[max(alike, key=lambda k: solution.flows[k])] += counts[index]
                counts[index] = 0.0
        return replace(solution, counts=counts)

    def _points(self, solution: FlowSolution) -> list[PlanPoint]:
        flow = self._flow
        fleet = flow.fleet(solution)
        layout = fill(
            flow.multisets, solution.gpus.tolist(), dict(fleet.kinds), spare=solution.spare, spare_off=self._off
        )
        simple = evaluate(flow.model, fleet_of(layout), flow.rate_rps, flow.sla_ms)
        points = [PlanPoint(layout=layout, dispatch=Fleetwide(), evaluation=simple)]
        if len(fleet.kinds) > 1:
            shares = Fleetwide(name="shares", shares=flow.shares(solution))
            points.append(PlanPoint(layout=layout, dispatch=shares, evaluation=flow.evaluation(solution)))
        return points


def asked_score(asked: Asked) -> Callable[[PlanPoint], float]:
    """Return the score of plans."""
    return lambda point: asked.score(point.evaluation.accuracy_pct, point.evaluation.energy_j_per_request)


def _keeps(asked: Asked, point: PlanPoint) -> bool:
    least, most = asked.least_accuracy_pct, asked.most_energy_j
    seen = point.evaluation
    return (least is None or seen.accuracy_pct >= least - 1e-9) and (
        most is None or seen.energy_j_per_request <= most * (1.0 + 1e-9)
    )
