"""Follows when the load that is known in advance began, and lets the estimate of the load know."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from clover.bus.messages import Event
from clover.bus.port import Bus
from clover.bus.values import Feed
from clover.core.arrivals import RateProfile
from clover.core.load import LoadEstimator
from clover.core.load_profile import LoadProfile

#: Says an event: kind, subject, reason.
Say = Callable[[str, str, str], Awaitable[None]]


class KnownLoad:
    """Keeps the profile of an estimator as the newest generator says: its time begins where that one's schedule does.

    Args:
        bus: Where generators say that they began.
        rates: What is known.
        load: Estimates the load.
        say: Says since when it is known.
    """

    def __init__(self, bus: Bus, *, rates: RateProfile, load: LoadEstimator, say: Say) -> None:
        self._bus = bus
        self._rates = rates
        self._load = load
        self._say = say

    async def follow(self, *, block_s: float) -> None:
        """Take in the events that are kept, then those that come."""
        cursor, began = "0", None
        while entries := await self._bus.follow({Feed.EVENTS: cursor}, block_s=0.0):
            cursor = entries[-1].id
            # Only the newest of the past counts.
            for entry in entries:
                if isinstance(entry.message, Event) and entry.message.kind.startswith("generator."):
                    began = entry.message
        if began is not None:
            await self._take(began)
        while True:
            for entry in await self._bus.follow({Feed.EVENTS: cursor}, block_s=block_s):
                cursor = entry.id
                if isinstance(entry.message, Event):
                    await self._take(entry.message)

    async def _take(self, event: Event) -> None:
        if event.kind == "generator.finished":
            self._load.profile = None
        elif event.kind == "generator.started" and (began_ms := event.data.get("schedule_began_ms")) is not None:
            self._load.profile = LoadProfile(self._rates, began_ms / 1e3)
            reason = f"its time began with the schedule of {event.source}"
            await self._say("load.known", f"{self._rates.mean_rps:.4g} requests/s on average", reason)
