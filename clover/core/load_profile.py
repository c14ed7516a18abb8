"""A load that is known in advance: from a trace of rates, by the time of day or from when a generator began. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from clover.core.arrival_trace import ArrivalTrace
from clover.core.arrivals import RateProfile
from clover.core.schedule import Load
from clover.errors import ConfigurationError, TraceError

#: Where a profile's time is 0: at each midnight UTC, or where the schedule of the newest generator begins.
Begins = Literal["midnight", "generator"]
BEGINS: tuple[str, ...] = get_args(Begins)

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class LoadProfile:
    """A rate over time, and when that time began.

    Attributes:
        rates: In requests/s.
        begins_s: When its time is 0, by the clock that it is asked with; before that nothing arrives.
    """

    rates: RateProfile
    begins_s: float = 0.0

    def at(self, moment_s: float) -> float:
        """Return the rate at a moment in requests/s."""
        return self.rates.at(moment_s - self.begins_s) if moment_s >= self.begins_s else 0.0

    def highest(self, from_s: float, to_s: float) -> float:
        """Return the highest rate between two moments in requests/s."""
        if to_s < self.begins_s:
            return 0.0
        return self.rates.highest(max(0.0, from_s - self.begins_s), to_s - self.begins_s)


def known_rates(load: Load, begins: str) -> RateProfile:
    """Return the rates that a controller may know in advance of a trace at its speed and scale.

    By the time of day the trace is one day: its last row holds until midnight, and each day is like it.

    Args:
        load: The trace with its speed and scale.
        begins: One of `BEGINS`.

    Raises:
        ConfigurationError: `begins` is unknown, or a day of the clock is to last something else than a day.
        TraceError: The trace does not say rates, or does not fit into a day.
    """
    if begins not in BEGINS:
        raise ConfigurationError(f"--load-profile-begins = {begins!r}: expected one of {', '.join(BEGINS)}")
    trace = load.trace
    rates = load.rates
    if trace is None or rates is None:
        told = f"{trace.name} ({trace.dialect})" if trace is not None else "nothing"
        raise TraceError(
            f"--load-profile {told}: single arrivals, expected rates over time: "
            "time_s,rate_rps or time_s,requests or Azure Functions 2019"
        )
    return rates if begins == "generator" else _day(trace, rates, load.speed)


def _day(trace: ArrivalTrace, rates: RateProfile, speed: float) -> RateProfile:
    where = f"--load-profile {trace.name}"
    if speed != 1.0:
        raise ConfigurationError(
            f"--speed = {speed:g} with a --load-profile that begins at midnight: expected 1, a clock's day is a day",
            hint="--load-profile-begins generator goes by the load's own time",
        )
    if trace.first_s != 0.0:
        raise TraceError(f"{where}: time_s = {trace.first_s:g} in the first row, expected 0, which is midnight UTC")
    last_s = rates.starts_s[-1]
    if last_s >= DAY_S:
        raise TraceError(
            f"{where}: time_s = {last_s:g} in the last row, expected below {DAY_S:g}, a day from midnight UTC"
        )
    return RateProfile(rates.starts_s, rates.rates_rps, DAY_S)
