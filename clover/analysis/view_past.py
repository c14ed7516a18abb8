"""What a dashboard knows of the past: slots of a few seconds for its charts, past decisions, work by variant.

Plain frozen values like those of `clover.analysis.view_state`; None means "not known".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Some seconds of the past.

    Attributes:
        at_ms: Its end.
        length_s: Its length.
        rate_rps: Requests that ended per second.
        p95_ms: Due time to receipt; None without requests or without bound.
        p95_unbounded: Whether too many were not answered for it to have a bound.
        late_pct: Share of requests without an answer in time.
        accuracy_pct: Mean over answers.
        footprint_g: gCO2e per answered request, whole deployment.
        base_g: What BASE would have used for the same load at the same intensity (modelled).
        power_w: Mean GPU power of the whole deployment.
    """

    at_ms: float
    length_s: float
    rate_rps: float
    p95_ms: float | None
    p95_unbounded: bool
    late_pct: float | None
    accuracy_pct: float | None
    footprint_g: float | None
    base_g: float | None
    power_w: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativePast:
    """A configuration that a decision beat."""

    configuration: str
    p95_ms: float | None
    accuracy_pct: float
    energy_j_per_request: float
    objective: float
    meets_sla: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How requests fared while a decision was in force.

    Attributes:
        answered, finished: Requests.
        seconds: From its first to its last request.
        rate_rps, p95_ms, late_pct, accuracy_pct: Of those requests.
        energy_j_per_request: Of the whole deployment over answered requests.
    """

    answered: int
    finished: int
    seconds: float
    rate_rps: float | None
    p95_ms: float | None
    late_pct: float | None
    accuracy_pct: float | None
    energy_j_per_request: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionPast:
    """One decision: when, what, why, what it expected, what came of it, what it beat (best first).

    Attributes:
        number: Counts decisions of the deployment.
        at_ms: When it was taken.
        trigger, reason, scheme: Because of what, why, by what.
        configuration: What was chosen, in words.
        intensity_g_per_kwh, rate_rps: What it was decided for.
        evaluations: Candidates that were evaluated.
        meets_sla: Whether the chosen one keeps the promise by its own prediction.
        p95_ms, accuracy_pct, energy_j_per_request: Predicted; None if not told.
        alternatives: What it beat.
        measured: What was measured since, None before the first request.
    """

    number: int
    at_ms: float
    trigger: str
    reason: str
    scheme: str
    configuration: str
    intensity_g_per_kwh: float | None
    rate_rps: float | None
    evaluations: int
    meets_sla: bool
    p95_ms: float | None
    accuracy_pct: float | None
    energy_j_per_request: float | None
    alternatives: tuple[AlternativePast, ...]
    measured: Measured | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantWork:
    """Requests of the last minute that one variant answered; joules are the workers' own, provisional."""

    variant: str
    answered: int
    share_pct: float
    accuracy_pct: float
    service_ms: float
    energy_j: float | None
