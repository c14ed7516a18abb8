"""Evaluates configurations given to all GPUs alike, and remembers what it has seen.

Neither latency nor energy depends on the grid, so an evaluation made in a dirty hour is as good in a clean one: only
its carbon is computed anew (SC'23 rescales past measurements in the same way).
"""

from __future__ import annotations

from clover.core.configuration import FleetCounts, GpuConfiguration
from clover.core.objective import PLANNED_LATE_LIMIT, Objective
from clover.core.queueing import Evaluation, evaluate
from clover.plan.problem import Candidate, Problem

_MAX_REMEMBERED = 20_000


class UniformEvaluator:
    """Evaluation by the closed form, with memory across questions of the same load, fleet and SLA."""

    def __init__(self) -> None:
        self._memory: dict[tuple[object, ...], Evaluation] = {}

    def evaluate(self, problem: Problem, gpu: GpuConfiguration) -> Evaluation:
        """Return the evaluation of a fleet whose GPUs are all configured like this."""
        key = (
            problem.model.table.application,
            len(problem.gpus),
            problem.rate_rps,
            problem.sla_ms,
            gpu.graph,
        )
        known = self._memory.get(key)
        if known is not None:
            return known
        if len(self._memory) >= _MAX_REMEMBERED:
            self._memory.clear()
        fleet = FleetCounts.uniform(gpu, len(problem.gpus))
        evaluation = evaluate(problem.model, fleet, problem.rate_rps, problem.sla_ms)
        self._memory[key] = evaluation
        return evaluation

    def candidate(self, problem: Problem, objective: Objective, gpu: GpuConfiguration) -> Candidate:
        """Evaluate and judge."""
        evaluation = self.evaluate(problem, gpu)
        return Candidate(
            gpu=gpu,
            evaluation=evaluation,
            objective=objective.value(evaluation),
            meets_sla=evaluation.meets(PLANNED_LATE_LIMIT),
        )


def best_first(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Order candidates: those that keep the promise first, then by objective; equal ones by their text."""
    return tuple(sorted(candidates, key=lambda c: (not c.meets_sla, -c.objective, str(c.gpu))))
