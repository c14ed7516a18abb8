"""Year-long series of carbon intensity, hourly, from two public files that are not part of Clover.

`pjm-2022-eia930.csv` (PJM, EIA data) and `gb-2021-neso-actual-forecast.csv` (Great Britain, NESO, CC BY 4.0). Blank and
missing hours are filled by straight lines between their neighbours, and counted.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from clover.core.intensity_trace import IntensityTrace
from clover.errors import ConfigurationError, TraceError


@dataclass(frozen=True, slots=True, kw_only=True)
class LongSeries:
    """One year.

    Attributes:
        trace: What the grid emitted.
        forecast: What had been forecast for the same hours, None if the file has none.
        filled_hours: Hours without a value in the file.
    """

    trace: IntensityTrace
    forecast: IntensityTrace | None
    filled_hours: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A public file: its name, what it describes, and its columns."""

    file: str
    name: str
    zone: str
    time: str
    actual: str
    forecast: str | None = None


_FILES = (
    _File(file="pjm-2022-eia930.csv", name="pjm-2022", zone="US-PJM", time="timestamp", actual="avg_CI"),
    _File(
        file="gb-2021-neso-actual-forecast.csv",
        name="gb-2021",
        zone="GB",
        time="datetime",
        actual="carbon_intensity_production_avg",
        forecast="Forecast Carbon Intensity (gCO2/kWh)",
    ),
)


def load_long_traces(folder: Path) -> list[LongSeries]:
    """Read the series that a folder holds; raises ConfigurationError if it holds none, TraceError for a bad value."""
    if not folder.is_dir():
        raise ConfigurationError(f"--long-traces = {folder}: not a folder")
    found = [_load(folder / each.file, each) for each in _FILES if (folder / each.file).is_file()]
    if not found:
        names = ", ".join(each.file for each in _FILES)
        raise ConfigurationError(f"--long-traces = {folder}: holds none of {names}")
    return found


def _load(path: Path, file: _File) -> LongSeries:
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    if not rows or any(column not in rows[0] for column in (file.time, file.actual)):
        raise TraceError(f"{path}: expected columns {file.time} and {file.actual}")
    hours = _hours([row[file.time] for row in rows], path)
    values, filled = _hourly(hours, [row[file.actual] for row in rows], path)
    forecast = None
    if file.forecast is not None:
        predicted, _ = _hourly(hours, [row[file.forecast] for row in rows], path)
        forecast = IntensityTrace(name=f"{file.name}-forecast", zone=file.zone, values_g_per_kwh=predicted)
    return LongSeries(
        trace=IntensityTrace(name=file.name, zone=file.zone, values_g_per_kwh=values),
        forecast=forecast,
        filled_hours=filled,
    )


def _hours(stamps: Sequence[str], path: Path) -> list[float]:
    """Return hours since the first stamp."""
    try:
        times = [datetime.fromisoformat(stamp) for stamp in stamps]
    except ValueError as error:
        raise TraceError(f"{path}: {error}") from error
    hours = [(moment - times[0]).total_seconds() / 3600.0 for moment in times]
    if any(later <= earlier for earlier, later in itertools.pairwise(hours)):
        raise TraceError(f"{path}: times do not ascend")
    return hours


def _hourly(hours: Sequence[float], cells: Sequence[str], path: Path) -> tuple[tuple[float, ...], int]:
    known = [(hour, float(cell)) for hour, cell in zip(hours, cells, strict=True) if cell.strip()]
    if len(known) < 2 or any(not (math.isfinite(value) and value >= 0.0) for _, value in known):
        raise TraceError(f"{path}: expected numbers of 0 or more")
    at = np.array([hour for hour, _ in known])
    grid = np.arange(0.0, math.floor(hours[-1]) + 1.0)
    values = np.interp(grid, at, np.array([value for _, value in known]))
    nearest = np.abs(
        grid[:, None] - at[np.clip(np.searchsorted(at, grid)[:, None] + np.array([-1, 0]), 0, len(at) - 1)]
    )
    return tuple(float(value) for value in values), int((nearest.min(axis=1) > 0.5).sum())
