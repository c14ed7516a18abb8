"""The results page: Markdown tables from the parts that have been computed; what is missing is said to be missing."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from clover.analysis import acceptance, ladder, ladder_parts, paper
from clover.analysis.cases import APPLICATIONS

_COUNTED, _MEASURED = ("gains", "ties", "worse"), ("least", "mean", "greatest")
Parts = dict[str, dict[str, Any]]


def paper_parts(parts: Parts) -> list[dict[str, Any]]:
    """Return the 54 cases that are there by application, load and lambda, traces together, in this order."""
    names = [f"paper-{app}-{load:g}" for app in APPLICATIONS for load in paper.LOADS]
    return [case for name in names if name in parts for case in parts[name]["cases"]]


def ladder_rows(parts: Parts, kind: str) -> list[dict[str, Any]]:
    """Return rows of the ladder (`ladder`: short traces, `year`: long ones), by application, lambda and watts."""
    names = [f"{kind}-{app}-{lambda_:g}" for app in APPLICATIONS for lambda_ in ladder_parts.LAMBDAS]
    return [row for name in names if name in parts for row in parts[name]["rows"]]


def year_is_earlier(parts: Parts) -> bool:
    """Return whether the rows of the year are those of an earlier page."""
    return any(part.get("earlier", False) for name, part in parts.items() if name.startswith("year-"))


def year_note(parts: Parts) -> str:
    """Say so if the rows of the year are those of an earlier page."""
    if not year_is_earlier(parts):
        return ""
    return (
        "**These rows are those of an earlier page** (results/year.csv): planner and replays have changed since "
        "(CHANGELOG.md), and the ladder over a year has not been computed anew.\n\n"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """Return a Markdown table; columns after the first few are figures, to the right."""
    lines = ["| " + " | ".join(header) + " |"]
    lines.append("|" + "|".join("---" if index < text_columns else "---:" for index in range(len(header))) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def paper_way(parts: Parts) -> str:
    """Return the tables of the paper's cases, one per application, means over the three traces."""
    found = paper_parts(parts)
    missing = len(APPLICATIONS) * len(paper.LOADS) * len(paper.LAMBDAS) - len(found)
    text = [f"{missing} of 18 loads were not computed for this page.\n"] if missing else []
    header = (
        "load, lambda, scheme", "saved %", "right-sized %", "orig. way %", "loss %", "p95/SLA", "late %", "MIG",
        "bad tries", "objective",
    )  # fmt: skip
    for app in APPLICATIONS:
        rows = [_paper_row(part, scheme) for part in found if part["rows"][0]["app"] == app for scheme in paper.SCHEMES]
        if rows:
            text += [f"### {app}\n", table(header, rows)]
    return "\n".join(text)


def _paper_row(part: dict[str, Any], scheme: str) -> tuple[str, ...]:
    rows = [row for row in part["rows"] if row["scheme"] == scheme]
    mark = "" if all(row["baseline_feasible"] for row in rows) else "!"
    bad = sum(not row["feasible"] for row in rows)
    ratios = [row["p95_ms"] / row["sla_p95_ms"] for row in rows if row["p95_ms"] is not None]
    return (
        f"{part['load']:g}x, {rows[0]['lambda']:g}, {scheme}"
        + (f" **(infeasible on {bad} of {len(rows)})**" if bad else ""),
        f"{_mean(rows, 'saved_pct'):.1f}{mark}",
        f"{_mean(rows, 'saved_pct_rightsized'):.1f}{mark}",
        f"{_mean(rows, 'saved_pct_original_way'):.1f}",
        f"{_mean(rows, 'accuracy_loss_pct'):.2f}",
        f"{max(ratios):.2f}" if len(ratios) == len(rows) else "unbounded",
        f"{max(row['late_pct'] for row in rows):.2f}",
        f"{_mean(rows, 'mig_changes'):.0f}",
        f"{_mean(rows, 'explored_violations'):.0f}",
        f"{_mean(rows, 'objective'):.4f}" if not bad else "not ranked",
    )


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


