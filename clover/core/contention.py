"""The busy fraction of live instances as a running mean: rho of the performance model. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Time constant of the mean, in seconds: long against a request, short against an hour.
CONTENTION_TIME_CONSTANT_S = 10.0


@dataclass(slots=True)
class MeanBusy:
    """An exponentially weighted mean over time.

    Attributes:
        at_s: Until when it is known, wall time.
        fraction: The mean, 0..1.
    """

    at_s: float
    fraction: float = 0.0

    def cut(self, now_s: float, *, busy: int, live: int) -> None:
        """Take in that `busy` of `live` instances have worked since the last call, if time has passed."""
        elapsed_s = now_s - self.at_s
        if elapsed_s <= 0.0:
            return
        self.at_s = now_s
        keep = math.exp(-elapsed_s / CONTENTION_TIME_CONSTANT_S)
        self.fraction = self.fraction * keep + (busy / live if live else 0.0) * (1.0 - keep)
