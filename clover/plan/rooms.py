"""How much room for waiting is asked of the flow model, and what its relaxation says of what comes out.

The flow model leaves waiting out, so its best answer may be late. Then less is asked of it: a lower utilisation, or a
smaller part of slow services. A program without whole numbers takes a fiftieth of the time of one in whole numbers, and
its answer is about as late: it tells which rooms are worth solving for.

How late a plan with shares is lies between two closed forms: all instances in one line, and a line for each kind with
its share of the arrivals at random. Shares follow the arrivals much more evenly than that, so the first is much nearer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from clover.core.closed_form import OperatingPoints, latency_tail, operating_points, waiting
from clover.core.objective import LATE_LIMIT
from clover.plan.asking import Asked
from clover.plan.bound import relaxed_bound
from clover.plan.flow import FlowModel, FlowSolution, Interval

#: Rooms lie on a grid, so that different ways to one are the same room.
_UTILISATION_STEP, _LATE_STEP = 0.015, 0.0005
_LEAST_UTILISATION, _LEAST_LATE = 0.3, 0.004
#: Steps of utilisation for what is so much too late.
_STEPS = ((0.1, 3), (0.01, 2), (-np.inf, 1))
#: Of the way from one line to a line for each kind, this much is expected at first. Of 30 plans that were simulated it
#: was 0 to 0.5, in the median 0.15.
FIRST_WAY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is asked of the flow model: how busy a kind may be, and how many services may be too long."""

    utilisation: float = 1.0
    late: float = LATE_LIMIT

    def less(self, used: Room, excess: float) -> Iterator[Room]:
        """Return what to try if a solution that used so much was late by `excess` too much.

        What is asked has to be less than what was used, or the same solution would come again. Waiting is cured by less
        utilisation, slow services by fewer of them, after which utilisation is not changed any more.
        """
        steps = next(steps for least, steps in _STEPS if excess >= least)
        busy = min(self.utilisation, used.utilisation) - (steps - 0.5) * _UTILISATION_STEP
        if self.late == LATE_LIMIT and (utilisation := _on_grid(busy, _UTILISATION_STEP)) >= _LEAST_UTILISATION:
            yield replace(self, utilisation=utilisation)
        late = _on_grid(min(self.late, used.late) - max(_LATE_STEP, excess), _LATE_STEP)
        if used.late > LATE_LIMIT / 2.0 and late >= _LEAST_LATE:
            yield replace(self, late=late)

    def more(self, late: float) -> Room:
        """Return what to try if a solution could have been so much later: between this room and those before it."""
        if self.late < LATE_LIMIT:
            return replace(self, late=min(LATE_LIMIT, self.late + late))
        return replace(self, utilisation=min(1.0, self.utilisation + _UTILISATION_STEP / 2.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lateness:
    """P(late) of a plan with shares as if there was one line for all instances, and one for each kind."""

    one_line: float
    line_each: float

    @staticmethod
    def of(flow: FlowModel, solution: FlowSolution) -> Lateness:
        """Work it out, also for a solution that is not in whole numbers."""
        points = flow.operating(solution)
        each = _apart(points, flow)
        alone = float(_late(flow, each) @ each.rate_rps) / flow.rate_rps
        return Lateness(one_line=float(_late(flow, points)[0]), line_each=alone)

    def expected(self, way: float) -> float:
        """Return what is expected that far from one line to a line for each kind."""
        return self.one_line + way * max(0.0, self.line_each - self.one_line)

    def way(self, seen: float) -> float:
        """Return how far from one line what was seen is, from 0 to 1."""
        apart = self.line_each - self.one_line
        return min(max((seen - self.one_line) / apart, 0.0), 1.0) if apart > 0.0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sketch:
    """What the relaxation says of a room.

    Attributes:
        room: What was asked for.
        used: How much of it was used.
        bound: No answer in whole numbers that uses no more scores higher.
        interval: Where its contention is.
        active: GPUs that serve.
        shares: Expected P(late) by shares.
        longest_idle_late: The same by longest-idle dispatch.
    """

    room: Room
    used: Room
    bound: float
    interval: Interval
    active: float
    shares: Lateness
    longest_idle_late: float


def sketch(flow: FlowModel, asked: Asked, room: Room, *, narrow: float, cutoff: float) -> Sketch | None:
    """Solve without whole numbers; None if nothing that scores above the cutoff needs no more room.

    Args:
        flow: Fleet, load and SLA.
        asked: What is to be maximised and kept.
        room: What may be used.
        narrow: Width of the interval of contention.
        cutoff: Nothing that scores no more than this is looked for.
    """
    found = relaxed_bound(flow, asked, narrow=narrow, late_limit=room.late, utilisation=room.utilisation, cutoff=cutoff)
    if found.nearest is None or found.interval is None:
        return None
    longest_idle = operating_points(flow.arrays, found.nearest.counts[None], np.array([flow.rate_rps]))
    return Sketch(
        room=room,
        used=used_room(flow, found.nearest),
        bound=found.upper_bound,
        interval=found.interval,
        active=float(found.nearest.gpus.sum()),
        shares=Lateness.of(flow, found.nearest),
        longest_idle_late=float(_late(flow, longest_idle)[0]),
    )


def used_room(flow: FlowModel, solution: FlowSolution) -> Room:
    """Return how busy the busiest kind is, and which part of the services is too long."""
    rho = flow.contention(solution.counts, solution.flows)
    busy = solution.flows * flow.arrays.mean_s(np.array([rho]))[0]
    there = solution.counts > 0
    late = float(solution.flows @ flow.late_of_kinds(rho)) / flow.rate_rps
    return Room(utilisation=float((busy[there] / solution.counts[there]).max()), late=late)


def _late(flow: FlowModel, points: OperatingPoints) -> np.ndarray:
    times = np.full(len(points.rho), flow.sla_ms / 1e3)
    return latency_tail(flow.arrays, points, waiting(flow.arrays, points), times)


def _apart(points: OperatingPoints, flow: FlowModel) -> OperatingPoints:
    """Return every kind that serves as a fleet of its own, at the contention of all."""
    kinds = np.flatnonzero((points.rates[0] > 0.0) & (points.counts[0] > 0.0))
    rates, counts = points.rates[0, kinds], points.counts[0, kinds]
    alone = np.zeros((2, len(kinds), points.counts.shape[1]))
    alone[:, np.arange(len(kinds)), kinds] = counts, rates
    rho = np.full(len(kinds), points.rho[0])
    busy = rates * flow.arrays.mean_s(points.rho)[0, kinds]
    return OperatingPoints(counts=alone[0], rate_rps=rates, rho=rho, rates=alone[1], overloaded=busy >= counts)


def _on_grid(value: float, step: float) -> float:
    """Return the largest multiple of a step that is not larger."""
    return round(step * math.floor(value / step + 1e-9), 6)
