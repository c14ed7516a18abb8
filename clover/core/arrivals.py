"""When requests become due: renewal processes under any rate over time, and the known shapes of such a rate. Pure.

A process draws gaps of mean 1 in units of requests; the integral of the rate turns them into seconds. For exponential
gaps that gives the inhomogeneous Poisson process exactly (inversion: Cinlar, Introduction to Stochastic Processes,
1975, section 4.7); for constant and gamma gaps it keeps their regularity under a rate that moves.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from clover.errors import ConfigurationError

Process = Literal["poisson", "constant", "gamma"]
ShapeName = Literal["flat", "sine", "step", "spike", "diurnal"]

PROCESSES: tuple[str, ...] = get_args(Process)
SHAPES: tuple[str, ...] = get_args(ShapeName)

#: A shape is constant within each of so many parts of its period.
PARTS = 240

#: Rate at the peak over the mean rate, unless told, and the most that keeps every rate above 0.
PEAKS: dict[str, tuple[float, float]] = {
    "flat": (1.0, 1.0),
    "sine": (1.5, 2.0),
    "step": (1.5, 2.0),
    "spike": (5.0, 10.0),
    "diurnal": (1.5, 1.52),
}


def unit_gaps(process: str, rng: Random, *, smoothness: float = 1.0) -> Iterator[float]:
    """Return gaps of mean 1 without end.

    Args:
        process: `poisson` (exponential gaps), `constant`, or `gamma`.
        rng: Where they are drawn from.
        smoothness: Shape of the gamma distribution, above 0: below 1 burstier than Poisson, 1 the same, above smoother;
            the coefficient of variation is 1 / sqrt(smoothness).

    Raises:
        ConfigurationError: An unknown process, or smoothness out of range.
    """
    if process not in PROCESSES:
        raise ConfigurationError(f"arrivals = {process!r}: expected one of {', '.join(PROCESSES)}")
    if not (math.isfinite(smoothness) and smoothness > 0.0):
        raise ConfigurationError(f"smoothness = {smoothness}: expected a number above 0")
    draw: dict[str, Callable[[], float]] = {
        "poisson": lambda: rng.expovariate(1.0),
        "constant": lambda: 1.0,
        "gamma": lambda: rng.gammavariate(smoothness, 1.0 / smoothness),
    }
    chosen = draw[process]
    return iter(chosen, object())


@dataclass(frozen=True, slots=True)
class RateProfile:
    """A rate over time that is constant between boundaries.

    Attributes:
        starts_s: Where each part begins, rising from 0.
        rates_rps: Rate in each part, at least 0.
        end_s: End of the last part.
        repeats: Whether it begins anew at its end, or the rate is 0 from there.
    """

    starts_s: tuple[float, ...]
    rates_rps: tuple[float, ...]
    end_s: float
    repeats: bool = True

    def __post_init__(self) -> None:
        if not self.starts_s or len(self.starts_s) != len(self.rates_rps) or self.starts_s[0] != 0.0:
            raise ValueError("starts_s and rates_rps: expected as many of each, beginning at 0")
        edges = (*self.starts_s, self.end_s)
        if any(b <= a for a, b in itertools.pairwise(edges)):
            raise ValueError("starts_s: expected rising numbers below end_s")
        if any(not math.isfinite(rate) or rate < 0.0 for rate in self.rates_rps):
            raise ValueError("rates_rps: expected numbers of at least 0")
        if not any(self.rates_rps):
            raise ValueError("rates_rps: expected one above 0")

    @property
    def mean_rps(self) -> float:
        """Mean rate until `end_s`."""
        return self._until()[-1] / self.end_s

    def at(self, time_s: float) -> float:
        """Return the rate at a moment in requests/s."""
        if time_s >= self.end_s and not self.repeats:
            return 0.0
        return self.rates_rps[bisect_right(self.starts_s, time_s % self.end_s) - 1]

    def highest(self, from_s: float, to_s: float) -> float:
        """Return the highest rate between two moments, both included, in requests/s."""
        first, last = (int(moment_s // self.end_s) for moment_s in (from_s, to_s))
        if not self.repeats:
            last = min(last, 0)
        elif last - first > 1:
            return max(self.rates_rps)
        begun = (
            rate
            for number in range(max(0, first), last + 1)
            for start_s, rate in zip(self.starts_s, self.rates_rps, strict=True)
            if from_s < number * self.end_s + start_s <= to_s
        )
        return max(self.at(from_s), *begun, self.at(to_s))

    def times(self, *, speed: float = 1.0, factor: float = 1.0) -> RateProfile:
        """Return it so many times as fast, then with `factor` times the rate."""
        return RateProfile(
            tuple(start_s / speed for start_s in self.starts_s),
            tuple(rate * speed * factor for rate in self.rates_rps),
            self.end_s / speed,
            repeats=self.repeats,
        )

    def times_s(self, gaps: Iterator[float]) -> Iterator[float]:
        """Return when requests are due, in seconds from the start, for gaps of mean 1."""
        until = self._until()
        edges = (*self.starts_s, self.end_s)
        total = until[-1]
        reached = 0.0
        for gap in gaps:
            reached += gap
            rounds, rest = divmod(reached, total)
            if rounds and not self.repeats:
                return
            part = min(bisect_right(until, rest) - 1, len(self.rates_rps) - 1)
            # A part without requests has no width in `until`, so that bisection never ends in one, but for rounding.
            rate = self.rates_rps[part]
            within = (rest - until[part]) / rate if rate else 0.0
            yield rounds * self.end_s + min(edges[part] + within, edges[part + 1])

    def _until(self) -> list[float]:
        """Return requests expected before each boundary."""
        edges = (*self.starts_s, self.end_s)
        widths = (b - a for a, b in itertools.pairwise(edges))
        parts = (rate * width for rate, width in zip(self.rates_rps, widths, strict=True))
        return list(itertools.accumulate(parts, initial=0.0))


def flat(rate_rps: float) -> RateProfile:
    """Return a rate that never changes."""
    return RateProfile((0.0,), (rate_rps,), 1.0 if rate_rps >= 1.0 else 1.0 / rate_rps)


def shaped(name: str, *, rate_rps: float, period_s: float, peak: float | None = None) -> RateProfile:
    """Return one of the known shapes; all have the same mean.

    flat: no change. sine: one wave. step: low in the first half, high in the second. spike: for a tenth of the period,
    from 45 % of it on. diurnal: a day from midnight, lowest at 4 h, with peaks before noon and in the evening (two
    harmonics, synthetic).

    Args:
        name: Of the shape.
        rate_rps: Mean rate, above 0.
        period_s: Length of one period, above 0.
        peak: Highest rate over the mean; None takes the shape's own.

    Raises:
        ConfigurationError: An unknown shape, or a peak that would need a rate below 0.
    """
    if name not in SHAPES:
        raise ConfigurationError(f"shape = {name!r}: expected one of {', '.join(SHAPES)}")
    usual, most = PEAKS[name]
    height = usual if peak is None else peak
    if not 1.0 <= height <= most:
        raise ConfigurationError(f"peak = {height:g}: expected a number from 1 to {most:g} for shape {name}")
    if name == "flat":
        return flat(rate_rps)
    weights = [_SHAPES[name]((part + 0.5) / PARTS, height) for part in range(PARTS)]
    scale = rate_rps * PARTS / sum(weights)
    starts = tuple(part * period_s / PARTS for part in range(PARTS))
    return RateProfile(starts, tuple(max(0.0, weight) * scale for weight in weights), period_s)


def _spike(at: float, peak: float) -> float:
    return peak if 0.45 <= at < 0.55 else (1.0 - 0.1 * peak) / 0.9


def _diurnal(at: float, peak: float) -> float:
    phase = 2.0 * math.pi * (at - 4.0 / 24.0)
    # The highest value of the two harmonics, where cos(phase) = -1 / 1.4.
    highest = 1.0 / 1.4 - 0.35 * (2.0 / 1.4**2 - 1.0)
    return 1.0 + (peak - 1.0) * (-math.cos(phase) - 0.35 * math.cos(2.0 * phase)) / highest


_SHAPES: dict[str, Callable[[float, float], float]] = {
    "sine": lambda at, peak: 1.0 + (peak - 1.0) * math.sin(2.0 * math.pi * at),
    "step": lambda at, peak: peak if at >= 0.5 else 2.0 - peak,
    "spike": _spike,
    "diurnal": _diurnal,
}


def scaled(times_s: Sequence[float], factor: float, rng: Random) -> Iterator[float]:
    """Return `factor` times as many arrivals with the same course over time.

    Below 1 each arrival is kept with that probability. Above 1 each is there `factor` times on average, its copies
    spread evenly at random until the next arrival, so that bursts stay bursts.

    Args:
        times_s: Rising.
        factor: Above 0.
        rng: Where chance comes from.
    """
    whole, part = divmod(factor, 1.0)
    for index, time_s in enumerate(times_s):
        copies = int(whole) + (rng.random() < part)
        following = times_s[index + 1] if index + 1 < len(times_s) else time_s
        extra = sorted(time_s + rng.random() * (following - time_s) for _ in range(copies - 1))
        yield from (time_s, *extra) if copies else ()


def sped_up(times_s: Iterator[float], speed: float) -> Iterator[float]:
    """Return arrivals whose time runs `speed` times as fast."""
    return (time_s / speed for time_s in times_s)


def from_on(times_s: Iterator[float], begin_s: float) -> Iterator[float]:
    """Return what is due from a moment on, counted from there: the rest of a schedule that somebody has begun."""
    return (time_s - begin_s for time_s in itertools.dropwhile(lambda time_s: time_s < begin_s, times_s))


def dealt(times_s: Iterator[float], index: int, of: int) -> Iterator[float]:
    """Return every `of`-th arrival from number `index` on: what one of several generators sends of one schedule."""
    return itertools.islice(times_s, index, None, of)
