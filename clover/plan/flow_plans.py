"""From flows to plans: which of them are certified, the best first.

The flow model leaves waiting out, so its best answer may fail. Then less is asked of it: a lower utilisation or a
smaller part of slow services, whichever costs less; the candidates wait in a queue ordered by their score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from clover.core.objective import LATE_LIMIT, PLANNED_LATE_LIMIT
from clover.core.queueing import evaluate
from clover.plan.asking import Asked
from clover.plan.bound import bound, relaxed_bound
from clover.plan.candidates import Candidate, Queue
from clover.plan.flow import FlowModel, FlowSolution, Interval
from clover.plan.points import Fleetwide, PlanPoint, fill, fleet_of
from clover.plan.prover import Proof
from clover.plan.rooms import FIRST_WAY, Lateness, Room, Sketch, sketch, used_room

#: Longest-idle dispatch is preferred to shares that score no better than this.
_SIMPLER = 1e-5
#: Programs of candidates: width of the interval of contention, and how near to the optimum they are solved; coarser
#: than for the bound.
_NARROW, _GAP = 1.0 / 80.0, 2e-5
#: Fleets of up to so many GPUs: whole numbers make contention coarse, so that programs of wider intervals do better
#: there, down to this part of the contention of the relaxation; others are looked for in so wide an interval around it.
_FEW_GPUS, _LESS_BUSY, _AROUND = 16, 0.75, 1.0 / 40.0
#: A room is solved for in whole numbers if the relaxation is no more than this too late, divided by the number of GPUs
#: that serve: the fewer, the more whole numbers change.
_LIKELY = 0.05
#: A certificate hardly can be had of flows that are expected to be nearer to the limit than this. Of how far the last
#: plan with shares was from one line, this part is expected of the next one too; of a few GPUs nothing is.
_CERTIFICATE_MARGIN, _AS_FAR, _FEW_ACTIVE = 0.0005, 0.75, 10

#: By how much a short simulation may be wrong about a score.
_GLANCE_ERROR = 5e-4

#: Give up after so many simulations (unless told otherwise), or so many different requests for room, and so many of
#: these solved in whole numbers.
MOST_PROOFS = 10
_MOST_ROOMS, _MOST_ROOMS_AHEAD, _MOST_ROOMS_FEW, _MOST_SOLVED, _MOST_SOLVED_AHEAD = 80, 40, 24, 12, 6

#: From so many GPUs on, a plan with shares is refined: this part of what its certificate left is used up, if the score
#: gains so much.
_REFINED_GPUS, _USED_UP, _WORTH_REFINING = 500, 0.75, 1e-5

Prove = Callable[[PlanPoint], Proof]
Glance = Callable[[PlanPoint], PlanPoint]


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
        self._room = Room()
        self._way = FIRST_WAY
        self.proofs = self.failed = 0

    def best(
        self, asked: Asked, *, at_least: float = -np.inf, most_proofs: int = MOST_PROOFS, careful: bool = False
    ) -> tuple[PlanPoint | None, float]:
        """Return the best plan that could be certified, and a bound that no plan exceeds.

        Args:
            asked: What is to be maximised and kept.
            at_least: Score of a plan that is known; nothing below it is looked for.
            most_proofs: Give up after so many simulations.
            careful: Begin at the utilisation of the last plan, and bound without whole numbers.
        """
        bounded = relaxed_bound(self._flow, asked) if careful else bound(self._flow, asked, cutoff=at_least)
        if bounded.upper_bound <= at_least:
            return None, bounded.upper_bound
        few = self._flow.gpus <= _FEW_GPUS
        queue = Queue(
            rooms=_MOST_ROOMS_FEW if few else _MOST_ROOMS_AHEAD if careful else _MOST_ROOMS,
            programs=_MOST_SOLVED_AHEAD if careful or few else _MOST_SOLVED,
        )
        start = Room(utilisation=self._room.utilisation) if careful else Room()
        if bounded.nearest is None or asked.constrained or careful:
            self._sketch(queue, asked, start, at_least)
        else:
            queue.is_new(start)
            self._push(queue, asked, start, bounded.nearest)
        left = most_proofs
        while left > 0 and (best := queue.pop(at_least)) is not None:
            if isinstance(best, Sketch):
                self._solve(queue, asked, best, at_least)
                continue
            excess = self._excess(best)
            if excess <= 0.0 and self._disappoints(asked, best.point, at_least):
                # With few GPUs that lies in the fleet rather than in what was asked.
                if few:
                    break
                left -= 1
            elif excess <= 0.0:
                proof, new = self._proof(best.point)
                left -= new
                if proof.point is not None and _keeps(asked, proof.point):
                    self._room = best.room
                    return self._told(self._refined(asked, best, proof.point)), bounded.upper_bound
                excess = proof.late_fraction - LATE_LIMIT
                self._learn(best, proof)
            self._ask_less(queue, asked, best.room, best.used, excess, at_least)
        return None, bounded.upper_bound

    def _refined(self, asked: Asked, proven: Candidate, point: PlanPoint) -> PlanPoint:
        """Return a plan with shares that uses up what a certificate left of the limit, if that is better.

        Only with so many GPUs that whole numbers do not matter and a certificate is worth its time.
        """
        room, upper = proven.room, point.late_upper
        if self._flow.gpus < _REFINED_GPUS or point.dispatch.name != "shares" or upper is None:
            return point
        known, queue = asked_score(asked)(point) + _WORTH_REFINING, Queue(rooms=1, programs=1)
        more = room.more(_USED_UP * (LATE_LIMIT - upper))
        self._sketch(queue, asked, more, known)
        if not isinstance(best := queue.pop(known), Sketch) or (flows := self._whole(asked, best, known)) is None:
            return point
        self._push(queue, asked, more, flows)
        while (best := queue.pop(known)) is not None and not isinstance(best, Sketch):
            if best.point.dispatch.name == "shares":
                found = self._proof(best.point)[0].point
                return point if found is None else max(point, found, key=asked_score(asked))
        return point

    def _told(self, point: PlanPoint) -> PlanPoint:
        """Return a plan with its 95th percentile, which candidates go without."""
        if not np.isnan(point.evaluation.p95_ms):
            return point
        flow = self._flow
        return replace(point, evaluation=evaluate(flow.model, fleet_of(point.layout), flow.rate_rps, flow.sla_ms))

    def _ask_less(self, queue: Queue, asked: Asked, room: Room, used: Room, excess: float, at_least: float) -> None:
        for less in room.less(used, max(excess, 0.0)):
            self._sketch(queue, asked, less, at_least)

    def _sketch(self, queue: Queue, asked: Asked, room: Room, at_least: float) -> None:
        if not queue.is_new(room):
            return
        found = sketch(self._flow, asked.tightened(), room, narrow=_NARROW, cutoff=at_least)
        if found is not None:
            queue.push(found.bound, found)

    def _disappoints(self, asked: Asked, point: PlanPoint, at_least: float) -> bool:
        """Return whether a plan with shares scores less than what is known as soon as it is simulated.

        When requests wait for too long, shares give way, and other kinds serve than the flows say.
        """
        if point.dispatch.name != "shares" or at_least == -np.inf or asked.constrained:
            return False
        return asked_score(asked)(self._glance(point)) < at_least - _GLANCE_ERROR

    def _solve(self, queue: Queue, asked: Asked, best: Sketch, at_least: float) -> None:
        """Solve for a room in whole numbers if something may come of it; otherwise ask for less."""
        solution = None
        excess = min(self._late(best.shares, best.active) - LATE_LIMIT, best.longest_idle_late - PLANNED_LATE_LIMIT)
        if excess <= _LIKELY / max(best.active, 1.0) and queue.programs > 0:
            queue.programs -= 1
            solution = self._whole(asked.tightened(), best, at_least)
        if solution is None:
            self._ask_less(queue, asked, best.room, best.used, excess, at_least)
        else:
            self._push(queue, asked, best.room, solution)

    def _late(self, shares: Lateness, active: float) -> float:
        # A line for each kind says nothing of few instances.
        return shares.expected(self._way if active > _FEW_ACTIVE else 0.0) + _CERTIFICATE_MARGIN

    def _excess(self, candidate: Candidate) -> float:
        """Return how much later than planned a plan is expected to be."""
        if candidate.point.dispatch.name == "shares":
            return self._late(candidate.shares, candidate.point.active) - LATE_LIMIT
        return candidate.point.evaluation.late_fraction - PLANNED_LATE_LIMIT

    def _learn(self, candidate: Candidate, proof: Proof) -> None:
        if candidate.point.dispatch.name == "shares":
            self._way = max(FIRST_WAY, _AS_FAR * candidate.shares.way(proof.late_fraction))

    def _whole(self, asked: Asked, best: Sketch, cutoff: float) -> FlowSolution | None:
        """Return flows in whole numbers near the contention of the relaxation.

        They need not be the best: what is told of them is worked out anew.
        """
        low, high, narrow = best.interval.low, best.interval.high, None
        if self._flow.gpus > _FEW_GPUS:
            narrow = self._solve_near(asked, best.room, best.interval, cutoff)
            if narrow is not None and narrow.bound >= best.bound - _GAP:
                return narrow
            wide = Interval(low=max(0.0, low - _AROUND), high=min(1.0, high + _AROUND))
        else:
            wide = Interval(low=_LESS_BUSY * low, high=high)
        found = self._solve_near(asked, best.room, wide, cutoff)
        if found is not None:
            rho = self._flow.contention(found.counts, found.flows)
            close = Interval(low=max(0.0, rho - _NARROW), high=min(1.0, rho + _NARROW))
            found = self._solve_near(asked, best.room, close, cutoff) or found
        both = [each for each in (narrow, found) if each is not None and each.bound > cutoff]
        return max(both, key=lambda each: each.bound, default=None)

    def _solve_near(self, asked: Asked, room: Room, near: Interval, cutoff: float) -> FlowSolution | None:
        found = self._flow.solve(
            asked, near, late_limit=room.late, utilisation=room.utilisation, absolute_gap=_GAP, cutoff=cutoff
        )
        return found if found is not None and found.found else None

    def _push(self, queue: Queue, asked: Asked, room: Room, solution: FlowSolution) -> None:
        tidy, score = self._tidy(solution), asked_score(asked)
        used, shares = used_room(self._flow, tidy), Lateness.of(self._flow, tidy)
        for point in self._points(tidy):
            simpler = _SIMPLER if point.dispatch.name == "longest_idle" else 0.0
            if _keeps(asked, point):
                queue.push(score(point) + simpler, Candidate(room=room, used=used, point=point, shares=shares))

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
        simple = evaluate(flow.model, fleet_of(layout), flow.rate_rps, flow.sla_ms, with_p95=False)
        points = [PlanPoint(layout=layout, dispatch=Fleetwide(), evaluation=simple)]
        if len(fleet.kinds) > 1:
            shares = Fleetwide(name="shares", shares=flow.shares(solution))
            points.append(
                PlanPoint(layout=layout, dispatch=shares, evaluation=flow.evaluation(solution, with_p95=False))
            )
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
