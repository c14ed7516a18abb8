"""What a change under load is tried with: fleet, layouts, and the load that these layouts can bear."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clover.agents.fleet import Fleet
from clover.core.configuration import FleetCounts, GpuConfiguration
from clover.core.queueing import evaluate

#: The deployment that is changed.
DEPLOYMENT = "rolling"
LATE_LIMIT = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingSettings:
    """An experiment.

    Attributes:
        folder: For data, logs and state.
        fleet: Application, table and board.
        gpus: GPUs of each node.
        layouts: What all GPUs are, in turn; the first is what they start with and end with.
        rate_rps: Arrival rate.
        lead_s: Quiet time before each change.
        profile: Table file that the processes are given, None for the shipped one.
        seed: Of everything random.
    """

    folder: Path
    fleet: Fleet
    gpus: tuple[int, ...]
    layouts: tuple[GpuConfiguration, GpuConfiguration]
    rate_rps: float
    lead_s: float = 5.0
    profile: Path | None = None
    seed: int = 0


def highest_rate(fleet: Fleet, gpu: GpuConfiguration, gpus: int, sla_ms: float) -> float:
    """Return the highest load in requests/s at which equal GPUs keep P(latency > SLA) within 5 % (closed form)."""
    counts = FleetCounts.uniform(gpu, gpus)
    low, high = 0.0, capacity(fleet, gpu, gpus)
    while high - low > 1e-3 * high:
        middle = (low + high) / 2.0
        if evaluate(fleet.model, counts, middle, sla_ms).meets(LATE_LIMIT):
            low = middle
        else:
            high = middle
    return low


def capacity(fleet: Fleet, gpu: GpuConfiguration, gpus: int) -> float:
    """Return what equal GPUs can serve without a pause, in requests/s."""
    return gpus * sum(1e3 / fleet.model.mean_ms(kind.variant, kind.profile, 1.0) for kind in gpu.instances)
