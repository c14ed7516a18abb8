"""Steps a scheme through a trace hour by hour and counts what an experiment reports. Pure; nothing is served.

Charged to every scheme alike: while a roll lasts, the fleet lacks the GPUs of one step (at most one in five, at least
one) and draws its idle power nevertheless; a GPU that wakes draws it before it serves. What a scheme tries on live
traffic is served by what it tries, after the change to it. Between decisions the triggers are the controller's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from clover.core.configuration import Configuration, GpuConfiguration
from clover.core.control import Decide
from clover.core.load import LoadEstimate
from clover.core.objective import LATE_LIMIT, Baseline, Objective, baseline, rightsized
from clover.core.queueing import Evaluation, evaluate, idle_power_w
from clover.core.rolling import ROLL_FRACTION
from clover.core.triggers import Found, Pace, PaceSettings, Situation, Triggers
from clover.plan.changing import change_between
from clover.plan.counting import Grid, Hour, Totals, add_energy, count
from clover.plan.exact import ExactScheme
from clover.plan.following import LayoutKeeper
from clover.plan.problem import Answer, Problem, Scheme
from clover.plan.simulator import simulate
from clover.plan.traffic import Traffic, agents_of


@dataclass(frozen=True, slots=True, kw_only=True)
class _InForce:
    """A decision, with the grid and the load that it was taken for."""

    answer: Answer
    effective: float
    planned_rps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What replays of one model, fleet, SLA and way to evaluate may share.

    Attributes:
        plans: Evaluations of plans, and of fleets while they change.
        bases: BASE and right-sized BASE by load.
    """

    plans: dict[tuple[object, ...], Evaluation] = field(default_factory=dict[tuple[object, ...], Evaluation])
    bases: dict[float, tuple[Baseline, Evaluation]] = field(default_factory=dict[float, tuple[Baseline, Evaluation]])


