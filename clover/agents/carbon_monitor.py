"""The carbon monitor: says what the grid emits now, and alone turns joules into grams."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from dataclasses import dataclass
from random import Random

from clover.agents.backoff import Backoff
from clover.agents.lifetime import until_stopped
from clover.agents.translate import intensity_forecast, intensity_reading
from clover.bus.messages import (
    Event,
    IntensityForecast,
    IntensityReading,
    LedgerCheckpoint,
    LedgerParts,
    LedgerReading,
    Message,
    NodeTelemetry,
)
from clover.bus.port import Bus
from clover.bus.values import Feed
from clover.carbon.port import IntensityFeed, NoValueError
from clover.core.carbon import FALLBACK_LEVELS, CarbonIntensity
from clover.core.clock import Clock
from clover.core.timeline import StepFunction
from clover.errors import BusUnavailableError
from clover.power.ledger import Ledger

#: The first figure is waited for so long before a fallback takes its place.
FIRST_WITHIN_S = 15.0

#: Most changes of intensity that a checkpoint holds; only those since the last reading of each node matter.
KEPT = 100

#: Intervals of the forecast that is published.
AHEAD = 48

#: Events that are kept while the server is away; the newest win.
MAX_HELD_EVENTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonSettings:
    """What the carbon monitor is told at its start.

    Attributes:
        pue: Power usage effectiveness of the building, >= 1.
        idle_power_w: Of one GPU, for energy that was used while a node was silent.
        publish_s: How often the ledger is published.
    """

    pue: float
    idle_power_w: float
    publish_s: float = 1.0


class CarbonMonitor:
    """Publishes the intensity of one zone and keeps the ledger.

    Args:
        settings: What it is told.
        source: Gives the intensity, live or replayed; nobody else in the deployment asks for it.
        bus, clock: Ports.
        rng: Source of jitter.
    """

    def __init__(self, settings: CarbonSettings, *, source: IntensityFeed, bus: Bus, clock: Clock, rng: Random) -> None:
        self._settings = settings
        self._source = source
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._started_s = clock.now_s()
        self._looked_s = float("-inf")
        self._effective = StepFunction()
        self._ledger = Ledger(effective_intensity=self._effective.mean)
        self._cursor = "0"
        self._published: CarbonIntensity | None = None
        self._events: deque[Event] = deque(maxlen=MAX_HELD_EVENTS)
        self._said = ""
        #: What was published last, for the metrics endpoint.
        self.intensity: IntensityReading | None = None
        self.reading: LedgerReading | None = None
        self.parts: LedgerParts | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop` is set; a restart goes on from the checkpoint and neither rewinds nor counts twice."""
        await until_stopped(stop, self._work())

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._source.run(), name="intensity")
            group.create_task(self._publish_for_ever(), name="ledger")

    async def _publish_for_ever(self) -> None:
        backoff = Backoff(self._rng)
        restored = False
        while True:
            try:
                if not restored:
                    await self._restore()
                    await self._source.ready(FIRST_WITHIN_S)
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
            self._ledger.restore(saved)
            for from_ms, effective in saved.effective:
                self._effective.add(from_ms / 1e3, effective)
                self._looked_s = max(self._looked_s, from_ms / 1e3)
        self._source.start(self._started_s)

    async def _publish(self) -> None:
        """Take in all telemetry that is there, then write intensity (if new), ledger and checkpoint in one step."""
        fresh = self._look()
        if not self._effective:
            # Without any figure joules cannot become grams; they wait in the stream, and the reason is told.
            await self._tell()
            return
        if not fresh and self._published is not None and "intensity" not in await self._bus.carbon_now():
            # The last values are gone, with a server that was started again: say it once more.
            fresh = [self._published]
        await self._take_telemetry()
        readings = [intensity_reading(i, pue=self._settings.pue, published_at_ms=self._clock.now_ms()) for i in fresh]
        ledger = self._ledger.reading()
        messages: list[Message] = [*readings, *(self._expected() if readings else []), ledger]
        checkpoint = self._checkpoint(ledger)
        await self._bus.publish_carbon(messages, checkpoint)
        self.intensity, self.reading = readings[-1] if readings else self.intensity, ledger
        self.parts = checkpoint.parts
        await self._tell()

    def _checkpoint(self, ledger: LedgerReading) -> LedgerCheckpoint:
        counted_ms = min(self._ledger.counters_at_ms.values(), default=0.0)
        self._effective.forget_before(counted_ms / 1e3)
        return LedgerCheckpoint(
            ledger=ledger,
            trace_started_ms=self._started_s * 1e3,
            telemetry_cursor=self._cursor,
            counters=self._ledger.counters,
            counters_at_ms=self._ledger.counters_at_ms,
            parts=self._ledger.in_parts(),
            effective=tuple((from_s * 1e3, value) for from_s, value in self._effective.since(counted_ms / 1e3)[-KEPT:]),
        )

    async def _take_telemetry(self) -> None:
        while entries := await self._bus.follow({Feed.TELEMETRY: self._cursor}, block_s=0.0):
            for entry in entries:
                self._cursor = entry.id
                if isinstance(entry.message, NodeTelemetry):
                    self._ledger.take(entry.message, idle_power_w=self._settings.idle_power_w)

    async def _tell(self) -> None:
        events = list(self._events)
        self._events.clear()
        try:
            if events:
                await self._bus.publish(Feed.EVENTS, events)
            await self._bus.beat("carbon")
        except BusUnavailableError:
            self._events = deque([*events, *self._events], maxlen=MAX_HELD_EVENTS)
            raise

    # --- intensity

    def _expected(self) -> list[IntensityForecast]:
        """Return what is expected of the grid, told anew with every figure that comes into force."""
        outlook = self._source.ahead(self._clock.now_s(), AHEAD)
        if outlook is None or self._published is None:
            return []
        return [intensity_forecast(outlook, zone=self._published.zone, published_at_ms=self._clock.now_ms())]

    def _look(self) -> list[CarbonIntensity]:
        """Return what has come into force since the last look, each from when it counts."""
        now_s = self._clock.now_s()
        try:
            found = self._source.between(self._looked_s, now_s)
        except NoValueError as error:
            if self._said != "carbon.fallback":
                self._say("carbon.fallback", str(error))
            return []
        fresh = [intensity for raw in found if (intensity := self._taken(raw, now_s)) is not None]
        self._looked_s = now_s
        return fresh

    def _taken(self, found: CarbonIntensity, now_s: float) -> CarbonIntensity | None:
        """Put a figure in force; None if it is the one that is."""
        before = self._published
        if before is not None and _same(before, found):
            return None
        # One that turns up within its interval, or after energy was counted at another, counts from now.
        late = before is not None and found.from_s <= max(before.from_s, self._looked_s)
        intensity = dataclasses.replace(found, from_s=now_s) if late else found
        self._effective.add(intensity.from_s, intensity.g_per_kwh * self._settings.pue)
        self._note_change(before, intensity)
        self._published = dataclasses.replace(found, from_s=intensity.from_s)
        return intensity

    def _note_change(self, before: CarbonIntensity | None, now: CarbonIntensity) -> None:
        was = (before.fallback_level, before.stale) if before is not None else (0, False)
        if (now.fallback_level, now.stale) == was:
            return
        level = f"{now.g_per_kwh:.0f} g/kWh from {now.source} ({FALLBACK_LEVELS[now.fallback_level]})"
        if now.stale and not was[1]:
            self._say("carbon.stale", f"{level}: {now.note}; plans stay as they are")
        elif now.fallback_level == 0 and not now.stale:
            self._say("carbon.recovered", level)
        else:
            self._say("carbon.fallback", f"{level}: {now.note}")

    def _say(self, kind: str, reason: str) -> None:
        self._said = kind
        self._events.append(Event(at_ms=self._clock.now_ms(), kind=kind, source="carbon", reason=reason))

    def _until_next_s(self) -> float:
        """Sleep to the next publication on its grid, or to the next change of intensity if that is sooner."""
        now, every = self._clock.now_s(), self._settings.publish_s
        to_change = self._published.to_s - now if self._published is not None else every
        # Half an interval after the nodes' own grid, so that their readings are there.
        to_publish = every - (now - every / 2.0) % every
        return max(0.001, min(to_change if to_change > 0.0 else every, to_publish))


def _same(before: CarbonIntensity, now: CarbonIntensity) -> bool:
    """Return whether two figures are the same for every reader: value, interval, level and mark."""
    return (
        before.g_per_kwh == now.g_per_kwh
        and before.observed_to_s == now.observed_to_s
        and before.fallback_level == now.fallback_level
        and before.stale == now.stale
        and before.source == now.source
        and (now.observed_to_s is not None or now.from_s <= before.from_s)
    )
