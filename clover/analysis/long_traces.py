"""Year-long series of carbon intensity, hourly, from two public files that are not part of Clover.

`pjm-2022-eia930.csv` (PJM, EIA data) and `gb-2021-neso-actual-forecast.csv` (Great Britain, NESO, CC BY 4.0), read by the
rules of `clover carbon import`: short gaps are filled in a straight line, longer ones with the same hour of another day.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from clover.carbon.dialects import Options, read_table
from clover.carbon.importing import import_table
from clover.core.intensity_trace import IntensityTrace
from clover.errors import ConfigurationError


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
    """A public file: its name, what it describes, and the column to read."""

    file: str
    name: str
    zone: str
    column: str


_FILES = (
    _File(file="pjm-2022-eia930.csv", name="pjm-2022", zone="US-PJM", column="avg_CI"),
    _File(file="gb-2021-neso-actual-forecast.csv", name="gb-2021", zone="GB", column="carbon_intensity_production_avg"),
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
    options = Options(timezone="UTC", column=file.column)
    table = read_table(path.read_text(encoding="utf-8"), name=str(path), options=options)
    trace, _report = import_table(table, name=file.name, zone=file.zone)
    forecast = None
    if trace.forecasts_g_per_kwh:
        name = f"{file.name}-forecast"
        forecast = replace(trace, name=name, values_g_per_kwh=trace.forecasts_g_per_kwh, forecasts_g_per_kwh=())
    filled = sum(status != "measured" for status in trace.statuses)
    return LongSeries(trace=trace, forecast=forecast, filled_hours=filled)
