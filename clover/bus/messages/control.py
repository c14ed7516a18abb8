"""Targets of nodes and the plan behind them."""

from __future__ import annotations

from typing import Literal

import msgspec

from clover.bus.messages.base import Message
from clover.core.configuration import GpuMode
from clover.core.control import Trigger
from clover.core.dispatch import RuleName
from clover.core.guard import GuardLevel


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
    """Which idle instance takes the next request, see `clover.core.dispatch`; `weight`: this node's planned part."""

    name: RuleName = "longest_idle"
    hold_back: bool = False
    shares: tuple[Share, ...] = ()
    weight: float = 1.0


class Target(Message, frozen=True):
    """The complete desired state of one node; never a delta, the newest epoch wins.

    `sla_p95_ms` is what the node counts its late answers by; None counts none.
    """

    epoch: int
    node: str
    application: str
    gpus: tuple[GpuTarget, ...]
    dispatch: DispatchRule
    reason: str
    sla_p95_ms: float | None = None


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
    """A configuration that the decision beat, how it would have done, and why it lost."""

    configuration: str
    p95_ms: float | None
    accuracy_pct: float
    energy_j_per_request: float
    objective: float
    meets_sla: bool
    why: str = ""


class Calibration(Message, frozen=True):
    """How far the table in use is from the one that was given, as measured.

    Attributes:
        service: Measured service time / that of the given table, by `variant/profile`, where it was taken over.
        energy: The same of dynamic energy, by variant.
    """

    service: dict[str, float] = msgspec.field(default_factory=dict[str, float])
    energy: dict[str, float] = msgspec.field(default_factory=dict[str, float])


class Tier(Message, frozen=True):
    """Requests that ask for more than the tier below and no more than `accuracy_pct`, in the application's metric.

    Attributes:
        accuracy_pct: What answers them is at least as accurate.
        bound: Most of them, and of stricter ones, that may wait; 0 if the plan holds no variant as accurate.
    """

    accuracy_pct: float
    bound: int


class PlanRecord(Message, frozen=True):
    """The plan in force, as last written under the lease.

    Attributes:
        epoch: Of the newest targets that were sent for it.
        decision: Counts decisions; several epochs (the steps of a roll) belong to one decision.
        scheme: Planning scheme.
        trigger: What caused the decision, see `clover.core.control.TRIGGERS`.
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
        guard: Level of the SLA guard that it was decided under.
        fenced: GPUs (`node/gpuN`) that were left out because they are broken.
        calibration: Of the table that it was decided with.
        tiers: Accuracy tiers from the least accurate variant's; admission refuses what the plan does not hold.
        before: Of a roll: what the GPUs that change under `epoch` served with before, per node; what fails to change
            is to be that again, whichever controller sees it fail.
    """

    epoch: int
    decision: int
    scheme: str
    trigger: Trigger
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
    guard: GuardLevel = "none"
    fenced: tuple[str, ...] = ()
    calibration: Calibration = Calibration()
    tiers: tuple[Tier, ...] = ()
    before: dict[str, tuple[GpuTarget, ...]] = msgspec.field(default_factory=dict[str, tuple[GpuTarget, ...]])


class Pin(Message, frozen=True):
    """A GPU that shall be as given, whatever the scheme says; until when (ms), None for ever."""

    node: str
    gpu: GpuTarget
    until_ms: float | None = None


class Override(Message, frozen=True, forbid_unknown_fields=True):
    """What people have decided over the controller's head; it holds until it is taken back or runs out.

    One with a field that is not known is refused: what people want is not half obeyed.

    Attributes:
        paused: No new decision is made; agents and a roll under way go on.
        paused_until_ms: When that ends, None for never.
        pins: GPUs that are fixed.
        nodes: Nodes that were taken by hand: the controller neither plans for them nor sends them targets.
        reason: One line for people.
        by: Who set it last, such as `alice@host`.
        at_ms: When.
    """

    paused: bool = False
    paused_until_ms: float | None = None
    pins: tuple[Pin, ...] = ()
    nodes: tuple[str, ...] = ()
    reason: str = ""
    by: str = ""
    at_ms: float = 0.0
