"""Carbon intensity: what it is, traces of it, and how to read one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from clover.errors import TraceError

#: The original's constant reference: 250 gCO2e/kWh x PUE 1.5 (SC'23, section 5).
REFERENCE_INTENSITY_G_PER_KWH = 250.0
REFERENCE_PUE = 1.5

#: Values above this cannot be a grid's (coal alone is about 1000 gCO2e/kWh).
MAX_INTENSITY_G_PER_KWH = 2000.0

IntensityKind = Literal["average", "marginal"]
IntensityFactor = Literal["direct", "lifecycle", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonIntensity:
    """gCO2e per kWh of a grid zone during an interval of wall time (seconds since the epoch)."""

    g_per_kwh: float
    zone: str
    from_s: float
    to_s: float
    kind: IntensityKind = "average"
    factor: IntensityFactor = "unknown"
    status: Literal["measured", "estimated", "forecast", "trace"] = "trace"
    source: str
    fallback_level: int = 0
    trace_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityTrace:
    """Hourly intensities of a zone; after its last row it begins again.

    Attributes:
        name: Such as `ciso-march`.
        zone: Grid zone.
        factor: Which emissions the figures count.
        values_g_per_kwh: One per hour of the trace.
    """

    name: str
    zone: str
    values_g_per_kwh: tuple[float, ...]
    factor: IntensityFactor = "unknown"

    def at(self, now_s: float, *, started_s: float, hour_s: float) -> CarbonIntensity:
        """Return the intensity at a moment of a replay.

        Args:
            now_s: Wall time.
            started_s: Wall time at which row 0 began.
            hour_s: Real seconds that one hour of the trace lasts.
        """
        # The next boundary is computed from the row number: a sum of durations would drift and repeat rows.
        row = max(0, math.floor((now_s - started_s) / hour_s + 1e-9))
        index = row % len(self.values_g_per_kwh)
        constant = len(self.values_g_per_kwh) == 1
        return CarbonIntensity(
            g_per_kwh=self.values_g_per_kwh[index],
            zone=self.zone,
            from_s=started_s + row * hour_s,
            to_s=started_s + (row + 1) * hour_s,
            factor=self.factor,
            source="constant" if constant else f"trace:{self.name}",
            trace_index=index,
        )


def constant_trace(g_per_kwh: float) -> IntensityTrace:
    """Return a grid that never changes."""
    _check_intensity(g_per_kwh, f"constant:{g_per_kwh}")
    return IntensityTrace(name=f"constant:{g_per_kwh:g}", zone="none", values_g_per_kwh=(g_per_kwh,))


def parse_trace(text: str, *, name: str) -> IntensityTrace:
    """Read a trace from CSV text with the columns `hour,intensity_g_per_kwh`.

    Lines that begin with `#` may set `# zone: US-CAL-CISO` and `# factor: lifecycle`. Hours count up by 1 from 0.

    Raises:
        TraceError: A gap, a missing, non-numeric or impossible value; the message names the line.
    """
    meta, rows = _split(text)
    if not rows or [cell.strip() for cell in rows[0][1].split(",")] != ["hour", "intensity_g_per_kwh"]:
        raise TraceError(
            f"trace {name}: header must be 'hour,intensity_g_per_kwh', got {rows[0][1]!r}"
            if rows
            else f"trace {name}: empty"
        )
    values: list[float] = []
    for line_number, line in rows[1:]:
        where = f"trace {name} line {line_number}"
        hour, value = _cells(line, where)
        if hour != len(values):
            raise TraceError(f"{where}: hour = {hour:g}, expected {len(values)} (a gap, a repetition or a wrong order)")
        _check_intensity(value, where)
        values.append(value)
    if not values:
        raise TraceError(f"trace {name}: no rows after the header")
    factor = meta.get("factor", "unknown")
    if factor != "direct" and factor != "lifecycle" and factor != "unknown":  # noqa: PLR1714 - narrows the type
        raise TraceError(f"trace {name}: factor = {factor!r}, expected direct, lifecycle or unknown")
    return IntensityTrace(name=name, zone=meta.get("zone", "unknown"), values_g_per_kwh=tuple(values), factor=factor)


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


def _cells(line: str, where: str) -> tuple[float, float]:
    cells = line.split(",")
    if len(cells) != 2:
        raise TraceError(f"{where}: {len(cells)} columns in {line!r}, expected 2")
    try:
        return float(cells[0]), float(cells[1])
    except ValueError:
        raise TraceError(f"{where}: {line!r} is not two numbers") from None


def _check_intensity(value: float, where: str) -> None:
    if not (math.isfinite(value) and 0.0 <= value <= MAX_INTENSITY_G_PER_KWH):
        raise TraceError(
            f"{where}: intensity_g_per_kwh = {value}, expected a number from 0 to {MAX_INTENSITY_G_PER_KWH:g}"
        )
