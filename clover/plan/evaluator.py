"""Evaluates configurations given to all GPUs alike, and remembers what it has seen.

Neither latency nor energy depends on the grid, so an evaluation made in a dirty hour is as good in a clean one: only
its carbon is computed anew (SC'23 rescales past measurements in the same way).
"""

from __future__ import annotations

import zlib

from clover.core.application import ServiceModel
from clover.core.configuration import FleetCounts, GpuConfiguration
from clover.core.objective import LATE_LIMIT, PLANNED_LATE_LIMIT, Objective
from clover.core.queueing import Evaluation, evaluate, idle_power_w
from clover.plan.problem import Candidate, Explored, Problem
from clover.plan.simulator import simulate
from clover.plan.traffic import Traffic, one_agent

_MAX_REMEMBERED = 20_000
#: Requests by which the original judges a configuration (its runs use 500 to 1000).
LIVE_REQUESTS = 1000
_LIVE_STREAM = 0x11FE


def _key(problem: Problem, gpu: GpuConfiguration) -> tuple[object, ...]:
    return (problem.model.table.application, len(problem.gpus), problem.rate_rps, problem.sla_ms, gpu.graph)


#: Requests on a fresh configuration before those that count: enough to fill its few instances.
_LIVE_WARM_UP = 1_000


class UniformEvaluator:
    """Evaluation by the closed form, with memory across questions of the same load, fleet and SLA."""

    _limit = PLANNED_LATE_LIMIT

    def __init__(self) -> None:
        self._memory: dict[tuple[object, ...], Evaluation] = {}
        self._model: ServiceModel | None = None

    def evaluate(self, problem: Problem, gpu: GpuConfiguration) -> Evaluation:
        """Return the evaluation of a fleet whose GPUs are all configured like this."""
        self._know(problem.model)
        key = _key(problem, gpu)
        known = self._memory.get(key)
        if known is not None:
            return known
        evaluation = self._fresh(problem, gpu)
        self.remember(problem, gpu, evaluation)
        return evaluation

    def _know(self, model: ServiceModel) -> None:
        """Forget what was said by another table: it may have been re-calibrated."""
        if self._model is not model:
            self._model = model
            self._memory.clear()

    def remember(self, problem: Problem, gpu: GpuConfiguration, evaluation: Evaluation) -> None:
        """Remember the evaluation of a fleet whose GPUs are all configured like this."""
        self._know(problem.model)
        if len(self._memory) >= _MAX_REMEMBERED:
            self._memory.clear()
        self._memory[_key(problem, gpu)] = evaluation

    def explored(self) -> tuple[Explored, ...]:
        """Return what was tried on live traffic since the last call: nothing, since this is a model."""
        return ()

    def _fresh(self, problem: Problem, gpu: GpuConfiguration) -> Evaluation:
        fleet = FleetCounts.uniform(gpu, len(problem.gpus))
        return evaluate(problem.model, fleet, problem.rate_rps, problem.sla_ms)

    def candidate(self, problem: Problem, objective: Objective, gpu: GpuConfiguration) -> Candidate:
        """Evaluate and judge."""
        evaluation = self.evaluate(problem, gpu)
        return Candidate(
            gpu=gpu,
            evaluation=evaluation,
            objective=objective.value(evaluation),
            meets_sla=evaluation.meets(self._limit),
        )


class LiveEvaluator(UniformEvaluator):
    """Evaluation as the original makes it, modelled: some requests of live traffic on the configuration itself.

    The verdict comes from those requests alone, with all their noise; what they cost is for the caller to charge
    (`explored`). A configuration that was measured before is not measured again. What is seen of a configuration does
    not depend on what was measured before it.

    Args:
        seed: Of arrivals and service times.
        requests: How many are looked at.
        measured: What is seen of each configuration by evaluators of this model; to share with others.
    """

    _limit = LATE_LIMIT

    def __init__(
        self,
        *,
        seed: int,
        requests: int = LIVE_REQUESTS,
        measured: dict[tuple[object, ...], Evaluation] | None = None,
    ) -> None:
        super().__init__()
        self._seed, self._requests = seed, requests
        self._measured: dict[tuple[object, ...], Evaluation] = {} if measured is None else measured
        self._explored: list[Explored] = []

    def explored(self) -> tuple[Explored, ...]:
        """Return what was tried since the last call, and forget it."""
        explored = tuple(self._explored)
        self._explored.clear()
        return explored

    def _fresh(self, problem: Problem, gpu: GpuConfiguration) -> Evaluation:
        key = (self._seed, self._requests, *_key(problem, gpu))
        if key not in self._measured:
            self._measured[key] = self._measure(problem, gpu)
        seen = self._measured[key]
        self._explored.append(Explored(gpu=gpu, evaluation=seen, requests=self._requests))
        return seen

    def _measure(self, problem: Problem, gpu: GpuConfiguration) -> Evaluation:
        fleet = FleetCounts.uniform(gpu, len(problem.gpus))
        which = zlib.crc32(str(gpu.graph).encode())
        return simulate(
            problem.model,
            one_agent(fleet),
            Traffic(rate_rps=problem.rate_rps),
            sla_ms=problem.sla_ms,
            idle_power_w=idle_power_w(problem.model, fleet),
            requests=self._requests,
            warm_up=_LIVE_WARM_UP,
            seed=(_LIVE_STREAM, self._seed, which),
        ).evaluation


def best_first(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Order candidates: those that keep the promise first, then by objective; equal ones by their text."""
    return tuple(sorted(candidates, key=lambda c: (not c.meets_sla, -c.objective, str(c.gpu))))
