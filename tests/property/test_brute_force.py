"""`exact` against brute force that shares no code with it beyond the formulas, on small random tables."""

from __future__ import annotations

from itertools import combinations_with_replacement, pairwise, product
from random import Random

import pytest

from clover.core.application import (
    Application,
    ChangeTimes,
    PerformanceTable,
    ServiceModel,
    Variant,
    VariantPerformance,
)
from clover.core.configuration import FleetCounts, GpuConfiguration, GpuId, InstanceKind
from clover.core.queueing import evaluate
from clover.plan.certify import certify
from clover.plan.exact import ExactScheme
from clover.plan.problem import Problem
from clover.plan.prover import LONGER
from clover.plan.traffic import Traffic, one_agent

MULTISETS = (("7g",), ("4g", "3g"), ("3g", "3g"))
INSTANCES, IN_SHORT_RUN = 200, 40


def random_model(rng: Random) -> ServiceModel:
    accuracies = sorted(rng.uniform(60.0, 95.0) for _ in range(rng.choice((2, 3))))
    variants = tuple(Variant(name=f"v{i}", accuracy_pct=a, source="drawn") for i, a in enumerate(accuracies))
    work = sorted(rng.uniform(5.0, 120.0) for _ in variants)
    performance = {
        variant.name: VariantPerformance(
            host_ms=rng.uniform(5.0, 150.0),
            service_ms={size: w * 7.0 / int(size[0]) ** rng.uniform(0.5, 1.0) for size in ("7g", "4g", "3g")},
            dynamic_energy_j=w * rng.uniform(0.05, 0.4),
        )
        for variant, w in zip(variants, work, strict=True)
    }
    table = PerformanceTable(
        gpu_model="a100-40gb",
        application="drawn",
        provenance="drawn",
        sla_p95_ms=rng.uniform(250.0, 900.0),
        idle_power_w=rng.uniform(20.0, 60.0),
        parked_power_w=rng.uniform(5.0, 19.0),
        host_lognormal_sigma=rng.uniform(0.05, 0.45),
        gpu_lognormal_sigma=rng.uniform(0.03, 0.5),
        host_contention=rng.uniform(0.0, 0.8),
        energy_contention=rng.uniform(0.0, 0.4),
        change=ChangeTimes(create_s=0.5, destroy_s=0.5, worker_start_s=6.0, provenance="drawn"),
        variants=performance,
    )
    application = Application(
        name="drawn", title="drawn", accuracy_metric="%", request="one", servicer="table", variants=variants
    )
    return ServiceModel(application=application, table=table)


def random_problem(seed: int) -> Problem:
    rng = Random(seed)
    model = random_model(rng)
    gpus = rng.choice((1, 2))
    slowest = max(model.mean_ms(v.name, "7g", 0.3) for v in model.application.variants)
    return Problem(
        model=model,
        multisets=MULTISETS,
        gpus=tuple(GpuId("n1", index) for index in range(gpus)),
        rate_rps=gpus * rng.uniform(0.1, 1.2) * 1e3 / slowest,
        sla_ms=model.table.sla_p95_ms,
        lambda_=rng.choice((0.05, 0.1, 0.3, 0.5, 0.9)),
        intensity_g_per_kwh=rng.uniform(20.0, 480.0),
        pue=rng.uniform(1.0, 1.6),
        parking=rng.choice(("none", "parked")),
    )


def brute_force(problem: Problem) -> float | None:
    """Return the objective of the best fleet that the closed form and then a certificate let pass."""
    names = [variant.name for variant in problem.model.application.variants]
    filled = {
        tuple(sorted(InstanceKind(size, name) for size, name in zip(multiset, chosen, strict=True)))
        for multiset in problem.multisets
        for chosen in product(names, repeat=len(multiset))
    }
    serving: list[tuple[InstanceKind, ...] | None] = [*sorted(filled)]
    choices = [*serving, None] if problem.parking == "parked" else serving
    objective = problem.objective()
    found: dict[FleetCounts, float] = {}
    for fleet in combinations_with_replacement(choices, len(problem.gpus)):
        kinds = [kind for gpu in fleet if gpu is not None for kind in gpu]
        if not kinds:
            continue
        counts = FleetCounts(
            kinds=tuple((kind, kinds.count(kind)) for kind in sorted(set(kinds))),
            active=sum(gpu is not None for gpu in fleet),
            parked=fleet.count(None),
        )
        evaluation = evaluate(problem.model, counts, problem.rate_rps, problem.sla_ms)
        if evaluation.late_fraction <= 0.047:
            found[counts] = objective.value(evaluation)
    for counts, value in sorted(found.items(), key=lambda item: -item[1]):
        traffic = Traffic(rate_rps=problem.rate_rps)
        if certify(problem.model, one_agent(counts), traffic, sla_ms=problem.sla_ms, longer=LONGER).certified:
            return value
    return None


def _seeds() -> list[object]:
    return [pytest.param(s, marks=() if s < IN_SHORT_RUN else pytest.mark.slow) for s in range(INSTANCES)]


@pytest.mark.parametrize("seed", _seeds())
def test_exact_is_what_brute_force_finds(seed: int) -> None:
    problem = random_problem(seed)
    wanted = brute_force(problem)
    answer = ExactScheme(any_routing=False).plan(problem)
    assert answer.meets_sla == (wanted is not None)
    if wanted is not None:
        assert answer.objective == pytest.approx(wanted, abs=1e-6)
        assert answer.upper_bound is not None
        assert answer.upper_bound >= answer.objective - 1e-9
        assert all(isinstance(gpu, GpuConfiguration) for _, gpu in answer.configuration.gpus)


@pytest.mark.parametrize("seed", range(1000, 1006))
def test_every_certified_plan_is_below_the_bound_whatever_the_routing(seed: int) -> None:
    problem = random_problem(seed)
    scheme = ExactScheme()
    answer = scheme.plan(problem)
    assert answer.meets_sla
    objective = problem.objective()
    assert answer.upper_bound is not None
    for point in scheme.plans(problem).frontier.certified():
        assert objective.value(point.evaluation) <= answer.upper_bound + 1e-4  # a simulated share is off by as much


@pytest.mark.parametrize("seed", range(2003, 2007))
def test_the_frontier_is_the_hull_of_all_that_is_certified(seed: int) -> None:
    problem = random_problem(seed)
    scheme = ExactScheme(any_routing=False)
    assert scheme.plan(problem).meets_sla
    plans = scheme.plans(problem)
    hull = plans.frontier.hull()
    figures = [(p.evaluation.energy_j_per_request, p.evaluation.accuracy_pct) for p in hull]
    assert figures == sorted(figures)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(figures)]
    assert slopes == sorted(slopes, reverse=True)
    accuracy, energy = plans.frontier.candidates()
    for weight in (0.01, 0.1, 1.0, 10.0):
        best = max(a - weight * e for a, e in zip(accuracy.tolist(), energy.tolist(), strict=True))
        assert max(a - weight * e for e, a in figures) == pytest.approx(best, abs=1e-9)
