"""Makes the report of a run: its figures, pictures, tables and notes on one page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson

from clover.analysis.load import Run, load
from clover.analysis.logs.reconcile import reconcile
from clover.analysis.palette import order_of
from clover.analysis.report import other_pictures, over_time
from clover.analysis.report.baseline import MeasuredBaseline
from clover.analysis.report.drawing import Drawer, Picture
from clover.analysis.report.figures import figures_of
from clover.analysis.report.fleet import producers_say, series_of
from clover.analysis.report.page import Page
from clover.analysis.report.series import Numbers, Series
from clover.analysis.report.words import (
    checks_table,
    definitions,
    energy_table,
    main_table,
    sci_table,
    streams_table,
)
from clover.analysis.report.writing import KIND
from clover.catalog import load_application
from clover.errors import ConfigurationError


def report(folder: Path, *, baseline: Path | None = None, png: bool = True) -> Page:
    """Return the report of a run.

    Args:
        folder: Of the run, with its archive.
        baseline: Folder of a run to compare with, measured instead of modelled.
        png: Whether to make PNG pictures too.

    Raises:
        ConfigurationError: A run cannot be read, or has no requests; or polars or matplotlib is not installed.
    """
    with load(folder) as run:
        if baseline is None:
            return _page(run, None, png=png)
        with load(baseline) as other:
            return _page(run, other, png=png)


def summary_of(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a run or experiment; None if there is none that can be read."""
    try:
        found = orjson.loads((folder / "summary.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None


def _page(run: Run, other: Run | None, *, png: bool) -> Page:
    series = series_of(run)
    figures = figures_of(run, series)
    compared = MeasuredBaseline(other, series, figures) if other is not None else None
    pictures = _pictures(run, series, figures, compared, png=png)
    checks = reconcile(run)
    name = figures["run"]
    tables = [
        main_table(figures, compared.figures if compared else None),
        sci_table(figures),
        energy_table(figures),
        checks_table(checks),
        streams_table(run.manifest),
    ]
    data = {
        "schema": 1,
        "kind": KIND,
        "figures": figures,
        "baseline": compared.figures if compared else None,
        "baseline_saved_pct": compared.saved_pct if compared else None,
        "series": _plain(series),
        "checks": [dataclasses.asdict(check) for check in checks],
        "gaps": msgspec.to_builtins(run.manifest.gaps),
    }
    return Page(
        title=f"Run {name}",
        lead=_lead(run, figures),
        notes=[*_notes(run, checks), *series.notes, *(compared.notes if compared else [])],
        tables=[table for table in tables if table is not None],
        pictures=pictures,
        words=definitions(figures, measured_baseline=compared.figures["run"] if compared else None),
        data=data,
    )


def _pictures(
    run: Run, series: Series, figures: dict[str, Any], compared: MeasuredBaseline | None, *, png: bool
) -> list[Picture]:
    known, bounds = _variants(run)
    drawer = Drawer(order_of(known, series.requests.variants), png=png)
    carbon, sla_ms = series.carbon, figures["sla_p95_ms"]
    others: dict[str, Numbers] = {}
    if compared is not None and compared.used_g is not None:
        others[f"{compared.figures['run']} (measured)"] = compared.used_g
    if carbon is not None and carbon.base_g is not None:
        others["BASE (modelled)"] = carbon.base_g
    if carbon is not None and carbon.rightsized_g is not None:
        others["right-sized BASE (modelled)"] = carbon.rightsized_g
    first = next(iter(others), "")
    curves = other_pictures.phases_of(run, series)
    if compared is not None:
        latency = compared.run.frame("requests")["latency_ms"].fill_null(float("inf")).to_numpy()
        curves[f"{compared.figures['run']}"] = latency
    made = [
        over_time.intensity(drawer, series, others.get(first), first),
        over_time.cumulative(drawer, series, others, figures.get("energy_uncertainty_pct")),
        over_time.accuracy(drawer, series, bounds),
        over_time.latency(drawer, series, sla_ms),
        over_time.mix(drawer, series),
        other_pictures.scatter(drawer, other_pictures.tried_in(run)),
        other_pictures.percentile_plot(drawer, curves, sla_ms),
        over_time.decisions(drawer, series),
        other_pictures.energy_map(drawer, run, figures.get("energy_source", "")),
    ]
    return [picture for picture in made if picture is not None]


def _variants(run: Run) -> tuple[tuple[str, ...], dict[str, float]]:
    """Return the application's variants in their order, and the least and the most accurate with their accuracy."""
    health = run.frame("health")
    try:
        application = load_application(health["application"][-1]) if not health.is_empty() else None
    except ConfigurationError:
        # The user's own application, whose file is somewhere else by now: what was served is all that is known.
        application = None
    if application is not None:
        names = tuple(variant.name for variant in application.variants)
        ends = (application.smallest, application.largest)
        return names, {variant.name: variant.accuracy_pct for variant in ends}
    answered = run.frame("requests").drop_nulls("accuracy_pct").sort("accuracy_pct")
    seen = dict(answered.select("variant", "accuracy_pct").unique(maintain_order=True).iter_rows())
    names = tuple(seen)
    return names, {name: seen[name] for name in (names[0], names[-1])} if names else {}


def _lead(run: Run, figures: dict[str, Any]) -> str:
    health = run.frame("health")
    node = health.row(-1, named=True) if not health.is_empty() else None
    where = ""
    if node is not None:
        where = f"{node['application']} on {node['gpu_model']} ({_BACKENDS.get(node['backend'], node['backend'])}). "
    arrivals = sorted({str(told.get("arrivals", "")) for told in producers_say(run).values()} - {""})
    scheme = run.frame("decisions")["scheme"].unique().sort().to_list()
    return (
        f"{where}Arrivals: {', '.join(arrivals) or 'not known'}. Scheme: {', '.join(scheme) or 'not known'}. "
        f"{figures['requests']['sent']:,} requests in {figures['run_s']:.0f} s."
    )


_BACKENDS = {
    "sim": "SIMULATED GPUs",
    "cpu": "real models on slices of a CPU",
    "nvml": "real MIG GPUs",
}


def _notes(run: Run, checks: list[Any]) -> list[str]:
    notes: list[str] = []
    if run.is_open:
        notes.append(
            "The run is still open, or was not ended in order: this is what its archive held when it was read."
        )
    elif not run.manifest.caught_up:
        notes.append("The archive was closed before it had read everything that the server had.")
    if run.manifest.gaps:
        notes.append(
            f"{len(run.manifest.gaps)} gaps in the streams: see the table of streams; sums are too low by them."
        )
    bad = [check.name for check in checks if check.agree is False]
    if bad:
        notes.append(f"Rows do not agree with counters: {', '.join(bad)}. The table of checks says what that can mean.")
    return notes


def _plain(series: Series) -> Any:
    """Return series as JSON can hold them; what is not a finite number is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            finite = np.isfinite(value) if value.dtype.kind == "f" else np.ones(len(value), dtype=bool)
            return [each if good else None for each, good in zip(value.tolist(), finite.tolist(), strict=True)]
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return value

    return plain(dataclasses.asdict(series))
