"""The pictures whose axis is not time: accuracy against carbon, percentiles of latency, energy by kind of instance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clover.analysis.load import Run
from clover.analysis.logs.frames import polars
from clover.analysis.report.drawing import BASE, GREY, INK, OURS, Drawer, Picture
from clover.analysis.report.series import Series


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A configuration that was weighed, against BASE at the same load (modelled)."""

    loss_pct: float
    saved_pct: float
    meets_sla: bool
    chosen: bool


def tried_in(run: Run) -> list[Tried]:
    """Return what the controller weighed: chosen configurations and those that they beat, each once."""
    pl = polars()
    plans = run.frame("plans").sort("at_ms")
    decisions = run.frame("decisions").filter(pl.col("predicted_accuracy_pct").is_not_null())
    if plans.is_empty() or decisions.is_empty():
        return []
    base = plans.row(-1, named=True)
    found: dict[tuple[float, float, bool], Tried] = {}
    for row in decisions.iter_rows(named=True):
        entries = [(row["predicted_accuracy_pct"], row["predicted_energy_j_per_request"], row["meets_sla"], True)]
        entries += [
            (a["accuracy_pct"], a["energy_j_per_request"], a["meets_sla"], False) for a in row["alternatives"] or ()
        ]
        for accuracy, energy_j, meets, chosen in entries:
            loss = 100.0 * (1.0 - accuracy / base["base_accuracy_pct"])
            saved = 100.0 * (1.0 - energy_j / base["base_energy_j_per_request"])
            key = (round(loss, 4), round(saved, 3), meets)
            before = found.get(key)
            found[key] = Tried(
                loss_pct=loss, saved_pct=saved, meets_sla=meets, chosen=chosen or (before is not None and before.chosen)
            )
    return list(found.values())


