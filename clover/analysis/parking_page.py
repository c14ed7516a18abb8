"""Parking on the results page."""

from __future__ import annotations

from typing import Any

from clover.analysis.page import Parts, table
from clover.analysis.parking import number_keys, parking_keys


def parking(parts: Parts) -> str:
    """Return what parking saves against its analytic maximum."""
    names = [f"parking-{app}-{gpus}-{lambda_:g}" for app, gpus, lambda_ in parking_keys()]
    rows = [
        (
            f"{p['app']}, {p['gpus']} GPUs, lambda {p['lambda']:g}",
            str(p["k_min"]),
            str(p["k_wanted"]),
            str(p["active_gpus"]),
            "-" if p["gap"] is None else f"{p['gap']:.4f}",
            f"{p['analytic_j']:.2f}",
            f"{p['idle_saved_j']:.2f}",
            f"{p['saved_j']:.2f}",
            "-" if p["part"] is None else f"{100.0 * p['part']:.1f}",
            "-" if p["part_of_wanted"] is None else f"{100.0 * p['part_of_wanted']:.1f}",
            f"{p['accuracy_pct']['none']:.2f} / {p['accuracy_pct']['parked']:.2f}",
        )
        for p in (parts[name] for name in names if name in parts)
    ]
    header = (
        "case at 1x",
        "k_min",
        "k wanted",
        "serving",
        "gap",
        "maximum J",
        "idle J saved",
        "J saved",
        "% of maximum",
        "idle: % of what is wanted",
        "accuracy on / parked %",
    )
    return table(header, rows)


def idle_watts(parts: Parts) -> str:
    """Return what an idle GPU draws in the tables."""
    watts = sorted({p["idle_w"] for name, p in parts.items() if name.startswith("parking-")})
    return " or ".join(f"{w:g} W" for w in watts) if watts else "not computed"


def numbers(parts: Parts) -> str:
    """Return what each number of serving GPUs is worth."""
    names = [f"number-{app}-{gpus}-{lambda_:g}" for app, gpus, lambda_ in number_keys()]
    rows = [_number_row(parts[name], row) for name in names if name in parts for row in parts[name]["rows"]]
    if not rows:
        return "Not computed.\n"
    return table(("case at 1x", "serving", "best certified", "bound", "accuracy %", "J per request", "plan"), rows)


def _number_row(part: dict[str, Any], row: dict[str, Any]) -> tuple[str, ...]:
    best = max((each["score"] for each in part["rows"] if each["score"] is not None), default=None)
    score = "none keeps the promise" if row["score"] is None else f"{row['score']:.4f}"
    return (
        f"{part['app']}, {part['gpus']} GPUs, lambda {part['lambda']:g}",
        str(row["k"]),
        f"**{score}**" if row["score"] is not None and row["score"] == best else score,
        "-" if row["upper_bound"] is None else f"{row['upper_bound']:.4f}",
        f"{row['accuracy_pct']:.2f}",
        f"{row['energy_j']:.1f}",
        row["plan"],
    )
