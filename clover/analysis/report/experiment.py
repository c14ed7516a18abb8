"""The report of an experiment: schemes compared on the model, nothing served."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from clover.analysis.palette import LOOKS
from clover.analysis.report.drawing import GREY, INK, Drawer, Picture
from clover.analysis.report.other_pictures import frontier_of
from clover.analysis.report.page import Page, Table
from clover.analysis.report.words import number
from clover.errors import ConfigurationError

Row = dict[str, Any]
_CASE = ("app", "trace", "rate_rps", "gpus", "lambda", "parking")
_NEEDED = (*_CASE, "scheme", "saved_pct", "saved_pct_rightsized", "accuracy_loss_pct", "late_pct", "feasible")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def is_experiment(summary: dict[str, Any] | None) -> bool:
    """Return whether a summary is that of an experiment."""
    return summary is not None and isinstance(summary.get("rows"), list)


def experiment_report(folder: Path, summary: dict[str, Any], *, png: bool = True) -> Page:
    """Return the report of an experiment from what `clover experiment --json` prints.

    Raises:
        ConfigurationError: It has no rows, or they lack figures.
    """
    rows: list[Row] = summary["rows"]
    if not rows:
        raise ConfigurationError(f"experiment {folder}: it has no rows, there is nothing to report")
    lacking = [name for name in _NEEDED if name not in rows[0]]
    if lacking:
        raise ConfigurationError(f"experiment {folder}: its rows lack {', '.join(lacking)}")
    schemes = list(dict.fromkeys(row["scheme"] for row in rows))
    drawer = Drawer((), png=png)
    cases = [(key, list(group)) for key, group in groupby(rows, key=_case_of)]
    notes = ["Modelled hour by hour, with simulated lateness; nothing was served."]
    if any(row.get("baseline_feasible") is False for row in rows):
        notes.append("BASE itself misses the SLA in some cases: what is saved against it there is no fair comparison.")
    return Page(
        title=f"Experiment {folder.resolve().name}",
        lead=f"{len(schemes)} schemes in {len(cases)} cases.",
        notes=notes,
        tables=[_table(key, group) for key, group in cases],
        tables_first=0,
        pictures=[_scatter(drawer, rows, schemes), _bars(drawer, rows, schemes)],
        words={
            "saved": "1 - footprint per request / that of BASE (largest variant, all GPUs whole, none parked), or of "
            "right-sized BASE (fewest GPUs that keep the SLA, the others parked), for the same load and grid. Both are "
            "modelled.",
            "late": "share of simulated requests above the SLA; above 5 % a scheme is not feasible (hollow, hatched).",
            "accuracy lost": "100 x (A_base - A) / A_base, mean over requests.",
        },
        data={"schema": 1, "kind": "clover report", "rows": rows, "spreads": summary.get("spreads", [])},
    )


def _case_of(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _CASE)


def _table(key: tuple[Any, ...], rows: Sequence[Row]) -> Table:
    app, trace, rate, gpus, lambda_, parking = key
    cells = [
        [
            row["scheme"] + ("" if row["feasible"] else " (infeasible)"),
            number(row["saved_pct"], " %"),
            number(row["saved_pct_rightsized"], " %"),
            number(row["accuracy_loss_pct"], " %"),
            number(row.get("p95_ms"), " ms"),
            number(row["late_pct"], " %"),
            number(row.get("energy_j_per_request"), " J"),
            number(row.get("mig_changes")),
        ]
        for row in sorted(rows, key=lambda row: (not row["feasible"], -row.get("objective", 0.0)))
    ]
    return Table(
        title=f"{app}, {trace}, {rate:g} requests/s on {gpus} GPUs, lambda {lambda_:g}, parking {parking}",
        header=["scheme", "saved", "saved, right-sized", "accuracy lost", "p95", "late", "J/request", "MIG changes"],
        rows=cells,
        numbers=frozenset(range(1, 8)),
    )


def _scatter(drawer: Drawer, rows: Sequence[Row], schemes: Sequence[str]) -> Picture:
    figure, axes = drawer.axes(height=4.2, width=7.5)
    for place, scheme in enumerate(schemes):
        look, mark = LOOKS[place % len(LOOKS)], _MARKS[place % len(_MARKS)]
        for feasible in (True, False):
            own = [row for row in rows if row["scheme"] == scheme and row["feasible"] == feasible]
            if own:
                label = scheme if feasible else f"{scheme} (breaks the SLA)"
                axes.scatter([r["accuracy_loss_pct"] for r in own], [r["saved_pct"] for r in own], marker=mark, s=42,
                             facecolors=look.colour if feasible else "none", edgecolors=INK, linewidths=0.8,
                             label=label, zorder=3)  # fmt: skip
    label = "frontier of a case"
    for _, case in groupby(rows, key=_case_of):
        best = frontier_of([(r["accuracy_loss_pct"], r["saved_pct"]) for r in case if r["feasible"]])
        axes.plot([p[0] for p in best], [p[1] for p in best], color=GREY, ls="--", lw=0.9, label=label, zorder=1)
        label = "_"
    axes.set(xlabel="accuracy lost against BASE, %", ylabel="carbon saved against BASE, % (modelled)")
    axes.margins(0.07)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    text = (
        "One mark per row; hollow ones break the SLA. The frontiers join feasible rows that no other of their case "
        "beats in both."
    )
    return drawer.finish(figure, "frontier", "Accuracy against carbon, all cases", text)


def _bars(drawer: Drawer, rows: Sequence[Row], schemes: Sequence[str]) -> Picture:
    """Mean over the cases against each baseline, with the range over the cases."""
    figure, axes = drawer.axes(height=1.4 + 0.42 * len(schemes), width=8.0)
    place = np.arange(len(schemes))
    for shift, name, hatch, colour, label in (
        (-0.19, "saved_pct", "", LOOKS[5].colour, "against BASE"),
        (0.19, "saved_pct_rightsized", "////", LOOKS[1].colour, "against right-sized BASE"),
    ):
        values = [[row[name] for row in rows if row["scheme"] == scheme] for scheme in schemes]
        means = np.array([np.mean(v) for v in values])
        reach = np.array([[m - min(v), max(v) - m] for m, v in zip(means, values, strict=True)]).T
        axes.barh(place + shift, means, height=0.36, color=colour, hatch=hatch, edgecolor=INK, linewidth=0.5,
                  xerr=np.maximum(reach, 0.0), error_kw={"lw": 0.9, "capsize": 2}, label=label)  # fmt: skip
    kept = {s: sum(row["feasible"] for row in rows if row["scheme"] == s) for s in schemes}
    total = {s: sum(row["scheme"] == s for row in rows) for s in schemes}
    axes.set_yticks(place, [f"{s} ({kept[s]}/{total[s]} keep the SLA)" for s in schemes])
    axes.invert_yaxis()
    axes.axvline(0.0, color=INK, lw=0.8)
    axes.set_xlabel("carbon saved, % (modelled)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    text = "Mean over the cases; whiskers reach from the least to the greatest."
    return drawer.finish(figure, "schemes", "Saved by scheme", text)
