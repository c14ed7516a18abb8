"""The 54 cases of the paper: applications x traces x lambda x loads on two GPUs, as tables and as a check.

One part is one load of one application, on all traces and with both lambdas, which share evaluations and certificates:
its rows, charged and simulated, for the tables; and the steady state of every decision under one evaluator, for the
comparison of what `exact` proves with what the others find.
"""

from __future__ import annotations

from typing import Any

from clover.analysis.cases import APPLICATIONS, SHORT_TRACES, Case, own_rate_rps
from clover.analysis.experiment import LEAST_SEEDS, RANDOM_SCHEMES, Bench, Known, Task
from clover.analysis.experiment_rows import Result
from clover.catalog import load_service, load_trace

LOADS = (1.0, 2.5, 5.0)
LAMBDAS = (0.1, 0.5)
GPUS = 2
BOARD = "a100-40gb"
SCHEMES = (
    "base",
    "base_rightsized",
    "co2opt",
    "blover",
    "clover",
    "clover_live",
    "oracle",
    "threshold",
    "static",
    "exact",
)
#: `exact` must not be worse than any of these.
COMPARED = ("oracle", "clover", "blover")
#: By how much it may be worse, and from where on a gain is one, in request-weighted mean objective.
TOLERANCE = 1e-4


def all_keys() -> list[tuple[str, float]]:
    """Return (application, load) of all parts, those first that take longest."""
    return [(app, load) for app in reversed(APPLICATIONS) for load in reversed(LOADS)]


def run(application: str, load: float, *, seeds: int = LEAST_SEEDS) -> dict[str, Any]:
    """Run one part; its `cases` hold, by lambda, `rows` and `spreads` as `clover experiment`, and `steady`."""
    known = Known(model=load_service(application, BOARD))
    return {"cases": [_case(known, application, load, lambda_, seeds) for lambda_ in LAMBDAS]}


def _case(known: Known, application: str, load: float, lambda_: float, seeds: int) -> dict[str, Any]:
    case = Case(gpus=GPUS, rate_rps=own_rate_rps(known.model, GPUS, load), lambda_=lambda_)
    traces = tuple(load_trace(name) for name in SHORT_TRACES)
    bench = Bench(Task(application=application, case=case, traces=traces, schemes=SCHEMES, seeds=seeds), known)
    found = [bench.result(name, trace) for trace in traces for name in SCHEMES]
    return {
        "load": load,
        "rows": [_row(result) for result in found],
        "spreads": [result.as_spread() for result in found if result.row.scheme in RANDOM_SCHEMES],
        "steady": [_steady(bench, trace.name, load) for trace in traces],
    }


def _row(result: Result) -> dict[str, Any]:
    # Wall seconds are the one figure that another run would not repeat.
    return {key: value for key, value in result.as_row().items() if key != "seconds"}


def _steady(bench: Bench, trace_name: str, load: float) -> dict[str, Any]:
    trace = load_trace(trace_name)
    results = {
        name: bench.result(name, trace, charge=False, simulate=False).row for name in ("exact", "base", *COMPARED)
    }
    exact = results["exact"]
    certified = bench.all_certified(trace)
    return {
        "app": exact.app,
        "trace": trace_name,
        "load": load,
        "lambda": exact.lambda_,
        "certified": certified,
        "objective": {name: row.objective for name, row in results.items()},
        "accuracy_loss_pct": {name: row.accuracy_loss_pct for name, row in results.items()},
        "saved_pct": {name: row.saved_pct for name, row in results.items()},
    }


def verdict(steady: list[dict[str, Any]]) -> dict[str, Any]:
    """Count the cases: never worse, ties and strict gains against each compared scheme, and all certified.

    The bound of a random scheme's objective is its median over the seeds.
    """
    counts: dict[str, dict[str, Any]] = {}
    for name in COMPARED:
        gains = [case["objective"]["exact"] - case["objective"][name] for case in steady]
        counts[name] = {
            "worse": sum(gain < -TOLERANCE for gain in gains),
            "ties": sum(abs(gain) <= TOLERANCE for gain in gains),
            "gains": sum(gain > TOLERANCE for gain in gains),
            "least": min(gains),
            "mean": sum(gains) / len(gains),
            "greatest": max(gains),
        }
    return {
        "cases": len(steady),
        "certified": sum(case["certified"] for case in steady),
        "against": counts,
        "passed": all(case["certified"] for case in steady) and all(c["worse"] == 0 for c in counts.values()),
    }


def hard_case_gain(steady: list[dict[str, Any]]) -> float | None:
    """Return the mean gain over `oracle` for yolov5 at lambda 0.1 and 5x, None without those cases."""
    gains = [
        case["objective"]["exact"] - case["objective"]["oracle"]
        for case in steady
        if (case["app"], case["lambda"], case["load"]) == ("yolov5", 0.1, 5.0)
    ]
    return sum(gains) / len(gains) if gains else None
