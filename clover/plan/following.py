"""Follows the grid on the layout that is there: other shares, not other GPU instances, where that is as good. Pure."""

from __future__ import annotations

import math
from dataclasses import replace

from clover.core.application import ServiceModel
from clover.core.control import Decide
from clover.core.objective import LATE_LIMIT
from clover.plan.dispatching import DispatchPlan, best_dispatch, shares_of
from clover.plan.problem import Answer, FleetCandidate, Problem
from clover.plan.prover import Proofs

#: The layout stays if the best plan's score is no more than this above what it reaches with the best dispatch: a
#: thousandth of BASE's footprint or accuracy under lambda. Of other scores, this part.
KEPT_WITHIN = 1e-3


class LayoutKeeper:
    """Judges whether the present layout is worth keeping; remembers the certificates of ways to dispatch on it.

    Args:
        seed: Of the certificates.
        proofs: Those that are known of the table which is asked for first.
    """

    def __init__(self, *, seed: int, proofs: Proofs | None = None) -> None:
        self._seed = seed
        self._proofs: Proofs = {} if proofs is None else proofs
        #: The table that they are of.
        self._of: ServiceModel | None = None

    def kept(self, ask: Decide, problem: Problem, best: Answer) -> Answer:
        """Return the present layout with its best dispatch if that is nearly as good as the best plan; else that plan.

        Args:
            ask: What is to be decided; layouts are kept when only the grid has changed, with no guard and no pins.
            problem: The question that `best` answers.
            best: The scheme's answer.
        """
        if not _may_keep(ask, problem, best):
            return best
        if self._of is not None and self._of is not problem.model:
            # Certificates are for one table.
            self._proofs = {}
        self._of = problem.model
        enough = (best.score or 0.0) - _tolerance(problem, best.score or 0.0)
        if _promise(problem) < enough:
            return best
        found = best_dispatch(problem, seed=self._seed, proofs=self._proofs)
        return best if found is None or found.score < enough else _answer(problem, best, found)


def _may_keep(ask: Decide, problem: Problem, best: Answer) -> bool:
    present = problem.present
    if ask.trigger != "intensity" or ask.guard != "none" or ask.pinned or present is None:
        return False
    whole = {gpu for gpu, _ in present.gpus} == set(problem.gpus) and bool(present.fleet.instances)
    return whole and best.score is not None and best.configuration != present


def _promise(problem: Problem) -> float:
    """Return what the present layout would score if nobody had to wait: what is not enough needs no simulation."""
    if problem.present is None:
        return -math.inf
    asked = problem.asked(problem.baseline())
    found = shares_of(problem, problem.present, asked, utilisation=1.0, late=LATE_LIMIT)
    return -math.inf if found is None else found[0]


def _tolerance(problem: Problem, score: float) -> float:
    return KEPT_WITHIN if problem.goal == "lambda" else KEPT_WITHIN * abs(score)


def _answer(problem: Problem, best: Answer, found: DispatchPlan) -> Answer:
    present = problem.present
    if present is None or best.score is None:
        raise AssertionError("only what is there is kept, in place of what has a score")
    objective = problem.objective()
    beaten = FleetCandidate(
        text=str(best.configuration),
        evaluation=best.evaluation,
        objective=objective.value(best.evaluation),
        meets_sla=best.meets_sla,
    )
    reason = (
        f"the layout stays, dispatch {found.name}: the best plan scores {best.score:.5f}, this {found.score:.5f}, "
        f"and a change of MIG must be worth {_tolerance(problem, best.score):.2g}"
    )
    return replace(
        best,
        configuration=present,
        evaluation=found.evaluation,
        objective=objective.value(found.evaluation),
        reason=reason,
        candidates=(beaten, *best.candidates),
        evaluations=best.evaluations + found.simulated,
        meets_sla=True,
        dispatch=dict(found.dispatch),
        score=found.score,
        late_upper=found.late_upper,
    )
