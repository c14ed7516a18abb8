"""Puts the rows of a foreign file on a regular grid of UTC, by stated rules, and reports everything that it did.

Rules: blank cells are missing values. Two rows for the same instant: the later row of the file holds, and it is said
whether they differed. A stamp off the grid stands for the interval that it falls into if that has no row of its own,
else it is dropped. A gap of at most `fill_within_h` is filled in a straight line; a longer one repeats the same hour of
the day before (of a day after at the beginning of the file). Every filled row is marked as such in the trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from clover.carbon.dialects import Row, Table, iso
from clover.core.forecast import ForecastError, forecast_error, persistence_pairs
from clover.core.intensity_trace import IntensityTrace, RowStatus
from clover.errors import TraceError

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Intervals in a row without a value: rows that are `blank`, or `absent` altogether."""

    kind: Literal["blank", "absent"]
    from_: str
    intervals: int
    hours: float
    filled: RowStatus


@dataclass(slots=True, kw_only=True)
class ImportReport:
    """What was found in a file and what was done about it.

    Attributes:
        dialect, factor: Of the file.
        rows: In the file.
        intervals: In the trace.
        step_h: Of the trace.
        blank, absent: Intervals without a value, by why.
        interpolated, repeated: How these were filled.
        off_grid, off_grid_dropped: Stamps between grid points: used for their interval, or dropped.
        duplicates, conflicts: Rows for an instant that had one already, with the same or with another value.
        unordered: Rows earlier than the one before them.
        irregular_steps: Steps between successive stamps that are not the grid's, as time and hours.
        gaps: Each run of missing values.
        published_forecast, persistence: How wrong they would have been, over measured values only.
    """

    dialect: str
    factor: str
    rows: int
    intervals: int = 0
    step_h: float = 1.0
    blank: int = 0
    absent: int = 0
    interpolated: int = 0
    repeated: int = 0
    off_grid: int = 0
    off_grid_dropped: int = 0
    duplicates: int = 0
    conflicts: int = 0
    unordered: int = 0
    irregular_steps: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    gaps: list[Gap] = field(default_factory=list[Gap])
    published_forecast: ForecastError | None = None
    persistence: ForecastError | None = None


def import_table(
    table: Table, *, name: str, zone: str, fill_within_h: float = 3.0, refuse_gaps: bool = False
) -> tuple[IntensityTrace, ImportReport]:
    """Turn the rows of a file into a trace.

    Raises:
        TraceError: There is a gap and gaps are refused, or nothing to fill one with.
    """
    report = ImportReport(dialect=table.dialect, factor=table.factor, rows=len(table.rows))
    rows = _in_order(table.rows, report)
    step_s = _step_s(rows, name)
    report.step_h = step_s / 3600.0
    steps = [(a, b.at_s - a.at_s) for a, b in pairwise(rows) if b.at_s - a.at_s != step_s]
    report.irregular_steps = [(iso(row.at_s), step / 3600.0) for row, step in steps]
    on_grid = _on_grid(rows, step_s, report)
    shift_s = step_s if table.end_stamps else 0.0
    first_s, last_s = min(on_grid), max(on_grid)
    starts = [first_s + n * step_s for n in range(round((last_s - first_s) / step_s) + 1)]
    actual = {at: row.value for at, row in on_grid.items() if row.value is not None}
    _measure(on_grid, actual, report)
    report.gaps = _gaps(starts, on_grid, actual, step_s, fill_within_h)
    if report.gaps and refuse_gaps:
        gap = report.gaps[0]
        raise TraceError(f"{name}: {len(report.gaps)} gaps, the first from {gap.from_} for {gap.hours:g} h")
    values, statuses = _filled(starts, actual, step_s, fill_within_h, name)
    forecasts: Sequence[float] = ()
    if table.has_forecast:
        known = {at: row.forecast for at, row in on_grid.items() if row.forecast is not None}
        forecasts, _ = _filled(starts, known, step_s, fill_within_h, f"{name} forecast")
    report.intervals = len(starts)
    report.blank = sum(gap.intervals for gap in report.gaps if gap.kind == "blank")
    report.absent = sum(gap.intervals for gap in report.gaps if gap.kind == "absent")
    report.interpolated, report.repeated = statuses.count("interpolated"), statuses.count("repeated")
    trace = IntensityTrace(
        name=name,
        zone=zone,
        factor=table.factor,
        step_h=report.step_h,
        values_g_per_kwh=tuple(values),
        forecasts_g_per_kwh=tuple(forecasts),
        statuses=tuple(statuses),
        started_at=iso(first_s - shift_s),
    )
    return trace, report


