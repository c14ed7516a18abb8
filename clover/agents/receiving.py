"""Takes in replies to a producer's requests, and counts as lost what has none in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from clover.agents.backoff import Backoff
from clover.agents.outcomes import Outstanding
from clover.bus.messages import PlanRecord, RequestRecord
from clover.bus.port import Bus
from clover.core.clock import Clock
from clover.core.outcome import LOST_AFTER_DEADLINE_S, ProducerOutcome
from clover.errors import BusUnavailableError


class Receiver:
    """The receiving half of a producer.

    Args:
        name: Of the producer, whose reply stream is read.
        bus, clock: Ports.
        rng: Source of jitter.
        outstanding: Requests without an outcome.
        plan: Gives the newest plan.
        ended: Takes in the record of each request that a reply has ended.
    """

    def __init__(
        self,
        name: str,
        *,
        bus: Bus,
        clock: Clock,
        rng: Random,
        outstanding: Outstanding,
        plan: Callable[[], PlanRecord],
        ended: Callable[[RequestRecord], None],
    ) -> None:
        self._name = name
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._outstanding = outstanding
        self._plan = plan
        self._ended = ended

    async def run(self, *, block_s: float) -> None:
        """Take in replies until it is cancelled; `block_s` is the longest wait in one call."""
        backoff = Backoff(self._rng)
        cursor = "0"
        while True:
            try:
                replies, cursor = await self._bus.replies(self._name, cursor, block_s=block_s)
                backoff.reset()
            except BusUnavailableError:
                await asyncio.sleep(backoff.next_s())
                continue
            received_ms = self._clock.now_ms()
            for reply in replies:
                record = self._outstanding.reply(reply, received_ms, sla_p95_ms=self._plan().sla_p95_ms)
                if record is not None:
                    self._ended(record)

    async def sweep(self, end: Callable[[str, ProducerOutcome, str], None]) -> None:
        """Call `end` for what has had no reply for 2 s after its deadline, until it is cancelled."""
        while True:
            oldest_ms = self._outstanding.oldest_deadline_ms()
            wait_s = 1.0
            if oldest_ms is not None:
                wait_s = max(0.05, oldest_ms / 1e3 + LOST_AFTER_DEADLINE_S - self._clock.now_s())
            await asyncio.sleep(min(wait_s, self._plan().deadline_s))
            for request_id in self._outstanding.overdue(self._clock.now_ms() - LOST_AFTER_DEADLINE_S * 1e3):
                end(request_id, ProducerOutcome.LOST, "no reply 2 s after the deadline")
