"""The ladder as parts that a process each can compute: by application, lambda and parked watts, all traces at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clover.analysis import ladder
from clover.analysis.cases import APPLICATIONS, SHORT_TRACES, Case, own_rate_rps, problem_of, with_table
from clover.analysis.long_traces import load_long_traces
from clover.catalog import load_service, load_trace
from clover.plan.exact import ExactScheme

LAMBDAS = (0.5, 0.1)


def all_keys() -> list[tuple[str, float, float]]:
    """Return (application, lambda, parked watts) of all parts."""
    return [
        (app, lambda_, watts)
        for lambda_ in LAMBDAS
        for watts in (25.0, 0.0, 34.0, 18.0, 30.0, 38.0)
        for app in APPLICATIONS
    ]


def short(application: str, lambda_: float, parked_w: float) -> dict[str, Any]:
    """Return the ladder on the three short traces."""
    traces = {name: load_trace(name).values_g_per_kwh for name in SHORT_TRACES}
    return _run(application, lambda_, parked_w, traces)


def year(application: str, lambda_: float, parked_w: float, folder: str) -> dict[str, Any]:
    """Return the ladder on the year-long series of a folder."""
    traces = {series.trace.name: series.trace.values_g_per_kwh for series in load_long_traces(Path(folder))}
    return _run(application, lambda_, parked_w, traces)


def _run(application: str, lambda_: float, parked_w: float, traces: dict[str, tuple[float, ...]]) -> dict[str, Any]:
    model = with_table(load_service(application, ladder.BOARD), parked_power_w=parked_w)
    case = Case(
        gpus=ladder.GPUS,
        nodes=ladder.NODES,
        rate_rps=own_rate_rps(model, ladder.GPUS),
        lambda_=lambda_,
        parking="parked",
    )
    problem, scheme = problem_of(model, case), ExactScheme(seed=0)
    rows: list[dict[str, Any]] = []
    for name, values in traces.items():
        hourly = ladder.follow_problem(problem, values, scheme=scheme)
        rows += [
            {"app": application, "trace": name, "lambda": lambda_, "parked_w": parked_w}
            | ladder.figures(hourly, host_w=host_w)
            | {"interval_95_pct": ladder.bootstrap(hourly, host_w=host_w)}
            for host_w in (0.0, ladder.HOST_W)
        ]
    return {"rows": rows}
