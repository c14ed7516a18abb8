"""All plans of one load, fleet and SLA: what `exact` remembers, so that a change of intensity is only a look-up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from clover.core.configuration import GpuId
from clover.core.objective import LATE_LIMIT, Baseline
from clover.core.queueing import evaluate
from clover.plan.accurate_search import NEARLY, AccurateFleets
from clover.plan.asking import Asked, by_objective
from clover.plan.bound import relaxed_bound
from clover.plan.flow import FlowModel
from clover.plan.flow_plans import MOST_PROOFS, FlowPlanner, asked_score
from clover.plan.frontier import ConvexBound, Frontier
from clover.plan.nearby import better_neighbour
from clover.plan.points import Fleetwide, Layout, PlanPoint, fleet_of
from clover.plan.pool import Enumeration, Fleets, Pool
from clover.plan.problem import Problem
from clover.plan.prover import Proofs, Prover

#: Up to so many serving GPUs every fleet is listed.
ENUMERATED_GPUS = 2
#: With more GPUs than this not every number of equal serving GPUs is tried.
_UNIFORM_GPUS = 16
#: Intensity x PUE, in gCO2e per kWh, between which plans are looked for in advance.
LOW_EFFECTIVE, HIGH_EFFECTIVE = 50.0, 750.0
#: For how many other intensities plans are made in advance, what each may cost in simulations, and how many intensities
#: are bounded and looked at to find those; enough is where bound and best plan agree to the tolerance.
_PLANNED_AHEAD, _PROOFS_AHEAD, _BOUNDED_AT, _LOOKED_AT, _TOLERANCE = 3, 2, 12, 16, 5e-4
#: So many of the plans that dispatch by accuracy are certified before that is given up; the next one must be expected
#: to be so much less late than the one that failed, or than the limit.
_ACCURATE_PROOFS, _LESS_LATE = 4, 0.0005
#: What a plan with shares must score above one with longest-idle to be looked for.
_WORTH_MORE = 5e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How `exact` plans.

    Attributes:
        seed: Of the certificates.
        any_routing: Also dispatch by shares; otherwise longest-idle only.
        proofs: Certificates that are known (see `Prover`).
    """

    seed: int = 0
    any_routing: bool = True
    proofs: Proofs = field(default_factory=Proofs)


