"""Steps a scheme through a trace hour by hour and counts what an experiment reports. Pure; nothing is served.

Charged to every scheme alike: while a roll lasts, the fleet lacks the GPUs of one step (at most one in five, at least
one) and draws its idle power nevertheless; a GPU that wakes draws it before it serves. What a scheme tries on live
traffic is served by what it tries, after the change to it. Between decisions the triggers are the controller's.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from clover.core.application import ServiceModel
from clover.core.configuration import Configuration, GpuConfiguration
from clover.core.objective import LATE_LIMIT, Baseline, Objective, baseline, rightsized
from clover.core.queueing import Evaluation, evaluate, idle_power_w
from clover.core.rolling import ROLL_FRACTION
from clover.core.triggers import INTENSITY_TRIGGER
from clover.core.units import footprint_g
from clover.plan.problem import Answer, Problem, Scheme
from clover.plan.simulator import simulate
from clover.plan.traffic import Traffic, agents_of

#: Relative change of the hourly load that causes a decision here; live, the controller follows an estimate of the load.
LOAD_TRIGGER = 0.25

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """One step of a trace.

    Attributes:
        rate_rps: Arrival rate.
        intensity_g_per_kwh: Of the grid.
        seconds: How long it lasts.
    """

    rate_rps: float
    intensity_g_per_kwh: float
    seconds: float = HOUR_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """From one configuration to another.

    Attributes:
        seconds: How long the roll lasts.
        mig_changes: GPU instances destroyed and created (the fewest possible; placements may ask for more).
        gpus: GPUs that change.
        wake_j: Energy of waking GPUs before they serve, above what they drew before.
    """

    seconds: float = 0.0
    mig_changes: int = 0
    gpus: int = 0
    wake_j: float = 0.0


def change_between(model: ServiceModel, old: Configuration, new: Configuration) -> Change:
    """Return what it takes to get from one configuration of a fleet to another."""
    now = old.as_dict()
    moved = [(now[gpu_id], gpu) for gpu_id, gpu in new.gpus if now.get(gpu_id) not in {None, gpu}]
    if not moved:
        return Change()
    times, table = model.table.change, model.table
    power = {"serving": table.idle_power_w, "parked": table.parked_power_w, "off": table.off_power_w}
    longest, mig_changes, wake_j = 0.0, 0, 0.0
    for before, after in moved:
        gone, made = _instances_changed(before, after)
        starts = times.worker_start_s if after.instances else 0.0
        seconds = gone * times.destroy_s + made * times.create_s + starts
        longest, mig_changes = max(longest, seconds), mig_changes + gone + made
        if before.mode != "serving" and after.mode == "serving":
            wake_j += (power["serving"] - power[before.mode]) * seconds
    steps = math.ceil(len(moved) / max(1, len(new.gpus) // ROLL_FRACTION))
    return Change(seconds=steps * longest, mig_changes=mig_changes, gpus=len(moved), wake_j=wake_j)


def _instances_changed(before: GpuConfiguration, after: GpuConfiguration) -> tuple[int, int]:
    old, new = Counter(before.multiset), Counter(after.multiset)
    return sum((old - new).values()), sum((new - old).values())


@dataclass(slots=True, kw_only=True)
class Totals:
    """What has been counted; figures of requests are sums over requests."""

    requests: float = 0.0
    energy_j: float = 0.0
    footprint_g: float = 0.0
    base_g: float = 0.0
    rightsized_g: float = 0.0
    original_g: float = 0.0
    accuracy_pct: float = 0.0
    base_accuracy_pct: float = 0.0
    late: float = 0.0
    objective: float = 0.0
    p95_ms: float = 0.0
    base_feasible: bool = True
    replans: int = 0
    mig_changes: int = 0
    evaluations: int = 0
    explored_violations: int = 0
    change_s: float = 0.0
    answers: list[Answer] = field(default_factory=list[Answer])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """What every second of an hour is judged with."""

    hour: Hour
    pue: float
    base: Baseline
    small: Evaluation
    original_j: float
    objective: Objective


class Replay:
    """A scheme on a trace.

    Args:
        scheme: Decides.
        problem: Fleet, SLA, parking and what is asked; load and intensity come from the hours.
        charge: Count changes and exploration; without it every hour is the steady state of its decision.
        simulate_requests: If above 0, P(late) and p95 of every plan come from so many simulated requests.
        seed: Of those simulations.
        memory: Evaluations of plans, to be shared by replays of one model, SLA and way to evaluate.
    """

    def __init__(
        self,
        scheme: Scheme,
        problem: Problem,
        *,
        charge: bool = True,
        simulate_requests: int = 0,
        seed: int = 0,
        memory: dict[tuple[object, ...], Evaluation] | None = None,
    ) -> None:
        self._scheme, self._problem, self._charge = scheme, problem, charge
        self._requests, self._seed = simulate_requests, seed
        self._bases: dict[float, tuple[Baseline, Evaluation]] = {}
        self._evaluated: dict[tuple[object, ...], Evaluation] = {} if memory is None else memory
        self._original_j: float | None = None

    def run(
        self, hours: Sequence[Hour], *, tell: Callable[[int, Totals], None] = lambda _number, _totals: None
    ) -> Totals:
        """Run all hours; after each of them `tell` gets how many are done and what is counted so far."""
        totals = Totals()
        decided: tuple[Hour, Answer] | None = None
        for number, hour in enumerate(hours, start=1):
            grid = self._grid(hour)
            left_s = hour.seconds
            if decided is None or self._triggered(decided[0], hour):
                present = decided[1].configuration if decided else None
                answer = self._decide(hour, present)
                totals.replans += decided is not None
                totals.evaluations += answer.evaluations
                left_s -= self._charge_change(totals, grid, decided[1] if decided else None, answer)
                decided = (hour, answer)
                totals.answers.append(answer)
            if left_s > 0:
                _count(totals, grid, self._steady(decided[1], hour.rate_rps), left_s)
            tell(number, totals)
        return totals

    # --- deciding

    def _decide(self, hour: Hour, present: Configuration | None) -> Answer:
        kinds = {gpu for _, gpu in present.gpus if gpu.mode == "serving"} if present else set[GpuConfiguration]()
        problem = dataclasses.replace(
            self._problem,
            rate_rps=hour.rate_rps,
            intensity_g_per_kwh=hour.intensity_g_per_kwh,
            current=next(iter(kinds)) if len(kinds) == 1 else None,
            present=present,
            known_base=self._bases[hour.rate_rps][0],
        )
        return self._scheme.plan(problem)

    def _triggered(self, then: Hour, now: Hour) -> bool:
        pue = self._problem.pue
        moved = abs(now.intensity_g_per_kwh - then.intensity_g_per_kwh) * pue > INTENSITY_TRIGGER
        return moved or abs(now.rate_rps - then.rate_rps) > LOAD_TRIGGER * then.rate_rps

    # --- counting

    def _charge_change(self, totals: Totals, grid: _Grid, before: Answer | None, after: Answer) -> float:
        """Count exploration and the roll to the new plan; return how long they last. The first plan is start-up."""
        if not self._charge:
            return 0.0
        ids = self._problem.gpus
        spent, present = 0.0, before.configuration if before else None
        for explored in after.explored:
            trial = Configuration.uniform(ids, explored.gpu)
            spent += self._roll(totals, grid, present, trial, spent)
            present = trial
            totals.explored_violations += not explored.evaluation.meets(LATE_LIMIT)
            seconds = min(explored.requests / grid.hour.rate_rps, max(0.0, grid.hour.seconds - spent))
            _count(totals, grid, explored.evaluation, seconds)
            spent += seconds
        return spent + self._roll(totals, grid, present, after.configuration, spent)

    def _roll(
        self, totals: Totals, grid: _Grid, old: Configuration | None, new: Configuration, spent_s: float
    ) -> float:
        if old is None:
            return 0.0
        change = change_between(self._problem.model, old, new)
        totals.mig_changes += change.mig_changes
        if change.gpus == 0:
            return 0.0
        seconds = min(change.seconds, max(0.0, grid.hour.seconds - spent_s))
        totals.change_s += seconds
        _count(totals, grid, self._rolling(old, new, grid.hour.rate_rps), seconds)
        _add_energy(totals, grid, change.wake_j)
        return seconds

    def _rolling(self, old: Configuration, new: Configuration, rate_rps: float) -> Evaluation:
        """Evaluate the old fleet without the serving GPUs of one step: it draws their power all the same."""
        now, wanted = old.as_dict(), new.as_dict()
        serving = [gpu for gpu in now if now[gpu].mode == "serving" and wanted.get(gpu, now[gpu]) != now[gpu]]
        step = set(serving[: max(1, len(now) // ROLL_FRACTION)])
        left = Configuration.of({gpu: made for gpu, made in now.items() if gpu not in step})
        model, sla_ms = self._problem.model, self._problem.sla_ms
        power = idle_power_w(model, old.fleet)
        nobody = not left.fleet.instances
        fleet = new.fleet if nobody else left.fleet
        key = ("rolling", fleet, rate_rps)
        if key not in self._evaluated:
            self._evaluated[key] = evaluate(model, fleet, rate_rps, sla_ms)
        seen = self._evaluated[key]
        # If nobody serves, everything that arrives waits for the new plan, too long.
        return dataclasses.replace(seen, late_fraction=1.0 if nobody else seen.late_fraction, idle_power_w=power)

    def _steady(self, answer: Answer, rate_rps: float) -> Evaluation:
        key = (answer.configuration.fleet, str(sorted(answer.dispatch.items(), key=lambda item: item[0])), rate_rps)
        if key not in self._evaluated:
            self._evaluated[key] = self._evaluate(answer, rate_rps)
        return self._evaluated[key]

    def _evaluate(self, answer: Answer, rate_rps: float) -> Evaluation:
        model, sla_ms = self._problem.model, self._problem.sla_ms
        simple = all(rule.name == "longest_idle" for rule in answer.dispatch.values())
        closed = evaluate(model, answer.configuration.fleet, rate_rps, sla_ms)
        if simple and not self._requests:
            return closed
        if not simple and rate_rps == answer.evaluation.rate_rps and not self._requests:
            return answer.evaluation
        seen = simulate(
            model,
            agents_of(answer.configuration, dict(answer.dispatch)),
            Traffic(rate_rps=rate_rps),
            sla_ms=sla_ms,
            idle_power_w=idle_power_w(model, answer.configuration.fleet),
            requests=self._requests or 100_000,
            seed=self._seed,
        ).evaluation
        if not simple:
            return seen
        # Accuracy and energy stay the closed form's: one evaluator for all, without noise.
        return dataclasses.replace(closed, late_fraction=seen.late_fraction, p95_ms=seen.p95_ms)

    def _grid(self, hour: Hour) -> _Grid:
        problem = self._problem
        gpus, model = len(problem.gpus), problem.model
        if hour.rate_rps not in self._bases:
            base = baseline(model, problem.whole, gpus, hour.rate_rps, problem.sla_ms)
            small = rightsized(model, problem.whole, gpus, hour.rate_rps, problem.sla_ms)
            self._bases[hour.rate_rps] = (base, small)
        if self._original_j is None:
            own = gpus * model.application.default_rate_rps_per_gpu
            self._original_j = baseline(model, problem.whole, gpus, own, problem.sla_ms).energy_j_per_request
        base, small = self._bases[hour.rate_rps]
        objective = Objective(
            lambda_=problem.lambda_,
            baseline=base,
            intensity_g_per_kwh=hour.intensity_g_per_kwh,
            pue=problem.pue,
        )
        return _Grid(
            hour=hour, pue=problem.pue, base=base, small=small, original_j=self._original_j, objective=objective
        )


def _count(totals: Totals, grid: _Grid, seen: Evaluation, seconds: float) -> None:
    """Count a stretch of time under one evaluation."""
    requests = grid.hour.rate_rps * seconds
    totals.requests += requests
    _add_energy(totals, grid, requests * seen.energy_j_per_request)
    intensity = grid.hour.intensity_g_per_kwh
    totals.base_g += footprint_g(requests * grid.base.energy_j_per_request, intensity, grid.pue)
    totals.rightsized_g += footprint_g(requests * grid.small.energy_j_per_request, intensity, grid.pue)
    totals.original_g += footprint_g(requests * grid.original_j, intensity, grid.pue)
    totals.accuracy_pct += requests * seen.accuracy_pct
    totals.base_accuracy_pct += requests * grid.base.accuracy_pct
    totals.late += requests * seen.late_fraction
    totals.objective += requests * grid.objective.value(seen)
    totals.p95_ms = max(totals.p95_ms, seen.p95_ms)
    totals.base_feasible = totals.base_feasible and grid.base.feasible


def _add_energy(totals: Totals, grid: _Grid, energy_j: float) -> None:
    totals.energy_j += energy_j
    totals.footprint_g += footprint_g(energy_j, grid.hour.intensity_g_per_kwh, grid.pue)
