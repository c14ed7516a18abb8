"""The arrival rate: estimated with its confidence and trend from a counter of all requests ever admitted. Pure.

Level and trend are smoothed by double exponential smoothing (C. C. Holt, "Forecasting seasonals and trends by
exponentially weighted moving averages", ONR memorandum 52, 1957) over buckets of arrivals. What is uncertain about them
follows from the noise of a Poisson count and from the weights that the smoothing gives to past buckets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from clover.core.load_profile import LoadProfile

#: A bucket ends after so many arrivals and no sooner than after so long; or when so few come that that takes too long.
BUCKET_ARRIVALS, BUCKET_LEAST_S, BUCKET_STRETCH = 150, 10.0, 3.0
#: Holt's smoothing constants of level and trend.
ALPHA, BETA = 0.2, 0.05
#: Nothing is told before so many buckets.
FIRST_BUCKETS = 3
#: So many buckets in a row that are off by more than so many standard errors of a Poisson count, all to one side, are
#: no noise and no burst: the load is another one.
STEP_BUCKETS, STEP_ERRORS = 3, 6.0
#: Confidence of `low_rps` and `high_rps`, and what a trend must exceed, in standard errors.
CONFIDENCE = 2.5

#: Loads are planned for on a grid of this ratio, so that loads that come again are look-ups.
GRID_RATIO = 1.1
#: What is planned for is this much above what is expected: an estimate lags behind a ramp.
HEADROOM = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadEstimate:
    """The load now.

    Attributes:
        rate_rps: Expected arrival rate.
        low_rps, high_rps: Between which it is, 2.5 standard errors around.
        ahead_rps: The highest rate expected within the time that waking and changing GPUs takes.
    """

    rate_rps: float
    low_rps: float
    high_rps: float
    ahead_rps: float

    @staticmethod
    def sure(rate_rps: float) -> LoadEstimate:
        """Return a load that is known exactly and will not change."""
        return LoadEstimate(rate_rps=rate_rps, low_rps=rate_rps, high_rps=rate_rps, ahead_rps=rate_rps)


@lru_cache(maxsize=8)
def _noise(alpha: float, beta: float) -> tuple[float, float]:
    """Return the standard errors of level and trend (per bucket) for buckets whose noise is 1 and independent."""
    level, trend = 0.0, 0.0
    levels, trends = 0.0, 0.0
    for step in range(1000):
        value = 1.0 if step == 0 else 0.0
        before = level
        level = alpha * value + (1.0 - alpha) * (level + trend)
        trend = beta * (level - before) + (1.0 - beta) * trend
        levels, trends = levels + level * level, trends + trend * trend
    return math.sqrt(levels), math.sqrt(trends)


@dataclass(slots=True)
class LoadEstimator:
    """Turns readings of a counter into estimates; silent until the first arrival and until enough is known.

    Attributes:
        horizon_s: How far ahead `ahead_rps` looks.
        waking_s: How much further it looks at present, because what could be woken is switched off.
        profile: The load as it is known in advance, in the clock's seconds; then no trend is guessed, and it is told
            before anything is measured.
    """

    horizon_s: float = 60.0
    waking_s: float = field(default=0.0, kw_only=True)
    profile: LoadProfile | None = None
    _bucket: tuple[float, int] | None = None
    _last: int = 0
    _buckets: int = 0
    _level: float = 0.0
    _trend: float = 0.0
    #: The last buckets that were off by too much for noise, and to which side: 1, -1, or 0 if the last was not.
    _strange: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    _side: int = 0
    _first: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    #: Smoothed length of a bucket, s, and arrivals in it.
    _length_s: float = 0.0
    _arrivals: float = 0.0

    def observe(self, now_s: float, admitted: int, *, expected_rps: float) -> LoadEstimate | None:
        """Take a reading of the counter; return the load, or None while it cannot be told yet.

        Args:
            now_s: When it was read.
            admitted: Value of the counter; a lower one than before means that the server began anew.
            expected_rps: Rate that is planned for, which tells how long a bucket may take.
        """
        began = self._bucket
        if began is None or admitted < self._last or (self._buckets == 0 and not self._first and admitted == began[1]):
            # Begun anew, or nothing has arrived yet: the time before the first arrival says nothing about the load.
            self._restart(now_s, admitted)
            return self.known(now_s)
        self._last = admitted
        length_s, arrivals = now_s - began[0], admitted - began[1]
        typical_rps = self._level if self._buckets else expected_rps
        most_s = max(BUCKET_LEAST_S, BUCKET_STRETCH * BUCKET_ARRIVALS / max(typical_rps, 1e-9))
        if length_s >= BUCKET_LEAST_S and (arrivals >= BUCKET_ARRIVALS or length_s >= most_s):
            self._close(length_s, arrivals)
            self._bucket = (now_s, admitted)
        return self._estimate(now_s) if self._buckets else self.known(now_s)

    def known(self, now_s: float) -> LoadEstimate | None:
        """Return the load as it is known without a measurement, None without a profile."""
        if self.profile is None:
            return None
        return replace(LoadEstimate.sure(self.profile.at(now_s)), ahead_rps=self._ahead(now_s, 0.0))

    def _restart(self, now_s: float, admitted: int) -> None:
        self._bucket, self._last = (now_s, admitted), admitted
        self._first.clear()
        if self._buckets == 0:
            self._level = self._trend = 0.0

    def _close(self, length_s: float, arrivals: int) -> None:
        if self._buckets == 0:
            self._first.append((length_s, arrivals))
            if len(self._first) == FIRST_BUCKETS:
                self._begin(self._first)
            return
        rate = arrivals / length_s
        before = self._level
        if before + self._trend * length_s < 0.0:
            # A trend that leads below nothing has ended: followed on, it would hide what still arrives.
            before, self._trend = rate, 0.0
        if self._stepped(length_s, arrivals, (before + self._trend * length_s) * length_s):
            return
        self._level = max(0.0, ALPHA * rate + (1.0 - ALPHA) * (before + self._trend * length_s))
        self._trend = BETA * (self._level - before) / length_s + (1.0 - BETA) * self._trend
        self._length_s += ALPHA * (length_s - self._length_s)
        self._arrivals += ALPHA * (arrivals - self._arrivals)
        self._buckets += 1

    def _stepped(self, length_s: float, arrivals: int, expected: float) -> bool:
        """Take note of how far off a bucket is; begin anew if the load has become another, and return whether it has.

        Smoothing would take minutes to believe it.
        """
        side = _side(arrivals, expected)
        again = bool(side) and side == self._side
        self._strange = [*(self._strange if again else ()), (length_s, arrivals)]
        self._side = side
        if not side or len(self._strange) < STEP_BUCKETS:
            return False
        # The first of them may have seen both loads.
        self._begin(self._strange[1:])
        self._side = 0
        return True

    def _begin(self, first: Sequence[tuple[float, int]]) -> None:
        length_s, arrivals = sum(length for length, _ in first), sum(count for _, count in first)
        self._level, self._trend = arrivals / length_s, 0.0
        self._length_s, self._arrivals = length_s / len(first), arrivals / len(first)
        self._buckets = len(first)

    def _estimate(self, now_s: float) -> LoadEstimate:
        # Until the smoothing has run in, its level is hardly better than the mean of its few buckets.
        one = self._level / math.sqrt(max(self._arrivals, 1.0))
        level_noise, trend_noise = _noise(ALPHA, BETA)
        level_error = one * max(level_noise, 1.0 / math.sqrt(self._buckets))
        trend_error = one * trend_noise / max(self._length_s, 1e-9)
        return LoadEstimate(
            rate_rps=self._level,
            low_rps=max(0.0, self._level - CONFIDENCE * level_error),
            high_rps=self._level + CONFIDENCE * level_error,
            ahead_rps=self._ahead(now_s, trend_error),
        )

    def _ahead(self, now_s: float, trend_error: float) -> float:
        horizon_s = self.horizon_s + self.waking_s
        if self.profile is not None:
            return self.profile.highest(now_s, now_s + horizon_s)
        sure = self._trend > CONFIDENCE * trend_error
        return self._level + (self._trend * horizon_s if sure else 0.0)


def _side(arrivals: int, expected: float) -> int:
    """Return to which side a count is off by more than noise: 1 above, -1 below, 0 if it is not."""
    error = (arrivals - expected) / math.sqrt(max(expected, 1.0))
    return 0 if abs(error) <= STEP_ERRORS else 1 if error > 0.0 else -1


def rate_to_plan(load: LoadEstimate) -> float:
    """Return the load to plan for: what is expected with some headroom, rounded up to the grid, in requests/s."""
    needed = max(load.rate_rps, load.ahead_rps, 0.01) * HEADROOM
    return float(f"{GRID_RATIO ** math.ceil(math.log(needed, GRID_RATIO) - 1e-9):.6g}")


def exceeds(load: LoadEstimate, planned_rps: float) -> bool:
    """Return whether the load is, or is about to be, more than what is planned for, noise aside."""
    return load.low_rps > planned_rps or (load.ahead_rps > planned_rps and load.ahead_rps > load.high_rps)


def undercuts(load: LoadEstimate, planned_rps: float) -> bool:
    """Return whether less can be planned for: two steps of the grid, so that what was lowered is not raised at once."""
    return max(load.high_rps, load.ahead_rps) * HEADROOM < planned_rps / GRID_RATIO**2
