"""Schemes that give all serving GPUs one configuration, the best by exhaustive search: `oracle`, `threshold`, `static`.

They judge by the closed form, as the searches do. With parking, the number of serving GPUs is chosen as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clover.core.carbon import REFERENCE_INTENSITY_G_PER_KWH, REFERENCE_PUE
from clover.core.configuration import OFF, PARKED, GpuConfiguration
from clover.core.objective import PLANNED_LATE_LIMIT, Objective, base_gpu
from clover.core.queueing import Evaluation, evaluate
from clover.plan.asking import Asked
from clover.plan.points import Layout, assign, fleet_of, layout_of
from clover.plan.pool import Enumeration, Pool
from clover.plan.problem import Answer, Problem
from clover.plan.space import all_gpu_configurations

#: Where `threshold` divides clean hours from dirty ones unless told otherwise, and for which it plans, as parts of it.
DEFAULT_LIMIT = REFERENCE_INTENSITY_G_PER_KWH * REFERENCE_PUE
_CLEAN, _DIRTY = 0.5, 1.5


class UniformSpace:
    """The fleets of one configuration for all serving GPUs, remembered by load."""

    def __init__(self) -> None:
        self._enumerations: dict[tuple[object, ...], Enumeration] = {}
        self._pools: dict[tuple[object, ...], Pool] = {}

    def pool(self, problem: Problem, *, rate_rps: float | None = None, all_rows: bool = False) -> Pool:
        """Return the fleets that keep the promise at a load; `all_rows` keeps the others as nan, so that rows agree."""
        rate = problem.rate_rps if rate_rps is None else rate_rps
        where = (id(problem.model), problem.multisets, problem.sla_ms)
        key = (*where, len(problem.gpus), problem.parking, rate, all_rows)
        if key not in self._pools:
            if where not in self._enumerations:
                configurations = all_gpu_configurations(problem.model, problem.multisets)
                self._enumerations[where] = Enumeration(problem.model, configurations, problem.sla_ms)
            gpus = len(problem.gpus)
            active = range(1, gpus + 1) if problem.parking != "none" else range(gpus, gpus + 1)
            self._pools[key] = self._enumerations[where].uniform(
                active, gpus, rate, off=problem.parking == "off", all_rows=all_rows
            )
        return self._pools[key]

    def best(self, problem: Problem, asked: Asked) -> Layout | None:
        """Return the layout with the highest score among those that keep the promise and what is asked."""
        pool = self.pool(problem)
        if not len(pool):
            return None
        score = asked.constant + asked.per_accuracy_pct * pool.accuracy_pct - asked.per_energy_j * pool.energy_j
        if asked.least_accuracy_pct is not None:
            score = np.where(pool.accuracy_pct >= asked.least_accuracy_pct - 1e-9, score, -np.inf)
        if asked.most_energy_j is not None:
            score = np.where(pool.energy_j <= asked.most_energy_j, score, -np.inf)
        row = int(np.argmax(score))
        return pool.layout(row) if np.isfinite(score[row]) else None


class OracleScheme:
    """The best single configuration for all GPUs at every hour, found by looking at all of them.

    Args:
        space: Remembers evaluations; its own if None.
    """

    def __init__(self, space: UniformSpace | None = None) -> None:
        self._space = space or UniformSpace()

    @property
    def name(self) -> str:
        """`oracle`."""
        return "oracle"

    def plan(self, problem: Problem) -> Answer:
        """Return the best one; BASE if none keeps the promise."""
        layout = self._space.best(problem, problem.asked(problem.baseline()))
        return layout_answer(problem, layout, "best of all configurations for all GPUs alike")


class ThresholdScheme:
    """Two configurations and one limit: what is best in clean hours, and what is best in dirty ones.

    Args:
        limit: Intensity x PUE in gCO2e per kWh that divides them.
    """

    def __init__(self, limit: float = DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._space = UniformSpace()

    @property
    def name(self) -> str:
        """`threshold`."""
        return "threshold"

    def plan(self, problem: Problem) -> Answer:
        """Return one of the two."""
        dirty = problem.effective_g_per_kwh > self._limit
        typical = self._limit * (_DIRTY if dirty else _CLEAN) / problem.pue
        asked = replace(problem, intensity_g_per_kwh=typical).asked(problem.baseline())
        side = "above" if dirty else "not above"
        return layout_answer(
            problem, self._space.best(problem, asked), f"intensity x PUE is {side} {self._limit:g} g/kWh"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticScheme:
    """One layout for the whole trace, chosen in hindsight (`best_static`): an offline scheme.

    Attributes:
        layout: What all GPUs are, all the time; None if no layout keeps the promise in every hour.
    """

    layout: Layout | None

    @property
    def name(self) -> str:
        """`static`."""
        return "static"

    def plan(self, problem: Problem) -> Answer:
        """Return the layout, evaluated at this hour's load."""
        return layout_answer(problem, self.layout, "best single configuration of the whole trace, in hindsight")


