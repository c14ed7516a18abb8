"""How requests end: writes the replies, all that are ready in one call, and counts them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from clover.agents.backoff import Backoff
from clover.agents.instance import Instance
from clover.agents.request_parts import RequestCounts, RequestPorts
from clover.bus.messages import Reply
from clover.bus.values import Completion, Delivery
from clover.core.begin import Ending
from clover.core.outcome import Outcome
from clover.errors import BusUnavailableError
from clover.serving.port import Served


class Answering:
    """Ends the requests of one node.

    Args:
        ports: What the request side works with.
        counts: Where it is counted.
        replied: Told of each request whose reply is written.
    """

    def __init__(self, ports: RequestPorts, counts: RequestCounts, replied: Callable[[Delivery], None]) -> None:
        self._ports = ports
        self._counts = counts
        self._replied = replied
        # Bounded: by what is in hand.
        self._done: deque[Completion] = deque()
        self._news = asyncio.Event()
        #: From due time on, as the newest target says; None counts no late answers.
        self.sla_ms: float | None = None

    def answer(self, instance: Instance, delivery: Delivery, served: Served, *, begun_ms: float, epoch: int) -> None:
        """Reply with an answer."""
        ports = self._ports
        self._count(ports.clock.now_ms() - delivery.request.due_ms)
        ports.accounts[instance.gpu].add_request(
            instance.kind.variant, served.energy_j, beside=bool(instance.worker.fallback)
        )
        reply = Reply(
            id=delivery.request.id,
            outcome=Outcome.OK,
            node=ports.node,
            gpu=instance.gpu,
            profile=instance.kind.profile,
            variant=instance.kind.variant,
            accuracy_pct=ports.application.variant(instance.kind.variant).accuracy_pct,
            epoch=epoch,
            queue_ms=begun_ms - delivery.request.due_ms,
            service_ms=served.service_ms,
            energy_j=served.energy_j,
            energy_source=served.energy_source or ports.energy_source,
            content_type=served.content_type,
            traceparent=delivery.request.traceparent,
            payload=served.payload,
        )
        self._put(Completion(delivery=delivery, reply=reply))

    def end(self, delivery: Delivery, ending: Ending, *, epoch: int) -> None:
        """Reply that there is no answer, and why."""
        if ending.outcome is Outcome.EXPIRED:
            self._count(float("inf"))
        reply = Reply(
            id=delivery.request.id,
            outcome=ending.outcome,
            reason=ending.reason,
            node=self._ports.node,
            epoch=epoch,
            traceparent=delivery.request.traceparent,
        )
        self._put(Completion(delivery=delivery, reply=reply, dead_reason=ending.reason if ending.dead else ""))

    def _count(self, latency_ms: float) -> None:
        self._counts.answered += 1
        self._counts.late += self.sla_ms is not None and latency_ms > self.sla_ms

    def _put(self, completion: Completion) -> None:
        self._done.append(completion)
        self._news.set()

    async def run(self) -> None:
        """Write replies until cancelled; an unknown outcome is repeated, the fence makes that safe."""
        backoff = Backoff(self._ports.rng)
        while True:
            await self._news.wait()
            self._news.clear()
            batch = list(self._done)
            self._done.clear()
            while batch:
                try:
                    replied = await self._ports.bus.finish(batch)
                    self._counts.suppressed += replied.count(False)
                    break
                except BusUnavailableError:
                    await asyncio.sleep(backoff.next_s())
            backoff.reset()
            for completion in batch:
                self._replied(completion.delivery)
