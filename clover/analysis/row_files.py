"""Rows of the results page as CSV files, and back: what a page does not compute it takes from the last one's files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TEXT = ("app", "trace")
_COUNTS = ("hours", "mig_changes", "replans")
_BY_RUNG = ("grams", "kwh", "saved_pct")
_LOW, _HIGH = "_low_95_pct", "_high_95_pct"


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows whose values are plain, to six digits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def flat_ladder_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the ladder without dictionaries in it: their keys are appended to the name."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "interval_95_pct":
            continue
        found = value or {"accuracy_pct": None, "saved_pct": None} if key == "uniform_static" else value
        flat |= {f"{key}_{name}": each for name, each in found.items()} if isinstance(found, dict) else {key: found}
    for name, (low, high) in row["interval_95_pct"].items():
        flat |= {f"{name}{_LOW}": low, f"{name}{_HIGH}": high}
    return flat


def read_ladder_rows(file: Path) -> list[dict[str, Any]]:
    """Read rows of the ladder back; raises KeyError or ValueError if the file is of another kind."""
    with file.open(newline="", encoding="utf-8") as handle:
        return [_ladder_row(row) for row in csv.DictReader(handle)]


def _ladder_row(flat: dict[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {name: {} for name in _BY_RUNG} | {"interval_95_pct": {}, "uniform_static": None}
    uniform: dict[str, float] = {}
    for key, text in flat.items():
        group = next((name for name in _BY_RUNG if key.startswith(f"{name}_")), None)
        if key in _TEXT:
            row[key] = text
        elif key in _COUNTS:
            row[key] = int(text)
        elif group is not None:
            row[group][key.removeprefix(f"{group}_")] = float(text)
        elif key.endswith(_LOW):
            name = key.removesuffix(_LOW)
            row["interval_95_pct"][name] = (float(text), float(flat[f"{name}{_HIGH}"]))
        elif key.startswith("uniform_static_"):
            uniform |= {key.removeprefix("uniform_static_"): float(text)} if text else {}
        elif not key.endswith(_HIGH):
            row[key] = float(text)
    row["uniform_static"] = uniform or None
    return row