def best_static(
    problems: Sequence[Problem], *, least_accuracy_pct: float | None = None, space: UniformSpace | None = None
) -> StaticScheme:
    """Return the best single layout for a whole trace, in hindsight.

    Args:
        problems: One per hour, of one fleet; their loads and intensities may differ.
        least_accuracy_pct: Request-weighted mean accuracy that must be kept, such as a compared scheme's: then the
            layout with the least carbon is taken. Without it the one with the highest request-weighted mean objective.
        space: Remembers evaluations from call to call.
    """
    space = space or UniformSpace()
    rates = np.array([problem.rate_rps for problem in problems])
    pools = {rate: space.pool(problems[0], rate_rps=rate, all_rows=True) for rate in dict.fromkeys(rates.tolist())}
    accuracy = sum(rate * pools[rate].accuracy_pct for rate in rates.tolist()) / rates.sum()
    grams = sum(p.rate_rps * p.effective_g_per_kwh * pools[p.rate_rps].energy_j for p in problems) / rates.sum()
    if least_accuracy_pct is not None:
        score = np.where(accuracy >= least_accuracy_pct - 1e-9, -grams, -np.inf)
    else:
        score = sum(p.rate_rps * _objectives(p, pools[p.rate_rps]) for p in problems) / rates.sum()
    score = np.where(np.isnan(score), -np.inf, score)
    row = int(np.argmax(score))
    return StaticScheme(layout=pools[problems[0].rate_rps].layout(row) if np.isfinite(score[row]) else None)


def _objectives(problem: Problem, pool: Pool) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    asked = problem.asked(problem.baseline())
    return asked.constant + asked.per_accuracy_pct * pool.accuracy_pct - asked.per_energy_j * pool.energy_j


def layout_answer(problem: Problem, layout: Layout | None, reason: str) -> Answer:
    """Answer with a layout, evaluated by the closed form; without one with BASE, which then misses something."""
    chosen = layout or layout_of([base_gpu(problem.model, problem.whole)] * len(problem.gpus))
    configuration = assign(chosen, problem.gpus, problem.present)
    evaluation = evaluate(problem.model, fleet_of(chosen), problem.rate_rps, problem.sla_ms)
    objective: Objective = problem.objective()
    return Answer(
        configuration=configuration,
        evaluation=evaluation,
        objective=objective.value(evaluation),
        reason=reason if layout else f"{reason}: none keeps what is asked, BASE is taken",
        candidates=(),
        evaluations=1,
        meets_sla=evaluation.meets(PLANNED_LATE_LIMIT),
        asked_met=layout is not None,
    )


class ParkingScheme:
    """Another scheme, and then as many GPUs parked or off as its configuration does not need to keep the promise.

    Args:
        inner: Chooses one configuration for all GPUs.
        name: Of this scheme, by default the inner one's.
        always: Park even if the problem does not ask for it (`base_rightsized`).
        limit: P(late) that the remaining GPUs must keep.
    """

    def __init__(
        self,
        inner: Callable[[Problem], Answer],
        name: str,
        *,
        always: bool = False,
        limit: float = PLANNED_LATE_LIMIT,
    ) -> None:
        self._inner, self._name, self._always, self._limit = inner, name, always, limit

    @property
    def name(self) -> str:
        """Of the scheme."""
        return self._name

    def plan(self, problem: Problem) -> Answer:
        """Plan, then park."""
        answer = self._inner(problem)
        if problem.parking == "none" and not self._always:
            return answer
        kinds = {gpu for _, gpu in answer.configuration.gpus if gpu.mode == "serving"}
        if len(kinds) != 1 or not answer.evaluation.meets(self._limit):
            return answer
        layout, evaluation = fewest_gpus(problem, next(iter(kinds)), self._limit)
        return replace(
            answer,
            configuration=assign(layout, problem.gpus, problem.present),
            evaluation=evaluation,
            objective=problem.objective().value(evaluation),
            reason=f"{answer.reason}; {fleet_of(layout).active} of {len(problem.gpus)} GPUs are enough",
        )


def fewest_gpus(problem: Problem, gpu: GpuConfiguration, limit: float) -> tuple[Layout, Evaluation]:
    """Return the layout with the fewest GPUs of one configuration that keeps the promise, and its evaluation."""
    spare = OFF if problem.parking == "off" else PARKED
    low, high = 0, len(problem.gpus)

    def at(active: int) -> tuple[Layout, Evaluation]:
        layout = layout_of([gpu] * active + [spare] * (len(problem.gpus) - active))
        return layout, evaluate(problem.model, fleet_of(layout), problem.rate_rps, problem.sla_ms)

    # P(late) falls with the number of equal GPUs: bisection.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle)[1].meets(limit) else (middle, high)
    return at(min(len(problem.gpus), high + problem.reserve))