def _in_order(rows: Sequence[Row], report: ImportReport) -> list[Row]:
    report.unordered = sum(b.at_s < a.at_s for a, b in pairwise(rows))
    by_time: dict[float, Row] = {}
    for row in rows:
        before = by_time.get(row.at_s)
        if before is not None:
            same = (before.value, before.forecast) == (row.value, row.forecast)
            report.duplicates += same
            report.conflicts += not same
        by_time[row.at_s] = row
    return [by_time[at] for at in sorted(by_time)]


def _step_s(rows: Sequence[Row], name: str) -> float:
    """Return the most common step; a trace has no longer rows than hours."""
    steps = Counter(b.at_s - a.at_s for a, b in pairwise(rows))
    if not steps:
        raise TraceError(f"{name}: one row, expected at least two")
    step_s = steps.most_common(1)[0][0]
    if step_s > 3600.0 or 3600.0 % step_s != 0.0:
        raise TraceError(f"{name}: most rows are {step_s / 60:g} min apart, expected an hour or a whole part of one")
    return step_s


def _on_grid(rows: Sequence[Row], step_s: float, report: ImportReport) -> dict[float, Row]:
    own = {row.at_s: row for row in rows if row.at_s % step_s == 0.0}
    found = dict(own)
    for row in rows:
        if row.at_s % step_s != 0.0:
            start = row.at_s // step_s * step_s
            if start in found:
                report.off_grid_dropped += 1
            else:
                report.off_grid += 1
                found[start] = row
    return found


def _measure(on_grid: Mapping[float, Row], actual: Mapping[float, float], report: ImportReport) -> None:
    pairs = [(row.value, row.forecast) for row in on_grid.values()]
    report.published_forecast = forecast_error([(a, f) for a, f in pairs if a is not None and f is not None])
    report.persistence = forecast_error(persistence_pairs(actual))


def _gaps(
    starts: Sequence[float],
    on_grid: Mapping[float, Row],
    actual: Mapping[float, float],
    step_s: float,
    fill_within_h: float,
) -> list[Gap]:
    gaps: list[Gap] = []
    for run in _runs(starts, actual):
        filled = _how(run, starts, step_s, fill_within_h)
        for kind, part in _by_kind(run, on_grid):
            hours = len(part) * step_s / 3600.0
            gaps.append(Gap(kind=kind, from_=iso(part[0]), intervals=len(part), hours=hours, filled=filled))
    return gaps


def _by_kind(
    run: Sequence[float], on_grid: Mapping[float, Row]
) -> list[tuple[Literal["blank", "absent"], list[float]]]:
    """Cut a run of missing values where rows that are there but blank meet rows that are not there."""
    parts: list[tuple[Literal["blank", "absent"], list[float]]] = []
    for at in run:
        kind: Literal["blank", "absent"] = "blank" if at in on_grid else "absent"
        if not parts or parts[-1][0] != kind:
            parts.append((kind, []))
        parts[-1][1].append(at)
    return parts


def _runs(starts: Sequence[float], known: Mapping[float, float]) -> list[list[float]]:
    runs: list[list[float]] = []
    before_known = True
    for at in starts:
        if at in known:
            before_known = True
            continue
        if before_known:
            runs.append([])
        runs[-1].append(at)
        before_known = False
    return runs


def _how(run: Sequence[float], starts: Sequence[float], step_s: float, fill_within_h: float) -> RowStatus:
    inside = run[0] > starts[0] and run[-1] < starts[-1]
    return "interpolated" if inside and len(run) * step_s <= fill_within_h * 3600.0 else "repeated"


def _filled(
    starts: Sequence[float], known: Mapping[float, float], step_s: float, fill_within_h: float, name: str
) -> tuple[list[float], list[RowStatus]]:
    values = dict(known)
    statuses: dict[float, RowStatus] = dict.fromkeys(known, _MEASURED)
    for run in _runs(starts, known):
        how = _how(run, starts, step_s, fill_within_h)
        for number, at in enumerate(run, start=1):
            statuses[at] = how
            if how == "interpolated":
                before, after = values[run[0] - step_s], known[run[-1] + step_s]
                values[at] = before + (after - before) * number / (len(run) + 1)
            else:
                values[at] = _another_day(at, values, known, name)
    return [values[at] for at in starts], [statuses[at] for at in starts]


_MEASURED: RowStatus = "measured"


def _another_day(at: float, values: Mapping[float, float], known: Mapping[float, float], name: str) -> float:
    for day in (-1, 1, 2, 3, 4, 5, 6, 7):
        other = at + day * DAY_S
        found = values.get(other) if day < 0 else known.get(other)
        if found is not None:
            return found
    raise TraceError(f"{name}: nothing to fill {iso(at)} with, neither the day before nor the week after")
