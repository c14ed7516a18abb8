"""`exact`: the best certified plan, with a bound on everything else; GPUs may differ, be parked or be off.

Up to two serving GPUs every fleet is listed and evaluated; above, a flow model in whole numbers finds plans
(`clover.plan.flow`). Whatever comes first is certified by simulation with its own contention, dispatch rule and nodes;
what fails makes way for the next. Plans are remembered by load: a change of the grid is a look-up among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clover.core.configuration import Configuration, GpuConfiguration, GpuId
from clover.core.dispatch import DispatchRule
from clover.core.objective import Objective
from clover.core.queueing import evaluate
from clover.core.units import footprint_g
from clover.plan.load_plans import LoadPlans, Settings
from clover.plan.points import Layout, PlanPoint, assign, layout_of
from clover.plan.pool import Enumeration
from clover.plan.problem import Answer, FleetCandidate, Problem
from clover.plan.prover import Proofs
from clover.plan.space import all_gpu_configurations

#: Loads that are remembered.
_MOST_LOADS = 64
#: A layout stays if the best one scores no more than this above it: a change of MIG must be worth something.
HYSTERESIS = 1e-4
_TOLD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """A plan with the names of the GPUs."""

    point: PlanPoint
    configuration: Configuration
    dispatch: Mapping[str, DispatchRule]


class ExactScheme:
    """Plans with proof.

    Args:
        seed: Of the certificates.
        any_routing: Also dispatch by shares; otherwise longest-idle only.
        hysteresis: Score that a change of layout must bring.
        proofs: Certificates to share with other schemes (see `Prover`); its own if None.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        any_routing: bool = True,
        hysteresis: float = HYSTERESIS,
        proofs: Proofs | None = None,
    ) -> None:
        self._settings = Settings(seed=seed, any_routing=any_routing, proofs={} if proofs is None else proofs)
        self._hysteresis = hysteresis
        self._loads: dict[tuple[object, ...], LoadPlans] = {}
        self._enumerations: dict[tuple[object, ...], Enumeration] = {}
        self._fleets: list[tuple[GpuId, ...]] = []
        self._last: _Placed | None = None

    @property
    def name(self) -> str:
        """`exact`."""
        return "exact"

    def plan(self, problem: Problem) -> Answer:
        """Return the best plan for what is asked; if nothing keeps it, what comes nearest, and why."""
        plans = self.plans(problem)
        before = plans.candidates_tried
        point, upper = plans.best(problem)
        if point is not None:
            return self._answer(problem, plans, self._kept(problem, plans, point), upper, before)
        return self._nearest(problem, plans, upper, before)

    def look_ahead(self, problem: Problem) -> None:
        """Plan for other intensities at a problem's load and lambda, so that those are look-ups later."""
        if problem.goal == "lambda":
            self.plans(problem).look_ahead(problem.lambda_)

    def plans(self, problem: Problem) -> LoadPlans:
        """Return what is remembered of a load, fleet and SLA; found when first asked for."""
        key = self._load_key(problem)
        if key not in self._loads:
            if len(self._loads) >= _MOST_LOADS:
                del self._loads[next(iter(self._loads))]
            self._loads[key] = LoadPlans(problem, self._enumeration(problem), self._settings)
        return self._loads[key]

    def _load_key(self, problem: Problem) -> tuple[object, ...]:
        # A fleet is numbered: to compare a thousand ids is much faster than to hash them.
        if problem.gpus not in self._fleets:
            self._fleets.append(problem.gpus)
        fleet = self._fleets.index(problem.gpus)
        where = (id(problem.model), problem.multisets, fleet)
        return (*where, problem.rate_rps, problem.sla_ms, problem.parking, problem.reserve)

    def _place(self, point: PlanPoint, problem: Problem) -> _Placed:
        """Give every GPU its part; what is as it was is not worked out again."""
        last, present = self._last, problem.present
        if last is None or last.point is not point or present is None or present != last.configuration:
            configuration = assign(point.layout, problem.gpus, present)
            last = _Placed(point=point, configuration=configuration, dispatch=point.dispatch.by_node(configuration))
            self._last = last
        return last

    def _layout_now(self, present: Configuration) -> Layout:
        if self._last is not None and present == self._last.configuration:
            return self._last.point.layout
        return layout_of(gpu for _, gpu in present.gpus)

    def _enumeration(self, problem: Problem) -> Enumeration:
        key = (id(problem.model), problem.multisets, problem.sla_ms)
        if key not in self._enumerations:
            configurations = all_gpu_configurations(problem.model, problem.multisets)
            self._enumerations[key] = Enumeration(problem.model, configurations, problem.sla_ms)
        return self._enumerations[key]

    def _kept(self, problem: Problem, plans: LoadPlans, best: PlanPoint) -> PlanPoint:
        """Return the best plan of the present layout if it is nearly as good as the best of all."""
        if problem.present is None:
            return best
        now = self._layout_now(problem.present)
        asked = problem.asked(plans.base)

        def score(point: PlanPoint) -> float:
            return asked.score(point.evaluation.accuracy_pct, point.evaluation.energy_j_per_request)

        if problem.reserve or asked.constrained or best.layout == now:
            return best
        alike = [point for point in plans.frontier.certified() if point.layout == now]
        nearest = max(alike, key=score, default=None)
        return nearest if nearest is not None and score(best) - score(nearest) <= self._hysteresis else best

    def _answer(
        self, problem: Problem, plans: LoadPlans, chosen: PlanPoint, upper: float, before: int, *, miss: str = ""
    ) -> Answer:
        point = plans.with_reserve(chosen)
        asked = problem.asked(plans.base)
        objective = _objective(problem, plans)
        placed = self._place(point, problem)
        tried = plans.candidates_tried - before
        others = [other for other in plans.frontier.certified() if other is not chosen]
        told = sorted(others, key=lambda other: -objective.value(other.evaluation))[:_TOLD]
        return Answer(
            configuration=placed.configuration,
            evaluation=point.evaluation,
            objective=objective.value(point.evaluation),
            reason=miss or _reason(problem, point, tried),
            candidates=tuple(
                FleetCandidate(
                    text=str(other),
                    evaluation=other.evaluation,
                    objective=objective.value(other.evaluation),
                    meets_sla=True,
                )
                for other in told
            ),
            evaluations=tried,
            meets_sla=point.late_upper is not None,
            asked_met=not miss,
            dispatch=placed.dispatch,
            score=None if miss else asked.score(point.evaluation.accuracy_pct, point.evaluation.energy_j_per_request),
            upper_bound=None if miss else upper,
            late_upper=point.late_upper,
        )

    # --- what cannot be had

    def _nearest(self, problem: Problem, plans: LoadPlans, upper: float, before: int) -> Answer:
        if problem.goal == "accuracy_floor" and (most := plans.most_accurate()) is not None:
            miss = (
                f"accuracy floor {problem.accuracy_floor_pct:g} % is not feasible at {problem.rate_rps:g} requests/s: "
                f"at most {most.evaluation.accuracy_pct:.2f} % keeps p95 within {problem.sla_ms:g} ms; that is planned"
            )
            return self._answer(problem, plans, most, upper, before, miss=miss)
        if problem.goal == "carbon_budget" and (least := plans.least_energy()) is not None:
            g = footprint_g(1e3 * least.evaluation.energy_j_per_request, problem.intensity_g_per_kwh, problem.pue)
            miss = (
                f"carbon budget {problem.carbon_budget_g:g} g per 1000 requests is not feasible now: "
                f"the least is {g:.4g} g; that is planned"
            )
            return self._answer(problem, plans, least, upper, before, miss=miss)
        return self._impossible(problem, plans, plans.candidates_tried - before)

    def _impossible(self, problem: Problem, plans: LoadPlans, tried: int) -> Answer:
        """Nothing keeps the SLA: keep what is there, or at the start take what is least late."""
        enumeration = self._enumeration(problem)
        gpu, _ = enumeration.least_late(len(problem.gpus), problem.rate_rps)
        configuration = problem.present or Configuration.uniform(problem.gpus, gpu)
        evaluation = evaluate(problem.model, configuration.fleet, problem.rate_rps, problem.sla_ms)
        return Answer(
            configuration=configuration,
            evaluation=evaluation,
            objective=_objective(problem, plans).value(evaluation),
            reason=self._why_impossible(problem, enumeration, gpu),
            candidates=(),
            evaluations=tried,
            meets_sla=False,
            asked_met=False,
        )

    def _why_impossible(self, problem: Problem, enumeration: Enumeration, gpu: GpuConfiguration) -> str:
        fleet = Configuration.uniform(problem.gpus, gpu).fleet
        best = evaluate(problem.model, fleet, problem.rate_rps, problem.sla_ms)
        nearest = [f"p95 within {best.p95_ms:.0f} ms by {len(problem.gpus)} x [{gpu}]"] if best.stable else []
        rate = enumeration.highest_rate(len(problem.gpus))
        nearest += [f"{rate:.3g} requests/s within the SLA"] if rate > 0 else []
        kept = "configuration kept" if problem.present else "taken: what is least late"
        return (
            f"no plan for {len(problem.gpus)} GPUs keeps p95 within {problem.sla_ms:g} ms at {problem.rate_rps:g} "
            f"requests/s; feasible: {' or '.join(nearest) or 'nothing, not even at the lowest load'}; {kept}"
        )


def _objective(problem: Problem, plans: LoadPlans) -> Objective:
    return Objective(
        lambda_=problem.lambda_,
        baseline=plans.base,
        intensity_g_per_kwh=problem.intensity_g_per_kwh,
        pue=problem.pue,
    )


def _reason(problem: Problem, point: PlanPoint, tried: int) -> str:
    how = {
        "lambda": f"best certified plan at lambda {problem.lambda_:g}",
        "accuracy_floor": f"least carbon at no less than {problem.accuracy_floor_pct} % accuracy",
        "carbon_budget": f"highest accuracy within {problem.carbon_budget_g} g per 1000 requests",
    }[problem.goal]
    found = f"{tried} plans simulated" if tried else "looked up, nothing simulated"
    upper = f", late at most {100.0 * point.late_upper:.2f} %" if point.late_upper is not None else ""
    return f"{how}: {point.active} of {len(problem.gpus)} GPUs serve, dispatch {point.dispatch.name}{upper}; {found}"
