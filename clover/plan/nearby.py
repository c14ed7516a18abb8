"""Better neighbours of a plan in which few GPUs of many serve.

Whole numbers leave more to gain there than the programs of the flow model, which are solved to a gap, bring.
"""

from __future__ import annotations

import numpy as np

from clover.core.queueing import evaluate
from clover.plan.asking import Asked
from clover.plan.points import Fleetwide, PlanPoint, fleet_of
from clover.plan.pool import Enumeration
from clover.plan.problem import Problem

#: Up to so many serving GPUs all neighbours are evaluated, of as many fleets one after the other.
MOST_SERVING, _MOVES = 16, 6
#: What a neighbour must score more.
_BETTER = 2e-6


def better_neighbour(enumeration: Enumeration, start: PlanPoint, asked: Asked, problem: Problem) -> PlanPoint | None:
    """Go from a plan to its best neighbour under longest-idle dispatch, by the closed form, and on from there.

    Args:
        enumeration: Lists and evaluates the fleets that differ in one GPU.
        start: A certified plan.
        asked: What is to be maximised; nothing may have to be kept beside the SLA.
        problem: Load, SLA and parking.

    Returns:
        A better plan, not certified; None if there is none, too many GPUs serve, or so few are there that fleets are
        listed anyway.
    """
    if asked.constrained or not start.active <= MOST_SERVING < len(problem.gpus) - problem.reserve:
        return None
    layout = start.layout
    seen = start.evaluation
    score = asked.score(seen.accuracy_pct, seen.energy_j_per_request)
    off, resize = problem.parking == "off", problem.parking != "none"
    for _ in range(_MOVES):
        pool = enumeration.evaluated(enumeration.neighbours(layout, off=off, resize=resize), problem.rate_rps)
        scores = asked.constant + asked.per_accuracy_pct * pool.accuracy_pct - asked.per_energy_j * pool.energy_j
        if not len(pool) or scores.max() <= score + _BETTER:
            break
        best = int(np.argmax(scores))
        score, layout = float(scores[best]), pool.layout(best)
    if layout == start.layout:
        return None
    evaluation = evaluate(problem.model, fleet_of(layout), problem.rate_rps, problem.sla_ms)
    return PlanPoint(layout=layout, dispatch=Fleetwide(), evaluation=evaluation)