class Replay:
    """A scheme on a trace.

    Args:
        scheme: Decides.
        problem: Fleet, SLA, parking and what is asked; load and intensity come from the hours.
        charge: Count changes and exploration, and keep layouts as the controller does (`exact` only); without it every
            hour is the steady state of what the scheme itself would choose, for then no change costs anything.
        simulate_requests: If above 0, P(late) and p95 of every plan come from so many simulated requests.
        seed: Of those simulations.
        memory: What other replays have evaluated.
        keeper: Judges whether a layout may stay, with the certificates that it knows; its own if None.
    """

    def __init__(
        self,
        scheme: Scheme,
        problem: Problem,
        *,
        charge: bool = True,
        simulate_requests: int = 0,
        seed: int = 0,
        memory: Evaluated | None = None,
        keeper: LayoutKeeper | None = None,
    ) -> None:
        self._scheme, self._problem, self._charge = scheme, problem, charge
        self._requests, self._seed = simulate_requests, seed
        self._known = memory or Evaluated()
        #: What was counted last: most hours are like the hour before.
        self._last: tuple[Answer, float, Evaluation] | None = None
        self._original_j: float | None = None
        self._keeper: LayoutKeeper | None = None
        if charge and isinstance(scheme, ExactScheme):
            self._keeper = keeper or LayoutKeeper(seed=seed)
        self._triggers = Triggers(Pace(PaceSettings()))

    def run(
        self, hours: Sequence[Hour], *, tell: Callable[[int, Totals], None] = lambda _number, _totals: None
    ) -> Totals:
        """Run all hours; after each of them `tell` gets how many are done and what is counted so far."""
        totals, in_force, begins_s = Totals(), None, 0.0
        for number, hour in enumerate(hours, start=1):
            in_force = self._hour(totals, hour, in_force, begins_s)
            begins_s += hour.seconds
            tell(number, totals)
        return totals

    def _hour(self, totals: Totals, hour: Hour, in_force: _InForce | None, begins_s: float) -> _InForce | None:
        """Serve an hour, deciding when it begins and when less load has lasted long enough to be believed."""
        grid, spent_s = self._grid(hour), 0.0
        for moment_s in (0.0, self._triggers.pace.settings.lower_after_s):
            if max(moment_s, spent_s) >= hour.seconds:
                break
            found = self._found(in_force, hour, begins_s + moment_s)
            if found is None:
                continue
            if in_force is not None and moment_s > spent_s:
                self._serve(totals, grid, in_force, moment_s - spent_s)
                spent_s = moment_s
            self._triggers.pace.decided(found.trigger, begins_s + moment_s)
            before = in_force.answer if in_force else None
            answer = self._decide(found, hour, before)
            spent_s += self._charge_change(totals, grid, before, answer, spent_s)
            totals.replans += in_force is not None
            totals.evaluations += answer.evaluations
            totals.answers.append(answer)
            effective = hour.intensity_g_per_kwh * self._problem.pue
            in_force = _InForce(answer=answer, effective=effective, planned_rps=found.rate_rps)
        if in_force is not None and spent_s < hour.seconds:
            self._serve(totals, grid, in_force, hour.seconds - spent_s)
        return in_force

    def steady(self, answer: Answer, rate_rps: float) -> Evaluation:
        """Return what a plan is counted as while it is in force."""
        if self._last is not None and self._last[0] is answer and self._last[1] == rate_rps:
            return self._last[2]
        key = (answer.configuration.fleet, str(sorted(answer.dispatch.items(), key=lambda item: item[0])), rate_rps)
        if key not in self._known.plans:
            self._known.plans[key] = self._evaluate(answer, rate_rps)
        self._last = (answer, rate_rps, self._known.plans[key])
        return self._last[2]

    # --- deciding

    def _found(self, in_force: _InForce | None, hour: Hour, now_s: float) -> Found | None:
        """Return why to decide now, None if there is no reason; the load of an hour is known exactly."""
        if in_force is None:
            return Found(trigger="start", reason="the trace begins", rate_rps=hour.rate_rps)
        now = Situation(
            joined=0,
            left=0,
            effective=hour.intensity_g_per_kwh * self._problem.pue,
            decided_effective=in_force.effective,
            load=LoadEstimate.sure(hour.rate_rps),
            planned_rps=in_force.planned_rps,
        )
        return self._triggers.judge(now, now_s)

    def _decide(self, found: Found, hour: Hour, before: Answer | None) -> Answer:
        present = before.configuration if before else None
        kinds = {gpu for _, gpu in present.gpus if gpu.mode == "serving"} if present else set[GpuConfiguration]()
        ask = Decide(
            trigger=found.trigger,
            reason=found.reason,
            gpus=self._problem.gpus,
            rate_rps=found.rate_rps,
            current=next(iter(kinds)) if len(kinds) == 1 else None,
            present=present,
        )
        problem = dataclasses.replace(
            self._problem,
            rate_rps=ask.rate_rps,
            intensity_g_per_kwh=hour.intensity_g_per_kwh,
            current=ask.current,
            present=ask.present,
            known_base=self._base(ask.rate_rps)[0],
        )
        answer = self._scheme.plan(problem)
        return answer if self._keeper is None else self._keeper.kept(ask, problem, answer)

    # --- counting

    def _serve(self, totals: Totals, grid: Grid, in_force: _InForce, seconds: float) -> None:
        count(totals, grid, self.steady(in_force.answer, grid.hour.rate_rps), seconds)

    def _charge_change(
        self, totals: Totals, grid: Grid, before: Answer | None, after: Answer, begins_s: float
    ) -> float:
        """Count exploration and the roll to the new plan; return how long they last. The first plan is start-up."""
        if not self._charge:
            return 0.0
        ids = self._problem.gpus
        spent, present = begins_s, before.configuration if before else None
        for explored in after.explored:
            trial = Configuration.uniform(ids, explored.gpu)
            spent += self._roll(totals, grid, present, trial, spent)
            present = trial
            totals.explored_violations += not explored.evaluation.meets(LATE_LIMIT)
            seconds = min(explored.requests / grid.hour.rate_rps, max(0.0, grid.hour.seconds - spent))
            count(totals, grid, explored.evaluation, seconds)
            spent += seconds
        return spent + self._roll(totals, grid, present, after.configuration, spent) - begins_s

    def _roll(self, totals: Totals, grid: Grid, old: Configuration | None, new: Configuration, spent_s: float) -> float:
        if old is None:
            return 0.0
        change = change_between(self._problem.model, old, new)
        totals.mig_changes += change.mig_changes
        if change.gpus == 0:
            return 0.0
        seconds = min(change.seconds, max(0.0, grid.hour.seconds - spent_s))
        totals.change_s += seconds
        count(totals, grid, self._rolling(old, new, grid.hour.rate_rps), seconds)
        add_energy(totals, grid, change.wake_j)
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
        if key not in self._known.plans:
            self._known.plans[key] = evaluate(model, fleet, rate_rps, sla_ms)
        seen = self._known.plans[key]
        # If nobody serves, everything that arrives waits for the new plan, too long.
        return dataclasses.replace(seen, late_fraction=1.0 if nobody else seen.late_fraction, idle_power_w=power)

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

    def _grid(self, hour: Hour) -> Grid:
        problem = self._problem
        if self._original_j is None:
            own = len(problem.gpus) * problem.model.application.default_rate_rps_per_gpu
            self._original_j = self._base(own)[0].energy_j_per_request
        base, small = self._base(hour.rate_rps)
        objective = Objective(
            lambda_=problem.lambda_,
            baseline=base,
            intensity_g_per_kwh=hour.intensity_g_per_kwh,
            pue=problem.pue,
        )
        return Grid(
            hour=hour, pue=problem.pue, base=base, small=small, original_j=self._original_j, objective=objective
        )

    def _base(self, rate_rps: float) -> tuple[Baseline, Evaluation]:
        """Return BASE and right-sized BASE at a load."""
        bases = self._known.bases
        if rate_rps not in bases:
            model, whole, gpus, sla_ms = (
                self._problem.model,
                self._problem.whole,
                len(self._problem.gpus),
                self._problem.sla_ms,
            )
            base = baseline(model, whole, gpus, rate_rps, sla_ms)
            bases[rate_rps] = (base, rightsized(model, whole, gpus, rate_rps, sla_ms))
        return bases[rate_rps]
