"""What a producer writes down for others: a record of each finished request, and what it says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from clover.agents.backoff import Backoff
from clover.bus.messages import Event, RequestLog, RequestRecord
from clover.bus.port import Bus
from clover.bus.values import Feed
from clover.core.clock import Clock
from clover.errors import BusUnavailableError

#: Most records in one entry of the request log.
BATCH = 500
#: Finished requests held while the server is away; beyond that the oldest are not written (the totals stay right).
MAX_HELD_RECORDS = 200_000


class ProducerLog:
    """Writes records in batches, and events; while the server is away it holds what it can.

    Args:
        name: Of the producer.
        bus, clock: Ports.
        rng: Source of jitter.
        totals: Gives how many requests were sent so far, and how many replies were second ones.
    """

    def __init__(
        self, name: str, *, bus: Bus, clock: Clock, rng: Random, totals: Callable[[], tuple[int, int]]
    ) -> None:
        self._name = name
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._totals = totals
        self._records: list[RequestRecord] = []
        #: Is being written, and stays what it is until it is known to be: readers tell by that if it comes twice.
        self._batch: RequestLog | None = None
        #: Records that were given up because the server was away for too long.
        self.unwritten = 0

    @property
    def held(self) -> int:
        """Records that are not known to be written."""
        return len(self._records) + (len(self._batch.records) if self._batch is not None else 0)

    def add(self, record: RequestRecord) -> None:
        """Take in a finished request, to be written soon."""
        self._records.append(record)
        if len(self._records) > MAX_HELD_RECORDS:
            del self._records[:BATCH]
            self.unwritten += BATCH

    async def write_regularly(self, every_s: float) -> None:
        """Write what has come in, again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._write()
            except BusUnavailableError:
                continue

    async def write_all(self) -> None:
        """Write what is left, however long the server is away."""
        backoff = Backoff(self._rng)
        while self._records or self._batch is not None:
            try:
                await self._write()
            except BusUnavailableError:
                await asyncio.sleep(backoff.next_s())

    async def say(self, kind: str, reason: str, data: dict[str, object]) -> None:
        """Publish an event about the producer, however long the server is away."""
        event = Event(
            at_ms=self._clock.now_ms(),
            kind=kind,
            source=f"generator:{self._name}",
            subject=self._name,
            reason=reason,
            data=data,
        )
        backoff = Backoff(self._rng)
        while True:
            try:
                await self._bus.publish(Feed.EVENTS, [event])
            except BusUnavailableError:
                await asyncio.sleep(backoff.next_s())
            else:
                return

    async def _write(self) -> None:
        while self._records or self._batch is not None:
            if self._batch is None:
                sent, duplicates = self._totals()
                records = tuple(self._records[:BATCH])
                del self._records[: len(records)]
                self._batch = RequestLog(producer=self._name, sent=sent, duplicates=duplicates, records=records)
            await self._bus.publish(Feed.LOG, [self._batch])
            self._batch = None
