"""Requests, replies, and the records of finished requests."""

from __future__ import annotations

from typing import Literal

from clover.bus.messages.base import Message
from clover.core.outcome import Outcome, ProducerOutcome


class Request(Message, frozen=True):
    """One inference request.

    Attributes:
        id: UUIDv7 made by the producer; a resend keeps it, so that admission recognises it.
        application: Name of the application, such as `albert`.
        due_ms: When the arrival process wanted the request sent; latency runs from here.
        deadline_ms: After this the answer is worth nothing and the reply is `expired`.
        reply_to: Name of the producer, whose reply stream the answer goes to.
        priority: `high` goes first.
        min_accuracy: Least accuracy (in the application's metric, %) that may answer; None accepts any.
        traceparent: W3C trace context, carried through; empty if none.
        content_type: Media type of the payload.
        payload: Raw bytes of the input.
    """

    id: str
    application: str
    due_ms: float
    deadline_ms: float
    reply_to: str
    priority: Literal["normal", "high"] = "normal"
    min_accuracy: float | None = None
    traceparent: str = ""
    content_type: str = "application/octet-stream"
    payload: bytes = b""


class Reply(Message, frozen=True):
    """The one answer to an admitted request.

    Attributes:
        id: Id of the request.
        outcome: `ok`, or why there is no result.
        reason: One line for people, empty when ok.
        node, gpu, profile, variant: Where it ran; empty / -1 if it never ran.
        accuracy_pct: Published accuracy of the variant that answered, in the application's metric.
        epoch: Epoch of the target that was in force on the node when work on the request began.
        queue_ms: Due time to the start of work.
        service_ms: Start to end of work.
        energy_j: Dynamic energy of this request, provisional: never summed with the ledger.
        energy_source: `rapl`, `estimate:table`, `estimate:tdp` or `simulated`.
        content_type, payload: The result.
        traceparent: That of the request, so that who receives it can go on with the trace.
    """

    id: str
    outcome: Outcome
    reason: str = ""
    node: str = ""
    gpu: int = -1
    profile: str = ""
    variant: str = ""
    accuracy_pct: float | None = None
    epoch: int = 0
    queue_ms: float = 0.0
    service_ms: float = 0.0
    energy_j: float | None = None
    energy_source: str = ""
    content_type: str = "application/octet-stream"
    traceparent: str = ""
    payload: bytes = b""


class RequestRecord(Message, frozen=True):
    """One line of the request log, written by the producer when the request has ended for it.

    Attributes:
        due_ms: When the arrival process wanted it sent; `latency_ms` runs from here.
        lag_ms: How late the producer itself came to it.
        sent_ms: When it was first handed to the bus; None if it never was.
        priority, min_accuracy: As in the request.
    """

    id: str
    due_ms: float
    received_ms: float | None
    outcome: ProducerOutcome
    latency_ms: float | None
    node: str = ""
    gpu: int = -1
    profile: str = ""
    variant: str = ""
    accuracy_pct: float | None = None
    epoch: int = 0
    queue_ms: float = 0.0
    service_ms: float = 0.0
    energy_j: float | None = None
    reason: str = ""
    lag_ms: float = 0.0
    sent_ms: float | None = None
    priority: Literal["normal", "high"] = "normal"
    min_accuracy: float | None = None


class RequestLog(Message, frozen=True):
    """A batch of finished requests of one producer; `sent` and `duplicates` are its totals so far."""

    producer: str
    sent: int
    duplicates: int
    records: tuple[RequestRecord, ...]
