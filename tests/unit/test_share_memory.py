"""Shares that are remembered by weight are those that are found afresh, and replays do not tell the difference."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clover.analysis.cases import Case, own_rate_rps, problem_of, with_table
from clover.catalog import load_service, load_trace
from clover.core.application import ServiceModel
from clover.core.calibration import Factors, calibrated
from clover.core.configuration import Configuration, GpuConfiguration, InstanceKind
from clover.core.control import Decide
from clover.core.queueing import evaluate
from clover.plan import dispatching, following, shares
from clover.plan.certify import Certificate
from clover.plan.counting import Hour
from clover.plan.exact import ExactScheme
from clover.plan.following import LayoutKeeper
from clover.plan.problem import Answer, Problem
from clover.plan.replay import Replay
from clover.plan.shares import FleetShares, Room, Shares, SharesMemory
from clover.plan.simulator import simulate
from clover.plan.space import all_gpu_configurations
from clover.plan.traffic import AgentFleet, Traffic

MODELS = {name: load_service(name, "a100-40gb") for name in ("albert", "efficientnet", "yolov5")}
YOLO = MODELS["yolov5"]
LARGE = GpuConfiguration((InstanceKind("7g", "yolov5x6"),))
MIXED = GpuConfiguration((InstanceKind("3g", "yolov5x"), InstanceKind("2g", "yolov5l"), InstanceKind("2g", "yolov5l")))


def question(app: str = "yolov5", **changes: Any) -> Problem:
    model = MODELS[app]
    case = Case(gpus=4, nodes=2, rate_rps=own_rate_rps(model, 4, 1.5), lambda_=0.3, parking="parked")
    asked = problem_of(model, case)
    return dataclasses.replace(asked, known_base=asked.baseline(), **changes)


def present(**changes: Any) -> Problem:
    asked = question(**changes)
    layout = dict(zip(asked.gpus, (LARGE, MIXED, LARGE, MIXED), strict=True))
    return dataclasses.replace(asked, present=Configuration.of(layout))


QUESTIONS = {app: question(app) for app in MODELS}
#: A variant on several sizes scores the same on all of them: ties are the rule, not the exception.
GPUS = {app: all_gpu_configurations(asked.model, asked.multisets) for app, asked in QUESTIONS.items()}


def score(problem: Problem, found: Shares | None) -> float | None:
    asked = problem.asked(problem.baseline())
    return None if found is None else asked.score(found.accuracy_pct, found.dynamic_j)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[str, Configuration]:
    app = draw(st.sampled_from(sorted(MODELS)))
    gpus = [draw(st.sampled_from(GPUS[app])) for _ in range(3)]
    return app, Configuration.of(dict(zip(QUESTIONS[app].gpus, (*gpus, gpus[0]), strict=True)))


@settings(max_examples=12, deadline=None)
@given(
    layout=layouts(),
    weights=st.lists(st.tuples(st.sampled_from((0.1, 0.5, 1.0)), st.floats(0.0, 900.0)), min_size=3, max_size=8),
    room=st.sampled_from((Room(utilisation=1.0, late=0.05), Room(utilisation=0.75, late=0.02))),
)
def test_what_is_remembered_scores_what_is_found_afresh(
    layout: tuple[str, Configuration], weights: list[tuple[float, float]], room: Room
) -> None:
    app, configuration = layout
    memory, other_way = SharesMemory(), SharesMemory()
    problems = [dataclasses.replace(QUESTIONS[app], lambda_=lambda_, intensity_g_per_kwh=g) for lambda_, g in weights]
    scores: dict[int, float | None] = {}
    for number, problem in enumerate(problems):
        asked = problem.asked(problem.baseline())
        scores[number] = score(problem, memory.of(problem, configuration).best(asked, room, 1.0))
        afresh = FleetShares(problem, configuration.fleet).best(asked, room, 1.0)
        assert scores[number] == pytest.approx(score(problem, afresh), abs=1e-9)
    for number, problem in reversed(list(enumerate(problems))):
        found = other_way.of(problem, configuration).best(problem.asked(problem.baseline()), room, 1.0)
        assert score(problem, found) == pytest.approx(scores[number], abs=1e-9)


def test_between_neighbours_that_agree_no_program_is_solved_and_little_is_remembered() -> None:
    problem = present()
    assert problem.present is not None
    known = SharesMemory().of(problem, problem.present)
    room = Room(utilisation=0.85, late=0.05)

    def ask(intensity: float) -> Shares | None:
        moved = dataclasses.replace(problem, intensity_g_per_kwh=intensity)
        return known.best(moved.asked(problem.baseline()), room, 1.0)

    steps = list(range(1, 201))
    random.Random(0).shuffle(steps)
    for step in steps:
        ask(4.0 * step)
    solved = known.programs
    assert solved < 4 * len(steps) / 3
    (line,) = known._lines.values()
    paths = [found.path for _, found in line]
    assert all(paths.count(path) <= 2 for path in paths)
    for step in range(1, 200):
        ask(4.0 * step + 1.0)
    assert known.programs - solved < 4 * 10


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = present()
    assert problem.present is not None
    for name in ("_MOST_FLEETS", "_MOST_LINES", "_MOST_PLACES", "_MOST_CONTENTIONS"):
        monkeypatch.setattr(shares, name, 3)
    memory = SharesMemory()
    asked = problem.asked(problem.baseline())
    for rate in (1.0, 2.0, 3.0, 4.0, 5.0):
        memory.of(dataclasses.replace(problem, rate_rps=rate), problem.present)
    assert len(memory._fleets) <= 3
    known = memory.of(problem, problem.present)
    for number in range(8):
        room = Room(utilisation=0.5 + number / 20.0, late=0.05)
        known.best(asked, room, 1.0)
        moved = dataclasses.replace(problem, intensity_g_per_kwh=20.0 + 100.0 * number)
        known.best(moved.asked(problem.baseline()), Room(utilisation=0.9, late=0.05), 1.0)
    assert len(known._lines) <= 3
    assert all(len(line) <= 3 for line in known._lines.values())
    assert len(known._at_rho) <= 3


def test_a_budget_of_energy_is_asked_afresh_and_a_floor_is_remembered_apart() -> None:
    problem = present()
    assert problem.present is not None
    known = SharesMemory().of(problem, problem.present)
    room = Room(utilisation=0.9, late=0.05)
    low, high = (
        known.best(dataclasses.replace(problem, accuracy_floor_pct=floor).asked(problem.baseline()), room, 1.0)
        for floor in (51.0, 53.0)
    )
    assert low is not None
    assert high is not None
    assert high.accuracy_pct >= 53.0 > low.accuracy_pct >= 51.0
    solved = known.programs
    budget = dataclasses.replace(problem, carbon_budget_g=60.0).asked(problem.baseline())
    for idle_j in (1.0, 300.0):
        found = known.best(budget, room, idle_j)
        assert found is None or found.dynamic_j + idle_j <= (budget.most_energy_j or 0.0)
    assert known.programs > solved


def _ask(problem: Problem) -> Decide:
    return Decide(
        trigger="intensity",
        reason="the grid moved",
        gpus=problem.gpus,
        rate_rps=problem.rate_rps,
        current=None,
        present=problem.present,
    )


ELSEWHERE = Answer(
    configuration=Configuration.uniform(question().gpus, MIXED),
    evaluation=question().baseline().evaluation,
    objective=0.0,
    reason="another layout, which scores too little",
    candidates=(),
    evaluations=0,
    meets_sla=True,
    score=-1.0,
)


def _quick(
    model: ServiceModel, agents: Sequence[AgentFleet], traffic: Traffic, *, sla_ms: float, seed: int
) -> Certificate:
    """Stand in for a certificate, with a hundredth of its requests."""
    seen = simulate(model, agents, traffic, sla_ms=sla_ms, requests=2_000, seed=seed)
    late = seen.evaluation.late_fraction
    return Certificate(
        certified=late < 0.05, late_upper=late, late_fraction=late, limit=0.05, requests=2_000, batches=20,
        simulation=seen,
    )  # fmt: skip


def test_another_table_or_load_is_judged_as_by_a_keeper_that_knows_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatching, "certify", _quick)
    slower = calibrated(YOLO, Factors(service={InstanceKind("2g", "yolov5l"): 1.2}))
    keeper = LayoutKeeper(seed=0)
    changes: tuple[dict[str, Any], ...] = (
        {},
        {"model": slower},
        {"model": slower, "rate_rps": 1.2},
        {"rate_rps": 1.2},
    )
    answers: list[Answer] = []
    for change in changes:
        problem = dataclasses.replace(present(), known_base=None, **change)
        answers.append(keeper.kept(_ask(problem), problem, ELSEWHERE))
        afresh = LayoutKeeper(seed=0).kept(_ask(problem), problem, ELSEWHERE)
        assert answers[-1].configuration == problem.present
        assert (answers[-1].dispatch, answers[-1].score) == (afresh.dispatch, afresh.score)
    assert len({answer.score for answer in answers}) == len(answers)


def test_parked_watts_and_which_gpu_is_which_change_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "certify", _quick)
    keeper = LayoutKeeper(seed=0)
    problem = present()
    first = keeper.kept(_ask(problem), problem, ELSEWHERE)
    assert first.evaluations > 0
    assert problem.present is not None
    (a, b), (c, d) = problem.present.gpus[:2], problem.present.gpus[2:]
    swapped = Configuration.of({a[0]: b[1], b[0]: a[1], c[0]: c[1], d[0]: d[1]})
    watts = dataclasses.replace(problem, model=with_table(YOLO, parked_power_w=1.0, idle_power_w=50.0), present=swapped)
    again = keeper.kept(_ask(watts), watts, ELSEWHERE)
    assert again.evaluations == 0
    assert again.evaluation.idle_power_w == 4 * 50.0
    assert again.evaluation.dynamic_j == first.evaluation.dynamic_j
    fresh = LayoutKeeper(seed=0).kept(_ask(watts), watts, ELSEWHERE)
    assert (again.dispatch, again.score, again.evaluation) == (fresh.dispatch, fresh.score, fresh.evaluation)


class _Forgetful(SharesMemory):
    """Remembers nothing."""

    def of(self, problem: Problem, present: Configuration) -> FleetShares:
        return FleetShares(problem, present.fleet)


class _Restless(ExactScheme):
    """Always wants the other one of two layouts."""

    def plan(self, problem: Problem) -> Answer:
        layouts = (present().present, ELSEWHERE.configuration)
        wanted = layouts[problem.present == layouts[0]]
        assert wanted is not None
        evaluation = evaluate(problem.model, wanted.fleet, problem.rate_rps, problem.sla_ms)
        asked = problem.asked(problem.baseline())
        return dataclasses.replace(
            ELSEWHERE,
            configuration=wanted,
            evaluation=evaluation,
            score=asked.score(evaluation.accuracy_pct, evaluation.energy_j_per_request),
        )


def test_a_replay_counts_the_same_with_and_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "certify", _quick)
    asked = dataclasses.replace(question(), lambda_=0.1)
    trace = load_trace("ciso-march").values_g_per_kwh
    hours = [Hour(rate_rps=asked.rate_rps, intensity_g_per_kwh=g) for g in trace[:24]]
    kept = Replay(_Restless(), asked, keeper=LayoutKeeper(seed=0)).run(hours)
    monkeypatch.setattr(following, "SharesMemory", _Forgetful)
    forgot = Replay(_Restless(), asked, keeper=LayoutKeeper(seed=0)).run(hours)
    stays = ["the layout stays" in answer.reason for answer in kept.answers]
    assert 0 < sum(stays) < len(stays)
    assert any("dispatch shares" in answer.reason for answer in kept.answers)
    for field in ("energy_j", "footprint_g", "accuracy_pct", "late", "objective", "mig_changes", "replans", "change_s"):
        assert getattr(kept, field) == getattr(forgot, field)