def frontier_of(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points of (loss, saved) that no other beats in both, by loss."""
    best: list[tuple[float, float]] = []
    for loss, saved in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or saved > best[-1][1]:
            best.append((loss, saved))
    return best


def scatter(drawer: Drawer, tried: list[Tried]) -> Picture | None:
    """Accuracy lost against carbon saved, one dot per configuration that was weighed."""
    if not tried:
        return None
    figure, axes = drawer.axes(height=3.8, width=6.5)
    for meets, face, label in ((True, GREY, "keeps the SLA"), (False, "none", "breaks the SLA")):
        own = [t for t in tried if t.meets_sla == meets]
        if not own:
            continue
        axes.scatter([t.loss_pct for t in own], [t.saved_pct for t in own], s=26, facecolors=face, edgecolors=INK,
                     linewidths=0.8, label=f"{label} ({len(own)})")  # fmt: skip
    chosen = [t for t in tried if t.chosen]
    axes.scatter([t.loss_pct for t in chosen], [t.saved_pct for t in chosen], s=110, facecolors="none", edgecolors=OURS,
                 linewidths=1.6, label=f"chosen ({len(chosen)})")  # fmt: skip
    best = frontier_of([(t.loss_pct, t.saved_pct) for t in tried if t.meets_sla])
    axes.plot([p[0] for p in best], [p[1] for p in best], color=OURS, lw=1.0, ls="--", label="frontier", zorder=1)
    axes.scatter([0.0], [0.0], marker="*", s=90, color=BASE, label="BASE", zorder=3)
    axes.set(xlabel="accuracy lost against BASE, %", ylabel="carbon saved against BASE, %")
    axes.margins(0.08)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    text = (
        "Every configuration that a decision chose or names as beaten, by the performance model at the load it was "
        "decided for; hollow dots break the SLA, ringed ones were chosen."
    )
    return drawer.finish(figure, "frontier", "Accuracy against carbon: what was weighed and chosen", text)


#: Marks of the axis of percentiles.
_PERCENTS = (0.0, 50.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999)


def percentile_plot(drawer: Drawer, curves: dict[str, Any], sla_ms: float | None) -> Picture:
    """Latency by percentile on a scale that stretches the tail; each curve ends where ten requests lie beyond."""
    figure, axes = drawer.axes(height=3.6, width=7.5)
    lines = (("-", OURS, 1.8), ("--", BASE, 1.4), ("-.", INK, 1.2), (":", GREY, 1.6))
    furthest, lost = 1.0, 0
    for (name, latencies), (line, colour, width) in zip(curves.items(), lines, strict=False):
        known = np.sort(np.asarray(latencies, dtype=np.float64))
        nines = np.linspace(0.0, np.log10(max(10.0, len(known) / 10.0)), 300)
        values = known[np.minimum(len(known) - 1, (len(known) * (1.0 - 10.0**-nines)).astype(int))]
        lost += int(np.isinf(known).sum())
        values = np.where(np.isfinite(values), values, np.nan)
        axes.plot(nines, values, ls=line, color=colour, lw=width, label=f"{name} (n = {len(known)})")
        furthest = max(furthest, float(nines[-1]))
    if sla_ms is not None:
        axes.axhline(sla_ms, color=BASE, lw=1.0, ls=(0, (1, 1)), label=f"SLA {sla_ms:.4g} ms")
        axes.axvline(-np.log10(0.05), color=GREY, lw=0.8)
    marks = {-np.log10(1.0 - percent / 100.0): f"{percent:g}" for percent in _PERCENTS}
    shown = [mark for mark in marks if mark <= furthest + 1e-9]
    axes.set_xticks(shown, [marks[mark] for mark in shown])
    axes.set_xlim(0.0, furthest)
    axes.set_ylim(bottom=0.0)
    axes.set(xlabel="percentile of requests", ylabel="latency from due time, ms")
    axes.legend(loc="upper left")
    text = (
        "Latency runs from the due time, so a stall of the service shows in full; the scale is logarithmic in the rest."
    )
    if lost:
        text += " Where a line ends early, requests beyond were not answered."
    return drawer.finish(figure, "percentiles", "Latency by percentile", text)


def phases_of(run: Run, series: Series) -> dict[str, Any]:
    """Return latencies (unanswered: infinite) of all requests, and of those that ended while GPUs were changed."""
    pl = polars()
    requests = run.frame("requests")
    latency = requests["latency_ms"].fill_null(float("inf")).to_numpy()
    due_s = (requests["due_ms"].to_numpy() - series.axis.start_ms) / 1e3
    during = np.zeros(len(latency), dtype=bool)
    for change in series.changes:
        if change.rolled_s is not None:
            during |= (due_s >= change.rolled_s[0]) & (due_s < change.rolled_s[1])
    del pl
    curves = {"all requests": latency}
    if during.sum() >= 100 and (~during).sum() >= 100:
        curves |= {"due while GPUs were changed": latency[during], "due otherwise": latency[~during]}
    return curves


def energy_map(drawer: Drawer, run: Run, source: str) -> Picture | None:
    """Mean dynamic joules per request by variant and size of instance."""
    pl = polars()
    answered = run.frame("requests").filter(pl.col("energy_j").is_not_null() & (pl.col("variant") != ""))
    if answered.is_empty():
        return None
    grouped = answered.group_by("variant", "profile").agg(pl.col("energy_j").mean(), pl.len())
    cells = {(v, p.partition(".")[0]): (j, n) for v, p, j, n in grouped.iter_rows()}
    rows = sorted({v for v, _ in cells}, key=lambda v: drawer.order.index(v) if v in drawer.order else 99)
    columns = sorted({p for _, p in cells}, key=lambda p: (len(p), p))
    values = np.array([[cells.get((v, p), (np.nan, 0))[0] for p in columns] for v in rows])
    figure, axes = drawer.axes(height=1.3 + 0.45 * len(rows), width=2.6 + 1.05 * len(columns))
    # Cells as shapes, not as an image: sharp in any size, and no data of a picture within the picture.
    bounds = [np.arange(count + 1) - 0.5 for count in (len(columns), len(rows))]
    most = 1.25 * float(np.nanmax(values))
    axes.pcolormesh(*bounds, np.ma.masked_invalid(values), cmap="Greys", vmin=0.0, vmax=most, edgecolors="#cccccc")
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="size of instance", ylabel="variant")
    for (row, column), value in np.ndenumerate(values):
        dark = value > 0.65 * most
        told = "-" if np.isnan(value) else f"{value:.2f} J\nn={cells[rows[row], columns[column]][1]}"
        axes.text(column, row, told, ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
    text = (
        f"Mean dynamic energy of an answered request ({source}; provisional figures of the replies, idle power not in "
        "them), and how many there were."
    )
    return drawer.finish(figure, "energy", "Joules per request", text)
