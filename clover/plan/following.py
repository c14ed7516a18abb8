"""Follows the grid on the layout that is there: other shares, not other GPU instances, where that is as good. Pure.

Where people have pinned GPUs, dispatch is what is left to decide for them.
"""

from __future__ import annotations

import math
from dataclasses import replace

from clover.core.application import ServiceModel
from clover.core.control import Decide
from clover.core.objective import LATE_LIMIT
from clover.core.queueing import Evaluation
from clover.plan.dispatching import DispatchPlan, best_dispatch, shares_of
from clover.plan.problem import Answer, FleetCandidate, Problem
from clover.plan.prover import Proofs, Seen
from clover.plan.shares import SharesMemory

#: The layout stays if the best plan's score is no more than this above what it reaches with the best dispatch: a
#: thousandth of BASE's footprint or accuracy under lambda. Of other scores, this part.
KEPT_WITHIN = 1e-3

#: Parts of the present intensity at which the layout is looked at ahead: where the next reading is likely to be.
_LOOKED_AT = (0.8, 0.9, 1.1, 1.25)


class LayoutKeeper:
    """Judges whether the present layout is worth keeping; remembers shares and certificates of ways to dispatch on it.

    What is remembered holds for tables that differ in nothing but idle, parked and off watts; another table begins
    anew.

    Args:
        seed: Of the certificates.
        proofs: Those that are known of the table which is asked for first.
    """

    def __init__(self, *, seed: int, proofs: Proofs | None = None) -> None:
        self._seed = seed
        self._proofs: Proofs = {} if proofs is None else proofs
        self._shares = SharesMemory()
        #: The table that both are of.
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
        proofs, memory = self._known_of(problem)
        enough = (best.score or 0.0) - _tolerance(problem, best.score or 0.0)
        if _promise(problem, memory) < enough:
            return best
        found = best_dispatch(problem, seed=self._seed, proofs=proofs, memory=memory)
        return best if found is None or found.score < enough else _answer(problem, best, found)

    def dispatched(self, problem: Problem, answer: Answer) -> Answer:
        """Return an answer whose layout is given, by people, with the best dispatch that is certified for it.

        The answer as it is, if no dispatch keeps the promise on that layout.
        """
        if not answer.configuration.fleet.instances:
            return answer
        proofs, memory = self._known_of(problem)
        given = replace(problem, present=answer.configuration)
        found = best_dispatch(given, seed=self._seed, proofs=proofs, memory=memory)
        if found is None:
            return answer
        return _with(given, answer, found, reason=f"{answer.reason}; on this layout dispatch {found.name}")

    def look_ahead(self, problem: Problem) -> None:
        """Certify what is best on the layout that is there (`problem.present`) at other intensities; slow and pure."""
        present = problem.present
        if present is None or len(present.fleet.kinds) < 2:
            # There is one way to hand out requests.
            return
        proofs, memory = self._known_of(problem)
        for factor in _LOOKED_AT:
            moved = replace(problem, intensity_g_per_kwh=problem.intensity_g_per_kwh * factor)
            best_dispatch(moved, seed=self._seed, proofs=proofs, memory=memory)

    def known(self, ask: Decide, problem: Problem) -> DispatchPlan | None:
        """Return the best dispatch on the layout that is there of those that are certified, while a plan is made.

        Nothing is simulated: this takes milliseconds. None if none is certified, or it is not for the grid to decide.
        """
        if not _only_grid(ask, problem):
            return None
        proofs, memory = self._known_of(problem)
        return best_dispatch(problem, seed=self._seed, proofs=_Known(proofs), memory=memory)

    def _known_of(self, problem: Problem) -> tuple[Proofs, SharesMemory]:
        """Return what is known of the table in use."""
        model = problem.model
        if self._of is not None and self._of is not model and _without_idle(self._of) != _without_idle(model):
            self._proofs, self._shares = {}, SharesMemory()
        self._of = model
        return self._proofs, self._shares


_NOT_SEEN = Seen(
    certified=False,
    late_upper=1.0,
    late_fraction=1.0,
    evaluation=Evaluation(
        rate_rps=math.nan,
        served_rate_rps=math.nan,
        utilisation=math.nan,
        p95_ms=math.inf,
        late_fraction=1.0,
        accuracy_pct=math.nan,
        dynamic_j=math.nan,
        idle_power_w=math.nan,
        shares={},
    ),
)


class _Known(Proofs):
    """Certificates as they stand; what is not among them does not count as certified."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: tuple[object, ...]) -> Seen:
        return _NOT_SEEN


def _may_keep(ask: Decide, problem: Problem, best: Answer) -> bool:
    return _only_grid(ask, problem) and best.score is not None and best.configuration != problem.present


def _only_grid(ask: Decide, problem: Problem) -> bool:
    """Return whether only the grid has changed since a layout that is there for every GPU."""
    present = problem.present
    if ask.trigger != "intensity" or ask.guard != "none" or ask.pinned or present is None:
        return False
    return {gpu for gpu, _ in present.gpus} == set(problem.gpus) and bool(present.fleet.instances)


def _without_idle(model: ServiceModel) -> ServiceModel:
    """Return the model without the watts that change no certificate and no shares."""
    return replace(model, table=replace(model.table, idle_power_w=0.0, parked_power_w=0.0, off_power_w=0.0))


def _promise(problem: Problem, memory: SharesMemory) -> float:
    """Return what the present layout would score if nobody had to wait: what is not enough needs no simulation."""
    if problem.present is None:
        return -math.inf
    asked = problem.asked(problem.baseline())
    found = shares_of(problem, problem.present, asked, utilisation=1.0, late=LATE_LIMIT, memory=memory)
    return -math.inf if found is None else found[0]


def _tolerance(problem: Problem, score: float) -> float:
    return KEPT_WITHIN if problem.goal == "lambda" else KEPT_WITHIN * abs(score)


def _answer(problem: Problem, best: Answer, found: DispatchPlan) -> Answer:
    present = problem.present
    if present is None or best.score is None:
        raise AssertionError("only what is there is kept, in place of what has a score")
    beaten = FleetCandidate(
        text=str(best.configuration),
        evaluation=best.evaluation,
        objective=problem.objective().value(best.evaluation),
        meets_sla=best.meets_sla,
    )
    reason = (
        f"the layout stays, dispatch {found.name}: the best plan scores {best.score:.5f}, this {found.score:.5f}, "
        f"and a change of MIG must be worth {_tolerance(problem, best.score):.2g}"
    )
    kept = replace(best, configuration=present, candidates=(beaten, *best.candidates))
    return _with(problem, kept, found, reason=reason)


def _with(problem: Problem, answer: Answer, found: DispatchPlan, *, reason: str) -> Answer:
    """Return an answer with a dispatch that is certified for its layout."""
    return replace(
        answer,
        evaluation=found.evaluation,
        objective=problem.objective().value(found.evaluation),
        reason=reason,
        evaluations=answer.evaluations + found.simulated,
        meets_sla=True,
        dispatch=dict(found.dispatch),
        score=found.score,
        late_upper=found.late_upper,
    )
