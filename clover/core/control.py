"""What the controller's state machine takes in (events) and gives out (commands); plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from clover.core.configuration import Configuration, GpuConfiguration, GpuId

Trigger = Literal["start", "intensity", "load", "fleet"]

# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensitySeen:
    """The grid now; `effective` is intensity x PUE in gCO2e per kWh of IT energy."""

    effective: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReport:
    """Phase of one GPU, the newest epoch it has reached, and what it serves with (None: nothing that is known)."""

    phase: str
    applied_epoch: int
    configuration: GpuConfiguration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeen:
    """A node's telemetry."""

    node: str
    boot_id: str
    interval_s: float
    gpus: Mapping[int, GpuReport]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSeen:
    """The measured arrival rate."""

    rate_rps: float


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


Event: TypeAlias = IntensitySeen | NodeSeen | TakenSeen | LoadSeen | Tick | Decided | Sent


# --- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide:
    """Ask the scheme; `current` is what all serving GPUs are if alike, `present` what each GPU is, None at first."""

    trigger: Trigger
    reason: str
    gpus: tuple[GpuId, ...]
    rate_rps: float
    current: GpuConfiguration | None
    present: Configuration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Write these targets, all nodes completely; `changed` are the GPUs that this step moves."""

    configuration: Configuration
    changed: tuple[GpuId, ...]
    last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Record that the plan is in force everywhere (`unchanged`: the decision kept what was there)."""

    unchanged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """Write an event for people."""

    kind: str
    subject: str
    reason: str


Command: TypeAlias = Decide | Send | Settle | Say
