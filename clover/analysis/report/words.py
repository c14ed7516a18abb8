"""Tables and definitions of a report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clover.analysis.logs.manifest import Manifest
from clover.analysis.logs.reconcile import Check
from clover.analysis.report.figures import CAUSES
from clover.analysis.report.page import Table


def number(value: Any, unit: str = "", digits: int = 4) -> str:
    """Return a figure for people, `-` if there is none."""
    if value is None:
        return "-"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, float) and abs(value) < 10.0**digits:
            return f"{value:.{digits}g}{unit}"
        return f"{value:,.0f}{unit}"
    return str(value)


def main_table(figures: Mapping[str, Any], other: Mapping[str, Any] | None) -> Table:
    """Return the table of the figures that matter, beside those of the baseline run if there is one."""
    header = ["", figures["run"], *([other["run"]] if other else [])]
    columns = [figures, *([other] if other else [])]
    rows = [[name, *(show(column) for column in columns)] for name, show in _ROWS]
    return Table(title="Figures", header=header, rows=rows, numbers=frozenset(range(1, len(header))))


def _outcomes(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in figures["requests"].items() if count and name != "sent")


def _percentile(name: str) -> Any:
    def show(figures: Mapping[str, Any]) -> str:
        if figures[f"{name}_ms"] is None:
            return "without bound" if name == "p95" and figures["p95_unbounded"] else "too few samples"
        return number(figures[f"{name}_ms"], " ms")

    return show


def _plain(name: str, unit: str) -> Any:
    return lambda figures: number(figures.get(name), unit)


_ROWS: tuple[tuple[str, Any], ...] = (
    ("requests that ended", lambda f: number(f["requests"]["sent"])),
    ("how they ended", _outcomes),
    ("duration of the load", _plain("run_s", " s")),
    ("rate", _plain("rate_rps", " requests/s")),
    ("in time (goodput)", _plain("goodput_pct", " %")),
    ("late or not answered", _plain("late_pct", " %")),
    ("p50", _percentile("p50")),
    ("p95", _percentile("p95")),
    ("p99", _percentile("p99")),
    ("p99.9", _percentile("p999")),
    ("SLA for p95", _plain("sla_p95_ms", " ms")),
    ("accuracy served", _plain("accuracy_pct", " %")),
    ("energy of GPUs", _plain("energy_j", " J")),
    ("energy per answer", _plain("energy_j_per_request", " J")),
    ("meter", lambda f: str(f.get("energy_source", "-"))),
    ("footprint", _plain("footprint_g", " gCO2e")),
    ("footprint per answer", lambda f: number(_milli(f.get("footprint_g_per_request")), " mgCO2e")),
    ("saved against BASE (modelled)", _plain("saved_pct", " %")),
    ("saved against right-sized BASE (modelled)", _plain("saved_pct_rightsized", " %")),
    ("footprint of BASE (modelled)", _plain("base_g", " gCO2e")),
    ("host energy, not contained", _plain("host_j", " J")),
    ("energy without readings, not contained", _plain("unresolved_j", " J")),
)


def _milli(value: float | None) -> float | None:
    return None if value is None else 1e3 * value


def sci_table(figures: Mapping[str, Any]) -> Table | None:
    """Return the score and its parts."""
    sci = figures.get("sci")
    if sci is None:
        return None
    embodied = "no figure for this board"
    if sci["embodied_low_g_per_request"] is not None:
        low, high = sci["embodied_low_g_per_request"], sci["embodied_high_g_per_request"]
        embodied = f"{1e3 * low:.3g} to {1e3 * high:.3g} mgCO2e per request"
    score = (
        f"{1e3 * sci['score_low_g_per_request']:.4g} to {1e3 * sci['score_high_g_per_request']:.4g} mgCO2e per request"
    )
    rows = [
        [
            "E",
            f"{1e3 * sci['energy_kwh_per_request']:.4g} Wh",
            f"per request, PUE {sci['pue']:.3g} in it; idle included",
        ],
        [
            "I",
            f"{sci['intensity_g_per_kwh']:.4g} gCO2e/kWh",
            "mean over that energy; location-based, " + _grid(figures),
        ],
        ["M", embodied, sci["embodied_source"] or "not counted"],
        ["R", f"{sci['requests']:,}", "answered requests"],
        ["SCI = (E x I + M) per R", score, "shown, never optimised"],
    ]
    return Table(title="Software Carbon Intensity (ISO/IEC 21031:2024)", header=["", "value", "how"], rows=rows)


def _grid(figures: Mapping[str, Any]) -> str:
    grid = figures["grid"]
    return f"{grid['kind']}, {grid['factor']} factors, {grid['source']}, zone {grid['zone']}"


def energy_table(figures: Mapping[str, Any]) -> Table | None:
    """Return joules of GPUs by cause."""
    parts = figures.get("by_cause_j")
    if not parts:
        return None
    total = sum(parts.values()) or 1.0
    rows = [[cause, number(parts[cause], " J"), f"{100.0 * parts[cause] / total:.1f} %"] for cause in CAUSES]
    return Table(title="Energy by cause", header=["", "GPU energy", "share"], rows=rows, numbers=frozenset({1, 2}))


def checks_table(checks: Sequence[Check]) -> Table:
    """Return whether the rows agree with the counters."""
    words = {True: "yes", False: "NO", None: "nothing to compare with"}
    rows = [
        [check.name, number(check.rows, digits=9), number(check.counted, digits=9), words[check.agree], check.note]
        for check in checks
    ]
    header = ["check", "rows", "counter", "agree", "what a difference means"]
    return Table(title="Rows against counters", header=header, rows=rows, numbers=frozenset({1, 2}))


def streams_table(manifest: Manifest) -> Table:
    """Return what was read of each stream."""
    missing = {feed: [gap for gap in manifest.gaps if gap.feed == feed] for feed in manifest.feeds}
    rows = [
        [
            feed,
            number(position.entries),
            position.first_id or "-",
            position.cursor,
            "; ".join(f"{number(gap.entries)} after {gap.after_id}: {gap.reason}" for gap in missing[feed]) or "none",
        ]
        for feed, position in manifest.feeds.items()
    ]
    return Table(title="Streams", header=["stream", "entries", "first", "last", "gaps"], rows=rows)


def definitions(figures: Mapping[str, Any], *, measured_baseline: str | None) -> dict[str, str]:
    """Return what the words of the report mean, for this run."""
    source = figures.get("energy_source", "none")
    plus_minus = figures.get("energy_uncertainty_pct")
    error = f"± {plus_minus:g} %: " if plus_minus is not None else "not known: "
    return {
        "BASE": "the largest variant on all GPUs, whole, none parked, for the same arrivals and grid. Modelled: "
        "dynamic energy of each answer and idle power of the fleet by the performance model, at the intensity of the "
        "moment." + (f" The pictures compare with the measured run {measured_baseline}." if measured_baseline else ""),
        "right-sized BASE": "the largest variant on the fewest GPUs that keep the SLA, the others parked. What is "
        "saved against it is what following the grid and choosing variants add to switching idle GPUs off.",
        "saved": "1 - footprint / footprint of the baseline, for the same answers; idle, changes and "
        "parked GPUs included.",
        "footprint": "joules of the ledger / 3.6e6 x PUE x intensity, cut where the intensity changes: operational, "
        "location-based, attributional. Nothing is said about marginal emissions.",
        "meter": f"energy comes from {source!r}. Uncertainty {error}{figures.get('energy_uncertainty', 'no energy')}.",
        "latency": "from the moment a request was due to the receipt of its answer, so waiting counts that was caused "
        "by the service. A request that was not answered counts as infinitely late in every percentile.",
        "late": "answered after the SLA. Expired, overloaded, failed and lost requests were not answered at all.",
        "accuracy": "published accuracy of the variant that answered, mean over answered requests.",
        "start-up": "energy and time before the first request was due (loading the first plan) are not in the figures.",
    }
