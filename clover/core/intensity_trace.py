"""Traces of carbon intensity: reading one, and replaying it at any speed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from clover.core.carbon import CarbonIntensity, IntensityFactor, check_intensity
from clover.core.forecast import Outlook, with_band
from clover.errors import TraceError

Interpolation = Literal["step", "linear"]
AfterEnd = Literal["wrap", "stop"]

#: What a row's figure is: as its source had it, or how a gap was filled at import.
RowStatus = Literal["measured", "estimated", "forecast", "interpolated", "repeated", "trace"]

#: A linear replay changes this often per row; each part has the mean of its line, so that sums over rows are exact.
LINEAR_PARTS = 12

_HEADER = ("hour", "intensity_g_per_kwh")
_OPTIONAL = ("forecast_g_per_kwh", "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityTrace:
    """Intensities of a zone at a constant step.

    Attributes:
        name: Such as `ciso-march`.
        zone: Grid zone.
        factor: Which emissions the figures count.
        values_g_per_kwh: One per row.
        step_h: Hours per row.
        forecasts_g_per_kwh: What had been published for each row beforehand; empty if the trace has none.
        statuses: What each row is; empty if the trace does not say.
        started_at: ISO time of row 0, empty if it does not say.
        interpolation: Whether a value holds for its row or leads in a straight line to the next.
        after_end: Whether it begins again or its last value stays, marked.
    """

    name: str
    zone: str
    values_g_per_kwh: tuple[float, ...]
    factor: IntensityFactor = "unknown"
    step_h: float = 1.0
    forecasts_g_per_kwh: tuple[float, ...] = ()
    statuses: tuple[RowStatus, ...] = ()
    started_at: str = ""
    interpolation: Interpolation = "step"
    after_end: AfterEnd = "wrap"

    def at(self, now_s: float, *, started_s: float, hour_s: float) -> CarbonIntensity:
        """Return the intensity at a moment of a replay.

        Args:
            now_s: Wall time.
            started_s: Wall time at which row 0 began.
            hour_s: Real seconds that one hour of the trace lasts.
        """
        parts = LINEAR_PARTS if self.interpolation == "linear" and len(self.values_g_per_kwh) > 1 else 1
        part_s = hour_s * self.step_h / parts
        # The next boundary is computed from the number of the part: a sum of durations would drift and repeat rows.
        part = max(0, math.floor((now_s - started_s) / part_s + 1e-9))
        row = part // parts
        over = self.after_end == "stop" and row >= len(self.values_g_per_kwh)
        index = len(self.values_g_per_kwh) - 1 if over else row % len(self.values_g_per_kwh)
        constant = len(self.values_g_per_kwh) == 1
        return CarbonIntensity(
            g_per_kwh=self.values_g_per_kwh[index] if over else self._value(index, (part % parts + 0.5) / parts),
            zone=self.zone,
            from_s=started_s + part * part_s,
            to_s=started_s + (part + 1) * part_s,
            factor=self.factor,
            source="constant" if constant else f"trace:{self.name}",
            trace_index=index,
            stale=over and not constant,
            note=self._note(index, over=over and not constant),
        )

    def ahead(self, now_s: float, *, started_s: float, hour_s: float, steps: int) -> Outlook | None:
        """Return what is expected of the rows after the one in force at a moment of a replay; None of a constant.

        It is what had been published for them where the trace has that, else the rows themselves, and said to be.

        Args:
            now_s: Wall time.
            started_s: Wall time at which row 0 began.
            hour_s: Real seconds that one hour of the trace lasts.
            steps: Rows, at most; a trace that does not begin again has fewer at its end.
        """
        count, row_s = len(self.values_g_per_kwh), hour_s * self.step_h
        first = max(0, math.floor((now_s - started_s) / row_s + 1e-9)) + 1
        rows = [row for row in range(first, first + steps) if self.after_end == "wrap" or row < count]
        if count == 1 or not rows:
            return None
        published = self.forecasts_g_per_kwh
        past = range(max(0, first - count), first)
        pairs = [(self.values_g_per_kwh[row % count], published[row % count]) for row in past] if published else []
        told = published or self.values_g_per_kwh
        return Outlook(
            basis="published" if published else "trace",
            source=f"trace:{self.name}",
            issued_s=None,
            intervals=with_band([(started_s + row * row_s, told[row % count]) for row in rows], pairs),
            step_s=row_s,
        )

    def _value(self, index: int, part: float) -> float:
        here = self.values_g_per_kwh[index]
        if self.interpolation == "step":
            return here
        last = index + 1 == len(self.values_g_per_kwh)
        after = here if last and self.after_end == "stop" else self.values_g_per_kwh[0 if last else index + 1]
        return here + part * (after - here)

    def _note(self, index: int, *, over: bool) -> str:
        if over:
            return "the trace has ended; its last value stays"
        filled = self.statuses and self.statuses[index] in {"interpolated", "repeated"}
        return f"a gap of the trace, {self.statuses[index]} at import" if filled else ""


def constant_trace(g_per_kwh: float) -> IntensityTrace:
    """Return a grid that never changes."""
    check_intensity(g_per_kwh, f"constant:{g_per_kwh}")
    return IntensityTrace(name=f"constant:{g_per_kwh:g}", zone="none", values_g_per_kwh=(g_per_kwh,))


def parse_trace(text: str, *, name: str) -> IntensityTrace:
    """Read a trace from CSV text with the columns `hour,intensity_g_per_kwh[,forecast_g_per_kwh][,status]`.

    Lines that begin with `#` may set `# zone: US-CAL-CISO`, `# factor: lifecycle` and `# start: 2022-01-01T00:00:00Z`.
    Hours count up from 0 by a constant step, which the second row gives.

    Raises:
        TraceError: A gap, a missing, non-numeric or impossible value; the message names the line.
    """
    meta, rows = _split(text)
    if not rows:
        raise TraceError(f"trace {name}: empty")
    columns = _columns(rows[0][1], name)
    if len(rows) == 1:
        raise TraceError(f"trace {name}: no rows after the header")
    cells = [_cells(line, columns, f"trace {name} line {number}") for number, line in rows[1:]]
    step_h = _step(rows, cells, name)
    return IntensityTrace(
        name=name,
        zone=meta.get("zone", "unknown"),
        factor=_factor(meta, name),
        started_at=meta.get("start", ""),
        step_h=step_h,
        values_g_per_kwh=tuple(cell.value for cell in cells),
        forecasts_g_per_kwh=tuple(c.forecast for c in cells if c.forecast is not None),
        statuses=tuple(c.status for c in cells if c.status is not None),
    )


def write_trace(trace: IntensityTrace, *, title: str = "") -> str:
    """Return a trace as CSV text that `parse_trace` reads."""
    head = {"title": title, "zone": trace.zone, "factor": trace.factor, "start": trace.started_at}
    lines = [f"# {key}: {value}" for key, value in head.items() if value]
    lines.append("# unit: gCO2e per kWh")
    extra = [trace.forecasts_g_per_kwh, trace.statuses]
    lines.append(",".join([*_HEADER, *(name for name, column in zip(_OPTIONAL, extra, strict=True) if column)]))
    for row, value in enumerate(trace.values_g_per_kwh):
        cells = [f"{row * trace.step_h:.12g}", repr(value), *(str(column[row]) for column in extra if column)]
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Row:
    hour: float
    value: float
    forecast: float | None = None
    status: RowStatus | None = None


def _split(text: str) -> tuple[dict[str, str], list[tuple[int, str]]]:
    meta: dict[str, str] = {}
    rows: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#"):
            key, colon, value = line.lstrip("# ").partition(":")
            if colon:
                meta[key.strip().lower()] = value.strip()
        elif line.strip():
            rows.append((number, line))
    return meta, rows


def _columns(header: str, name: str) -> list[str]:
    columns = [cell.strip() for cell in header.split(",")]
    if tuple(columns[:2]) != _HEADER or not set(columns[2:]) <= set(_OPTIONAL):
        raise TraceError(
            f"trace {name}: header must be 'hour,intensity_g_per_kwh', perhaps with {' and '.join(_OPTIONAL)}, "
            f"got {header!r}"
        )
    return columns


def _cells(line: str, columns: list[str], where: str) -> _Row:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(columns):
        raise TraceError(f"{where}: {len(cells)} columns in {line!r}, expected {len(columns)}")
    by_name = dict(zip(columns, cells, strict=True))
    status = by_name.pop("status", None)
    try:
        numbers = {key: float(cell) for key, cell in by_name.items()}
    except ValueError:
        count = "two" if len(by_name) == 2 else "three"
        raise TraceError(f"{where}: {line!r} is not {count} numbers") from None
    forecast = numbers.get("forecast_g_per_kwh")
    return _Row(
        hour=numbers["hour"],
        value=check_intensity(numbers["intensity_g_per_kwh"], where),
        forecast=None if forecast is None else check_intensity(forecast, where),
        status=None if status is None else _status(status, where),
    )


def _status(text: str, where: str) -> RowStatus:
    for known in get_args(RowStatus):
        if text == known:
            return known
    raise TraceError(f"{where}: status = {text!r}, expected one of {', '.join(get_args(RowStatus))}")


def _step(rows: list[tuple[int, str]], cells: list[_Row], name: str) -> float:
    step_h = cells[1].hour - cells[0].hour if len(cells) > 1 else 1.0
    # A trace is hourly unless its second row is within the hour.
    step_h = step_h if 0.0 < step_h < 1.0 else 1.0
    for row, cell in enumerate(cells):
        if not math.isclose(cell.hour, row * step_h, rel_tol=1e-9, abs_tol=1e-9):
            raise TraceError(
                f"trace {name} line {rows[row + 1][0]}: hour = {cell.hour:g}, expected {row * step_h:g} "
                "(a gap, a repetition or a wrong order)"
            )
    return step_h


def _factor(meta: dict[str, str], name: str) -> IntensityFactor:
    factor = meta.get("factor", "unknown")
    if factor != "direct" and factor != "lifecycle" and factor != "unknown":  # noqa: PLR1714 - narrows the type
        raise TraceError(f"trace {name}: factor = {factor!r}, expected direct, lifecycle or unknown")
    return factor
