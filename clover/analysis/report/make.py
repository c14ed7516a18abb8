"""Makes the report of a run, or of an experiment, and writes it: whole, or not at all."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson

from clover.analysis.load import Run, load
from clover.analysis.logs.reconcile import reconcile
from clover.analysis.palette import order_of
from clover.analysis.report import other_pictures, over_time
from clover.analysis.report.drawing import Drawer, Picture, save
from clover.analysis.report.figures import figures_of
from clover.analysis.report.fleet import producers_say, series_of
from clover.analysis.report.page import Page, html, markdown
from clover.analysis.report.series import Numbers, Series
from clover.analysis.report.words import (
    checks_table,
    definitions,
    energy_table,
    main_table,
    sci_table,
    streams_table,
)
from clover.catalog import load_application
from clover.errors import ConfigurationError

#: Files of a report's folder.
HTML, MARKDOWN, JSON, FIGURES = "report.html", "report.md", "report.json", "figures"
_KIND = "clover report"


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
    compared = _Baseline(other, series, figures) if other is not None else None
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
        "kind": _KIND,
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


class _Baseline:
    """A measured run to compare with, laid on the same axis; grams are per answer, times the answers of the run."""

    def __init__(self, run: Run, series: Series, figures: dict[str, Any]) -> None:
        theirs = series_of(run)
        self.figures = figures_of(run, theirs)
        self.run = run
        self.notes: list[str] = []
        self.used_g: Numbers | None = None
        self.saved_pct: float | None = None
        if theirs.carbon is None or series.carbon is None:
            self.notes.append("The runs are not compared in carbon: one of them has no readings of the grid or ledger.")
            return
        answered = sum(figures["requests"][outcome] for outcome in ("ok", "late"))
        others = sum(self.figures["requests"][outcome] for outcome in ("ok", "late"))
        scale = answered / others if others else 1.0
        at_s = series.axis.edges_s
        self.used_g = scale * np.interp(at_s, theirs.axis.edges_s, theirs.carbon.used_g)
        if self.used_g[-1] > 0.0:
            self.saved_pct = 100.0 * (1.0 - float(series.carbon.used_g[-1] / self.used_g[-1]))
            self.notes.append(
                f"Against the measured run {self.figures['run']}, per answered request: "
                f"{self.saved_pct:.1f} % less gCO2e."
            )
        self.notes += self._differences(series, theirs)

    def _differences(self, ours: Series, theirs: Series) -> list[str]:
        """Say what makes the comparison unfair."""
        found: list[str] = []
        lengths = [s.axis.end_ms - s.axis.start_ms for s in (ours, theirs)]
        if abs(lengths[0] - lengths[1]) > 0.02 * max(lengths):
            found.append("The two runs are not equally long; the shorter one's last value is carried on.")
        grids = [float(np.mean(s.carbon.effective)) for s in (ours, theirs) if s.carbon is not None]
        if len(grids) == 2 and abs(grids[0] - grids[1]) > 0.02 * max(grids):
            found.append(
                f"The two runs saw different grids (mean intensity x PUE {grids[0]:.4g} and {grids[1]:.4g} gCO2e/kWh): "
                "part of the difference is the grid's."
            )
        return found


def _pictures(
    run: Run, series: Series, figures: dict[str, Any], compared: _Baseline | None, *, png: bool
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


# --- writing --------------------------------------------------------------------------------------------------------


def write(page: Page, out: Path) -> Path:
    """Write a report into a folder, whole or not at all; return its HTML page. An older report there is replaced.

    Raises:
        ConfigurationError: The folder holds something else, cannot be written, or the disk is full; it stays as it was.
    """
    if out.exists() and not _is_report(out):
        raise ConfigurationError(
            f"{out}: it exists and is no report; nothing was written",
            hint="Choose a folder that does not exist (--out).",
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise _cannot(out, error) from error
    try:
        fresh.chmod(0o755)
        save(page.pictures, fresh / FIGURES)
        (fresh / HTML).write_text(html(page), encoding="utf-8")
        (fresh / MARKDOWN).write_text(markdown(page, FIGURES), encoding="utf-8")
        (fresh / JSON).write_bytes(orjson.dumps(page.data, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
        _swap(fresh, out)
    except OSError as error:
        raise _cannot(out, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return out / HTML


def _is_report(folder: Path) -> bool:
    try:
        return orjson.loads((folder / JSON).read_bytes()).get("kind") == _KIND
    except (OSError, orjson.JSONDecodeError, AttributeError):
        return folder.is_dir() and not any(folder.iterdir())


def _swap(fresh: Path, out: Path) -> None:
    """Put a folder in the place of another; the old one goes last."""
    if not out.exists():
        fresh.replace(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    out.replace(old / out.name)
    try:
        fresh.replace(out)
    except OSError:
        (old / out.name).replace(out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _cannot(out: Path, error: OSError) -> ConfigurationError:
    full = error.errno in {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
    return ConfigurationError(
        f"report {out}: {error.strerror or error}; nothing was written",
        hint="Make room, or choose another folder (--out)." if full else "Choose a folder that can be written (--out).",
    )
