"""Every message that crosses the bus, as frozen structs with units in their names.

Times on the wire are milliseconds since the Unix epoch (`*_at_ms`, `due_ms`, `deadline_ms`) as floats; durations
carry their unit (`_ms`, `_s`). Energy is in joules and cumulative since the boot of the node agent named beside it,
unless a name says otherwise. Unknown fields are ignored on decoding so that a newer writer does not break an older
reader; a changed meaning is a new envelope version (`clover.bus.codec`).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from clover.core.configuration import GpuMode
from clover.core.dispatch import RuleName
from clover.core.outcome import Outcome, ProducerOutcome

GpuPhase = Literal["empty", "changing", "serving", "parked", "off", "failed"]
"""What one GPU is doing."""

InstancePhase = Literal["starting", "idle", "busy", "draining", "failed"]
"""What the worker of one instance is doing."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all wire messages."""


# --- requests and replies -------------------------------------------------------------------------------------------


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
    payload: bytes = b""


class RequestRecord(Message, frozen=True):
    """One line of the request log, written by the producer when the request has ended for it."""

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


class RequestLog(Message, frozen=True):
    """A batch of finished requests of one producer; `sent` and `duplicates` are its totals so far."""

    producer: str
    sent: int
    duplicates: int
    records: tuple[RequestRecord, ...]


class LogLine(Message, frozen=True):
    """A log line of an agent, from warning up."""

    at_ms: float
    level: Literal["warning", "error", "critical"]
    source: str
    text: str


# --- telemetry ------------------------------------------------------------------------------------------------------


class EnergyCounters(Message, frozen=True):
    """Cumulative joules of one GPU since the node agent's boot, by cause; the parts sum to the meter."""

    requests_j: dict[str, float] = msgspec.field(default_factory=dict[str, float])
    idle_j: float = 0.0
    unallocated_j: float = 0.0
    parked_j: float = 0.0
    transition_j: float = 0.0


class InstanceTelemetry(Message, frozen=True):
    """One instance: a variant on a GPU instance. `served` and `busy_s` count since its worker started.

    `fallback` says why its worker computes on the CPU although a MIG device was meant; empty otherwise.
    """

    profile: str
    start: int
    size: int
    uuid: str
    variant: str
    phase: InstancePhase
    served: int
    busy_s: float
    fallback: str = ""


class GpuTelemetry(Message, frozen=True):
    """One GPU; `since_ms` is when it entered its phase, `reason` why (a target's epoch, or the fault)."""

    index: int
    uuid: str
    phase: GpuPhase
    reason: str
    since_ms: float
    applied_epoch: int
    instances: tuple[InstanceTelemetry, ...]
    energy: EnergyCounters


class NodeTelemetry(Message, frozen=True):
    """One node, once per telemetry interval and at every change of a GPU's phase.

    Attributes:
        node: Node name.
        boot_id: New for each start of the agent; cumulative counters restart with it.
        booted_at_ms: When those counters began at zero.
        at_ms: When the counters were cut.
        interval_s: Telemetry interval; silence for several of them means that the node is gone.
        backend: `sim`, `cpu` or `nvml`.
        gpu_model: Such as `a100-40gb`.
        application: What the node serves.
        epoch: Newest target epoch received (0: none yet).
        applied_epoch: Newest epoch that every GPU has reached.
        gpus: One entry per GPU.
        begun: Requests begun since boot, keyed `variant/profile`.
        in_flight: Requests being worked on.
        host_j: Host energy since boot, excluded from GPU totals; None if not measured.
        energy_source: Source of all joules here.
        mig_changes: GPU instances created plus destroyed since boot.
        change_s: Seconds, summed over GPUs, spent changing since boot.
    """

    node: str
    boot_id: str
    booted_at_ms: float
    at_ms: float
    interval_s: float
    backend: str
    gpu_model: str
    application: str
    epoch: int
    applied_epoch: int
    gpus: tuple[GpuTelemetry, ...]
    begun: dict[str, int]
    in_flight: int
    host_j: float | None = None
    energy_source: str = "simulated"
    mig_changes: int = 0
    change_s: float = 0.0


# --- carbon ---------------------------------------------------------------------------------------------------------


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


# --- control --------------------------------------------------------------------------------------------------------


class InstanceTarget(Message, frozen=True):
    """One wanted instance: profile size such as `3g` and variant name."""

    profile: str
    variant: str


class GpuTarget(Message, frozen=True):
    """What one GPU shall be; `instances` is a multiset, the node chooses the placements that keep most."""

    index: int
    mode: GpuMode
    instances: tuple[InstanceTarget, ...] = ()


