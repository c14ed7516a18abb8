"""A producer's account of its requests: what is outstanding, how each ended, which replies came twice. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from clover.bus.messages import Reply, Request, RequestRecord
from clover.core.outcome import ProducerOutcome, producer_outcome

#: Ended requests that are remembered in order to recognise a second reply.
REMEMBERED = 100_000


class Outstanding:
    """Requests that have no outcome yet, in order of their due time."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Request] = OrderedDict()
        #: When the producer came to each of them, and when it was first handed to the bus.
        self._made_ms: dict[str, float] = {}
        self._sent_ms: dict[str, float] = {}
        #: Ended requests, and whether they had a reply: one that comes after "lost" is late, not a second one.
        self._ended: OrderedDict[str, bool] = OrderedDict()
        self.duplicates = 0

    @property
    def count(self) -> int:
        """How many have no outcome yet."""
        return len(self._open)

    def has(self, request_id: str) -> bool:
        """Return whether a request has no outcome yet."""
        return request_id in self._open

    def requests(self) -> Iterator[Request]:
        """Return those that have no outcome yet, in order of their due time."""
        return iter(self._open.values())

    def add(self, request: Request, *, made_ms: float | None = None) -> None:
        """Take in a request that is due; `made_ms` is when the producer came to it (default: in time)."""
        self._open[request.id] = request
        self._made_ms[request.id] = request.due_ms if made_ms is None else made_ms

    def sent(self, requests: Iterable[Request], at_ms: float) -> None:
        """Note when requests are handed to the bus; only the first time counts."""
        for request in requests:
            self._sent_ms.setdefault(request.id, at_ms)

    def reply(self, reply: Reply, received_ms: float, *, sla_p95_ms: float) -> RequestRecord | None:
        """Take in a reply; return the request's record, or None if it had ended before (a duplicate) or is not ours."""
        request = self._open.pop(reply.id, None)
        if request is None:
            if reply.id in self._ended:
                self.duplicates += self._ended[reply.id]
                self._ended[reply.id] = True
            return None
        self._remember(reply.id, replied=True)
        latency_ms = received_ms - request.due_ms
        outcome = producer_outcome(reply.outcome, latency_ms, sla_p95_ms)
        return RequestRecord(
            id=reply.id,
            due_ms=request.due_ms,
            received_ms=received_ms,
            outcome=outcome,
            latency_ms=latency_ms if outcome.answered else None,
            node=reply.node,
            gpu=reply.gpu,
            profile=reply.profile,
            variant=reply.variant,
            accuracy_pct=reply.accuracy_pct,
            epoch=reply.epoch,
            queue_ms=reply.queue_ms,
            service_ms=reply.service_ms,
            energy_j=reply.energy_j,
            reason=reply.reason,
            **self._told(request),
        )

    def end(self, request_id: str, outcome: ProducerOutcome, *, reason: str) -> RequestRecord | None:
        """End a request without a reply; None if it has ended already."""
        request = self._open.pop(request_id, None)
        if request is None:
            return None
        self._remember(request_id, replied=False)
        return RequestRecord(
            id=request_id,
            due_ms=request.due_ms,
            received_ms=None,
            outcome=outcome,
            latency_ms=None,
            reason=reason,
            **self._told(request),
        )

    def _told(self, request: Request) -> dict[str, Any]:
        """Return what a record says of its request's sending, and forget it."""
        made_ms = self._made_ms.pop(request.id, request.due_ms)
        return {
            "lag_ms": max(0.0, made_ms - request.due_ms),
            "sent_ms": self._sent_ms.pop(request.id, None),
            "priority": request.priority,
            "min_accuracy": request.min_accuracy,
        }

    def oldest_deadline_ms(self) -> float | None:
        """Return the deadline of the request that was due first."""
        return next(iter(self._open.values())).deadline_ms if self._open else None

    def overdue(self, deadline_before_ms: float) -> list[str]:
        """Return the requests whose deadline was before a moment."""
        return [request.id for request in self._open.values() if request.deadline_ms < deadline_before_ms]

    def _remember(self, request_id: str, *, replied: bool) -> None:
        self._ended[request_id] = replied
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
