"""A sound upper bound on every plan, and the flows that come nearest to it, by branching on contention.

The flow model bounds plans whose contention lies in an interval; the maximum over intervals that cover 0 to 1 bounds
all plans. The interval with the highest bound is solved in whole numbers, then halved, until it is narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from clover.core.objective import LATE_LIMIT
from clover.plan.asking import Asked
from clover.plan.flow import FlowModel, FlowSolution, Interval

_FIRST_INTERVALS = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bounded:
    """Result of a search.

    Attributes:
        upper_bound: No plan that keeps the promise scores higher; -inf if none can.
        nearest: The solution of the narrow interval with that bound, in whole numbers if the bound is; None if there is
            none.
        programs: How many programs were solved in whole numbers.
        interval: Of the contention of `nearest`, if that was solved without whole numbers.
    """

    upper_bound: float
    nearest: FlowSolution | None
    programs: int
    interval: Interval | None = None


@dataclass(slots=True, kw_only=True)
class _Node:
    interval: Interval
    bound: float
    relaxed: FlowSolution
    solution: FlowSolution | None = None


def bound(
    flow: FlowModel,
    asked: Asked,
    *,
    late_limit: float = LATE_LIMIT,
    utilisation: float = 1.0,
    narrow: float = 1.0 / 160.0,
    most_programs: int = 8,
    absolute_gap: float = 1e-5,
    whole_at: float = 1.0 / 20.0,
    cutoff: float = -np.inf,
) -> Bounded:
    """Bound the score of every plan of a fleet.

    Args:
        flow: Fleet, load and SLA.
        asked: What is to be maximised and kept.
        late_limit: As in `FlowModel.solve`; with the default the bound is sound, with less it gives flows that leave
            room for waiting.
        utilisation: Likewise.
        narrow: Width at which an interval is not halved any more.
        absolute_gap: Of every program.
        cutoff: Nothing that scores no more than this is looked for.
        whole_at: Width from which on programs are solved in whole numbers.
        most_programs: Stop here; the bound is then wider, and still sound.
    """
    nodes = [node for interval in _cover() if (node := _relaxed(flow, asked, interval, late_limit, utilisation))]
    programs, found = 0, None
    while nodes:
        best = max(range(len(nodes)), key=lambda index: (nodes[index].bound, -nodes[index].interval.low))
        node = nodes[best]
        if node.bound <= cutoff:
            return Bounded(upper_bound=node.bound, nearest=None, programs=programs)
        last = node.interval.width <= narrow or programs >= most_programs
        if node.solution is not None and last:
            nearest = node.solution if node.solution.found else found
            return Bounded(upper_bound=node.bound, nearest=nearest, programs=programs)
        del nodes[best]
        if node.solution is None and (node.interval.width <= whole_at or last):
            programs += 1
            node.solution = flow.solve(
                asked, node.interval, late_limit=late_limit, utilisation=utilisation, absolute_gap=absolute_gap
            )
            if node.solution is not None:
                node.bound = min(node.bound, node.solution.bound)
                nodes.append(node)
                found = node.solution if node.solution.found else found
            continue
        for half in node.interval.halves():
            child = _relaxed(flow, asked, half, late_limit, utilisation)
            if child is not None:
                child.bound = min(child.bound, node.bound)
                nodes.append(child)
    return Bounded(upper_bound=-np.inf, nearest=None, programs=programs)


def relaxed_bound(
    flow: FlowModel,
    asked: Asked,
    *,
    narrow: float = 1.0 / 80.0,
    late_limit: float = LATE_LIMIT,
    utilisation: float = 1.0,
    cutoff: float = -np.inf,
) -> Bounded:
    """Return an upper bound as `bound` does, a little higher, without solving anything in whole numbers."""
    nodes = [node for each in _cover() if (node := _relaxed(flow, asked, each, late_limit, utilisation))]
    while nodes:
        best = max(range(len(nodes)), key=lambda index: (nodes[index].bound, -nodes[index].interval.low))
        node = nodes.pop(best)
        if node.bound <= cutoff:
            return Bounded(upper_bound=node.bound, nearest=None, programs=0)
        if node.interval.width <= narrow:
            return Bounded(upper_bound=node.bound, nearest=node.relaxed, programs=0, interval=node.interval)
        children = (_relaxed(flow, asked, half, late_limit, utilisation) for half in node.interval.halves())
        nodes += [child for child in children if child]
    return Bounded(upper_bound=-np.inf, nearest=None, programs=0)


def _cover() -> list[Interval]:
    edges = np.linspace(0.0, 1.0, _FIRST_INTERVALS + 1).tolist()
    return [Interval(low=low, high=high) for low, high in pairwise(edges)]


def _relaxed(flow: FlowModel, asked: Asked, interval: Interval, late_limit: float, utilisation: float) -> _Node | None:
    solution = flow.relax(asked, interval, late_limit=late_limit, utilisation=utilisation)
    return None if solution is None else _Node(interval=interval, bound=solution.bound, relaxed=solution)
