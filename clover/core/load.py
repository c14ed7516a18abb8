"""The arrival rate, estimated from a counter of all requests ever admitted."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

#: The window is long enough for this many arrivals at the expected rate: relative standard error of a Poisson count
#: 5.8 %.
WINDOW_ARRIVALS = 300
WINDOW_LEAST_S = 30.0


@dataclass(slots=True)
class LoadEstimator:
    """Sliding-window rate of a counter; silent until the first arrival and until the window is full."""

    _samples: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])

    def observe(self, now_s: float, admitted: int, *, expected_rps: float) -> float | None:
        """Take a reading of the counter; return the rate in requests/s, or None while it cannot be told yet.

        Args:
            now_s: When it was read.
            admitted: Value of the counter; a lower one than before means that the server began anew.
            expected_rps: Rate that is planned for, which sets the length of the window.
        """
        samples = self._samples
        if samples and admitted < samples[-1][1]:
            samples.clear()
        if len(samples) == 1 and admitted == samples[0][1]:
            # Nothing has arrived yet: the time before the first arrival says nothing about the load.
            samples.clear()
        samples.append((now_s, admitted))
        window_s = max(WINDOW_LEAST_S, WINDOW_ARRIVALS / max(expected_rps, 1e-9))
        while len(samples) > 2 and now_s - samples[1][0] >= window_s:
            samples.popleft()
        began_s, began = samples[0]
        if now_s - began_s < window_s:
            return None
        return (admitted - began) / (now_s - began_s)
