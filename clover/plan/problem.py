"""What a scheme is asked and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from clover.core.application import ServiceModel
from clover.core.configuration import Configuration, GpuConfiguration, GpuId
from clover.core.dispatch import DispatchRule
from clover.core.objective import Baseline, Objective, baseline
from clover.core.queueing import Evaluation
from clover.plan.asking import Asked, by_accuracy_floor, by_carbon_budget, by_objective

Parking = Literal["none", "parked", "off"]
Goal = Literal["lambda", "accuracy_floor", "carbon_budget"]


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
        current: Configuration of every GPU at present, if all have the same; None at the start.
        present: What each GPU is at present; None at the start.
        parking: What GPUs that are not needed may become; only schemes that choose the number of GPUs use it.
        reserve: Serving GPUs beyond those that the load needs.
        accuracy_floor_pct: Asked for instead of `lambda_`: least carbon at no less than this accuracy.
        carbon_budget_g: Asked for instead of `lambda_`: highest accuracy at no more than so many gCO2e per 1000
            requests.

    Raises:
        ValueError: A number is out of range; the message names it and what was expected.
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
    present: Configuration | None = None
    parking: Parking = "none"
    reserve: int = 0
    accuracy_floor_pct: float | None = None
    carbon_budget_g: float | None = None

    def __post_init__(self) -> None:
        if not self.gpus:
            raise ValueError("fleet of 0 GPUs: expected at least 1")
        if not self.multisets:
            raise ValueError("no partition is allowed: expected at least one")
        for name in ("rate_rps", "sla_ms"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} = {getattr(self, name)}: expected a finite number above 0")
        if not 0.0 <= self.lambda_ <= 1.0:
            raise ValueError(f"lambda = {self.lambda_}: expected a number from 0 to 1")
        if not 0 <= self.reserve < len(self.gpus):
            raise ValueError(f"reserve = {self.reserve}: expected 0 to {len(self.gpus) - 1} of {len(self.gpus)} GPUs")
        self._check_asks()

    def _check_asks(self) -> None:
        if self.accuracy_floor_pct is not None and self.carbon_budget_g is not None:
            raise ValueError("accuracy floor and carbon budget: expected at most one of them")
        best = self.model.application.largest
        if self.accuracy_floor_pct is not None and not self.accuracy_floor_pct <= best.accuracy_pct:
            raise ValueError(
                f"accuracy floor = {self.accuracy_floor_pct:g}: expected at most {best.accuracy_pct:g}, "
                f"the accuracy of {best.name}, the best variant of {self.model.application.name}"
            )
        if self.carbon_budget_g is not None and not self.carbon_budget_g > 0:
            raise ValueError(f"carbon budget = {self.carbon_budget_g}: expected a number above 0")

    @property
    def effective_g_per_kwh(self) -> float:
        """Intensity x PUE."""
        return self.intensity_g_per_kwh * self.pue

    @property
    def goal(self) -> Goal:
        """Which of the three ways to ask is used."""
        if self.accuracy_floor_pct is not None:
            return "accuracy_floor"
        return "lambda" if self.carbon_budget_g is None else "carbon_budget"

    def asked(self, base: Baseline) -> Asked:
        """Return what is to be maximised and kept, beside the SLA."""
        if self.accuracy_floor_pct is not None:
            return by_accuracy_floor(self.accuracy_floor_pct)
        if self.carbon_budget_g is not None:
            return by_carbon_budget(self.carbon_budget_g, self.effective_g_per_kwh)
        return by_objective(self.lambda_, base, self.effective_g_per_kwh)

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

    @property
    def text(self) -> str:
        """For people."""
        return str(self.gpu)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCandidate:
    """A configuration of a fleet whose GPUs may differ, as `text`, and how it would do."""

    text: str
    evaluation: Evaluation
    objective: float
    meets_sla: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored:
    """A configuration that was tried on live traffic, for all GPUs alike; requests that had to wait there included."""

    gpu: GpuConfiguration
    evaluation: Evaluation
    requests: int


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
        dispatch: Rule of each node; longest-idle for those not named.
        score: What was maximised: the objective, minus the energy per request in J under an accuracy floor, the
            accuracy in per cent under a carbon budget. None for schemes that prove nothing.
        upper_bound: No plan scores higher, whatever its configuration and routing (for one contention in the fleet, and
            routing that does not look at the size of requests).
        late_upper: Certified upper bound of P(latency > SLA), None if the answer is not certified.
        explored: What was tried on live traffic for this decision; its cost is not in `evaluation`.
        asked_met: False if the accuracy floor or carbon budget cannot be kept; the answer is then what comes nearest.
    """

    configuration: Configuration
    evaluation: Evaluation
    objective: float
    reason: str
    candidates: tuple[Candidate | FleetCandidate, ...]
    evaluations: int
    meets_sla: bool
    dispatch: Mapping[str, DispatchRule] = field(default_factory=dict[str, DispatchRule])
    score: float | None = None
    upper_bound: float | None = None
    late_upper: float | None = None
    asked_met: bool = True
    explored: tuple[Explored, ...] = ()

    @property
    def gap(self) -> float | None:
        """Upper bound minus score, None if no bound is known."""
        if self.score is None or self.upper_bound is None:
            return None
        return max(0.0, self.upper_bound - self.score)


class Scheme(Protocol):
    """A way to plan. Schemes may remember earlier evaluations, and own their random numbers."""

    @property
    def name(self) -> str:
        """Such as `clover`."""
        ...

    def plan(self, problem: Problem) -> Answer:
        """Decide; deterministic for a given seed and history of questions."""
        ...
