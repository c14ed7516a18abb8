"""How fast the planner's parts are: one JSON line per figure, with how busy others kept the machine meanwhile.

    python benchmarks/planner.py              # all
    python benchmarks/planner.py --repeat 9
    python benchmarks/planner.py --only "plans of"    # one row per application, fleet, lambda and parking

Rates are requests simulated per second of this process's wall time, warm-up and draws included. Distrust figures where
`other_cores` is above 0.3.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from clover.catalog import load_service
from clover.core.configuration import FleetCounts, GpuConfiguration, GpuId, InstanceKind
from clover.core.dispatch import DispatchRule
from clover.core.queueing import FleetSearch, evaluate
from clover.plan.certify import certify
from clover.plan.exact import ExactScheme
from clover.plan.problem import Problem
from clover.plan.simulator import WARM_UP_PER_INSTANCE, WARM_UP_REQUESTS, simulate
from clover.plan.space import all_gpu_configurations, uniform_fleets
from clover.plan.sweep import sweep
from clover.plan.traffic import AgentFleet, Traffic, one_agent
from mig.partition import maximal_multisets
from mig.profiles import gpu_model

MODEL = load_service("albert", "a100-40gb")
SLA_MS = MODEL.table.sla_p95_ms
#: Two GPUs with seven instances each.
FINEST = GpuConfiguration((InstanceKind("1g", "base"),) * 6 + (InstanceKind("1g", "large"),))
REQUESTS = 200_000
SWEEP = 1000
APPLICATIONS = ("albert", "efficientnet", "yolov5")
#: Multiples of BASE's own load.
LOADS = (1.0, 2.5, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One thing to time.

    Attributes:
        name: What it is.
        run: Does it once.
        amount: How many requests or fleets that is; 0 if seconds are reported.
        unit: Of the figure.
        target: What was aimed at, None if nothing.
    """

    name: str
    run: Callable[[], object]
    amount: int
    unit: str
    target: float | None = None


def figures() -> list[Figure]:
    """Return all figures."""
    fleet = FleetCounts.uniform(FINEST, 2)
    warm = max(WARM_UP_REQUESTS, WARM_UP_PER_INSTANCE * fleet.instances)
    rules = {
        "longest_idle": DispatchRule(),
        "fastest": DispatchRule(name="fastest"),
        "accurate": DispatchRule(name="accurate"),
        "fastest, hold-back": DispatchRule(name="fastest", hold_back=True),
        "shares": DispatchRule(name="shares", shares={kind: n / fleet.instances for kind, n in fleet.kinds}),
    }
    return [
        *(
            Figure(
                name=f"simulator, one configuration of {fleet.instances} instances, {name}",
                run=lambda rule=rule: _simulate(one_agent(fleet, rule), 100.0),
                amount=REQUESTS + warm,
                unit="requests/s",
                target=0.5e6,
            )
            for name, rule in rules.items()
        ),
        Figure(
            name=f"simulator, one configuration of {2 * fleet.instances} instances, 2 node agents",
            run=lambda: _simulate([AgentFleet(kinds=fleet.kinds)] * 2, 200.0),
            amount=REQUESTS + max(WARM_UP_REQUESTS, WARM_UP_PER_INSTANCE * 2 * fleet.instances),
            unit="requests/s",
        ),
        *sweeps(),
        *closed_form(fleet),
        *certificates(),
        *plans(),
    ]


def sweeps() -> list[Figure]:
    """Return the sweep over many configurations of two GPUs."""
    space = uniform_fleets(all_gpu_configurations(MODEL, maximal_multisets(gpu_model("a100-40gb"))), 2)
    counts = space.counts[:SWEEP]
    return [
        Figure(
            name=f"simulator, across {SWEEP} configurations of up to 14 instances, {rule}",
            run=lambda rule=rule: sweep(
                MODEL, space.kinds, counts, 12.5, sla_ms=SLA_MS, rule=rule, requests=20_000, warm_up=2_000
            ),
            amount=22_000 * SWEEP,
            unit="requests/s",
            target=5e6,
        )
        for rule in ("longest_idle", "fastest", "accurate")
    ]


def closed_form(fleet: FleetCounts) -> list[Figure]:
    """Return the closed form for one fleet and for a search."""
    space = uniform_fleets(all_gpu_configurations(MODEL, maximal_multisets(gpu_model("a100-40gb"))), 2)
    search = FleetSearch(MODEL, space.kinds, SLA_MS)
    return [
        Figure(
            name="closed form, one fleet with p95",
            run=lambda: evaluate(MODEL, fleet, 12.5, SLA_MS),
            amount=0,
            unit="s",
        ),
        Figure(
            name=f"closed form, {len(space)} fleets at once",
            run=lambda: search.evaluate(space.counts, 12.5),
            amount=len(space),
            unit="fleets/s",
        ),
    ]


def certificates() -> list[Figure]:
    """Return certificates of fleets that pass at 60 % of their capacity."""
    return [
        Figure(
            name=f"certificate, {gpus} GPUs, {7 * gpus} instances",
            run=lambda gpus=gpus: certify(
                MODEL,
                one_agent(FleetCounts.uniform(FINEST, gpus)),
                Traffic(rate_rps=55.0 * gpus),
                sla_ms=SLA_MS,
            ),
            amount=0,
            unit="s",
        )
        for gpus in (2, 10, 100, 1000)
    ]


