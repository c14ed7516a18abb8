"""What is done without asking the scheme: the SLA guard's quick measures, and GPUs that people have pinned. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from clover.core.application import ServiceModel
from clover.core.configuration import Configuration, FleetCounts, GpuConfiguration, GpuId
from clover.core.dispatch import DispatchRule
from clover.core.guard import LEVELS, GuardLevel
from clover.core.objective import PLANNED_LATE_LIMIT
from clover.core.queueing import evaluate
from clover.plan.problem import Answer, Problem, Scheme

#: At level `plan` the load is taken to be this many times as high; what cannot be planned for gives way to the next.
FASTER_PLAN_RATES = (1.5, 1.25, 1.1, 1.0)
#: Pinned GPUs are counted on for this part of the load that they carry alone within the SLA.
_PINNED_COUNTED = 0.9
_LEAST_RATE_PART = 0.05


def at_least(level: GuardLevel, wanted: GuardLevel) -> bool:
    """Return whether a level includes the measure of another."""
    return LEVELS.index(level) >= LEVELS.index(wanted)


def awake(configuration: Configuration) -> Configuration:
    """Give every GPU that is parked or off the configuration that most of the serving ones have."""
    counts = Counter(gpu for _, gpu in configuration.gpus if gpu.instances)
    if not counts:
        return configuration
    most = max(counts, key=lambda gpu: (counts[gpu], str(gpu)))
    return Configuration.of({name: gpu if gpu.instances else most for name, gpu in configuration.gpus})


def fastest(configuration: Configuration) -> dict[str, DispatchRule]:
    """Return the rule by which every serving node hands requests to its fastest idle instances.

    Without holding back: when the load is near what can be carried, every instance is needed.
    """
    nodes = {name.node for name, gpu in configuration.gpus if gpu.instances}
    return {node: DispatchRule(name="fastest") for node in sorted(nodes)}


def judged(problem: Problem, configuration: Configuration, reason: str, base: Answer | None = None) -> Answer:
    """Evaluate a configuration that no scheme has chosen, at the problem's own load."""
    evaluation = evaluate(problem.model, configuration.fleet, problem.rate_rps, problem.sla_ms)
    return Answer(
        configuration=configuration,
        evaluation=evaluation,
        objective=problem.objective().value(evaluation),
        reason=reason,
        candidates=base.candidates if base else (),
        evaluations=(base.evaluations if base else 0) + 1,
        meets_sla=evaluation.meets(PLANNED_LATE_LIMIT),
        dispatch=dict(base.dispatch) if base else {},
    )


def planned(scheme: Scheme, problem: Problem, level: GuardLevel, pinned: Mapping[GpuId, GpuConfiguration]) -> Answer:
    """Ask the scheme for what the guard and people leave it to decide."""
    if at_least(level, "wake"):
        problem = replace(problem, parking="none", reserve=0)
    answer = _around(scheme, problem, pinned) if pinned else _at_rates(scheme, problem, _rates(level))
    return _guarded(answer, level)


def _rates(level: GuardLevel) -> Sequence[float]:
    return FASTER_PLAN_RATES if at_least(level, "plan") else (1.0,)


def quick(problem: Problem, level: GuardLevel) -> Answer | None:
    """Return the guard's measure on what is there, if it needs no plan."""
    present = problem.present
    if present is None or level not in {"wake", "dispatch", "shed"} or not present.fleet.instances:
        return None
    if {gpu for gpu, _ in present.gpus} != set(problem.gpus):
        return None
    configuration = awake(present)
    return _guarded(judged(problem, configuration, f"the guard's measure {level}, on what is there"), level)


def _guarded(answer: Answer, level: GuardLevel) -> Answer:
    if not at_least(level, "dispatch"):
        return answer
    return replace(answer, dispatch=fastest(answer.configuration))


def _at_rates(scheme: Scheme, problem: Problem, rates: Sequence[float]) -> Answer:
    answer = scheme.plan(replace(problem, rate_rps=problem.rate_rps * rates[0]))
    for rate in rates[1:]:
        if answer.meets_sla:
            break
        answer = scheme.plan(replace(problem, rate_rps=problem.rate_rps * rate))
    if len(rates) == 1:
        return answer
    told = f"the guard plans for more load than there is; {answer.reason}"
    return judged(problem, answer.configuration, told, answer)


# --- pins


def _around(scheme: Scheme, problem: Problem, pinned: Mapping[GpuId, GpuConfiguration]) -> Answer:
    """Plan the GPUs that are free, for the load that those which are pinned do not carry.

    Each part keeps the promise for its own load, so that together they do: whoever waits is served by whichever
    instance is free first. Dispatch is left open: the shares of a part's plan are made for its own instances.
    """
    free = tuple(gpu for gpu in problem.gpus if gpu not in pinned)
    carried = _carried(problem, Configuration.of(dict(pinned)).fleet)
    if not free:
        return judged(problem, Configuration.of(dict(pinned)), f"all {len(pinned)} GPUs are pinned")
    rest = max(problem.rate_rps - carried, _LEAST_RATE_PART * problem.rate_rps)
    present = problem.present
    part = replace(
        problem,
        gpus=free,
        rate_rps=rest,
        reserve=min(problem.reserve, len(free) - 1),
        known_base=None,
        present=None if present is None else present.without(pinned),
    )
    answer = scheme.plan(part)
    configuration = Configuration.of({**answer.configuration.as_dict(), **pinned})
    told = f"{len(pinned)} GPUs are pinned, the others planned for {rest:.3g} requests/s; {answer.reason}"
    return replace(judged(problem, configuration, told, answer), dispatch={})


def _carried(problem: Problem, fleet: FleetCounts) -> float:
    """Return the load that pinned GPUs are counted on for, in requests/s."""
    if not fleet.instances:
        return 0.0
    low, high = 0.0, problem.rate_rps
    for _ in range(12):
        middle = (low + high) / 2.0
        fits = evaluate(problem.model, fleet, middle, problem.sla_ms).meets(PLANNED_LATE_LIMIT)
        low, high = (middle, high) if fits else (low, middle)
    return _PINNED_COUNTED * low


def unfit(gpu: GpuConfiguration, model: ServiceModel, multisets: Sequence[tuple[str, ...]]) -> str:
    """Return why a GPU cannot be configured like this; empty if it can."""
    known = [variant.name for variant in model.application.variants]
    for kind in gpu.instances:
        if kind.variant not in known:
            return f"variant {kind.variant!r}: unknown, expected one of {', '.join(known)}"
        if not model.fits(kind.variant, kind.profile):
            return f"{kind}: does not fit, or has no figures"
    wanted = Counter(gpu.multiset)
    if gpu.instances and not any(wanted <= Counter(multiset) for multiset in multisets):
        return f"partition {'+'.join(gpu.multiset)}: the board does not allow it"
    return ""
