"""The pictures whose axis is time."""

from __future__ import annotations

from typing import Any

import numpy as np

from clover.analysis.report.drawing import BASE, GREY, INK, OURS, RIGHTSIZED, Drawer, Picture, time_axis
from clover.analysis.report.series import LEAST_SAMPLES, Change, Numbers, Series


def intensity(drawer: Drawer, series: Series, other_g: Numbers | None, name: str) -> Picture | None:
    """Intensity of the grid above, emission rates below; the area between the two is what was saved."""
    carbon = series.carbon
    if carbon is None:
        return None
    figure, axes = drawer.axes(height=4.4)
    axes.remove()
    top, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    seconds = time_axis(axes, (series.axis.end_ms - series.axis.start_ms) / 1e3)
    x, edges = series.axis.middles_s / seconds, series.axis.edges_s / seconds
    top.step(edges, [*carbon.intensity, carbon.intensity[-1]], where="post", color=INK, lw=1.2)
    doubtful = np.where(carbon.uncertain, carbon.intensity, np.nan)
    if carbon.uncertain.any():
        top.plot(x, doubtful, ls="--", color=BASE, lw=2.0, label="forecast, estimate or stale")
        top.legend(loc="upper right")
    top.set_ylabel("grid, gCO2e/kWh")
    top.set_ylim(bottom=0.0)
    hours = np.maximum(np.diff(series.axis.known_ms), 1.0) / 3.6e6
    ours = np.diff(carbon.used_g) / hours
    axes.plot(x, ours, color=OURS, lw=1.6, label="this run (ledger)")
    saved = ""
    if other_g is not None:
        theirs = np.diff(other_g) / hours
        axes.plot(x, theirs, color=BASE, lw=1.4, ls="--", label=name)
        axes.fill_between(x, ours, theirs, where=ours <= theirs, color=OURS, alpha=0.18, lw=0, label="saved")
        if (ours > theirs).any():
            more = {"facecolor": "none", "edgecolor": BASE, "hatch": "////", "lw": 0, "label": "emitted more"}
            axes.fill_between(x, ours, theirs, where=ours > theirs, **more)
        grams = float(other_g[-1] - carbon.used_g[-1])
        saved = f": {grams:.3g} g saved of {other_g[-1]:.3g} g"
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("gCO2e per hour")
    drawer.below(axes, columns=4)
    title = f"Grid intensity and emission rate{saved}"
    text = "Rate from the ledger: all causes of energy (requests, idle, unallocated, parked, changes), PUE included."
    return drawer.finish(figure, "intensity", title, text)


def cumulative(
    drawer: Drawer, series: Series, others: dict[str, Numbers], plus_minus_pct: float | None
) -> Picture | None:
    """Grams so far, and per cent saved so far."""
    carbon = series.carbon
    if carbon is None:
        return None
    figure, axes = drawer.axes(height=4.4)
    axes.remove()
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    seconds = time_axis(below, (series.axis.end_ms - series.axis.start_ms) / 1e3)
    edges = series.axis.edges_s / seconds
    axes.plot(edges, carbon.used_g, color=OURS, lw=1.8, label="this run")
    part = (plus_minus_pct or 0.0) / 100.0
    if part:
        low, high = carbon.used_g * (1.0 - part), carbon.used_g * (1.0 + part)
        axes.fill_between(edges, low, high, color=OURS, alpha=0.2, lw=0, label=f"± {plus_minus_pct:g} % of energy")
    for (name, grams), (colour, line) in zip(
        others.items(), ((BASE, "--"), (RIGHTSIZED, "-."), (INK, ":")), strict=False
    ):
        axes.plot(edges, grams, color=colour, ls=line, lw=1.4, label=name)
        # The first moments are a quotient of next to nothing.
        known = grams > 0.02 * grams[-1]
        saved = 100.0 * (1.0 - np.divide(carbon.used_g, grams, out=np.ones_like(grams), where=known))
        below.plot(edges[known], saved[known], color=colour, ls=line, lw=1.4)
    axes.set_ylabel("gCO2e so far")
    axes.set_ylim(bottom=0.0)
    axes.legend(loc="upper left")
    below.set_ylabel("saved so far, %")
    below.axhline(0.0, color=INK, lw=0.6)
    text = "Cumulative footprint, idle and changes included, and what is saved of each baseline up to each moment."
    return drawer.finish(figure, "cumulative", "Cumulative footprint and savings", text)


def accuracy(drawer: Drawer, series: Series, bounds: dict[str, float]) -> Picture:
    """Accuracy served, weighted by requests, between the least and the most accurate variant."""
    figure, axes = drawer.axes()
    seconds = time_axis(axes, (series.axis.end_ms - series.axis.start_ms) / 1e3)
    axes.plot(series.axis.middles_s / seconds, series.requests.accuracy_pct, color=OURS, lw=1.6, label="served (mean)")
    for (name, value), line in zip(
        sorted(bounds.items(), key=lambda item: -item[1]), (("--", BASE), (":", INK)), strict=False
    ):
        axes.axhline(value, ls=line[0], color=line[1], lw=1.2, label=f"{name}: {value:.2f} %")
    axes.set_ylabel("accuracy, %")
    axes.margins(y=0.12)
    drawer.below(axes, columns=3)
    text = "Mean over the requests answered in each bin of the published accuracy of the variant that answered."
    return drawer.finish(figure, "accuracy", "Accuracy served, weighted by requests", text)


