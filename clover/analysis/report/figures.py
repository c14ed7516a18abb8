"""The numbers of a report: outcomes, latency, accuracy, energy, what was saved against what, and the SCI score."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from clover.analysis.load import Run
from clover.analysis.logs.frames import polars
from clover.analysis.logs.reconcile import outcomes_of
from clover.analysis.report.series import Axis, Carbon, Series
from clover.core.outcome import ProducerOutcome
from clover.core.sci import A100, sci_score

#: What the joules of each source are uncertain by, and why; None if nobody has measured it.
UNCERTAINTY: dict[str, tuple[float | None, str]] = {
    "simulated": (
        2.4,
        (
            "rms difference of the calibrated tables from the published measurements (docs/adr/0003); a load that was "
            "left out of the fit is missed by up to 16 %"
        ),
    ),
    "nvml": (None, "the counter of the driver; boards sample only part of the time, short runs are noisy"),
    "rapl": (None, "the processor's own model of its power"),
    "estimate:tdp": (None, "processor seconds x rated power: an estimate, its error is not known"),
}


def figures_of(run: Run, series: Series) -> dict[str, Any]:
    """Return the figures of one run, with units in their names."""
    requests = run.frame("requests")
    outcomes = {outcome.value: 0 for outcome in ProducerOutcome} | outcomes_of(run)
    sent = requests.height
    answered = outcomes["ok"] + outcomes["late"]
    found: dict[str, Any] = {
        "run": run.folder.resolve().name,
        "run_s": (series.axis.end_ms - series.axis.start_ms) / 1e3,
        "started_ms": series.axis.start_ms,
        "requests": {"sent": sent, **outcomes, "duplicate": _duplicates(run)},
        "rate_rps": sent / max(1e-9, (series.axis.end_ms - series.axis.start_ms) / 1e3),
        "late_pct": 100.0 * (sent - outcomes["ok"]) / sent,
        "goodput_pct": 100.0 * outcomes["ok"] / sent,
        "sla_p95_ms": sla_of(run),
        **percentiles(requests),
        "accuracy_pct": _accuracy(requests),
        "bins": {"width_s": series.axis.width_s, "requests_median": float(np.median(series.requests.count))},
    }
    found |= _carbon(run, series, series.carbon, answered) if series.carbon is not None else {}
    return found


def _duplicates(run: Run) -> int:
    pl = polars()
    last = run.frame("requests").group_by("producer").agg(pl.col("producer_duplicates").max())
    return int(last["producer_duplicates"].sum())


def _accuracy(requests: Any) -> float | None:
    pl = polars()
    return requests.filter(pl.col("outcome").is_in(["ok", "late"]))["accuracy_pct"].mean()


def percentiles(requests: Any) -> dict[str, float | bool | None]:
    """Return percentiles of latency from the due time; None where too many were not answered for it to have a bound."""
    latency = requests["latency_ms"].fill_null(float("inf"))
    found: dict[str, float | bool | None] = {}
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999)):
        value = latency.quantile(q, "higher")
        # A percentile of fewer than ten requests beyond it is a matter of chance.
        enough = (1.0 - q) * requests.height >= 10.0
        found[f"{name}_ms"] = value if enough and value is not None and np.isfinite(value) else None
    found["p95_unbounded"] = bool(np.isinf(latency.quantile(0.95, "higher") or 0.0))
    return found


def sla_of(run: Run) -> float | None:
    """Return the SLA: the summary's, else what tells the requests in time from the late ones (between both)."""
    pl = polars()
    told = (run.document("summary.json") or {}).get("sla_p95_ms")
    if isinstance(told, (int, float)):
        return float(told)
    requests = run.frame("requests")
    in_time = requests.filter(pl.col("outcome") == "ok")["latency_ms"].max()
    late = requests.filter(pl.col("outcome") == "late")["latency_ms"].min()
    return late if in_time is None else in_time


def _carbon(run: Run, series: Series, carbon: Carbon, answered: int) -> dict[str, Any]:
    energy_j, grams = float(carbon.used_j[-1]), float(carbon.used_g[-1])
    ledger = run.frame("ledger").sort("at_ms").row(-1, named=True)
    base = None if carbon.base_g is None else float(carbon.base_g[-1])
    rightsized = None if carbon.rightsized_g is None else float(carbon.rightsized_g[-1])
    source = ledger["energy_source"]
    plus_minus_pct, why = UNCERTAINTY.get(source, (None, "several sources, or one that nobody has compared"))
    return {
        "energy_j": energy_j,
        "energy_j_per_request": energy_j / answered if answered else None,
        "energy_source": source,
        "energy_uncertainty_pct": plus_minus_pct,
        "energy_uncertainty": why,
        "by_cause_j": {cause: _during(run, f"{cause}_j", series.axis) for cause in CAUSES},
        "host_j": _during(run, "host_j", series.axis),
        "host_g": _during(run, "host_g", series.axis),
        "unresolved_j": ledger["unresolved_j"],
        "footprint_g": grams,
        "footprint_g_per_request": grams / answered if answered else None,
        "intensity_mean_g_per_kwh": float(np.mean(carbon.intensity)),
        "base_g": base,
        "rightsized_g": rightsized,
        "saved_pct": saved_pct(grams, base),
        "saved_pct_rightsized": saved_pct(grams, rightsized),
        "sci": _sci(run, series.axis, energy_j, grams, answered),
        "grid": _grid(run),
    }


CAUSES = ("requests", "idle", "unallocated", "parked", "transition")


def saved_pct(used: float, other: float | None) -> float | None:
    """Return by how much less was used than by another, in per cent of the other."""
    return None if other is None or other <= 0.0 else 100.0 * (1.0 - used / other)


def _during(run: Run, name: str, axis: Axis) -> float:
    """Return by how much a cumulative figure of the ledger grew during the load."""
    ledger = run.frame("ledger").sort("at_ms")
    ends = np.interp([axis.start_ms, axis.end_ms], ledger["at_ms"].to_numpy(), ledger[name].to_numpy())
    return float(ends[1] - ends[0])


def _sci(run: Run, axis: Axis, energy_j: float, grams: float, answered: int) -> dict[str, Any] | None:
    """Score the load; embodied carbon by the time for which its GPUs were held."""
    grid, power, health = run.frame("intensity"), run.frame("power"), run.frame("health")
    gpus = power.select("node", "gpu").unique().height
    model = health["gpu_model"][-1] if not health.is_empty() else ""
    pue = float(grid["pue"].mean() or 1.0)
    score = sci_score(
        energy_j=energy_j,
        footprint_g=grams,
        pue=pue,
        gpu_s=gpus * (axis.end_ms - axis.start_ms) / 1e3,
        requests=answered,
        embodied=A100 if model.startswith("a100") else None,
    )
    return None if score is None else {**dataclasses.asdict(score), "pue": pue}


def _grid(run: Run) -> dict[str, Any]:
    """Return where the figures for the grid came from."""
    grid = run.frame("intensity")
    last = grid.row(-1, named=True)
    return {
        "source": last["source"],
        "zone": last["zone"],
        "kind": last["kind"],
        "factor": last["factor"],
        "statuses": sorted(grid["status"].unique().to_list()),
        "pue": last["pue"],
        "lowest_g_per_kwh": float(grid["g_per_kwh"].min()),
        "highest_g_per_kwh": float(grid["g_per_kwh"].max()),
    }
