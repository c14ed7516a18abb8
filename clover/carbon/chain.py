"""A live source with everything that stands in for it, in one order: a figure is never missing without saying so.

live -> cached -> published forecast -> same hour yesterday -> fixed fallback, all of one kind. The level, the age and
the reason travel with the figure. Beyond the age limit it is marked stale, and plans stay as they are.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from clover.carbon.past import ReadingCache, Readings
from clover.carbon.port import AccessDeniedError, CarbonSource, NoValueError, SourceError
from clover.core.carbon import CarbonIntensity
from clover.core.clock import Clock
from clover.core.forecast import DAY_S, Outlook, persistence, with_band
from clover.core.intensity_trace import IntensityTrace
from clover.errors import ConfigurationError

#: Pauses between tries within one slot: first, and at most.
RETRY_FIRST_S, RETRY_MOST_S = 2.0, 300.0

#: A forecast that is older than this is asked for again at the next poll.
FORECAST_EVERY_S = 1800.0

#: Past that is asked for once at the start, for the same hour yesterday.
BACKFILL_S = 25 * 3600.0

FORECAST_HOURS = 48.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSettings:
    """Times of a chain.

    Attributes:
        poll_s: How often the source is asked, on the grid of multiples of this; its slot unless told.
        delay_s: How long after the boundary.
        lag_s: Age up to which its newest figure counts as live.
        cached_s: Age up to which it may stand in, as cached.
        stale_s: Age from which on whatever is used is marked stale.
    """

    poll_s: float
    delay_s: float
    lag_s: float
    cached_s: float
    stale_s: float


def chain_settings(source: CarbonSource, *, poll_s: float | None = None, stale_s: float | None = None) -> ChainSettings:
    """Return the times that suit a source, with the two that a user may set."""
    traits = source.traits
    every_s = poll_s or traits.slot_s
    # Who asks more often than the source has figures wants to know sooner that one is missing.
    lag_s = traits.lag_s if poll_s is None else min(traits.lag_s, 3.0 * poll_s)
    return ChainSettings(
        poll_s=every_s,
        delay_s=min(30.0, 0.1 * every_s),
        lag_s=lag_s,
        # Longer than an interval a cached figure is worse than a forecast for the present one.
        cached_s=max(lag_s, traits.slot_s),
        stale_s=stale_s or traits.stale_s,
    )


class SourceChain:
    """Keeps one zone's figure up to date and always has an answer.

    Args:
        source: The live one.
        clock, rng: Wall time; jitter.
        settings: Times.
        fallback: Stands in when all else fails: a constant, or a trace whose rows are taken by the hour of the UTC day.
        cache: Where readings are kept over a restart.

    Raises:
        ConfigurationError: A fallback for a marginal source; every fallback is an average.
    """

    def __init__(
        self,
        source: CarbonSource,
        *,
        clock: Clock,
        rng: Random,
        settings: ChainSettings | None = None,
        fallback: IntensityTrace | None = None,
        cache: ReadingCache | None = None,
    ) -> None:
        if source.traits.kind == "marginal" and fallback is not None:
            raise ConfigurationError(
                f"{source.traits.name} is marginal: expected no fallback, since traces and constants are averages"
            )
        self._source = source
        self._clock = clock
        self._rng = rng
        self._settings = settings or chain_settings(source)
        self._fallback = fallback
        self._cache = cache
        self._past, self._ahead = Readings(), Readings()
        self._issued_s: float | None = None
        self._fault = ""
        self._not_before_s = float("-inf")
        self._answered = asyncio.Event()
        if cache is not None:
            past, ahead, self._issued_s = cache.load(source.traits)
            self._past.add(past, now_s=clock.now_s())
            self._ahead.add(ahead, now_s=clock.now_s())

    @property
    def fault(self) -> str:
        """Why the newest request failed; empty if it did not."""
        return self._fault

    # --- fetching

    def start(self, started_s: float) -> None:
        """Do nothing: a live source knows the time."""

    async def ready(self, within_s: float) -> None:
        """Wait until the first request was answered or has failed."""
        try:
            async with asyncio.timeout(within_s):
                await self._answered.wait()
        except TimeoutError:
            self._fault = self._fault or "no answer yet"

    async def run(self) -> None:
        """Ask at every boundary of the polling grid, for ever; then close the source."""
        try:
            while True:
                await self._poll()
                await asyncio.sleep(max(0.001, self._next_poll_s() - self._clock.now_s()))
        finally:
            await self._source.close()

    async def _poll(self) -> None:
        """Ask until there is an answer or the next boundary comes."""
        until_s, pause_s = self._next_poll_s(), RETRY_FIRST_S
        while True:
            now_s = self._clock.now_s()
            if now_s >= self._not_before_s:
                wait_s = await self._ask()
                self._answered.set()
                if wait_s is None:
                    return
                pause_s = min(RETRY_MOST_S, self._rng.uniform(RETRY_FIRST_S, 3.0 * pause_s))
                self._not_before_s = self._clock.now_s() + max(wait_s, pause_s)
            if self._not_before_s >= until_s:
                return
            await asyncio.sleep(max(0.001, self._not_before_s - self._clock.now_s()))

    async def _ask(self) -> float | None:
        """Fetch once; return None if that went well, else the seconds that the source wants to be left alone."""
        now_s = self._clock.now_s()
        try:
            latest = await self._source.latest(now_s)
        except SourceError as error:
            self._fault = str(error)
            return self._settings.poll_s if isinstance(error, AccessDeniedError) else error.retry_after_s or 0.0
        self._fault = ""
        self._past.add([latest], now_s=now_s)
        await self._ask_for_more(now_s)
        if self._cache is not None:
            self._cache.save(self._past.all(), self._ahead.all(), self._issued_s)
        return None

    async def _ask_for_more(self, now_s: float) -> None:
        """Fetch the forecast if the last one is old, and yesterday if it is missing; neither is needed now."""
        try:
            if self._source.traits.forecasts and now_s - (self._issued_s or 0.0) >= FORECAST_EVERY_S:
                ahead = await self._source.forecast(now_s, FORECAST_HOURS)
                self._ahead.add(ahead, now_s=now_s, keep_s=DAY_S)
                self._issued_s = now_s
            if self._past.newest(now_s - DAY_S) is None:
                # Oldest last, so that what `latest` gave for the running slot is not undone.
                older = await self._source.history(now_s - BACKFILL_S, now_s)
                self._past.add([r for r in older if r.to_s <= now_s], now_s=now_s)
        except SourceError as error:
            self._fault = f"{error} (the present figure did come)"

    def _next_poll_s(self) -> float:
        every_s, delay_s = self._settings.poll_s, self._settings.delay_s
        return (1.0 + (self._clock.now_s() - delay_s) // every_s) * every_s + delay_s

    # --- answering

    def between(self, from_s: float, to_s: float) -> Sequence[CarbonIntensity]:
        """Return what came into force after `from_s` and until `to_s`; the last is in force at `to_s`."""
        now = self.at(to_s)
        before = [r for r in self._past.between(from_s, to_s) if r.from_s < now.from_s]
        return [*before, now]

    def ahead(self, now_s: float, steps: int) -> Outlook | None:
        """Return the published forecast, or without one that of the same hours yesterday; None without either."""
        traits = self._source.traits
        coming = [r for r in self._ahead.all() if r.from_s > now_s][:steps]
        if coming:
            past = {r.from_s: r.g_per_kwh for r in self._past.all()}
            pairs = [(past[r.from_s], r.g_per_kwh) for r in self._ahead.all() if r.from_s in past]
            return Outlook(
                basis="published",
                source=traits.name,
                issued_s=self._issued_s,
                intervals=with_band([(r.from_s, r.g_per_kwh) for r in coming], pairs),
                step_s=traits.slot_s,
            )
        return self._as_yesterday(now_s, steps)

    def _as_yesterday(self, now_s: float, steps: int) -> Outlook | None:
        newest = self._past.newest(now_s)
        if newest is None:
            return None
        step_s = self._source.traits.slot_s
        begun = (now_s - newest.from_s) // step_s
        values = {r.from_s: r.g_per_kwh for r in self._past.all()}
        found = persistence(values, from_s=newest.from_s + (begun + 1) * step_s, step_s=step_s, steps=steps)
        if not found:
            return None
        name = self._source.traits.name
        return Outlook(basis="yesterday", source=name, issued_s=newest.to_s, intervals=tuple(found), step_s=step_s)

    def at(self, now_s: float) -> CarbonIntensity:
        """Return the best figure for a moment that is now.

        Raises:
            NoValueError: There is none, and no fallback.
        """
        newest = self._past.newest(now_s)
        age_s = max(0.0, now_s - newest.to_s) if newest is not None else float("inf")
        found = self._best(now_s, newest, age_s)
        stale = age_s > self._settings.stale_s
        end_s = found.to_s if found.to_s > now_s else self._next_poll_s()
        return dataclasses.replace(found, stale=stale, to_s=max(end_s, now_s + 1e-3))

    def _best(self, now_s: float, newest: CarbonIntensity | None, age_s: float) -> CarbonIntensity:
        why = self._fault or "the source has nothing newer"
        if newest is not None and age_s <= self._settings.lag_s:
            return newest
        if newest is not None and age_s <= self._settings.cached_s:
            return dataclasses.replace(newest, fallback_level=1, note=why)
        if (ahead := self._ahead.at(now_s)) is not None:
            return dataclasses.replace(
                ahead,
                fallback_level=2,
                status="forecast",
                source=f"{ahead.source}:forecast",
                observed_to_s=self._issued_s,
                note=why,
            )
        if (yesterday := self._past.at(now_s - DAY_S)) is not None:
            return dataclasses.replace(
                yesterday,
                from_s=yesterday.from_s + DAY_S,
                to_s=yesterday.to_s + DAY_S,
                fallback_level=3,
                status="estimated",
                source=f"{yesterday.source}:yesterday",
                note=why,
            )
        return self._last_resort(now_s, newest, why)

    def _last_resort(self, now_s: float, newest: CarbonIntensity | None, why: str) -> CarbonIntensity:
        if self._fallback is not None:
            constant = len(self._fallback.values_g_per_kwh) == 1
            found = self._fallback.at(now_s, started_s=now_s // DAY_S * DAY_S, hour_s=3600.0)
            return dataclasses.replace(
                found,
                zone=self._source.traits.zone,
                fallback_level=4,
                status="assumed" if constant else "trace",
                source=f"fallback:{self._fallback.name}",
                note=why,
            )
        if newest is not None:
            return dataclasses.replace(newest, fallback_level=1, note=why)
        raise NoValueError(f"{self._source.traits.name}: {why}, and there is no fallback")
