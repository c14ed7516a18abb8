"""What the grid emitted during a run, as a step function of time."""

from __future__ import annotations

from bisect import bisect_right

from clover.bus.messages import IntensityReading


class GridHistory:
    """Intensity x PUE over time (gCO2e per kWh of IT energy), from the readings of the carbon monitor."""

    def __init__(self) -> None:
        self._from_ms: list[float] = []
        self._effective: list[float] = []

    def take(self, reading: IntensityReading) -> None:
        """Take in a reading; one that repeats the last is ignored."""
        if self._from_ms and reading.from_ms <= self._from_ms[-1]:
            return
        self._from_ms.append(reading.from_ms)
        self._effective.append(reading.g_per_kwh * reading.pue)

    def at(self, at_ms: float) -> float:
        """Return intensity x PUE at a moment; before the first reading, the first one's."""
        if not self._effective:
            return 0.0
        return self._effective[max(0, bisect_right(self._from_ms, at_ms) - 1)]

    def integral(self, from_ms: float, to_ms: float) -> float:
        """Return the integral of intensity x PUE over an interval, in (g/kWh) x s: times W / 3.6e6 this is grams."""
        total, now = 0.0, from_ms
        while now < to_ms:
            index = bisect_right(self._from_ms, now)
            until = min(to_ms, self._from_ms[index]) if index < len(self._from_ms) else to_ms
            total += self.at(now) * (until - now) / 1e3
            now = until
        return total
