"""The original's searches over one configuration for all GPUs: annealing (`clover`) and random (`blover`).

Parameters as in the published system (SC'23, section 5, and its code): temperature 100, minus 5 per evaluation, floor
10; acceptance exp(-(f_centre - f_new) / (K x T)) with K = 1e-4; neighbours within Manhattan distance 4 of the
centre's edge
weights, found among at most 400 random draws that have not been evaluated in this invocation; stop after 5 evaluations
without improvement, after 10 fresh evaluations, or when no new neighbour is found - but only once a candidate has met
the SLA. Here a candidate is evaluated on the model, never on live users.

Two deviations, both stated: a candidate that misses the SLA scores f - (p95 / SLA - 1) instead of f x SLA / p95,
because the original's penalty raises a negative f (`faithful=True` restores it); and a search that never meets the
SLA stops
after 30 evaluations and keeps the present configuration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

from clover.core.configuration import Configuration, GpuConfiguration
from clover.core.objective import Objective, base_gpu
from clover.plan.evaluator import UniformEvaluator, best_first
from clover.plan.problem import Answer, Candidate, Problem
from clover.plan.space import random_gpu_configuration

_NEIGHBOUR_DISTANCE = 4
_MAX_DRAWS = 400
_MAX_FRESH = 10
_MAX_WITHOUT_IMPROVEMENT = 5
_MAX_WHILE_INFEASIBLE = 30
_START_TEMPERATURE, _TEMPERATURE_STEP, _LOWEST_TEMPERATURE = 100.0, 5.0, 10.0
_K = 1e-4
_NO_SCORE = -1000.0


@dataclass(slots=True)
class _Invocation:
    """Progress of one search."""

    problem: Problem
    objective: Objective
    centre: GpuConfiguration
    centre_score: float = _NO_SCORE
    temperature: float = _START_TEMPERATURE
    seen: dict[GpuConfiguration, Candidate] = field(default_factory=dict[GpuConfiguration, Candidate])
    without_improvement: int = 0
    best_score: float = -math.inf

    @property
    def feasible(self) -> bool:
        return any(candidate.meets_sla for candidate in self.seen.values())

    @property
    def finished(self) -> bool:
        if not self.feasible:
            return len(self.seen) >= _MAX_WHILE_INFEASIBLE
        return self.without_improvement >= _MAX_WITHOUT_IMPROVEMENT or len(self.seen) >= _MAX_FRESH


class SearchScheme:
    """`clover` (annealing in the neighbourhood of the centre) or `blover` (draws over the whole space)."""

    def __init__(
        self, name: str, *, seed: int, faithful: bool = False, evaluator: UniformEvaluator | None = None
    ) -> None:
        self._name = name
        self._rng = Random(seed)  # noqa: S311 - a search, not a secret
        self._faithful = faithful
        self._evaluator = evaluator or UniformEvaluator()

    @property
    def name(self) -> str:
        """`clover` or `blover`."""
        return self._name

    @property
    def random_state(self) -> tuple[object, ...]:
        """Where its random numbers are; may be set back."""
        return self._rng.getstate()

    @random_state.setter
    def random_state(self, state: tuple[object, ...]) -> None:
        self._rng.setstate(state)

    def plan(self, problem: Problem) -> Answer:
        """Search from the present configuration (BASE at the start) for the best one that keeps the promise."""
        centre = problem.current or base_gpu(problem.model, problem.whole)
        search = _Invocation(problem=problem, objective=problem.objective(), centre=centre)
        self._consider(search, centre)
        while not search.finished:
            candidate = self._draw(search)
            if candidate is None:
                break
            self._consider(search, candidate)
        return self._answer(search, centre)

    def _consider(self, search: _Invocation, gpu: GpuConfiguration) -> None:
        candidate = self._evaluator.candidate(search.problem, search.objective, gpu)
        search.seen[gpu] = candidate
        score = self._score(candidate, search.problem.sla_ms)
        if score > search.best_score:
            search.best_score, search.without_improvement = score, 0
        else:
            search.without_improvement += 1
        if self._accepts(search, score):
            search.centre, search.centre_score = gpu, score
        search.temperature = max(_LOWEST_TEMPERATURE, search.temperature - _TEMPERATURE_STEP)

    def _accepts(self, search: _Invocation, score: float) -> bool:
        if score >= search.centre_score:
            return True
        return self._rng.random() < math.exp((score - search.centre_score) / (_K * search.temperature))

    def _score(self, candidate: Candidate, sla_ms: float) -> float:
        if candidate.meets_sla:
            return candidate.objective
        # An overloaded fleet has no p95; a factor of 10 keeps the score finite and worse than any stable candidate's.
        ratio = candidate.evaluation.p95_ms / sla_ms if candidate.evaluation.stable else 10.0
        return candidate.objective / ratio if self._faithful else candidate.objective - max(ratio - 1.0, 0.0)

    def _draw(self, search: _Invocation) -> GpuConfiguration | None:
        centre = search.centre.graph
        for _ in range(_MAX_DRAWS):
            gpu = random_gpu_configuration(search.problem.model, search.problem.multisets, self._rng)
            near = self._name == "blover" or gpu.graph.distance(centre) <= _NEIGHBOUR_DISTANCE
            if near and gpu not in search.seen:
                return gpu
        return None

    def _answer(self, search: _Invocation, present: GpuConfiguration) -> Answer:
        ordered = best_first(list(search.seen.values()))
        best = ordered[0] if search.feasible else search.seen[present]
        if not search.feasible:
            reason = (
                f"none of {len(ordered)} candidates keeps p95 within {search.problem.sla_ms:g} ms: configuration kept"
            )
        elif best.gpu == search.problem.current:
            reason = f"the present configuration is the best of {len(ordered)} candidates"
        else:
            reason = f"best of {len(ordered)} candidates that keep p95 within {search.problem.sla_ms:g} ms"
        return Answer(
            configuration=Configuration.uniform(search.problem.gpus, best.gpu),
            evaluation=best.evaluation,
            objective=best.objective,
            reason=reason,
            candidates=ordered,
            evaluations=len(ordered),
            meets_sla=search.feasible,
            explored=self._evaluator.explored(),
        )
