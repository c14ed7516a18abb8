"""Intensity of the grid, and the ledger of joules and grams."""

from __future__ import annotations

from typing import Literal

from clover.bus.messages.base import Message


class IntensityReading(Message, frozen=True):
    """Carbon intensity of the grid for an interval.

    Attributes:
        g_per_kwh: gCO2e per kWh.
        zone: Grid zone, such as `US-CAL-CISO`.
        from_ms, to_ms: Interval for which it holds, in the wall time of the run.
        kind: `average` or `marginal`; never mixed.
        factor: `direct`, `lifecycle` or `unknown`.
        status: `measured`, `estimated`, `forecast` or `trace`.
        source: Where it came from, such as `trace:ciso-march`.
        fallback_level: 0 is the first source of the chain.
        published_at_ms: When the monitor wrote it.
        pue: Power usage effectiveness applied to all energy, >= 1.
        trace_index: Row of the trace, None for a live source.
    """

    g_per_kwh: float
    zone: str
    from_ms: float
    to_ms: float
    kind: Literal["average", "marginal"]
    factor: Literal["direct", "lifecycle", "unknown"]
    status: Literal["measured", "estimated", "forecast", "trace"]
    source: str
    fallback_level: int
    published_at_ms: float
    pue: float
    trace_index: int | None = None


class LedgerReading(Message, frozen=True):
    """Energy and footprint of the whole deployment since the ledger began; the only place where joules become grams.

    Attributes:
        at_ms: Time of the newest telemetry taken in.
        energy_j: GPU energy, all causes.
        footprint_g: gCO2e of `energy_j` at the intensity and PUE in force when it was used.
        by_cause_j: `requests`, `idle`, `unallocated`, `parked`, `transition`; sums to `energy_j`.
        host_j, host_g: Host energy, kept apart and not contained in the others.
        unresolved_j: Energy that must have been used while no telemetry came, estimated at idle power; not in
            `energy_j`.
        energy_source: Sources seen, joined by `+` if they differ.
    """

    at_ms: float
    energy_j: float
    footprint_g: float
    by_cause_j: dict[str, float]
    host_j: float = 0.0
    host_g: float = 0.0
    unresolved_j: float = 0.0
    energy_source: str = "simulated"


class LedgerCheckpoint(Message, frozen=True):
    """What the carbon monitor needs to go on after a restart without counting anything twice.

    Attributes:
        ledger: Totals so far.
        trace_started_ms: When row 0 of the trace began, so that a restart does not rewind the grid.
        telemetry_cursor: Stream id of the newest telemetry entry taken in.
        counters: Last cumulative values per `node/boot/gpu`, by cause.
        counters_at_ms: When those were cut, per `node/boot`.
    """

    ledger: LedgerReading
    trace_started_ms: float
    telemetry_cursor: str
    counters: dict[str, dict[str, float]]
    counters_at_ms: dict[str, float]