def plans() -> list[Figure]:
    """Return plans of scheme `exact` for a load that is new, certificates included, and for a change of the grid."""
    return [
        figure
        for app in APPLICATIONS
        for gpus in (10, 100, 1000)
        for figure in (
            Figure(
                name=f"plan, {app}, {gpus} GPUs, lambda 0.5, parking, new load",
                run=lambda app=app, gpus=gpus: ExactScheme().plan(_problem(app, gpus, parking="parked")),
                amount=0,
                unit="s",
                target=5.0 if gpus == 1000 else 2.0,
            ),
            Figure(
                name=f"plan, {app}, {gpus} GPUs, lambda 0.5, no parking, new load",
                run=lambda app=app, gpus=gpus: ExactScheme().plan(_problem(app, gpus)),
                amount=0,
                unit="s",
                target=5.0 if gpus == 1000 else 2.0,
            ),
            Figure(
                name=f"plan, {app}, {gpus} GPUs, lambda 0.5, change of intensity",
                run=_look_up(app, gpus),
                amount=0,
                unit="s",
                target=1e-3,
            ),
        )
    ]


def _problem(app: str, gpus: int, **changes: Any) -> Problem:
    model = MODEL if app == "albert" else load_service(app, "a100-40gb")
    values: dict[str, Any] = {
        "model": model,
        "multisets": maximal_multisets(gpu_model("a100-40gb")),
        "gpus": tuple(GpuId("n1", index) for index in range(gpus)),
        "rate_rps": 2.5 * gpus * model.application.default_rate_rps_per_gpu,
        "sla_ms": model.table.sla_p95_ms,
        "lambda_": 0.5,
        "intensity_g_per_kwh": 250.0,
        "pue": 1.5,
    }
    return Problem(**(values | changes))


def _look_up(app: str, gpus: int) -> Callable[[], object]:
    """Return a look-up; the first call plans, looks ahead and does not count."""
    known: list[tuple[ExactScheme, Problem, Any]] = []

    def run() -> object:
        if not known:
            scheme, asked = ExactScheme(), _problem(app, gpus)
            answer = scheme.plan(asked)
            scheme.look_ahead(asked)
            known.append((scheme, asked, answer.configuration))
        scheme, asked, present = known[0]
        return scheme.plan(dataclasses.replace(asked, intensity_g_per_kwh=180.0, present=present))

    return run


def _simulate(agents: Any, rate_rps: float) -> object:
    return simulate(MODEL, agents, Traffic(rate_rps=rate_rps), sla_ms=SLA_MS, requests=REQUESTS)


def rows(only: str) -> Iterator[dict[str, Any]]:
    """Plan every case once, each with a new scheme, and look ahead; processor seconds, one figure per load."""
    for gpus, app, lambda_, parking in product((10, 100, 1000), APPLICATIONS, (0.1, 0.5), ("none", "parked")):
        name = f"plans of {app}, {gpus} GPUs, lambda {lambda_:g}, parking {parking}"
        if only not in name:
            continue
        seen: dict[str, list[Any]] = {"plan_cpu_s": [], "look_ahead_cpu_s": [], "objective": [], "gap": []}
        for load in LOADS:
            asked = _problem(app, gpus, lambda_=lambda_, parking=parking)
            asked = dataclasses.replace(asked, rate_rps=load / 2.5 * asked.rate_rps)
            scheme, began = ExactScheme(), time.process_time()
            answer = scheme.plan(asked)
            planned = time.process_time()
            scheme.look_ahead(asked)
            seen["plan_cpu_s"].append(round(planned - began, 2))
            seen["look_ahead_cpu_s"].append(round(time.process_time() - planned, 2))
            seen["objective"].append(round(answer.objective, 6))
            seen["gap"].append(None if answer.gap is None else round(answer.gap, 6))
        yield {"schema": 1, "figure": name, "loads": LOADS, **seen, "target": 5.0 if gpus == 1000 else 2.0}


def measure(figure: Figure, repeat: int) -> dict[str, Any]:
    """Time one figure."""
    figure.run()
    seconds: list[float] = []
    before, busy_before, began = _own_s(), _machine_s(), time.perf_counter()
    for _ in range(repeat):
        start = time.perf_counter()
        figure.run()
        seconds.append(time.perf_counter() - start)
    wall = time.perf_counter() - began
    others = (_machine_s() - busy_before - (_own_s() - before)) / wall
    values = [figure.amount / s if figure.amount else s for s in seconds]
    return {
        "schema": 1,
        "figure": figure.name,
        "value": _round(statistics.median(values)),
        "unit": figure.unit,
        "lowest": _round(min(values)),
        "highest": _round(max(values)),
        "target": figure.target,
        "repeat": repeat,
        "cores": os.cpu_count(),
        "other_cores": round(max(0.0, others), 2),
    }


def _own_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _machine_s() -> float:
    """Return the processor seconds that the whole machine has spent (Linux; elsewhere 0)."""
    try:
        with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123 - a kernel interface
            fields = [int(field) for field in file.readline().split()[1:9]]
    except OSError:
        return 0.0
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    """Time everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, help="runs of each figure after one that does not count")
    parser.add_argument("--only", default="", help="only figures whose name contains this")
    options = parser.parse_args()
    np.seterr(all="raise", under="ignore")
    for figure in figures():
        if options.only in figure.name:
            print(json.dumps(measure(figure, options.repeat)), flush=True)
    for row in rows(options.only):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
