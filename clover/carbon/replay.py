"""A trace in the place of a live source: no web, repeatable, at any speed."""

from __future__ import annotations

from collections.abc import Sequence

from clover.core.carbon import CarbonIntensity
from clover.core.forecast import Outlook
from clover.core.intensity_trace import IntensityTrace


class TraceReplay:
    """Replays a trace as an `IntensityFeed`.

    Args:
        trace: What to replay.
        hour_s: Real seconds that one hour of the trace lasts; 3600 is the real clock.
    """

    def __init__(self, trace: IntensityTrace, *, hour_s: float) -> None:
        self._trace = trace
        self._hour_s = hour_s
        self._started_s = 0.0

    def start(self, started_s: float) -> None:
        """Set when row 0 began."""
        self._started_s = started_s

    async def run(self) -> None:
        """Return: nothing has to be fetched."""

    async def ready(self, within_s: float) -> None:
        """Return: it always is."""

    def between(self, from_s: float, to_s: float) -> Sequence[CarbonIntensity]:
        """Return every row that began in the interval, the one in force at its end last."""
        found = [self._at(to_s)]
        while found[0].from_s > max(from_s, self._started_s):
            # Within the row before, clear of rounding at its end.
            found.insert(0, self._at(found[0].from_s - 0.25 * (found[0].to_s - found[0].from_s)))
        return [row for row in found if row.from_s > from_s] or found[-1:]

    def ahead(self, now_s: float, steps: int) -> Outlook | None:
        """Return the rows to come, or what had been published for them; None for a constant."""
        return self._trace.ahead(now_s, started_s=self._started_s, hour_s=self._hour_s, steps=steps)

    def _at(self, now_s: float) -> CarbonIntensity:
        return self._trace.at(now_s, started_s=self._started_s, hour_s=self._hour_s)
