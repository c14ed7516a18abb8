"""Schemes that do not search: BASE and CO2OPT."""

from __future__ import annotations

from clover.core.configuration import Configuration, GpuConfiguration, InstanceKind
from clover.core.objective import base_gpu
from clover.plan.evaluator import UniformEvaluator
from clover.plan.problem import Answer, Problem


class FixedScheme:
    """One configuration whatever the grid does.

    Args:
        name: `base` (largest variant on whole GPUs) or `co2opt` (smallest variant on the finest partition).
        variant: Another variant for the finest partition than the smallest.
    """

    def __init__(self, name: str, *, variant: str = "") -> None:
        self._name = name
        self._variant = variant
        self._evaluator = UniformEvaluator()

    @property
    def name(self) -> str:
        """`base` or `co2opt`."""
        return self._name

    def plan(self, problem: Problem) -> Answer:
        """Return the fixed configuration, evaluated."""
        gpu = base_gpu(problem.model, problem.whole) if self._name == "base" else _finest_gpu(problem, self._variant)
        candidate = self._evaluator.candidate(problem, problem.objective(), gpu)
        kind = (
            "largest variant on whole GPUs"
            if self._name == "base"
            else f"{self._variant or 'smallest'} variant on the finest partition"
        )
        return Answer(
            configuration=Configuration.uniform(problem.gpus, gpu),
            evaluation=candidate.evaluation,
            objective=candidate.objective,
            reason=f"scheme {self._name}: {kind}, whatever the grid does",
            candidates=(candidate,),
            evaluations=1,
            meets_sla=candidate.meets_sla,
        )


def _finest_gpu(problem: Problem, variant: str) -> GpuConfiguration:
    finest = max(problem.multisets, key=lambda multiset: (len(multiset), multiset))
    variant = variant or problem.model.application.smallest.name
    return GpuConfiguration(tuple(InstanceKind(size, variant) for size in finest))
