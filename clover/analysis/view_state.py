"""What a dashboard knows of a deployment at one moment: plain frozen values, ready to be drawn or printed as JSON.

None means "not known (yet)". Times (`*_ms`) are Unix time in milliseconds, ages and durations (`*_s`) seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clover.analysis.view_past import DecisionPast, Slot, VariantWork


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityNow:
    """The grid at present.

    Attributes:
        g_per_kwh: gCO2e per kWh, without PUE.
        pue: Power usage effectiveness applied on top.
        zone, kind, factor, status, source, fallback_level, trace_index: As the carbon monitor published them.
        age_s: Since the time that a live figure describes, or since a replayed one was published.
        stale_s: For how long it has been too old to change a plan; of a replay, since its row ended. 0 while it holds.
        history: Past values and the present one, oldest first, one per published interval.
        ahead: What is expected next, one value per interval; empty if nothing is.
        ahead_high: Upper end of the band that held 80 % of past actual values, for each of `ahead`; None if unknown.
        ahead_basis: `published`, `yesterday` or `trace` (`clover.bus.messages.IntensityForecast`), empty without.
        ahead_issued_s: How long ago it was issued; None if it does not age.
        ahead_step_s: Length of its intervals.
    """

    g_per_kwh: float
    pue: float
    zone: str
    kind: str
    factor: str
    status: str
    source: str
    fallback_level: int
    trace_index: int | None
    age_s: float
    stale_s: float
    history: tuple[float, ...]
    ahead: tuple[float, ...] = ()
    ahead_high: tuple[float | None, ...] = ()
    ahead_basis: str = ""
    ahead_issued_s: float | None = None
    ahead_step_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PerRequest:
    """gCO2e per answered request over the last minute, whole deployment.

    Attributes:
        measured_g: Difference of the ledger over difference of answers.
        base_g, rightsized_g: What the two baselines would have used for the same load at the same intensity (modelled).
        window_s: Length of the interval that `measured_g` covers; 0 without one, then the baselines are at the present
            intensity and the planned load.
        energy_j: Measured joules per answered request.
    """

    measured_g: float | None = None
    base_g: float | None = None
    rightsized_g: float | None = None
    window_s: float = 0.0
    energy_j: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What was saved since counting began, against modelled baselines for the same requests.

    Attributes:
        since_ms: When counting began.
        joined: Whether that is when this view was opened rather than when the load began.
        footprint_g: Used by the deployment.
        base_g, base_pct: Saved against BASE.
        rightsized_g, rightsized_pct: Saved against right-sized BASE.
        base_feasible: Whether BASE would keep its promise at this load; if not the comparison is not fair.
    """

    since_ms: float
    joined: bool
    footprint_g: float
    base_g: float | None
    base_pct: float | None
    rightsized_g: float | None
    rightsized_pct: float | None
    base_feasible: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """How requests fared over the last minute.

    Attributes:
        window_s: Length of the interval that the figures cover.
        finished: Requests that ended in it.
        rate_rps: Their rate.
        planned_rps: What the plan was made for.
        p95_ms: Due time to receipt; None without requests, or if too many were not answered.
        p95_unbounded: Whether the latter holds.
        p95_history: p95 of successive slots of ten seconds, oldest first.
        sla_p95_ms: The promise.
        headroom_pct: 100 x (1 - p95 / SLA).
        p50_ms, p99_ms: Like p95_ms.
        late_pct: Share of requests without an answer in time.
        accuracy_pct: Mean over answers.
        largest_accuracy_pct: Of the largest variant.
        waiting: Requests that nobody works on yet.
        in_flight: Requests being worked on.
    """

    window_s: float = 0.0
    finished: int = 0
    rate_rps: float | None = None
    planned_rps: float | None = None
    p95_ms: float | None = None
    p95_unbounded: bool = False
    p95_history: tuple[float | None, ...] = ()
    sla_p95_ms: float | None = None
    headroom_pct: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    late_pct: float | None = None
    accuracy_pct: float | None = None
    largest_accuracy_pct: float | None = None
    waiting: int | None = None
    in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceNow:
    """A variant on a GPU instance at memory slices `start` to `start + size`; `busy` is 0..1 over the last seconds."""

    profile: str
    start: int
    size: int
    variant: str
    phase: str
    busy: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNow:
    """One GPU: what it does, since when and why; `power_w` is its mean over the last seconds."""

    index: int
    phase: str
    reason: str
    since_s: float
    applied_epoch: int
    instances: tuple[InstanceNow, ...]
    power_w: float | None = None

    @property
    def busy(self) -> float | None:
        """Mean busy fraction of its instances, weighted by memory slices."""
        known = [(i.busy, i.size) for i in self.instances if i.busy is not None]
        return sum(busy * size for busy, size in known) / sum(size for _, size in known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeNow:
    """One node; `silent_s` is above 0 when it has missed several telemetry intervals."""

    name: str
    gpu_model: str
    backend: str
    memory_slices: int
    epoch: int
    applied_epoch: int
    in_flight: int
    age_s: float
    silent_s: float
    gpus: tuple[GpuNow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativeNow:
    """A configuration that the last decision beat."""

    configuration: str
    p95_ms: float | None
    accuracy_pct: float
    energy_j_per_request: float
    meets_sla: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionNow:
    """The last decision: when, by what, why, what it promises and what it beat (best first, at most a handful)."""

    number: int
    scheme: str
    trigger: str
    reason: str
    age_s: float
    evaluations: int
    alternatives: int
    beaten: tuple[AlternativeNow, ...]
    p95_ms: float | None
    accuracy_pct: float
    energy_j_per_request: float
    wanted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideNow:
    """What people have decided over the controller's head and has not run out; `*_left_s` is None if it never does.

    Attributes:
        paused: The controller makes no new decision.
        paused_left_s: For how long.
        pinned: GPUs that are fixed, as `n1/gpu0`.
        pinned_left_s: For how long the last of them.
        by_hand: Nodes that were taken from the controller.
        by, reason: Who changed this last, and why.
    """

    paused: bool = False
    paused_left_s: float | None = None
    pinned: tuple[str, ...] = ()
    pinned_left_s: float | None = None
    by_hand: tuple[str, ...] = ()
    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventNow:
    """Something that happened."""

    at_ms: float
    kind: str
    source: str
    subject: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything at one moment.

    Attributes:
        at_ms: When.
        data_age_s: Since the newest telemetry or ledger; None if nothing has come.
        trouble: Why nothing comes, empty if all is well.
        state: State of the plan: `waiting` before the first, then `rolling` or `serving`; `state_s` since then.
        energy_source: Of all joules, None if unknown.
        outcomes: Requests by how they ended, since this view was opened.
        variants: In order of first sight.
        events: Newest last.
        slots: The past in slots of some seconds, oldest first.
        decisions: Past decisions, oldest first.
        work: Answers of the last minute by variant, most first.
        recent: Outcomes of the last minute.
        by_cause_j: Joules of the deployment by cause, since its ledger began.
        agents: Seconds since each agent last gave a sign of life.
        override: What people have decided over the controller's head.
    """

    at_ms: float
    data_age_s: float | None
    trouble: str
    application: str
    gpu_model: str
    scheme: str
    controller: str
    epoch: int
    state: str
    state_s: float
    energy_source: str | None
    intensity: IntensityNow | None
    per_request: PerRequest
    saved: Saved | None
    service: Service
    outcomes: Mapping[str, int]
    nodes: tuple[NodeNow, ...]
    variants: tuple[str, ...]
    decision: DecisionNow | None
    events: tuple[EventNow, ...]
    slots: tuple[Slot, ...] = ()
    decisions: tuple[DecisionPast, ...] = ()
    work: tuple[VariantWork, ...] = ()
    recent: Mapping[str, int] = field(default_factory=dict[str, int])
    by_cause_j: Mapping[str, float] = field(default_factory=dict[str, float])
    agents: Mapping[str, float] = field(default_factory=dict[str, float])
    override: OverrideNow = OverrideNow()

    @property
    def controller_silent_s(self) -> float | None:
        """Seconds since the controller of the plan in force gave a sign of life; None if nobody says."""
        named = [silent for name, silent in self.agents.items() if name == f"controller:{self.controller}"]
        return min(named, default=None)
