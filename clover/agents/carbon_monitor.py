"""The carbon monitor: says what the grid emits now, and alone turns joules into grams."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

from clover.agents.backoff import Backoff
from clover.agents.lifetime import until_stopped
from clover.agents.translate import intensity_reading
from clover.bus.messages import LedgerCheckpoint, Message, NodeTelemetry
from clover.bus.port import Bus, Feed
from clover.core.carbon import CarbonIntensity, IntensityTrace
from clover.core.clock import Clock
from clover.errors import BusUnavailableError
from clover.power.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonSettings:
    """What the carbon monitor is told at its start.

    Attributes:
        trace: What it replays.
        hour_s: Real seconds that one hour of the trace lasts.
        pue: Power usage effectiveness of the building, >= 1.
        idle_power_w: Of one GPU, for energy that was used while a node was silent.
        publish_s: How often the ledger is published.
    """

    trace: IntensityTrace
    hour_s: float
    pue: float
    idle_power_w: float
    publish_s: float = 1.0


class CarbonMonitor:
    """Replays a trace and keeps the ledger."""

    def __init__(self, settings: CarbonSettings, *, bus: Bus, clock: Clock, rng: Random) -> None:
        self._settings = settings
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._started_s = clock.now_s()
        self._ledger = Ledger(effective_intensity=self._effective)
        self._cursor = "0"
        self._published: CarbonIntensity | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop` is set; a restart goes on from the checkpoint and neither rewinds nor counts twice."""
        await until_stopped(stop, self._work())

    async def _work(self) -> None:
        backoff = Backoff(self._rng)
        restored = False
        while True:
            try:
                if not restored:
                    await self._restore()
                    restored = True
                await self._publish()
                backoff.reset()
                await asyncio.sleep(self._until_next_s())
            except BusUnavailableError:
                await asyncio.sleep(backoff.next_s())

    async def _restore(self) -> None:
        saved = await self._bus.checkpoint()
        if saved is not None:
            self._started_s = saved.trace_started_ms / 1e3
            self._cursor = saved.telemetry_cursor
            self._ledger.restore(saved.ledger, saved.counters, saved.counters_at_ms)

    async def _publish(self) -> None:
        """Take in all telemetry that is there, then write intensity (if new), ledger and checkpoint in one step."""
        while entries := await self._bus.follow({Feed.TELEMETRY: self._cursor}, block_s=0.0):
            for entry in entries:
                self._cursor = entry.id
                if isinstance(entry.message, NodeTelemetry):
                    self._ledger.take(entry.message, idle_power_w=self._settings.idle_power_w)
        intensity = self._at(self._clock.now_s())
        messages: list[Message] = []
        if intensity != self._published or "intensity" not in await self._bus.carbon_now():
            messages.append(intensity_reading(intensity, pue=self._settings.pue, published_at_ms=self._clock.now_ms()))
        reading = self._ledger.reading()
        messages.append(reading)
        checkpoint = LedgerCheckpoint(
            ledger=reading,
            trace_started_ms=self._started_s * 1e3,
            telemetry_cursor=self._cursor,
            counters=self._ledger.counters,
            counters_at_ms=self._ledger.counters_at_ms,
        )
        await self._bus.publish_carbon(messages, checkpoint)
        self._published = intensity
        await self._bus.beat("carbon")

    def _until_next_s(self) -> float:
        """Sleep to the next publication on its grid, or to the next change of intensity if that is sooner."""
        now, every = self._clock.now_s(), self._settings.publish_s
        to_change = self._at(now).to_s - now
        # Half an interval after the nodes' own grid, so that their readings are there.
        to_publish = every - (now - every / 2.0) % every
        return max(0.001, min(to_change, to_publish))

    def _at(self, now_s: float) -> CarbonIntensity:
        return self._settings.trace.at(now_s, started_s=self._started_s, hour_s=self._settings.hour_s)

    def _effective(self, from_s: float, to_s: float) -> float:
        """Return the mean of intensity x PUE over an interval, cut where the intensity changes."""
        if to_s <= from_s:
            return self._at(to_s).g_per_kwh * self._settings.pue
        total, now_s = 0.0, from_s
        while now_s < to_s:
            intensity = self._at(now_s)
            # A trace row that ends within rounding of `now` must not stop the walk.
            until_s = min(to_s, max(intensity.to_s, now_s + 1e-6))
            total += intensity.g_per_kwh * (until_s - now_s)
            now_s = until_s
        return total / (to_s - from_s) * self._settings.pue