class Share(Message, frozen=True):
    """Wanted share (0..1) of a node's requests for one kind of instance."""

    variant: str
    profile: str
    share: float


class DispatchRule(Message, frozen=True):
    """Which idle instance takes the next request, see `clover.core.dispatch`."""

    name: RuleName = "longest_idle"
    hold_back: bool = False
    shares: tuple[Share, ...] = ()


class Target(Message, frozen=True):
    """The complete desired state of one node; never a delta, the newest epoch wins."""

    epoch: int
    node: str
    application: str
    gpus: tuple[GpuTarget, ...]
    dispatch: DispatchRule
    reason: str


class Prediction(Message, frozen=True):
    """Evaluation of a configuration by the performance model, at the load it was planned for (modelled, not measured).

    Attributes:
        rate_rps: Arrival rate that it was made for.
        p95_ms: Due time to receipt; None if the load cannot be carried.
        late_pct: Requests past the SLA.
        accuracy_pct: Mean over requests.
        dynamic_j: Dynamic energy per request.
        idle_power_w: Idle, unallocated and parked power of the whole fleet.
        energy_j_per_request: dynamic_j + idle_power_w / rate.
        objective: Value of the objective at the intensity of the decision.
    """

    rate_rps: float
    p95_ms: float | None
    late_pct: float
    accuracy_pct: float
    dynamic_j: float
    idle_power_w: float
    energy_j_per_request: float
    objective: float


class Alternative(Message, frozen=True):
    """A configuration that the decision beat, and how it would have done."""

    configuration: str
    p95_ms: float | None
    accuracy_pct: float
    energy_j_per_request: float
    objective: float
    meets_sla: bool


class PlanRecord(Message, frozen=True):
    """The plan in force, as last written under the lease.

    Attributes:
        epoch: Of the newest targets that were sent for it.
        decision: Counts decisions; several epochs (the steps of a roll) belong to one decision.
        scheme: Planning scheme.
        trigger: What caused the decision: `start`, `intensity`, `load`, `fleet`.
        reason: One line for people.
        application, lambda_, sla_p95_ms, intensity_g_per_kwh, pue: What it was decided with.
        deadline_s: Time after the due time until which a request is worth answering.
        admission_bound: Most requests that may wait.
        configuration: Wanted configuration of the whole fleet, per node.
        prediction: Of the wanted configuration.
        step_prediction: Of the fleet as the targets of `epoch` describe it (during a roll).
        base, base_rightsized: Predictions of the two baselines for the same load.
        base_feasible: Whether BASE meets the SLA at this load.
        alternatives: Best first.
        evaluations: Candidates that were evaluated for this decision.
        state: `rolling` until every node has applied the last targets, then `serving`.
        decided_at_ms, since_ms: When it was decided; when `state` was entered.
        controller: Which controller wrote it.
    """

    epoch: int
    decision: int
    scheme: str
    trigger: Literal["start", "intensity", "load", "fleet"]
    reason: str
    application: str
    gpu_model: str
    lambda_: float
    sla_p95_ms: float
    intensity_g_per_kwh: float
    pue: float
    deadline_s: float
    admission_bound: int
    configuration: dict[str, tuple[GpuTarget, ...]]
    prediction: Prediction
    step_prediction: Prediction
    base: Prediction
    base_rightsized: Prediction
    base_feasible: bool
    alternatives: tuple[Alternative, ...]
    evaluations: int
    state: Literal["rolling", "serving"]
    decided_at_ms: float
    since_ms: float
    controller: str


class Event(Message, frozen=True):
    """Something that happened, for people and for analysis; kinds are listed in docs/wire.md.

    Attributes:
        at_ms: When.
        kind: Dotted name such as `decision`, `plan.step`, `plan.serving`, `gpu.serving`, `worker.died`,
            `generator.started`.
        source: Agent that wrote it, such as `controller` or `node:n1`.
        subject: What it is about, such as `n1/gpu3`.
        reason: One line for people.
        epoch: Plan epoch that it belongs to, 0 if none.
        data: Figures, with units in their names.
    """

    at_ms: float
    kind: str
    source: str
    subject: str = ""
    reason: str = ""
    epoch: int = 0
    data: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


#: Wire name (`t` field) of every message that is written as a stream entry or a value.
MESSAGE_TYPES: dict[str, type[Message]] = {
    "request": Request,
    "reply": Reply,
    "requests": RequestLog,
    "log": LogLine,
    "telemetry": NodeTelemetry,
    "intensity": IntensityReading,
    "ledger": LedgerReading,
    "checkpoint": LedgerCheckpoint,
    "target": Target,
    "plan": PlanRecord,
    "event": Event,
}
