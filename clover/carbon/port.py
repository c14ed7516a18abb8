"""The port behind which every live source of carbon intensity stands, and the ways in which one can fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from clover.core.carbon import CarbonIntensity, IntensityFactor, IntensityKind
from clover.core.forecast import Outlook
from clover.errors import CloverError


class SourceError(CloverError):
    """A source gave no figure that can be used; trying again later is right.

    Attributes:
        retry_after_s: How long the source asks to be left alone, None if it does not say.
    """

    exit_code = 5

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class SourceUnavailableError(SourceError):
    """It cannot be reached, took too long or failed itself (HTTP 5xx)."""


class RateLimitedError(SourceError):
    """It refused because of too many requests (HTTP 429)."""


class AccessDeniedError(SourceError):
    """It refused the key, or the key may not see this zone (HTTP 401, 403); only a person can mend that."""

    exit_code = 3


class BadReplyError(SourceError):
    """It answered with what cannot be right: not JSON, another zone, a value that no grid has."""


class NoValueError(SourceError):
    """It answered properly, and has no figure for the time that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTraits:
    """What is always true of a source.

    Attributes:
        name: As on the command line.
        zone: Grid zone in the source's own words.
        kind: Average or marginal.
        factor: Which emissions are counted.
        slot_s: Seconds between its figures.
        lag_s: How long after the end of an interval its figure is normally there.
        stale_s: Age from which on its newest figure should change no plan.
        forecasts: Whether it publishes forecasts.
    """

    name: str
    zone: str
    kind: IntensityKind = "average"
    factor: IntensityFactor
    slot_s: float
    lag_s: float
    stale_s: float
    forecasts: bool


class CarbonSource(Protocol):
    """A live source of one zone. Readings are ordered by time, and `from_s` to `to_s` is the source's own interval.

    Every method raises SourceError (or a kind of it) within a bounded time.
    """

    @property
    def traits(self) -> SourceTraits:
        """What is always true of it."""
        ...

    async def latest(self, now_s: float) -> CarbonIntensity:
        """Return the newest figure whose interval has begun."""
        ...

    async def history(self, from_s: float, to_s: float) -> Sequence[CarbonIntensity]:
        """Return past figures; those that the source does not have are missing."""
        ...

    async def forecast(self, now_s: float, hours: float) -> Sequence[CarbonIntensity]:
        """Return the published forecast from now on; empty if the source has none."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class IntensityFeed(Protocol):
    """What the carbon monitor reads: which figure is in force when, live or replayed. Reading it never waits."""

    def start(self, started_s: float) -> None:
        """Say when the run began, so that a replay that is started again does not rewind."""
        ...

    async def run(self) -> None:
        """Keep it up to date until cancelled; a replay has nothing to do and returns."""
        ...

    async def ready(self, within_s: float) -> None:
        """Wait, at most so long, until a first answer has come or failed."""
        ...

    def between(self, from_s: float, to_s: float) -> Sequence[CarbonIntensity]:
        """Return what came into force after `from_s` and until `to_s`, oldest first; the last is in force at `to_s`.

        Raises:
            NoValueError: There is no figure at all, not even a fixed fallback.
        """
        ...

    def ahead(self, now_s: float, steps: int) -> Outlook | None:
        """Return what is expected of the next so many intervals; None if nothing is."""
        ...
