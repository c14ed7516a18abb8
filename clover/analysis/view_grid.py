"""The grid as a dashboard shows it: the present figure, those before it, and what is expected."""

from __future__ import annotations

from collections import deque

from clover.analysis.view_state import IntensityNow
from clover.bus.messages import IntensityForecast, IntensityReading

_HISTORY_KEPT = 240


class GridFold:
    """Folds intensities and forecasts; bounded."""

    def __init__(self) -> None:
        self.reading: IntensityReading | None = None
        self._history: deque[tuple[float, float]] = deque(maxlen=_HISTORY_KEPT)
        self._forecast: IntensityForecast | None = None

    def take(self, message: IntensityReading | IntensityForecast) -> None:
        """Take in one message; one that is older than what is known is left out."""
        if isinstance(message, IntensityForecast):
            if self._forecast is None or message.published_at_ms >= self._forecast.published_at_ms:
                self._forecast = message
            return
        if self._history and message.from_ms <= self._history[-1][0]:
            if message.from_ms == self._history[-1][0]:
                self.reading = message
            return
        self.reading = message
        self._history.append((message.from_ms, message.g_per_kwh))

    def now(self, now_ms: float) -> IntensityNow | None:
        """Describe the present; None before the first figure."""
        reading, forecast = self.reading, self._forecast
        if reading is None:
            return None
        coming = [each for each in forecast.intervals if each.from_ms > now_ms] if forecast is not None else []
        issued_ms = forecast.issued_at_ms if forecast is not None else None
        return IntensityNow(
            g_per_kwh=reading.g_per_kwh,
            pue=reading.pue,
            zone=reading.zone,
            kind=reading.kind,
            factor=reading.factor,
            status=reading.status,
            source=reading.source,
            fallback_level=reading.fallback_level,
            trace_index=reading.trace_index,
            age_s=max(0.0, now_ms - (reading.observed_to_ms or reading.published_at_ms)) / 1e3,
            stale_s=_stale_s(reading, now_ms),
            history=tuple(g_per_kwh for _, g_per_kwh in self._history),
            ahead=tuple(each.g_per_kwh for each in coming),
            ahead_high=tuple(each.high_g_per_kwh for each in coming),
            ahead_basis=forecast.basis if forecast is not None and coming else "",
            ahead_issued_s=None if issued_ms is None or not coming else max(0.0, now_ms - issued_ms) / 1e3,
            ahead_step_s=forecast.step_ms / 1e3 if forecast is not None and coming else 0.0,
        )


def _stale_s(reading: IntensityReading, now_ms: float) -> float:
    """Return for how long a figure has been too old: live as the monitor judges, replayed since its row ended."""
    if reading.observed_to_ms is None and not reading.stale:
        return max(0.0, now_ms - reading.to_ms) / 1e3
    return max(0.0, now_ms - (reading.observed_to_ms or reading.from_ms)) / 1e3 if reading.stale else 0.0
