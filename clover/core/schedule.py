"""Which requests become due when: the whole of what a load test asks for, drawn from one seed. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from random import Random
from typing import Literal

from clover.core.arrival_trace import ArrivalTrace
from clover.core.arrivals import RateProfile, dealt, scaled, shaped, sped_up, unit_gaps


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How requests arrive, but for what a trace of the past says; plain values, so that processes can be told.

    Attributes:
        process: `poisson`, `constant` or `gamma`; not used for the moments of a trace.
        smoothness: Of `gamma`.
        rate_rps: Mean rate of the shape; not used with a trace.
        shape, period_s, peak: How the rate moves (`clover.core.arrivals.shaped`).
        speed: How many times as fast a trace runs.
        scale_to_rps: Mean rate that a trace is brought to after that; None leaves its own.
        concurrency: Closed loop instead: so many users, each with one request at a time; 0 for an open loop.
    """

    process: str = "poisson"
    smoothness: float = 1.0
    rate_rps: float = 1.0
    shape: str = "flat"
    period_s: float = 3600.0
    peak: float | None = None
    speed: float = 1.0
    scale_to_rps: float | None = None
    concurrency: int = 0

    def with_trace(self, trace: ArrivalTrace | None) -> Load:
        """Return the load that these arrivals are together with a trace, or without one."""
        return Load(trace=trace, **{field.name: getattr(self, field.name) for field in fields(Arrivals)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(Arrivals):
    """What load there shall be: arrivals, by a trace of the past if there is one."""

    trace: ArrivalTrace | None = None

    @property
    def closed(self) -> bool:
        """Whether requests wait for answers: such a load falls silent when the service is slow."""
        return self.concurrency > 0

    @property
    def mean_rps(self) -> float | None:
        """Mean rate that is asked for; None for a closed loop, whose rate is the service's."""
        if self.closed:
            return None
        if self.trace is None:
            return self.rate_rps
        return self.trace.mean_rps * self.speed if self.scale_to_rps is None else self.scale_to_rps

    @property
    def description(self) -> str:
        """What it is, in a few words that always say whether the loop is open or closed."""
        if self.closed:
            return f"closed loop, {self.concurrency} users"
        if self.trace is not None:
            speed = f" at {self.speed:g}x" if self.speed != 1.0 else ""
            scale = f" scaled to {self.scale_to_rps:g} requests/s" if self.scale_to_rps is not None else ""
            drawn = f", {self.process} within each part" if self.trace.profile is not None else ""
            return f"trace {self.trace.name} ({self.trace.dialect}){speed}{scale}{drawn}, open loop"
        smooth = f" (smoothness {self.smoothness:g})" if self.process == "gamma" else ""
        shape = "" if self.shape == "flat" else f", {self.shape} over {self.period_s:g} s"
        return f"{self.process}{smooth}{shape}, open loop"

    @property
    def rates(self) -> RateProfile | None:
        """The rate over time that is asked for; None for a closed loop and for the moments of a trace."""
        if self.closed:
            return None
        if self.trace is None:
            return shaped(self.shape, rate_rps=self.rate_rps, period_s=self.period_s, peak=self.peak)
        profile = self.trace.profile
        return None if profile is None else profile.times(speed=self.speed, factor=self._factor(self.trace))

    def times_s(self, seed: int | str) -> Iterator[float]:
        """Return when requests are due, in seconds from the start; without end, but for the moments of a trace."""
        rng = Random(f"{seed}/arrivals")  # noqa: S311 - arrivals
        if self.trace is None:
            profile = shaped(self.shape, rate_rps=self.rate_rps, period_s=self.period_s, peak=self.peak)
            return profile.times_s(unit_gaps(self.process, rng, smoothness=self.smoothness))
        return sped_up(self._trace_times(self.trace, self._factor(self.trace), rng), self.speed)

    def _factor(self, trace: ArrivalTrace) -> float:
        return 1.0 if self.scale_to_rps is None else self.scale_to_rps / (trace.mean_rps * self.speed)

    def _trace_times(self, trace: ArrivalTrace, factor: float, rng: Random) -> Iterator[float]:
        if trace.profile is None:
            return iter(trace.times_s) if factor == 1.0 else scaled(trace.times_s, factor, rng)
        gaps = unit_gaps(self.process, rng, smoothness=self.smoothness)
        # A rate that is `factor` times as high is reached by gaps that are so many times as short.
        return trace.profile.times_s(gap / factor for gap in gaps)

    def share(self, seed: int | str, index: int, of: int) -> Iterator[float]:
        """Return what one of several generators sends; together they send exactly the one schedule."""
        return dealt(self.times_s(seed), index, of)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What one request asks for beside an answer."""

    priority: Literal["normal", "high"] = "normal"
    min_accuracy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What requests ask for, by shares.

    Attributes:
        high_share: Share (0..1) of requests of high priority.
        min_accuracies: (least accuracy in %, share); what is left asks for none.
    """

    high_share: float = 0.0
    min_accuracies: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        shares = [self.high_share, *(share for _, share in self.min_accuracies)]
        if any(not 0.0 <= share <= 1.0 for share in shares) or sum(shares[1:]) > 1.0 + 1e-9:
            raise ValueError("shares: expected numbers from 0 to 1, those of least accuracies 1 together at most")

    def draw(self, rng: Random) -> Traits:
        """Draw what one request asks for; always takes two numbers, so that mixes do not change what follows."""
        high, point = rng.random() < self.high_share, rng.random()
        for accuracy, share in self.min_accuracies:
            if point < share:
                return Traits(priority="high" if high else "normal", min_accuracy=accuracy)
            point -= share
        return Traits(priority="high" if high else "normal")
