"""Whether the layout stays when the grid moves."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from clover.analysis.cases import Case, own_rate_rps, problem_of
from clover.catalog import load_service
from clover.core.configuration import Configuration, GpuConfiguration, InstanceKind
from clover.core.control import Decide
from clover.plan.dispatching import best_dispatch
from clover.plan.following import KEPT_WITHIN, LayoutKeeper
from clover.plan.problem import Answer, Problem
from clover.plan.prover import Proofs

YOLO = load_service("yolov5", "a100-40gb")
LARGE = GpuConfiguration((InstanceKind("7g", "yolov5x6"),))
MIXED = GpuConfiguration((InstanceKind("3g", "yolov5x"), InstanceKind("2g", "yolov5l"), InstanceKind("2g", "yolov5l")))
PROOFS: Proofs = {}


def question(**changes: Any) -> Problem:
    case = Case(gpus=2, nodes=2, rate_rps=own_rate_rps(YOLO, 2, 1.5), lambda_=0.3, parking="parked")
    asked = problem_of(YOLO, case)
    layout = Configuration.of(dict(zip(asked.gpus, (LARGE, MIXED), strict=True)))
    return dataclasses.replace(asked, present=layout, **changes)


def ask(problem: Problem, **changes: Any) -> Decide:
    asked = Decide(
        trigger="intensity",
        reason="the grid moved",
        gpus=problem.gpus,
        rate_rps=problem.rate_rps,
        current=None,
        present=problem.present,
    )
    return dataclasses.replace(asked, **changes)


def elsewhere(problem: Problem, score: float | None) -> Answer:
    """Give an answer with another layout."""
    found = best_dispatch(problem, proofs=PROOFS)
    assert found is not None
    return Answer(
        configuration=Configuration.uniform(problem.gpus, MIXED),
        evaluation=found.evaluation,
        objective=problem.objective().value(found.evaluation),
        reason="the best of all",
        candidates=(),
        evaluations=3,
        meets_sla=True,
        score=score,
        upper_bound=score,
        late_upper=0.04,
    )


@pytest.mark.parametrize(("above", "kept"), [(0.0, True), (0.9, True), (1.1, False), (100.0, False), (-5.0, True)])
def test_the_layout_stays_if_it_scores_nearly_as_much(above: float, *, kept: bool) -> None:
    problem = question()
    found = best_dispatch(problem, proofs=PROOFS)
    assert found is not None
    best = elsewhere(problem, found.score + above * KEPT_WITHIN)
    answer = LayoutKeeper(seed=0, proofs=PROOFS).kept(ask(problem), problem, best)
    if not kept:
        assert answer is best
        return
    assert answer.configuration == problem.present
    assert answer.dispatch == found.dispatch
    assert answer.evaluation == found.evaluation
    assert (answer.score, answer.upper_bound, answer.late_upper) == (found.score, best.score, found.late_upper)
    assert answer.objective == pytest.approx(problem.objective().value(found.evaluation))
    assert "the layout stays" in answer.reason
    # What was given up for it is told first.
    assert answer.candidates[0].text == str(best.configuration)


@pytest.mark.parametrize(
    "changes",
    [
        {"trigger": "load"},
        {"trigger": "fleet"},
        {"trigger": "drift"},
        {"trigger": "sla"},
        {"trigger": "start"},
        {"guard": "dispatch"},
        {"pinned": {question().gpus[0]: LARGE}},
    ],
    ids=str,
)
def test_only_a_change_of_the_grid_keeps_layouts(changes: dict[str, Any]) -> None:
    problem = question()
    best = elsewhere(problem, -1.0)
    assert LayoutKeeper(seed=0, proofs=PROOFS).kept(ask(problem, **changes), problem, best) is best


def test_what_is_not_there_or_proves_nothing_is_not_kept() -> None:
    problem = question()
    best = elsewhere(problem, -1.0)
    nothing = dataclasses.replace(problem, present=None)
    assert LayoutKeeper(seed=0, proofs=PROOFS).kept(ask(nothing), nothing, best) is best
    assert problem.present is not None
    half = dataclasses.replace(problem, present=Configuration(problem.present.gpus[:1]))
    assert LayoutKeeper(seed=0, proofs=PROOFS).kept(ask(half), half, best) is best
    unproven = elsewhere(problem, None)
    assert LayoutKeeper(seed=0, proofs=PROOFS).kept(ask(problem), problem, unproven) is unproven
    same = dataclasses.replace(best, configuration=problem.present)
    assert LayoutKeeper(seed=0, proofs=PROOFS).kept(ask(problem), problem, same) is same


def test_a_layout_that_people_have_pinned_gets_its_best_dispatch() -> None:
    given = question()
    assert given.present is not None
    pinned = dataclasses.replace(given, present=None)
    open_ = dataclasses.replace(elsewhere(given, None), configuration=given.present, dispatch={}, meets_sla=False)
    answer = LayoutKeeper(seed=0, proofs=PROOFS).dispatched(pinned, open_)
    found = best_dispatch(given, proofs=PROOFS)
    assert found is not None
    assert answer.configuration == given.present
    assert (answer.dispatch, answer.evaluation, answer.score) == (found.dispatch, found.evaluation, found.score)
    assert answer.meets_sla
    assert answer.reason == f"the best of all; on this layout dispatch {found.name}"


def test_a_pinned_layout_that_cannot_keep_the_promise_stays_as_it_is_answered() -> None:
    given = question(rate_rps=10.0 * question().rate_rps)
    assert given.present is not None
    open_ = dataclasses.replace(elsewhere(question(), None), configuration=given.present, dispatch={})
    keeper = LayoutKeeper(seed=0, proofs=PROOFS)
    assert keeper.dispatched(given, open_) is open_
    parked = dataclasses.replace(
        open_, configuration=Configuration.uniform(given.gpus, GpuConfiguration(mode="parked"))
    )
    assert keeper.dispatched(given, parked) is parked