class LoadPlans:
    """Finds and remembers the plans of one load.

    Args:
        problem: Load, fleet, SLA, parking and reserve; what is asked may differ from call to call.
        enumeration: The small spaces of the application.
        settings: How to plan.
    """

    def __init__(self, problem: Problem, enumeration: Enumeration, settings: Settings) -> None:
        self.problem, self._enumeration, self._settings = problem, enumeration, settings
        self.base: Baseline = problem.baseline()
        self.gpus = len(problem.gpus) - problem.reserve
        self._off = problem.parking == "off"
        prover = Prover(
            model=problem.model,
            ids=_without_reserve(problem.gpus, problem.reserve),
            rate_rps=problem.rate_rps,
            sla_ms=problem.sla_ms,
            seed=settings.seed,
            proofs=settings.proofs,
        )
        self._prove = prover
        self._accurate: AccurateFleets | None = None
        self.frontier = Frontier(prover, self._point)
        self._flow = FlowModel(
            problem.model,
            problem.multisets,
            self.gpus,
            rate_rps=problem.rate_rps,
            sla_ms=problem.sla_ms,
            spare_power_w=self._spare_power_w(),
        )
        self.planner = FlowPlanner(self._flow, prover.prove, prover.glance, off=self._off)
        self._bounds: dict[float, ConvexBound] = {}
        self._constrained: dict[tuple[object, ...], float] = {}
        self._prepared = False
        self._ahead: set[float] = set()

    def best(self, problem: Problem) -> tuple[PlanPoint | None, float]:
        """Return the best certified plan for what is asked, and an upper bound of its score."""
        asked = problem.asked(self.base)
        self._prepare(asked)
        if problem.goal != "lambda":
            return self._best_constrained(asked)
        bounds = self._bounds.get(problem.lambda_)
        if bounds is None:
            bounds = self._bounds[problem.lambda_] = ConvexBound()
        upper = bounds.at(problem.effective_g_per_kwh)
        if upper is None:
            upper = self._solve(problem.lambda_, problem.effective_g_per_kwh, bounds)
        return self.frontier.best(asked), upper

    def look_ahead(self, lambda_: float) -> None:
        """Plan for other intensities, so that those are look-ups later: where bound and known plans differ most."""
        if lambda_ in self._ahead:
            return
        self._ahead.add(lambda_)
        bounds = self._bounds.setdefault(lambda_, ConvexBound())
        self._prepare(by_objective(lambda_, self.base, math.sqrt(LOW_EFFECTIVE * HIGH_EFFECTIVE)))
        for place in (LOW_EFFECTIVE, HIGH_EFFECTIVE):
            if bounds.at(place) is None:
                self._solve(lambda_, place, bounds, ahead=True)
        for place in _places(_BOUNDED_AT):
            bounds.add(place, relaxed_bound(self._flow, by_objective(lambda_, self.base, place)).upper_bound)
        left = _places(_LOOKED_AT)
        for _ in range(_PLANNED_AHEAD):
            gaps = {place: self._gap(lambda_, place, bounds) for place in left}
            widest = max(gaps, key=lambda place: gaps[place])
            if gaps[widest] <= _TOLERANCE:
                break
            self._solve(lambda_, widest, bounds, ahead=True)
            # What was not found there is not found by asking again.
            left.remove(widest)

    def most_accurate(self) -> PlanPoint | None:
        """Return the certified plan with the highest accuracy."""
        asked = Asked(what="accuracy_pct", per_accuracy_pct=1.0, per_energy_j=1e-6)
        return self._best_constrained(asked)[0]

    def least_energy(self) -> PlanPoint | None:
        """Return the certified plan with the least energy per request."""
        asked = Asked(what="-energy_j_per_request", per_energy_j=1.0, per_accuracy_pct=1e-6)
        return self._best_constrained(asked)[0]

    @property
    def candidates_tried(self) -> int:
        """Number of plans that a certificate was asked for."""
        return self.frontier.tried.certificates + self.planner.proofs

    # --- inside

    def _prepare(self, asked: Asked) -> None:
        if not self._prepared:
            self._list_small(asked)
            self._prepared = True

    def _gap(self, lambda_: float, place: float, bounds: ConvexBound) -> float:
        asked = by_objective(lambda_, self.base, place)
        best, upper = self.frontier.best(asked), bounds.at(place)
        if best is None or upper is None or not math.isfinite(upper):
            return 0.0
        return upper - asked_score(asked)(best)

    def _solve(self, lambda_: float, place: float, bounds: ConvexBound, *, ahead: bool = False) -> float:
        upper = self._add_flow_plan(by_objective(lambda_, self.base, place), ahead=ahead)
        bounds.add(place, upper)
        return upper

    def _best_constrained(self, asked: Asked) -> tuple[PlanPoint | None, float]:
        self._prepare(asked)
        key = (asked.what, asked.least_accuracy_pct, asked.most_energy_j)
        if key not in self._constrained:
            self._constrained[key] = self._add_flow_plan(asked)
        return self.frontier.best(asked), self._constrained[key]

    def _add_flow_plan(self, asked: Asked, *, ahead: bool = False) -> float:
        """Add the flow model's plan if it beats what is known; return the bound."""
        any_routing = self._settings.any_routing
        at_least = self._known_score(asked) if any_routing else math.inf
        if any_routing and self._add_accurate(asked, at_least):
            at_least = self._known_score(asked)
        point, upper = self.planner.best(
            asked, at_least=at_least, most_proofs=_PROOFS_AHEAD if ahead else MOST_PROOFS, careful=ahead
        )
        if point is not None:
            self.frontier.add_point(point)
        if not ahead and (best := self.frontier.best(asked)) is not None:
            nearby = better_neighbour(self._enumeration, best, asked, self.problem)
            if nearby is not None and (proven := self._prove(nearby)) is not None:
                self.frontier.add_point(proven)
        best = self.frontier.best(asked)
        # Only where nothing keeps the promise there is no bound; a plan of the closed form then stands for itself.
        if best is not None and upper < asked_score(asked)(best):
            upper = asked_score(asked)(best)
        return upper

    def _known_score(self, asked: Asked) -> float:
        """Return what a plan must score to be worth looking for."""
        known = self.frontier.best(asked)
        return -math.inf if known is None else asked_score(asked)(known) + _WORTH_MORE

    def _add_accurate(self, asked: Asked, at_least: float) -> bool:
        """Add the best certified plan that dispatches by accuracy if it beats what is known."""
        if self.gpus > _UNIFORM_GPUS:
            return False
        if self._accurate is None:
            self._accurate = self._accurate_fleets()
        known, latest = self.frontier.best(asked), NEARLY
        for _ in range(_ACCURATE_PROOFS):
            point = self._accurate.best(
                asked, at_least=at_least, latest=latest, known=None if known is None else known.layout
            )
            if point is None:
                return False
            proof = self._prove.prove(point)
            if proof.point is not None:
                self.frontier.add_point(proof.point)
                return True
            # The short simulation is as wrong about the others, which saw the same draws.
            wrong = proof.late_fraction - point.evaluation.late_fraction
            latest = min(latest - _LESS_LATE, LATE_LIMIT - _LESS_LATE - wrong)
        return False

    def _accurate_fleets(self) -> AccurateFleets:
        numbers = range(1, self.gpus + 1) if self.problem.parking != "none" else range(self.gpus, self.gpus + 1)
        few, many = numbers[:ENUMERATED_GPUS], [n for n in numbers if n > ENUMERATED_GPUS]
        fleets = [self._enumeration.mixed_fleets(n, self.gpus - n, off=self._off) for n in few if n <= ENUMERATED_GPUS]
        if many:
            fleets.append(self._enumeration.two_kinds_of_gpus(many, self.gpus, off=self._off))
        problem, search = self.problem, self._enumeration.search
        return AccurateFleets(
            problem.model,
            search,
            fleets,
            neighbours=self._neighbours if many else None,
            as_nodes=self._prove.glance if len({gpu.node for gpu in self._prove.ids}) > 1 else None,
            rate_rps=problem.rate_rps,
            sla_ms=problem.sla_ms,
        )

    def _neighbours(self, layout: Layout) -> Fleets:
        return self._enumeration.neighbours(layout, off=self._off, resize=self.problem.parking != "none")

    def _list_small(self, asked: Asked) -> None:
        """Add the fleets that can be listed: few serving GPUs that differ, and any number that are alike."""
        gpus, rate = self.gpus, self.problem.rate_rps
        spares = self.problem.parking != "none"
        likely = self._flow_active(asked) if spares and gpus > ENUMERATED_GPUS else gpus
        for active in range(1, min(gpus, ENUMERATED_GPUS) + 1):
            if active == gpus or (spares and (gpus <= ENUMERATED_GPUS or likely <= ENUMERATED_GPUS + 1)):
                self.frontier.add_pool(self._enumeration.mixed(active, gpus - active, rate, off=self._off))
        if gpus > ENUMERATED_GPUS:
            numbers = range(max(1, likely - 1), min(gpus, likely + 4) + 1) if spares else range(gpus, gpus + 1)
            if spares and gpus <= _UNIFORM_GPUS:
                numbers = range(1, gpus + 1)
            self.frontier.add_pool(self._enumeration.uniform(numbers, gpus, rate, off=self._off))

    def _flow_active(self, asked: Asked) -> int:
        """Return with how many serving GPUs the flow model would do, waiting left out."""
        nearest = relaxed_bound(self._flow, asked).nearest
        return self.gpus if nearest is None else self.gpus - nearest.spare

    def _point(self, pool: Pool, row: int) -> PlanPoint:
        problem = self.problem
        layout = pool.layout(row)
        evaluation = evaluate(problem.model, fleet_of(layout), problem.rate_rps, problem.sla_ms)
        return PlanPoint(layout=layout, dispatch=Fleetwide(), evaluation=evaluation)

    def _spare_power_w(self) -> float | None:
        table = self.problem.model.table
        return {"none": None, "parked": table.parked_power_w, "off": table.off_power_w}[self.problem.parking]

    # --- reserve

    def with_reserve(self, point: PlanPoint) -> PlanPoint:
        """Add the reserve: GPUs that serve like the most frequent ones, and are certified with them."""
        reserve = self.problem.reserve
        if reserve == 0:
            return point
        serving = [(n, str(gpu), gpu) for gpu, n in point.layout if gpu.mode == "serving"]
        _, _, most = max(serving)
        layout: Layout = tuple((gpu, n + reserve if gpu == most else n) for gpu, n in point.layout)
        problem = self.problem
        evaluation = evaluate(problem.model, fleet_of(layout), problem.rate_rps, problem.sla_ms)
        prover = Prover(
            model=problem.model,
            ids=problem.gpus,
            rate_rps=problem.rate_rps,
            sla_ms=problem.sla_ms,
            seed=self._settings.seed,
            proofs=self._settings.proofs,
        )
        added = replace(point, layout=layout, evaluation=evaluation)
        # More GPUs of the same kinds are hardly later; should the proof fail nevertheless, the plan is not proven.
        return prover(added) or replace(added, late_upper=None)


def _places(number: int) -> list[float]:
    """Return intensities between the lowest and the highest, closer together where they are low."""
    ratio = HIGH_EFFECTIVE / LOW_EFFECTIVE
    return [LOW_EFFECTIVE * ratio ** (step / (number - 1)) for step in range(1, number - 1)]


def _without_reserve(ids: tuple[GpuId, ...], reserve: int) -> tuple[GpuId, ...]:
    """Leave out as many GPUs from all nodes alike."""
    return tuple(sorted(sorted(ids, key=lambda gpu: (gpu.index, gpu.node))[: len(ids) - reserve]))
