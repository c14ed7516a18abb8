"""What is written down of a decision, for whoever asks why and for a controller that takes over."""

from __future__ import annotations

from clover.agents.door import Door
from clover.agents.goals import Goals
from clover.agents.translate import alternative, by_node, prediction
from clover.bus.messages import Calibration, PlanRecord
from clover.core.calibration import Factors
from clover.core.control import Decide
from clover.core.objective import Objective, rightsized
from clover.core.outcome import default_deadline_s
from clover.plan.problem import Answer, Problem

#: How many of the beaten alternatives a plan record names.
TOLD_ALTERNATIVES = 8


def plan_record(
    ask: Decide,
    problem: Problem,
    answer: Answer,
    objective: Objective,
    *,
    goals: Goals,
    factors: Factors,
    door: Door,
    scheme: str,
    controller: str,
    number: int,
    at_ms: float,
) -> PlanRecord:
    """Return the record of a decision, as if all of it were in force.

    Args:
        ask: What was asked.
        problem: As it was put to the scheme.
        answer: What the scheme said.
        objective: By which it was found.
        goals: What it is to achieve.
        factors: By which the table in use differs from the one that was given.
        door: Tells how many requests are admitted.
        scheme: How it was decided.
        controller: Who did.
        number: Of the decision, in this deployment.
        at_ms: When.
    """
    base, table = objective.baseline, problem.model.table
    small = rightsized(problem.model, problem.whole, len(ask.gpus), ask.rate_rps, goals.sla_ms)
    wanted = prediction(answer.evaluation, answer.objective)
    chosen = str(answer.configuration)
    beaten = [c for c in answer.candidates if c.evaluation is not answer.evaluation and c.text != chosen]
    return PlanRecord(
        epoch=0,
        decision=number,
        scheme=scheme,
        trigger=ask.trigger,
        reason=f"{ask.reason}; {answer.reason}",
        application=problem.model.application.name,
        gpu_model=table.gpu_model,
        lambda_=goals.lambda_,
        sla_p95_ms=goals.sla_ms,
        intensity_g_per_kwh=problem.intensity_g_per_kwh,
        pue=problem.pue,
        deadline_s=default_deadline_s(goals.sla_ms),
        admission_bound=door.bound(answer.configuration),
        tiers=door.tiers(answer.configuration),
        configuration=by_node(answer.configuration),
        prediction=wanted,
        step_prediction=wanted,
        base=prediction(base.evaluation, objective.value(base.evaluation)),
        base_rightsized=prediction(small, objective.value(small)),
        base_feasible=base.feasible,
        alternatives=tuple(alternative(candidate, wanted) for candidate in beaten[:TOLD_ALTERNATIVES]),
        evaluations=answer.evaluations,
        state="serving",
        decided_at_ms=at_ms,
        since_ms=at_ms,
        controller=controller,
        guard=ask.guard,
        calibration=Calibration(
            service={f"{kind.variant}/{kind.profile}": factor for kind, factor in sorted(factors.service.items())},
            energy=dict(sorted(factors.energy.items())),
        ),
    )
