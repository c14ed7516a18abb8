"""What other agents have left in the streams: handed back because it could not begin, or pending since they died."""

from __future__ import annotations

import asyncio
import logging
import math

from clover.agents.intake import Intake
from clover.agents.request_parts import RequestCounts
from clover.bus.port import Bus
from clover.bus.values import Delivery

#: While there are always new requests, what others have left is looked for this often.
LOOK_S = 0.25

_log = logging.getLogger("clover.requests")


class LeftByOthers:
    """Takes over what others have left.

    Args:
        bus: Where it is.
        consumer: Who takes it over.
        intake: Says how much could begin at once.
        counts: Where it is counted.
        lease_s: An entry that nobody has touched for so long may be taken over; what was handed back at once.
    """

    def __init__(self, bus: Bus, consumer: str, intake: Intake, counts: RequestCounts, *, lease_s: float) -> None:
        self._bus = bus
        self._consumer = consumer
        self._intake = intake
        self._counts = counts
        self._lease_s = lease_s
        #: When we last looked, and whether there was something: then there may be more.
        self._looked_s, self._more = -math.inf, False

    async def look(self) -> list[Delivery]:
        """Look now and then: it is older than what waits in the streams, which may never let up."""
        due = self._more or asyncio.get_running_loop().time() - self._looked_s >= LOOK_S
        return await self.claim() if due else []

    async def claim(self) -> list[Delivery]:
        """Take over as many entries as could begin at once."""
        offer = self._intake.offer()
        if not offer.count:
            return []
        self._looked_s, self._more = asyncio.get_running_loop().time(), False
        claimed = await self._bus.claim(self._consumer, min_idle_s=self._lease_s, count=offer.count, tiers=offer.tiers)
        self._more = bool(claimed.deliveries)
        self._counts.claimed += len(claimed.deliveries)
        self._counts.vanished += len(claimed.vanished_ids)
        if claimed.vanished_ids:
            _log.error("entries in work were trimmed from the stream: %s", ", ".join(claimed.vanished_ids))
        return claimed.deliveries
