"""Batches of requests: which may begin together on an instance, and how long the first waits for the others.

With batching off every batch has one request and begins at once. A request that has been delivered before is always
served alone: it may be what killed the worker under a batch, and the others of that batch are not to die of it again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from clover.agents.instance import Instance
from clover.agents.lifetime import happens_within
from clover.agents.request_parts import RequestPorts
from clover.bus.values import Delivery
from clover.serving.port import BatchingWorker, ServableRequest, Served, ServingError, Worker, WorkerDiedError

#: A wait shorter than this is over, s.
_DUE_S: Final = 1e-4


@dataclass(slots=True, eq=False)
class Batch:
    """Requests that begin together.

    Attributes:
        instance: Where.
        deliveries: At least one.
        until_s: When, by the event loop's time, it begins even if there is room for more.
        joined: Set when one joins.
    """

    instance: Instance
    deliveries: list[Delivery]
    until_s: float
    joined: asyncio.Event = field(default_factory=asyncio.Event)


class Batches:
    """The batches of one node that are about to begin.

    Args:
        ports: What the request side works with; its pool learns how many requests each instance may take.
        sla_ms: Gives the SLA at present, None if there is none yet.
    """

    def __init__(self, ports: RequestPorts, sla_ms: Callable[[], float | None]) -> None:
        self._batching = ports.batching
        self._pool = ports.pool
        self._clock = ports.clock
        self._ports = ports
        self._sla_ms = sla_ms
        # Bounded: by the instances.
        self._open: list[Batch] = []
        self._told: set[int] = set()
        if self._batching.is_on:
            self._pool.batch_of = self.size_on
            self._pool.awaited_by = self._awaited_by

    @property
    def close_within_s(self) -> float | None:
        """Seconds until the first of them begins that waits for others; None if none does."""
        return min((_left_s(batch) for batch in self._open if self._waits(batch)), default=None)

    def size_on(self, instance: Instance) -> int:
        """Return how many requests an instance may begin together: 1 if a full batch would break the SLA there."""
        why = self._why_not(self._batch_ms(instance))
        if not why:
            return self._batching.max_batch_size
        if instance.key not in self._told:
            self._told.add(instance.key)
            self._ports.report(
                "worker.no_batches", instance.gpu, f"{instance.kind}: serves requests one at a time: {why}"
            )
        return 1

    def open(self, instance: Instance, delivery: Delivery) -> Batch:
        """Begin a batch on an idle instance; it may be joined until `formed` returns."""
        self._pool.begin(instance)
        batch = Batch(instance, [delivery], self._until_s(instance, delivery))
        if self._batching.is_on and not _must_be_alone(delivery):
            instance.room = self.size_on(instance) - 1
            self._open.append(batch)
        return batch

    def join(self, delivery: Delivery) -> bool:
        """Add a request to a batch that is about to begin; False if there is none for it."""
        asked_pct = delivery.request.min_accuracy
        for batch in self._open if not _must_be_alone(delivery) else ():
            able = asked_pct is None or batch.instance.accuracy_pct >= asked_pct
            if able and self._pool.room_of(batch.instance):
                self._pool.join(batch.instance)
                batch.deliveries.append(delivery)
                batch.until_s = min(batch.until_s, self._until_s(batch.instance, delivery))
                batch.joined.set()
                return True
        return False

    async def formed(self, batch: Batch) -> None:
        """Wait until a batch is full or its time has come; nothing joins it afterwards."""
        try:
            while self._waits(batch) and await happens_within(batch.joined, _left_s(batch)):
                batch.joined.clear()
        finally:
            batch.instance.room = 0
            if batch in self._open:
                self._open.remove(batch)

    def _waits(self, batch: Batch) -> bool:
        return self._pool.room_of(batch.instance) > 0 and _left_s(batch) > _DUE_S

    def _awaited_by(self, instance: Instance) -> int:
        """Return the room of the batch that an instance waits to begin, 0 if its time has come."""
        return sum(instance.room for batch in self._open if batch.instance is instance and self._waits(batch))

    def _until_s(self, instance: Instance, delivery: Delivery) -> float:
        """Return until when a request may wait: never so long that it could not be answered by its deadline."""
        if not self._batching.is_on:
            # Nothing joins it: it begins at once.
            return -math.inf
        request = delivery.request
        latest_ms = request.deadline_ms - (self._batch_ms(instance) or 0.0)
        until_ms = min(request.due_ms + self._batching.max_queue_delay_ms, latest_ms)
        return asyncio.get_running_loop().time() + (until_ms - self._clock.now_ms()) / 1e3

    def _batch_ms(self, instance: Instance) -> float | None:
        return instance.worker.batch_ms if isinstance(instance.worker, BatchingWorker) else None

    def _why_not(self, batch_ms: float | None) -> str:
        """Return why an instance serves requests singly although batches were asked for; empty if it need not."""
        size, delay_ms, sla_ms = self._batching.max_batch_size, self._batching.max_queue_delay_ms, self._sla_ms()
        if batch_ms is None:
            return f"{size} do not fit into its memory"
        if sla_ms is None or delay_ms + batch_ms < sla_ms:
            return ""
        return f"{size} take {batch_ms:.0f} ms and {delay_ms:g} ms of delay, expected below the SLA of {sla_ms:g} ms"


async def answers_of(worker: Worker, requests: Sequence[ServableRequest]) -> list[Served | ServingError]:
    """Return the answer, or the failure, of each request of a batch; if the worker dies it is that of all."""
    try:
        if len(requests) > 1 and isinstance(worker, BatchingWorker):
            return await worker.serve_together(requests)
        return [await worker.serve(request) for request in requests]
    except WorkerDiedError as error:
        return [error] * len(requests)
    except ServingError as error:
        # Only of a request that is alone: together each has its own.
        return [error]


def _left_s(batch: Batch) -> float:
    return batch.until_s - asyncio.get_running_loop().time()


def _must_be_alone(delivery: Delivery) -> bool:
    return delivery.times_delivered > 1
