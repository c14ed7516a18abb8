"""What the controller's state machine takes in (events) and gives out (commands); plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from clover.core.configuration import Configuration, GpuConfiguration, GpuId
from clover.core.guard import GuardLevel, Verdict
from clover.core.load import LoadEstimate

Trigger = Literal["start", "intensity", "load", "fleet", "sla", "drift", "override"]

#: What each trigger means, for people.
TRIGGERS: dict[Trigger, str] = {
    "start": "the first plan of a deployment",
    "override": "somebody pinned GPUs or took that back",
    "fleet": "GPUs joined, left, were fenced off or came back",
    "sla": "the SLA guard was raised or lowered",
    "drift": "measured service times or energy left the table in use",
    "load": "the load leaves what was planned for, or a ramp is about to",
    "intensity": "intensity x PUE moved by more than 5 % of the reference",
}

# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensitySeen:
    """The grid now; `effective` is intensity x PUE in gCO2e per kWh of IT energy."""

    effective: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReport:
    """What one GPU says of itself.

    Attributes:
        phase: And `reason`, for people.
        applied_epoch: The newest that it has reached.
        configuration: What it serves with while its phase is `serving`; None if that is not known.
        power_limit_s: Longest that the command may take that switches it off or on in this change, 0 without one.
        live: What takes requests now, whatever the phase: one worker of several may have died. None if nothing does.
    """

    phase: str
    applied_epoch: int
    configuration: GpuConfiguration | None = None
    reason: str = ""
    power_limit_s: float = 0.0
    live: GpuConfiguration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeen:
    """A node's telemetry."""

    node: str
    boot_id: str
    interval_s: float
    gpus: Mapping[int, GpuReport]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeavingSeen:
    """A node says that it was asked to stop."""

    node: str
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignSeen:
    """A node was heard that plans cannot be made for; `reason` says what it is and what is expected."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSeen:
    """The measured arrival rate."""

    load: LoadEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSeen:
    """What became of requests since the last such event.

    Attributes:
        answered: How many were answered or ran out of time in work.
        late: How many of those past the SLA.
        oldest_wait_s: How long the first request in the stream has been there.
        age_s: How long ago the counts were true, if telemetry comes late; 0 if it does not.
    """

    answered: int
    late: int
    oldest_wait_s: float = 0.0
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSeen:
    """The table in use was changed to what is measured; `reason` says what and by how much."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReady:
    """A plan that took too long has been made: to ask for it again costs nothing."""

    trigger: Trigger
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideSeen:
    """What people want, as it stands now: `paused`, and GPUs that must be as given whatever the scheme says."""

    paused: bool = False
    pinned: Mapping[GpuId, GpuConfiguration] = field(default_factory=dict[GpuId, GpuConfiguration])
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenSeen:
    """Nodes that people have taken by hand; all others are the controller's."""

    nodes: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The scheme's answer; `redispatch` if requests are to be handed out in another way."""

    configuration: Configuration
    redispatch: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The targets of a step have been written under this epoch."""

    epoch: int


Event: TypeAlias = (
    IntensitySeen
    | NodeSeen
    | LeavingSeen
    | ForeignSeen
    | LoadSeen
    | ServiceSeen
    | DriftSeen
    | PlanReady
    | OverrideSeen
    | TakenSeen
    | Tick
    | Decided
    | Sent
)


# --- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide:
    """Ask the scheme.

    Attributes:
        trigger, reason: Why.
        gpus: The fleet without those that are fenced off.
        rate_rps: Load to plan for.
        current: What all serving GPUs are if alike.
        present: What each GPU is, None at first.
        guard: Under which level of the SLA guard.
        raised: Whether it has just gone up, so that there is no time to lose.
        pinned: GPUs that must be as given.
    """

    trigger: Trigger
    reason: str
    gpus: tuple[GpuId, ...]
    rate_rps: float
    current: GpuConfiguration | None
    present: Configuration | None = None
    guard: GuardLevel = "none"
    raised: bool = False
    pinned: Mapping[GpuId, GpuConfiguration] = field(default_factory=dict[GpuId, GpuConfiguration])

    @staticmethod
    def about(
        assigned: Mapping[GpuId, GpuConfiguration],
        fit: tuple[GpuId, ...],
        pinned: Mapping[GpuId, GpuConfiguration],
        *,
        trigger: Trigger,
        reason: str,
        rate_rps: float,
        guard: GuardLevel,
        raised: bool,
    ) -> Decide:
        """Ask about the GPUs that are `fit`, of what all are told to be and pinned to."""
        present = {gpu: assigned[gpu] for gpu in fit if gpu in assigned}
        alike = {gpu for gpu in present.values() if gpu.instances}
        return Decide(
            trigger=trigger,
            reason=reason,
            gpus=fit,
            rate_rps=rate_rps,
            current=next(iter(alike)) if len(alike) == 1 else None,
            present=Configuration.of(present) if present else None,
            guard=guard,
            raised=raised,
            pinned={gpu: pinned[gpu] for gpu in fit if gpu in pinned},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Write these targets, all nodes completely; `changed` are the GPUs that this step moves.

    Attributes:
        configuration: What every GPU of every node shall be, those that are fenced off included.
        changed: What this step moves.
        last: Whether the roll ends with it.
        done, total: GPUs that have changed or change now, and that the roll changes in all.
        fenced: GPUs that are in the targets and do not count as serving.
        late_pct: Predicted P(late) in per cent while they change; None if there was nothing to predict.
        before: What those that it moves served with until now.
    """

    configuration: Configuration
    changed: tuple[GpuId, ...]
    last: bool
    done: int = 0
    total: int = 0
    fenced: tuple[GpuId, ...] = ()
    late_pct: float | None = None
    before: Mapping[GpuId, GpuConfiguration] = field(default_factory=dict[GpuId, GpuConfiguration])


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Record that the plan is in force everywhere (`unchanged`: the decision kept what was there), without `fenced`."""

    unchanged: bool
    fenced: tuple[GpuId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """Write an event for people; `verdict` is what the guard saw, if it is the guard's."""

    kind: str
    subject: str
    reason: str
    verdict: Verdict | None = None


Command: TypeAlias = Decide | Send | Settle | Say
