"""What a scheme is asked and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from clover.core.application import ServiceModel
from clover.core.configuration import Configuration, GpuConfiguration, GpuId
from clover.core.objective import Baseline, Objective, baseline
from clover.core.queueing import Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question to a scheme.

    Attributes:
        model: Application and table.
        multisets: Partitions that the board allows, as profile sizes largest first (only maximal ones are worth
            trying).
        gpus: The fleet.
        rate_rps: Load to plan for.
        sla_ms: Promised 95th percentile.
        lambda_: Weight of carbon.
        intensity_g_per_kwh, pue: Of the grid and the building now.
        current: Configuration of every GPU at present; None at the start.
    """

    model: ServiceModel
    multisets: tuple[tuple[str, ...], ...]
    gpus: tuple[GpuId, ...]
    rate_rps: float
    sla_ms: float
    lambda_: float
    intensity_g_per_kwh: float
    pue: float
    current: GpuConfiguration | None = None

    def __post_init__(self) -> None:
        if not self.gpus:
            raise ValueError("fleet of 0 GPUs: expected at least 1")
        if not self.multisets:
            raise ValueError("no partition is allowed: expected at least one")

    @property
    def whole(self) -> str:
        """The profile size that takes a whole board."""
        return next(multiset[0] for multiset in self.multisets if len(multiset) == 1)

    def baseline(self) -> Baseline:
        """Evaluate BASE for this load and fleet."""
        return baseline(self.model, self.whole, len(self.gpus), self.rate_rps, self.sla_ms)

    def objective(self) -> Objective:
        """Return the objective at the present intensity."""
        return Objective(
            lambda_=self.lambda_,
            baseline=self.baseline(),
            intensity_g_per_kwh=self.intensity_g_per_kwh,
            pue=self.pue,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A configuration of one GPU, given to all of them, and how the fleet would do with it."""

    gpu: GpuConfiguration
    evaluation: Evaluation
    objective: float
    meets_sla: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A scheme's decision.

    Attributes:
        configuration: Of the whole fleet.
        evaluation: Of that configuration.
        objective: Its value now.
        reason: One line for people.
        candidates: Everything that was looked at for this decision, best first (those that keep the promise lead).
        evaluations: How many were newly evaluated.
        meets_sla: False if nothing was found that keeps the promise (the present configuration stays).
    """

    configuration: Configuration
    evaluation: Evaluation
    objective: float
    reason: str
    candidates: tuple[Candidate, ...]
    evaluations: int
    meets_sla: bool


class Scheme(Protocol):
    """A way to plan. Schemes may remember earlier evaluations, and own their random numbers."""

    @property
    def name(self) -> str:
        """Such as `clover`."""
        ...

    def plan(self, problem: Problem) -> Answer:
        """Decide; deterministic for a given seed and history of questions."""
        ...
