"""How a request can end: what the wire says, and what only its producer can know."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What a reply says. Written by node agents, and by admission for a refusal."""

    OK = "ok"
    EXPIRED = "expired"
    OVERLOADED = "overloaded"
    FAILED = "failed"


class ProducerOutcome(StrEnum):
    """How the producer counts one request; disjoint, so that the counts sum to what was sent.

    `OK` is an answer within the service level agreement (due time to receipt), `LATE` an answer past it,
    `LOST` no reply by deadline + 2 s. The other three are the wire's.
    """

    OK = "ok"
    LATE = "late"
    EXPIRED = "expired"
    OVERLOADED = "overloaded"
    FAILED = "failed"
    LOST = "lost"

    @property
    def answered(self) -> bool:
        """Whether the user got a result, in time or late."""
        return self in {ProducerOutcome.OK, ProducerOutcome.LATE}


#: Seconds after its deadline at which a request without any reply is counted as lost.
LOST_AFTER_DEADLINE_S = 2.0


def default_deadline_s(sla_p95_ms: float) -> float:
    """Return the time after its due time until which a request is worth answering: max(20 x SLA, 30 s)."""
    return max(20.0 * sla_p95_ms / 1e3, 30.0)


def producer_outcome(wire: Outcome, latency_ms: float, sla_p95_ms: float) -> ProducerOutcome:
    """Classify a reply as its producer sees it.

    Args:
        wire: What the reply says.
        latency_ms: Due time to receipt.
        sla_p95_ms: The agreement.
    """
    if wire is Outcome.OK:
        return ProducerOutcome.OK if latency_ms <= sla_p95_ms else ProducerOutcome.LATE
    return ProducerOutcome(wire.value)
