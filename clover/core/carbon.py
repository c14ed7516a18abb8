"""Carbon intensity: what a figure is and everything that must travel with it."""

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
IntensityStatus = Literal["measured", "estimated", "forecast", "trace", "assumed"]
"""`measured` and `estimated` as the source says; `assumed` is a constant that somebody chose."""

#: What stands at each level of the chain of sources.
FALLBACK_LEVELS = ("live", "cached", "published forecast", "same hour yesterday", "fixed fallback")


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonIntensity:
    """gCO2e per kWh of a grid zone during an interval of wall time (seconds since the epoch).

    Attributes:
        g_per_kwh: The figure.
        zone: Grid zone as the source calls it.
        from_s, to_s: When it is used.
        kind: Average or marginal; the two are never mixed.
        factor: Which emissions are counted.
        status: How good the source says that it is.
        source: Where it came from.
        fallback_level: Index into `FALLBACK_LEVELS`.
        trace_index: Row of a replayed trace.
        observed_to_s: End of the interval that the source gave it for, or when a forecast was issued; None for a
            replay or a constant, which do not age.
        fetched_at_s: When it came in; None if nothing was fetched.
        stale: No live figure has come for longer than the limit; plans stay as they are.
        note: Why it is not a plain live figure; empty if it is.
    """

    g_per_kwh: float
    zone: str
    from_s: float
    to_s: float
    kind: IntensityKind = "average"
    factor: IntensityFactor = "unknown"
    status: IntensityStatus = "trace"
    source: str
    fallback_level: int = 0
    trace_index: int | None = None
    observed_to_s: float | None = None
    fetched_at_s: float | None = None
    stale: bool = False
    note: str = ""

    def age_s(self, now_s: float) -> float | None:
        """Return how long ago the time was that the figure describes, 0 while it lasts; None if it does not age."""
        return None if self.observed_to_s is None else max(0.0, now_s - self.observed_to_s)


def check_intensity(value: float, where: str) -> float:
    """Return a value that a grid can have, or raise TraceError naming where it stood."""
    if not (math.isfinite(value) and 0.0 <= value <= MAX_INTENSITY_G_PER_KWH):
        raise TraceError(
            f"{where}: intensity_g_per_kwh = {value}, expected a number from 0 to {MAX_INTENSITY_G_PER_KWH:g}"
        )
    return value
