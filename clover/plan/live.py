"""The original's way of evaluating: each candidate of the annealing is put in force and measured on live traffic.

A search asks for evaluations one after the other. Here it is begun again for each: what was measured is remembered, the
random numbers are set back, so it comes to the same place and asks for the next candidate - until it needs no more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from clover.core.configuration import Configuration, FleetCounts, GpuConfiguration
from clover.core.objective import LATE_LIMIT
from clover.core.queueing import Evaluation, evaluate
from clover.plan.evaluator import UniformEvaluator
from clover.plan.problem import Answer, Explored, Problem
from clover.plan.search import SearchScheme

#: Requests by which the original judges a candidate; measured for as long as so many take to arrive.
MEASURED_REQUESTS = 1000


class _NeedsMeasurementError(Exception):
    def __init__(self, gpu: GpuConfiguration) -> None:
        super().__init__(str(gpu))
        self.gpu = gpu


class _Measured(UniformEvaluator):
    """Knows what was measured, and nothing else."""

    _limit = LATE_LIMIT

    def __init__(self) -> None:
        super().__init__()
        self._explored: list[Explored] = []

    def give(self, problem: Problem, gpu: GpuConfiguration, evaluation: Evaluation, requests: int) -> None:
        """Remember a measurement."""
        self.remember(problem, gpu, evaluation)
        self._explored.append(Explored(gpu=gpu, evaluation=evaluation, requests=requests))

    def explored(self) -> tuple[Explored, ...]:
        """Return what was measured since the last call, and forget that it was."""
        explored, self._explored = tuple(self._explored), []
        return explored

    def _fresh(self, problem: Problem, gpu: GpuConfiguration) -> Evaluation:
        del problem
        raise _NeedsMeasurementError(gpu)


@dataclass(frozen=True, slots=True)
class _Pending:
    problem: Problem
    gpu: GpuConfiguration


class LiveScheme:
    """`clover` with live evaluation: as long as `measuring`, an answer is a candidate to be tried, not a decision.

    Args:
        seed: Of the annealing.
        faithful: Judge candidates that miss the SLA as the original does.
    """

    def __init__(self, *, seed: int, faithful: bool = False) -> None:
        self._evaluator = _Measured()
        self._search = SearchScheme("clover", seed=seed, faithful=faithful, evaluator=self._evaluator)
        self._began: Problem | None = None
        self._pending: _Pending | None = None

    @property
    def name(self) -> str:
        """`clover`."""
        return self._search.name

    @property
    def measuring(self) -> GpuConfiguration | None:
        """The candidate that waits for its measurement."""
        return self._pending.gpu if self._pending else None

    def measured(self, evaluation: Evaluation, requests: int) -> None:
        """Take in what live traffic said of the candidate, over so many requests."""
        if self._pending is not None:
            self._evaluator.give(self._pending.problem, self._pending.gpu, evaluation, requests)
            self._pending = None

    def plan(self, problem: Problem) -> Answer:
        """Go on with the search: return the next candidate to try, or the decision."""
        began = self._same_search(problem)
        state = self._search.random_state
        try:
            answer = self._search.plan(began)
        except _NeedsMeasurementError as needs:
            self._search.random_state = state
            self._pending = _Pending(began, needs.gpu)
            return self._candidate(problem, needs.gpu)
        self._began = None
        return replace(answer, reason=f"{answer.reason}; {_cost(answer.explored)}")

    def _same_search(self, problem: Problem) -> Problem:
        """Return the problem that this search began with, at the present grid; another load or fleet begins anew."""
        began = self._began
        if began is None or (began.gpus, began.rate_rps, began.model) != (
            problem.gpus,
            problem.rate_rps,
            problem.model,
        ):
            began = problem
        self._began = replace(began, intensity_g_per_kwh=problem.intensity_g_per_kwh, pue=problem.pue)
        return self._began

    def _candidate(self, problem: Problem, gpu: GpuConfiguration) -> Answer:
        fleet = FleetCounts.uniform(gpu, len(problem.gpus))
        evaluation = evaluate(problem.model, fleet, problem.rate_rps, problem.sla_ms)
        return Answer(
            configuration=Configuration.uniform(problem.gpus, gpu),
            evaluation=evaluation,
            objective=problem.objective().value(evaluation),
            reason=f"a candidate to be measured on live traffic for {MEASURED_REQUESTS / problem.rate_rps:.0f} s",
            candidates=(),
            evaluations=0,
            meets_sla=evaluation.meets(LATE_LIMIT),
        )


def _cost(explored: tuple[Explored, ...]) -> str:
    late = sum(each.evaluation.late_fraction * each.requests for each in explored)
    violations = sum(not each.evaluation.meets(LATE_LIMIT) for each in explored)
    return (
        f"{len(explored)} candidates explored on live traffic, {violations} of them broke the SLA, "
        f"{late:.0f} requests late in them"
    )
