"""Whether a request that was taken can be begun, and whether one that failed is tried again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from clover.core.application import Application
from clover.core.outcome import Outcome

#: A request is given up after this many deliveries (its execution seems to kill whoever tries).
MAX_DELIVERIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What counts of a request that was taken.

    Attributes:
        application: Whom it asks.
        deadline_ms: Milliseconds since the Unix epoch.
        times_delivered: Deliveries so far, this one included.
        min_accuracy_pct: What it asks for at least; None for anything.
    """

    application: str
    deadline_ms: float
    times_delivered: int
    min_accuracy_pct: float | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ends without an answer; `dead` if it is kept among the dead ones for people to look at."""

    outcome: Outcome
    reason: str
    dead: bool = False


def ending_at_once(taken: Taken, application: Application, now_ms: float) -> Ending | None:
    """Return how a request ends that must not begin; None if it may."""
    if now_ms > taken.deadline_ms:
        return Ending(Outcome.EXPIRED, "the deadline passed before work began")
    if taken.times_delivered > MAX_DELIVERIES:
        return Ending(Outcome.FAILED, f"delivered {taken.times_delivered} times without an answer", dead=True)
    if taken.application != application.name:
        told = f"application {taken.application!r} is not served here, expected {application.name!r}"
        return Ending(Outcome.FAILED, told, dead=True)
    most, asked = application.largest.accuracy_pct, taken.min_accuracy_pct
    if asked is not None and asked > most:
        return Ending(Outcome.FAILED, f"min_accuracy {asked}: expected at most {most}")
    return None


def ending_after_failure(tries: int, reason: str) -> Ending | None:
    """Return how a request ends whose worker died under it for the `tries`-th time; None if it is tried again."""
    if tries < MAX_DELIVERIES:
        return None
    return Ending(Outcome.FAILED, f"{MAX_DELIVERIES} tries, the last: {reason}", dead=True)
