"""What node agents tell of themselves."""

from __future__ import annotations

from typing import Literal

import msgspec

from clover.bus.messages.base import Message

GpuPhase = Literal["empty", "changing", "serving", "parked", "off", "failed"]
"""What one GPU is doing."""

InstancePhase = Literal["starting", "idle", "busy", "draining", "failed"]
"""What the worker of one instance is doing."""


class EnergyCounters(Message, frozen=True):
    """Cumulative joules of one GPU since the node agent's boot, by cause; the parts sum to the meter.

    Attributes:
        requests_j: By variant.
        idle_j, unallocated_j, parked_j, transition_j: What runs without requests, by what the slices were doing.
        unresolved_j: Energy that cannot be given a cause: while no agent ran, or lost with the counter at a restart of
            the driver (estimated). Not one of the parts.
        gap_measured: Whether `unresolved_j` holds what was used before this boot, as measured.
        answered: Requests that were answered, by variant.
    """

    requests_j: dict[str, float] = msgspec.field(default_factory=dict[str, float])
    idle_j: float = 0.0
    unallocated_j: float = 0.0
    parked_j: float = 0.0
    transition_j: float = 0.0
    unresolved_j: float = 0.0
    gap_measured: bool = False
    answered: dict[str, int] = msgspec.field(default_factory=dict[str, int])


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
    """One GPU.

    Attributes:
        since_ms, reason: When it entered its phase and why (a target's epoch, or the fault).
        energy_at_ms: Until when `energy` counts; earlier than the telemetry's `at_ms` if the meter did not answer, None
            if it is the same.
        power_limit_s: While a change needs a command that switches the GPU off or on, the longest that the command may
            take; else 0.
    """

    index: int
    uuid: str
    phase: GpuPhase
    reason: str
    since_ms: float
    applied_epoch: int
    instances: tuple[InstanceTelemetry, ...]
    energy: EnergyCounters
    energy_at_ms: float | None = None
    power_limit_s: float = 0.0


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
        host_source: Where `host_j` is from, such as `rapl`; empty if there is none.
        energy_source: Source of all joules here.
        mig_changes: GPU instances created plus destroyed since boot.
        change_s: Seconds, summed over GPUs, spent changing since boot.
        suppressed: Requests finished after somebody else had answered them, so that no reply went out twice.
        claimed: Requests taken over from consumers that went silent or handed them back.
        handed_back: Requests given up without having been begun.
        answered: Requests answered, or expired before work on them began, since boot.
        late: Those of them that took longer than the SLA of the newest target, from due time on.
        batching: How requests are served together, in words; empty if each is served alone.
        power_on_s: The longest that the command that switches a GPU on has taken since boot, its limit before that; 0
            without one.
        leaving: Whether the node has been asked to stop: it takes no more requests, and its state is not kept.
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
    host_source: str = ""
    energy_source: str = "simulated"
    mig_changes: int = 0
    change_s: float = 0.0
    suppressed: int = 0
    claimed: int = 0
    handed_back: int = 0
    answered: int = 0
    late: int = 0
    batching: str = ""
    power_on_s: float = 0.0
    leaving: bool = False