def latency(drawer: Drawer, series: Series, sla_ms: float | None) -> Picture:
    """p95 and p99 beside the SLA; bins that break it are shaded."""
    figure, axes = drawer.axes()
    axis, requests = series.axis, series.requests
    seconds = time_axis(axes, (axis.end_ms - axis.start_ms) / 1e3)
    x = axis.middles_s / seconds
    finite = [v[np.isfinite(v)] for v in (requests.p95_ms, requests.p99_ms)]
    top = 1.15 * max([float(v.max()) for v in finite if v.size] + [(sla_ms or 1.0) * 1.1])
    if np.isfinite(requests.p99_ms).any():
        axes.plot(x, np.minimum(requests.p99_ms, top), color=GREY, lw=1.0, ls=":", label="p99")
    axes.plot(x, np.minimum(requests.p95_ms, top), color=OURS, lw=1.6, label="p95")
    broken = 0
    if sla_ms is not None:
        axes.axhline(sla_ms, color=BASE, lw=1.3, ls="--", label=f"SLA {sla_ms:.4g} ms")
        over = requests.p95_ms > sla_ms
        broken = int(over.sum())
        _shade(axes, axis.edges_s / seconds, over)
    axes.set_ylim(0.0, top)
    axes.set_ylabel("latency from due time, ms")
    drawer.below(axes, columns=5)
    title = f"p95 against the SLA: {broken} of {int(np.isfinite(requests.p95_ms).sum())} windows above it"
    text = (
        f"Windows of {axis.width_s:g} s with {np.median(requests.count):.0f} requests in the median; those with fewer "
        f"than {LEAST_SAMPLES} show no p95, with fewer than {5 * LEAST_SAMPLES} no p99. Unanswered requests count as "
        "infinitely late (drawn at the top)."
    )
    return drawer.finish(figure, "latency", title, text)


def _shade(axes: Any, edges: Numbers, over: Any) -> None:
    label = "p95 above the SLA"
    for place in np.flatnonzero(over):
        axes.axvspan(edges[place], edges[place + 1], facecolor=BASE, alpha=0.25, lw=0, label=label)
        label = "_"


def mix(drawer: Drawer, series: Series) -> Picture:
    """Which variants answered, and what the slices of the GPUs were, on one axis of time."""
    figure, axes = drawer.axes(height=5.2)
    axes.remove()
    fleet = series.fleet
    panels = figure.subplots(2 if fleet else 1, 1, sharex=True, squeeze=False)[:, 0]
    axis, requests = series.axis, series.requests
    seconds = time_axis(panels[-1], (axis.end_ms - axis.start_ms) / 1e3)
    total = np.maximum(requests.answered, 1.0)
    ordered = sorted(requests.variants, key=lambda v: drawer.order.index(v) if v in drawer.order else len(drawer.order))
    if ordered:
        parts = {name: 100.0 * requests.variants[name] / total for name in ordered}
        drawer.stack(panels[0], axis.edges_s / seconds, parts)
        panels[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=8)
    panels[0].set_ylim(0.0, 100.0)
    panels[0].set_ylabel("answers, %")
    text = "Above: share of the answers of each bin by variant."
    if fleet is not None:
        drawer.stack(panels[1], axis.edges_s / seconds, fleet.slices, of_sizes=True)
        panels[1].set_ylim(0.0, float(np.sum(list(fleet.slices.values()), axis=0).max()))
        panels[1].set_ylabel("compute slices")
        drawer.below(panels[1], columns=8)
        text += " Below: compute slices by the size of the instance that holds them, or by what they are instead."
    title = f"Variants that answered, and partitions of {fleet.gpus} GPUs" if fleet else "Variants that answered"
    return drawer.finish(figure, "mix", title, text)


_MARKS = {"start": "o", "intensity": "D", "load": "s", "fleet": "X"}


def decisions(drawer: Drawer, series: Series) -> Picture | None:
    """When the controller decided, why, and how long GPUs were being changed for it."""
    if not series.changes:
        return None
    figure, axes = drawer.axes(height=2.6)
    seconds = time_axis(axes, (series.axis.end_ms - series.axis.start_ms) / 1e3)
    triggers = [t for t in _MARKS if any(c.trigger == t for c in series.changes)]
    triggers += sorted({c.trigger for c in series.changes} - set(triggers))
    for row, trigger in enumerate(triggers):
        _trigger_row(axes, row, trigger, [c for c in series.changes if c.trigger == trigger], seconds)
    label = "GPUs being changed"
    for change in series.changes:
        if change.rolled_s is not None:
            begin, end = (t / seconds for t in change.rolled_s)
            axes.axvspan(begin, max(end, begin), facecolor=BASE, alpha=0.3, lw=0.5, ec=BASE, label=label)
            label = "_"
    axes.set_yticks(range(len(triggers)), triggers)
    axes.set_ylim(-0.6, len(triggers) - 0.4)
    drawer.below(axes)
    rolled = [c for c in series.changes if c.rolled_s is not None]
    title = f"{len(series.changes)} decisions, {len(rolled)} of them changed GPUs"
    text = (
        "Filled marks changed GPUs, hollow ones kept the configuration; the shading lasts from the first targets sent "
        "until the plan is in force everywhere."
    )
    return drawer.finish(figure, "decisions", title, text)


def _trigger_row(axes: Any, row: int, trigger: str, changes: list[Change], seconds: float) -> None:
    for changed in (False, True):
        own = [max(0.0, c.at_s) / seconds for c in changes if (c.rolled_s is not None) == changed]
        face = INK if changed else "none"
        axes.scatter(own, [row] * len(own), marker=_MARKS.get(trigger, "v"), s=32, facecolors=face, edgecolors=INK,
                     zorder=3, clip_on=False)  # fmt: skip
