"""From a question of the controller to a plan record: runs the scheme and evaluates each step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import msgspec

from clover.agents.door import Door
from clover.agents.goals import Goals
from clover.agents.plan_records import plan_record
from clover.agents.translate import by_node, dispatch_target, prediction
from clover.bus.messages import DispatchRule, PlanRecord, Prediction, Target
from clover.core.application import ServiceModel
from clover.core.calibration import Factors, calibrated
from clover.core.configuration import Configuration, FleetCounts, GpuId
from clover.core.control import Decide, Send
from clover.core.guard import GuardLevel
from clover.core.objective import Objective
from clover.core.queueing import Evaluation, evaluate
from clover.plan import measures
from clover.plan.exact import ExactScheme
from clover.plan.following import LayoutKeeper
from clover.plan.live import LiveScheme
from clover.plan.problem import Answer, Problem, Scheme


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
        seed: Of certificates.
    """

    def __init__(
        self,
        *,
        model: ServiceModel,
        multisets: tuple[tuple[str, ...], ...],
        scheme: Scheme,
        goals: Goals,
        controller: str,
        seed: int = 0,
    ) -> None:
        self._model = model
        self._multisets = multisets
        self._scheme = scheme
        self._goals = goals
        self._controller = controller
        #: Schemes that prove what they say are asked whether the layout may stay.
        self._keeper = LayoutKeeper(seed=seed) if isinstance(scheme, ExactScheme) else None
        self._given = model
        self._factors = Factors()
        #: Tables that plans were made with stay, for schemes know them by their identity.
        self._tables = [model]

    @property
    def model(self) -> ServiceModel:
        """Application and the table as it was given."""
        return self._given

    @property
    def goals(self) -> Goals:
        """What to achieve."""
        return self._goals

    @property
    def multisets(self) -> tuple[tuple[str, ...], ...]:
        """Partitions that the board allows."""
        return self._multisets

    def calibrate(self, factors: Factors) -> None:
        """Plan with the table as it was measured from now on."""
        self._factors = factors
        self._model = calibrated(self._given, factors)
        self._tables.append(self._model)

    def late_fraction(self, fleet: FleetCounts, rate_rps: float) -> float:
        """Predict P(late), 0..1, of a fleet at a load."""
        return evaluate(self._model, fleet, rate_rps, self._goals.sla_ms).late_fraction

    def decide(self, ask: Decide, *, number: int, intensity_g_per_kwh: float, pue: float, at_ms: float) -> Decision:
        """Run the scheme; slow and pure, so that it may run in a thread."""
        problem = self._problem(ask, intensity_g_per_kwh, pue)
        answer = measures.planned(self._scheme, problem, ask.guard, ask.pinned)
        if self._keeper is not None:
            answer = self._keeper.kept(ask, problem, answer)
            if ask.pinned and not measures.at_least(ask.guard, "dispatch"):
                answer = self._keeper.dispatched(problem, answer)
        return self._decision(ask, problem, answer, number=number, at_ms=at_ms)

    def measure(
        self, ask: Decide, *, number: int, intensity_g_per_kwh: float, pue: float, at_ms: float
    ) -> Decision | None:
        """Return the guard's measure on what is there, if it has just been raised and that needs no plan.

        Quick, and asks no scheme: it need not wait for a plan that is being made.
        """
        if not ask.raised or ask.pinned:
            return None
        problem = self._problem(ask, intensity_g_per_kwh, pue)
        answer = measures.quick(problem, ask.guard)
        return None if answer is None else self._decision(ask, problem, answer, number=number, at_ms=at_ms)

    def _problem(self, ask: Decide, intensity_g_per_kwh: float, pue: float) -> Problem:
        return self._goals.problem(ask, self._model, self._multisets, intensity_g_per_kwh=intensity_g_per_kwh, pue=pue)

    def _decision(self, ask: Decide, problem: Problem, answer: Answer, *, number: int, at_ms: float) -> Decision:
        objective = problem.objective()
        record = plan_record(
            ask,
            problem,
            answer,
            objective,
            goals=self._goals,
            factors=self._factors,
            door=self._door(ask.guard),
            scheme=self._scheme.name,
            controller=self._controller,
            number=number,
            at_ms=at_ms,
        )
        return Decision(problem=problem, objective=objective, answer=answer, record=record)

    def step_record(self, decision: Decision, step: Send, *, at_ms: float) -> PlanRecord:
        """Return the decision's record with the evaluation of one step of its roll."""
        serving = step.configuration.without(step.fenced)
        expected = decision.record.prediction
        if serving != decision.answer.configuration and serving.fleet.instances:
            expected = self._evaluate(decision.objective, serving, decision.problem)
        return self._stepped(decision.record, step, serving, expected, at_ms)

    def step_taken_over(self, record: PlanRecord, step: Send, *, at_ms: float) -> PlanRecord:
        """Return the record of a plan that another controller made, with the evaluation of one step of its roll."""
        serving = step.configuration.without(step.fenced)
        return self._stepped(record, step, serving, self._expected(record, serving), at_ms)

    def taken_over(self, record: PlanRecord, present: Configuration, fenced: Collection[GpuId]) -> PlanRecord:
        """Return the record of a plan that another controller made, as it is once all is `present` but the fenced."""
        door, serving = self._door(record.guard), present.without(fenced)
        return msgspec.structs.replace(
            record,
            admission_bound=door.bound(serving),
            tiers=door.tiers(serving),
            step_prediction=self._expected(record, serving),
        )

    def _stepped(
        self, record: PlanRecord, step: Send, serving: Configuration, expected: Prediction, at_ms: float
    ) -> PlanRecord:
        door = self._door(record.guard)
        return msgspec.structs.replace(
            record,
            admission_bound=door.bound(serving, changed=step.changed),
            tiers=door.tiers(serving, changed=step.changed),
            step_prediction=expected,
            fenced=tuple(str(gpu) for gpu in step.fenced),
            before=by_node(Configuration.of(step.before)),
            state="rolling",
            since_ms=at_ms,
        )

    def _expected(self, record: PlanRecord, serving: Configuration) -> Prediction:
        """Evaluate what serves under a plan that another controller made."""
        if by_node(serving) == record.configuration or not serving.fleet.instances:
            return record.prediction
        ask = Decide.about(
            {},
            tuple(gpu for gpu, _ in serving.gpus),
            {},
            trigger="start",
            reason=record.reason,
            rate_rps=record.prediction.rate_rps,
            guard=record.guard,
            raised=False,
        )
        problem = self._problem(ask, record.intensity_g_per_kwh, record.pue)
        return self._evaluate(problem.objective(), serving, problem)

    @property
    def measuring(self) -> bool:
        """Whether the last answer is a candidate that waits to be measured on live traffic."""
        return isinstance(self._scheme, LiveScheme) and self._scheme.measuring is not None

    def measured(self, evaluation: Evaluation, requests: int) -> None:
        """Take in what live traffic said of the candidate."""
        if isinstance(self._scheme, LiveScheme):
            self._scheme.measured(evaluation, requests)

    def look_ahead(self, decision: Decision, present: Configuration) -> None:
        """Let the scheme plan for other intensities at the same load, if it can; slow and pure like `decide`.

        First for dispatch on the layout that is `present`: the next reading may come soon.
        """
        if isinstance(self._scheme, ExactScheme) and decision.problem.model is self._model:
            if self._keeper is not None:
                self._keeper.look_ahead(replace(decision.problem, present=present))
            self._scheme.look_ahead(decision.problem)

    def known_dispatch(self, ask: Decide, *, intensity_g_per_kwh: float, pue: float) -> dict[str, DispatchRule] | None:
        """Return the best dispatch of each node on the present layout that is certified; None if none is. Quick."""
        if self._keeper is None:
            return None
        found = self._keeper.known(ask, self._problem(ask, intensity_g_per_kwh, pue))
        return None if found is None else {node: dispatch_target(rule) for node, rule in found.dispatch.items()}

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
                sla_p95_ms=self._goals.sla_ms,
            )
            for node, gpus in by_node(configuration).items()
        ]

    def _door(self, guard: GuardLevel) -> Door:
        return Door(self._model, self._goals.sla_ms, shed=guard == "shed")

    def _evaluate(self, objective: Objective, configuration: Configuration, problem: Problem) -> Prediction:
        evaluation = evaluate(self._model, configuration.fleet, problem.rate_rps, problem.sla_ms)
        return prediction(evaluation, objective.value(evaluation))