def check(parts: Parts) -> str:
    """Return the count of the 54 cases, and the cases where something is amiss."""
    steady = [case for part in paper_parts(parts) for case in part["steady"]]
    if not steady:
        return "Not computed.\n"
    found = paper.verdict(steady)
    rows = [
        (name, *(str(c[key]) for key in _COUNTED), *(f"{c[key]:+.5f}" for key in _MEASURED))
        for name, c in found["against"].items()
    ]  # fmt: skip
    hard = paper.hard_case_gain(steady)
    state = "complete" if found["cases"] == 54 else f"only {found['cases']} of 54 cases were computed"
    text = [
        (
            f"{found['cases']} cases ({state}); `exact` certified in all of its decisions in {found['certified']}. "
            f"Strict gain: more than {paper.TOLERANCE:g} in request-weighted mean objective; tie: within that.\n"
        ),
        table(("against", "gains", "ties", "worse", "least", "mean", "greatest"), rows),
    ]
    if hard is not None:
        text.append(f"Mean gain over `oracle` for yolov5, lambda 0.1, 5x: {hard:.4f}.\n")
    return "\n".join(text)


def rightsized_proofs(parts: Parts) -> str:
    """Say which fleets of right-sized BASE, chosen by the closed form, have no certificate."""
    proofs = [parts[f"rightsized-{app}"] for app in APPLICATIONS if f"rightsized-{app}" in parts]
    lacking = [
        f"{p['app']} with {p['active_gpus']} GPUs ({p['closed_late_pct']:.2f} % late by the closed form, "
        f"{p['late_pct']:.2f} % in the simulation of its nodes, at most {p['late_upper_pct']:.2f} %)"
        for p in proofs
        if not p["certified"]
    ]
    if not lacking:
        return "Of these fleets all have one." if len(proofs) == len(APPLICATIONS) else "Not computed."
    return (
        f"Without one is right-sized BASE of {', '.join(lacking)}: where nothing but the largest variant is wanted, it "
        "saves more than `exact` may."
    )


def gaps(parts: Parts) -> str:
    """Return the gaps at 5x without parking."""
    names = [f"gap-{app}-{gpus}-{lambda_:g}" for app, gpus, lambda_ in acceptance.gap_keys()]
    rows = [
        (
            f"{g['app']}, lambda {g['lambda']:g}, {g['gpus']} GPUs",
            f"{g['objective']:.5f}",
            f"{g['upper_bound']:.5f}",
            f"{g['gap']:.2e}",
            "-" if g["late_upper_pct"] is None else f"{g['late_upper_pct']:.2f}",
            "yes" if g["certified"] else "no",
        )
        for g in (parts[name] for name in names if name in parts)
    ]
    return table(("case", "objective", "upper bound", "gap", "late at most %", "certified"), rows)


def ladder_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the ladder as a table."""
    header = (
        "case", "right-sized %", "static + parking %", "exact + parking %", "loss %",
        "gain from following the grid: g %", "kWh %", "uniform static % (accuracy)", "MIG", "late %",
    )  # fmt: skip
    return table(header, [_ladder_row(row) for row in rows])


def _ladder_row(row: dict[str, Any]) -> tuple[str, ...]:
    saved, interval, uniform = row["saved_pct"], row["interval_95_pct"], row["uniform_static"]
    host = ", with host" if row["host_w"] else ""
    return (
        f"{row['app']}, {row['trace']}, lambda {row['lambda']:g}, {row['parked_w']:g} W{host}",
        _with(saved["base_rightsized"], interval.get("base_rightsized")),
        _with(saved["static"], interval.get("static")),
        _with(saved["exact"], interval.get("exact")),
        f"{row['accuracy_loss_pct']:.2f}",
        _with(row["following_g_pct"], interval.get("following"), digits=2),
        fixed(row["following_kwh_pct"], 2),
        "-" if uniform is None else f"{uniform['saved_pct']:.1f} ({uniform['accuracy_pct']:.2f})",
        f"{row['mig_changes']}",
        f"{row['late_pct']:.2f}",
    )


def fixed(value: float, digits: int) -> str:
    """Return a number with so many digits after the point, without the sign of a negative that rounds to zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _with(value: float, interval: Sequence[float] | None, *, digits: int = 1) -> str:
    if not interval:
        return fixed(value, digits)
    return f"{fixed(value, digits)} [{fixed(interval[0], digits)}, {fixed(interval[1], digits)}]"


