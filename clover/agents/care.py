"""Sees to it that every request ends, whoever is still there: the sweeper, run by nodes and by the controller."""

from __future__ import annotations

import asyncio
import logging

from clover.bus.port import Bus
from clover.errors import BusUnavailableError

_log = logging.getLogger("clover.care")

#: A request in work may be answered by its holder until this long after its deadline; then the sweeper does it. With
#: the period of the sweep this stays below the 2 s after which a producer counts it as lost.
SWEEP_GRACE_S = 0.5
#: Most requests answered in one call; with so many the next call follows at once.
SWEEP_LIMIT = 500

_NAMED = 5


class Sweeper:
    """Answers requests that nobody else will, as long as any agent lives.

    Several may sweep: each request is answered once. Nodes do so rarely and the acting controller often, so that a
    deployment without nodes and one without a controller both keep the promise.

    Args:
        bus: The deployment.
        period_s: How often to look.
    """

    def __init__(self, bus: Bus, *, period_s: float) -> None:
        self._bus = bus
        self._period_s = period_s
        #: Requests answered so far, past their deadline and gone from their stream.
        self.expired = 0
        self.vanished = 0

    async def run(self) -> None:
        """Sweep until cancelled; a server that is away is tried again with the next turn."""
        while True:
            await asyncio.sleep(self._period_s)
            try:
                while await self._sweep() >= SWEEP_LIMIT:
                    pass
            except BusUnavailableError:
                continue

    async def _sweep(self) -> int:
        swept = await self._bus.sweep(grace_s=SWEEP_GRACE_S, limit=SWEEP_LIMIT)
        self.expired += len(swept.expired)
        self.vanished += len(swept.vanished)
        if swept.vanished:
            names = ", ".join(swept.vanished[:_NAMED])
            more = f" and {len(swept.vanished) - _NAMED} more" if len(swept.vanished) > _NAMED else ""
            _log.error("requests were trimmed or deleted unanswered, and were answered as failed: %s%s", names, more)
        return len(swept.expired) + len(swept.vanished)


async def reap(bus: Bus, *, period_s: float) -> None:
    """Forget consumers that have been silent for a period: each start of a node agent is a new one. Until cancelled.

    Raises:
        BusUnavailableError: The server is away.
    """
    while True:
        await asyncio.sleep(period_s)
        await bus.reap(idle_s=period_s)
