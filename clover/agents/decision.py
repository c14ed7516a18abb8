"""From a question of the controller to a plan record: runs the scheme and evaluates each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from clover.agents.translate import alternative, by_node, prediction
from clover.bus.messages import DispatchRule, PlanRecord, Prediction, Target, Tier
from clover.core.application import ServiceModel
from clover.core.configuration import Configuration, GpuId
from clover.core.controller import Decide
from clover.core.objective import Objective, rightsized
from clover.core.outcome import default_deadline_s
from clover.core.queueing import evaluate
from clover.core.tiers import accuracy_tiers
from clover.plan.exact import ExactScheme
from clover.plan.problem import Answer, Parking, Problem, Scheme

#: How many of the beaten alternatives a plan record names.
TOLD_ALTERNATIVES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What the deployment is asked to achieve.

    Attributes:
        lambda_: Weight of carbon against accuracy, 0..1.
        sla_ms: Promised 95th percentile.
        parking: What GPUs that are not needed may become.
        reserve: Serving GPUs beyond those that the load needs.
        accuracy_floor_pct: Asked for instead of `lambda_`: least carbon at no less than this accuracy.
        carbon_budget_g: Asked for instead of `lambda_`: highest accuracy within so many gCO2e per 1000 requests.
    """

    lambda_: float
    sla_ms: float
    parking: Parking = "none"
    reserve: int = 0
    accuracy_floor_pct: float | None = None
    carbon_budget_g: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A decision with all that is needed to write its plan records."""

    problem: Problem
    objective: Objective
    answer: Answer
    record: PlanRecord


class DecisionMaker:
    """Turns questions into decisions.

    Args:
        model: Application and table.
        multisets: Partitions that the board allows.
        scheme: How to decide.
        goals: What to achieve.
        controller: Name that the records carry.
    """

    def __init__(
        self,
        *,
        model: ServiceModel,
        multisets: tuple[tuple[str, ...], ...],
        scheme: Scheme,
        goals: Goals,
        controller: str,
    ) -> None:
        self._model = model
        self._multisets = multisets
        self._scheme = scheme
        self._goals = goals
        self._controller = controller

    @property
    def model(self) -> ServiceModel:
        """Application and table."""
        return self._model

    def decide(self, ask: Decide, *, number: int, intensity_g_per_kwh: float, pue: float, at_ms: float) -> Decision:
        """Run the scheme; slow and pure, so that it may run in a thread."""
        problem = Problem(
            model=self._model,
            multisets=self._multisets,
            gpus=ask.gpus,
            rate_rps=ask.rate_rps,
            sla_ms=self._goals.sla_ms,
            lambda_=self._goals.lambda_,
            intensity_g_per_kwh=intensity_g_per_kwh,
            pue=pue,
            current=ask.current,
            present=ask.present,
            parking=self._goals.parking,
            # A fleet that has lost GPUs serves with what is left of it.
            reserve=min(self._goals.reserve, len(ask.gpus) - 1),
            accuracy_floor_pct=self._goals.accuracy_floor_pct,
            carbon_budget_g=self._goals.carbon_budget_g,
        )
        answer = self._scheme.plan(problem)
        objective = problem.objective()
        base = objective.baseline
        small = rightsized(self._model, problem.whole, len(ask.gpus), ask.rate_rps, self._goals.sla_ms)
        wanted = prediction(answer.evaluation, answer.objective)
        beaten = [c for c in answer.candidates if c.evaluation is not answer.evaluation]
        record = PlanRecord(
            epoch=0,
            decision=number,
            scheme=self._scheme.name,
            trigger=ask.trigger,
            reason=f"{ask.reason}; {answer.reason}",
            application=self._model.application.name,
            gpu_model=self._model.table.gpu_model,
            lambda_=self._goals.lambda_,
            sla_p95_ms=self._goals.sla_ms,
            intensity_g_per_kwh=intensity_g_per_kwh,
            pue=pue,
            deadline_s=default_deadline_s(self._goals.sla_ms),
            admission_bound=self._admission_bound(answer.configuration),
            tiers=self._tiers(answer.configuration),
            configuration=by_node(answer.configuration),
            prediction=wanted,
            step_prediction=wanted,
            base=prediction(base.evaluation, objective.value(base.evaluation)),
            base_rightsized=prediction(small, objective.value(small)),
            base_feasible=base.feasible,
            alternatives=tuple(alternative(candidate) for candidate in beaten[:TOLD_ALTERNATIVES]),
            evaluations=answer.evaluations,
            state="serving",
            decided_at_ms=at_ms,
            since_ms=at_ms,
            controller=self._controller,
        )
        return Decision(problem=problem, objective=objective, answer=answer, record=record)

    def step_record(
        self, decision: Decision, configuration: Configuration, *, changed: tuple[GpuId, ...], at_ms: float
    ) -> PlanRecord:
        """Return the decision's record with the evaluation of one step of its roll, which moves the GPUs `changed`."""
        step = decision.record.prediction
        if configuration != decision.answer.configuration:
            step = self._evaluate(decision.objective, configuration, decision.problem)
        return msgspec.structs.replace(
            decision.record,
            admission_bound=self._admission_bound(configuration, changed=changed),
            tiers=self._tiers(configuration, changed=changed),
            step_prediction=step,
            state="rolling",
            since_ms=at_ms,
        )

    def look_ahead(self, decision: Decision) -> None:
        """Let the scheme plan for other intensities at the same load, if it can; slow and pure like `decide`."""
        if isinstance(self._scheme, ExactScheme):
            self._scheme.look_ahead(decision.problem)

    def targets(
        self, configuration: Configuration, *, reason: str, dispatch: Mapping[str, DispatchRule] | None = None
    ) -> list[Target]:
        """Return the complete targets of all nodes; their epoch is filled in when they are published.

        Args:
            configuration: Of the fleet.
            reason: For people.
            dispatch: Rule of each node; longest-idle for those not named.
        """
        rules = dispatch or {}
        return [
            Target(
                epoch=0,
                node=node,
                application=self._model.application.name,
                gpus=gpus,
                dispatch=rules.get(node, DispatchRule()),
                reason=reason,
            )
            for node, gpus in by_node(configuration).items()
        ]

    def _evaluate(self, objective: Objective, configuration: Configuration, problem: Problem) -> Prediction:
        evaluation = evaluate(self._model, configuration.fleet, problem.rate_rps, problem.sla_ms)
        return prediction(evaluation, objective.value(evaluation))

    def _tiers(self, configuration: Configuration, *, changed: tuple[GpuId, ...] = ()) -> tuple[Tier, ...]:
        """Return the application's accuracy tiers with what the fleet can finish of each in time."""
        accuracies = accuracy_tiers(variant.accuracy_pct for variant in self._model.application.variants)
        return tuple(
            Tier(
                accuracy_pct=accuracy,
                bound=math.ceil(self._finishable(configuration, changed=changed, min_accuracy_pct=accuracy)),
            )
            for accuracy in accuracies
        )

    def _admission_bound(self, configuration: Configuration, *, changed: tuple[GpuId, ...] = ()) -> int:
        """Most requests that may wait: what the fleet can finish between now and a request's deadline.

        A GPU that is being changed begins that much later, so that overload is said at the door and not by expiry.
        """
        return max(1, int(self._finishable(configuration, changed=changed)))

    def _finishable(
        self, configuration: Configuration, *, changed: tuple[GpuId, ...], min_accuracy_pct: float = 0.0
    ) -> float:
        """Return how many requests variants of at least some accuracy can finish before the default deadline."""
        change = self._model.table.change
        change_s = change.destroy_s + change.create_s + change.worker_start_s
        window_s = default_deadline_s(self._goals.sla_ms) - self._goals.sla_ms / 1e3
        count = 0.0
        for gpu, content in configuration.gpus:
            rate_rps = sum(
                1e3 / self._model.mean_ms(kind.variant, kind.profile, 1.0)
                for kind in content.instances
                if self._model.application.variant(kind.variant).accuracy_pct >= min_accuracy_pct
            )
            count += rate_rps * max(0.0, window_s - (change_s if gpu in changed else 0.0))
        return count