def zero_watts(rows: Sequence[dict[str, Any]]) -> str:
    """Return at how many parked watts each saving is gone, without host power, means over the traces."""
    plain = [row for row in rows if not row["host_w"]]
    lines: list[tuple[str, ...]] = []
    for app in APPLICATIONS:
        for lambda_ in ladder_parts.LAMBDAS:
            own = [row for row in plain if (row["app"], row["lambda"]) == (app, lambda_)]
            watts = sorted({row["parked_w"] for row in own})
            if len(watts) > 1:
                lines.append(
                    (
                        f"{app}, lambda {lambda_:g} ({len(watts)} of 6 watts)",
                        *(_zero(own, watts, *pair) for pair in _STEPS),
                    )
                )
    return table(("case", *(f"{high} over {low}" for low, high in _STEPS)), lines)


_STEPS = (("base", "base_rightsized"), ("base_rightsized", "exact"), ("base", "exact"), ("static", "exact"))


def _zero(rows: Sequence[dict[str, Any]], watts: Sequence[float], low: str, high: str) -> str:
    gains = {
        w: statistics.fmean(row["saved_pct"][high] - row["saved_pct"][low] for row in rows if row["parked_w"] == w)
        for w in watts
    }
    if all(abs(gain) < 0.005 for gain in gains.values()):
        return "none at any"
    found = ladder.zero_watts(gains)
    return f"above {max(watts):g} W" if found is None else f"{found:.1f} W"


def sensitivities(parts: Parts) -> str:
    """Return the ladder under changed assumptions."""
    own = [parts[f"sensitivity-{app}"] for app in APPLICATIONS if f"sensitivity-{app}" in parts]
    rows = [
        (
            f"{row['app']}, {row['case']}",
            f"{row['saved_pct']['base_rightsized']:.1f}",
            f"{row['saved_pct']['static']:.1f}",
            f"{row['saved_pct']['exact']:.1f}",
            f"{row['accuracy_loss_pct']:.2f}",
            fixed(row["following_g_pct"], 2),
        )
        for part in own
        for row in part["rows"]
    ]
    steps = [
        (f"{s['app']}, {s['step_w']:g} W", f"{s['saved_pct']['base_rightsized']:.1f}", f"{s['saved_pct']['exact']:.1f}")
        for part in own
        for s in part["steps"]
    ]
    ahead = [_forecast_row(parts[f"forecast-{app}"]) for app in APPLICATIONS if f"forecast-{app}" in parts]
    text = [
        table(("case", "right-sized %", "static %", "exact %", "loss %", "following the grid: g %"), rows),
        (
            "A step of power per GPU of which any instance is busy, added to the plans as they are and to both "
            "baselines; dynamic energy is not fitted anew:\n"
        ),
        table(("step", "right-sized %", "exact %"), steps),
    ]
    if ahead:
        header = (
            "planned on",
            "saved by actual %",
            "saved by forecast %",
            "accuracy actual / forecast %",
            "mean error g/kWh",
        )
        text += [
            "Planned on the published forecast, counted on what the grid emitted (Great Britain 2021):\n",
            table(header, ahead),
        ]
    return "\n".join(text)


def _forecast_row(part: dict[str, Any]) -> tuple[str, ...]:
    grams = part["grams"]
    saved = [f"{100.0 * (1.0 - grams[name] / grams['base']):.2f}" for name in ("actual", "forecast")]
    accuracy = " / ".join(f"{grams[f'{name} accuracy_pct']:.3f}" for name in ("actual", "forecast"))
    return part["app"], *saved, accuracy, f"{part['mean_error_g_per_kwh']:.1f}"
