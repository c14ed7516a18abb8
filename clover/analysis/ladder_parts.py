"""The ladder as parts that a process each can compute: by application and lambda, with all traces and watts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clover.analysis import ladder
from clover.analysis.cases import APPLICATIONS, SHORT_TRACES
from clover.analysis.long_traces import load_long_traces
from clover.catalog import load_trace
from clover.plan.exact import ExactScheme
from clover.plan.following import LayoutKeeper
from clover.plan.prover import Proofs
from clover.plan.uniform import UniformSpace

LAMBDAS = (0.5, 0.1)


def all_keys() -> list[tuple[str, float]]:
    """Return (application, lambda) of all parts, those first that take longest."""
    return [(app, lambda_) for lambda_ in reversed(LAMBDAS) for app in reversed(APPLICATIONS)]


def short(application: str, lambda_: float) -> dict[str, Any]:
    """Return the ladder on the three short traces."""
    return run(application, lambda_, {name: load_trace(name).values_g_per_kwh for name in SHORT_TRACES})


def year(application: str, lambda_: float, folder: str) -> dict[str, Any]:
    """Return the ladder on the year-long series of a folder."""
    return run(
        application, lambda_, {each.trace.name: each.trace.values_g_per_kwh for each in load_long_traces(Path(folder))}
    )


def run(
    application: str,
    lambda_: float,
    traces: Mapping[str, Sequence[float]],
    *,
    parked_w: Sequence[float] = ladder.PARKED_W,
) -> dict[str, Any]:
    """Return `rows` for every parked power, trace and host power.

    Certificates and shares are found once for all of them, as no parked watt changes them.
    """
    proofs, keeper = Proofs(), LayoutKeeper(seed=0)
    rows: list[dict[str, Any]] = []
    for watts in parked_w:
        problem = ladder.question(application, parked_w=watts, lambda_=lambda_)
        scheme, space = ExactScheme(seed=0, proofs=proofs), UniformSpace()
        for name, values in traces.items():
            hourly = ladder.follow_problem(problem, values, scheme=scheme, keeper=keeper, space=space)
            rows += [
                {"app": application, "trace": name, "lambda": lambda_, "parked_w": watts}
                | ladder.figures(hourly, host_w=host_w)
                | {"interval_95_pct": ladder.bootstrap(hourly, host_w=host_w)}
                for host_w in (0.0, ladder.HOST_W)
            ]
    return {"rows": rows}
