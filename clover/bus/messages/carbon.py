"""Intensity of the grid, and the ledger of joules and grams."""

from __future__ import annotations

from typing import Literal

import msgspec

from clover.bus.messages.base import Message


class IntensityReading(Message, frozen=True):
    """Carbon intensity of the grid for an interval.

    Attributes:
        g_per_kwh: gCO2e per kWh.
        zone: Grid zone, such as `US-CAL-CISO`.
        from_ms, to_ms: Interval for which it holds, in the wall time of the run.
        kind: `average` or `marginal`; never mixed.
        factor: `direct`, `lifecycle` or `unknown`.
        status: `measured`, `estimated`, `forecast`, `trace` or `assumed` (a constant).
        source: Where it came from, such as `trace:ciso-march`.
        fallback_level: 0 live, 1 cached, 2 published forecast, 3 same hour yesterday, 4 fixed fallback.
        published_at_ms: When the monitor wrote it.
        pue: Power usage effectiveness applied to all energy, >= 1.
        trace_index: Row of the trace, None for a live source.
        observed_to_ms: End of the interval that the source gave the figure for, or when a forecast was issued: its age
            counts from here; None for what does not age.
        fetched_at_ms: When it came in; None if nothing was fetched.
        stale: No live figure has come for longer than the limit; plans stay as they are.
        note: Why it is not a plain live figure; empty if it is.
    """

    g_per_kwh: float
    zone: str
    from_ms: float
    to_ms: float
    kind: Literal["average", "marginal"]
    factor: Literal["direct", "lifecycle", "unknown"]
    status: Literal["measured", "estimated", "forecast", "trace", "assumed"]
    source: str
    fallback_level: int
    published_at_ms: float
    pue: float
    trace_index: int | None = None
    observed_to_ms: float | None = None
    fetched_at_ms: float | None = None
    stale: bool = False
    note: str = ""


class ForecastInterval(Message, frozen=True):
    """One interval of a forecast; `low` to `high` held 80 % of past actual values, None if that is not known."""

    from_ms: float
    g_per_kwh: float
    low_g_per_kwh: float | None = None
    high_g_per_kwh: float | None = None


class IntensityForecast(Message, frozen=True):
    """What the grid is expected to do next; nothing is planned by it.

    Attributes:
        basis: `published` by the source, `yesterday` (as at the same hours then), or `trace` (rows that a replay will
            show: no forecast at all, but what will come).
        source: Whose figures these are.
        zone: Grid zone.
        published_at_ms: When the monitor wrote it.
        issued_at_ms: When the source issued it, or the end of the newest figure that it rests on; None for a replay.
        step_ms: Length of an interval, in the wall time of the run.
        intervals: Next first.
    """

    basis: Literal["published", "yesterday", "trace"]
    source: str
    zone: str
    published_at_ms: float
    step_ms: float
    intervals: tuple[ForecastInterval, ...]
    issued_at_ms: float | None = None


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
        host_source: The same of `host_j`; empty if no host was metered.
        began_ms: When the energy of the ledger's first reading began to count.
        gpu_s: Seconds of GPUs that the ledger covers, summed over GPUs, whatever they did.
        answered: Requests that were answered in that time.
    """

    at_ms: float
    energy_j: float
    footprint_g: float
    by_cause_j: dict[str, float]
    host_j: float = 0.0
    host_g: float = 0.0
    unresolved_j: float = 0.0
    energy_source: str = "simulated"
    host_source: str = ""
    began_ms: float | None = None
    gpu_s: float = 0.0
    answered: int = 0


class Part(Message, frozen=True):
    """A part of the ledger: joules, gCO2e, and requests that were answered by it."""

    energy_j: float = 0.0
    footprint_g: float = 0.0
    answered: int = 0


class LedgerParts(Message, frozen=True):
    """The ledger in parts; each grouping but `by_variant` and `by_hour` sums to the whole.

    Attributes:
        by_variant: Energy of requests alone, by the variant that served them.
        by_node: By node.
        by_gpu: By `node/gpu`.
        by_hour: By the hour of UTC in which it was used, `2026-01-20T12:00Z`; the newest 48.
        by_source: By the source of the joules.
    """

    by_variant: dict[str, Part] = msgspec.field(default_factory=dict[str, Part])
    by_node: dict[str, Part] = msgspec.field(default_factory=dict[str, Part])
    by_gpu: dict[str, Part] = msgspec.field(default_factory=dict[str, Part])
    by_hour: dict[str, Part] = msgspec.field(default_factory=dict[str, Part])
    by_source: dict[str, Part] = msgspec.field(default_factory=dict[str, Part])


class LedgerCheckpoint(Message, frozen=True):
    """What the carbon monitor needs to go on after a restart without counting anything twice.

    Attributes:
        ledger: Totals so far.
        trace_started_ms: When row 0 of the trace began, so that a restart does not rewind the grid.
        telemetry_cursor: Stream id of the newest telemetry entry taken in.
        counters: Last cumulative values per `node/boot/gpu`, by cause.
        counters_at_ms: When those were cut, per `node/boot` and per `node/boot/gpu`.
        parts: The ledger in parts.
        effective: When which intensity x PUE came into force, [ms, g/kWh], for energy that is still to be counted.
    """

    ledger: LedgerReading
    trace_started_ms: float
    telemetry_cursor: str
    counters: dict[str, dict[str, float]]
    counters_at_ms: dict[str, float]
    parts: LedgerParts = LedgerParts()
    effective: tuple[tuple[float, float], ...] = ()
