"""The ledger: turns cumulative joules of all nodes into grams at the intensity in force when they were used.

Node agents publish cumulative counters, so a reading that is lost costs nothing, a reading that is taken in twice adds
nothing, and a restart of the monitor goes on from its checkpoint. The energy between two readings of a GPU is spread
evenly over that time and cut where the intensity changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from clover.bus.messages import EnergyCounters, LedgerReading, NodeTelemetry
from clover.core.units import footprint_g

CAUSES = ("requests", "idle", "unallocated", "parked", "transition")

#: Mean of intensity x PUE (gCO2e per kWh of IT energy) between two wall times in seconds.
EffectiveIntensity = Callable[[float, float], float]


def by_cause(counters: EnergyCounters) -> dict[str, float]:
    """Return the joules of one GPU by cause."""
    return {
        "requests": sum(counters.requests_j.values()),
        "idle": counters.idle_j,
        "unallocated": counters.unallocated_j,
        "parked": counters.parked_j,
        "transition": counters.transition_j,
    }


@dataclass(slots=True)
class Ledger:
    """Totals of the deployment and the last counters of each GPU.

    Attributes:
        effective_intensity: Mean intensity x PUE of an interval.
        counters: Last cumulative joules per `node/boot/gpu`, by cause.
        counters_at_ms: When each node's counters were last cut, per `node/boot`.
    """

    effective_intensity: EffectiveIntensity
    at_ms: float = 0.0
    footprint_g: float = 0.0
    host_j: float = 0.0
    host_g: float = 0.0
    unresolved_j: float = 0.0
    causes_j: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0.0))
    sources: set[str] = field(default_factory=set[str])
    counters: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    counters_at_ms: dict[str, float] = field(default_factory=dict[str, float])

    def restore(self, reading: LedgerReading, counters: dict[str, dict[str, float]], at_ms: dict[str, float]) -> None:
        """Go on from a checkpoint."""
        self.at_ms, self.footprint_g = reading.at_ms, reading.footprint_g
        self.host_j, self.host_g, self.unresolved_j = reading.host_j, reading.host_g, reading.unresolved_j
        self.causes_j = {cause: reading.by_cause_j.get(cause, 0.0) for cause in CAUSES}
        self.sources = set(filter(None, reading.energy_source.split("+")))
        self.counters = {key: dict(value) for key, value in counters.items()}
        self.counters_at_ms = dict(at_ms)

    def take(self, telemetry: NodeTelemetry, *, idle_power_w: float) -> None:
        """Add what a node has used since its last reading.

        A new boot of a known node starts its counters at zero; the silence before it is `unresolved`, estimated at the
        idle power of its GPUs.

        Args:
            telemetry: The reading; one that is not newer than the last is ignored.
            idle_power_w: Of one GPU, for the estimate.
        """
        boot = f"{telemetry.node}/{telemetry.boot_id}"
        from_ms = self.counters_at_ms.get(boot)
        if from_ms is None:
            from_ms = self._first_reading(telemetry, idle_power_w)
        elif telemetry.at_ms <= from_ms:
            return
        effective = self.effective_intensity(from_ms / 1e3, telemetry.at_ms / 1e3)
        for gpu in telemetry.gpus:
            self._take_gpu(f"{boot}/{gpu.index}", by_cause(gpu.energy), effective)
        if telemetry.host_j is not None:
            used = self._difference(f"{boot}/host", {"host": telemetry.host_j})["host"]
            self.host_j += used
            self.host_g += footprint_g(used, effective, 1.0)
        self.counters_at_ms[boot] = telemetry.at_ms
        self.at_ms = max(self.at_ms, telemetry.at_ms)
        self.sources.update(filter(None, telemetry.energy_source.split("+")))

    def reading(self) -> LedgerReading:
        """Return the totals."""
        return LedgerReading(
            at_ms=self.at_ms,
            energy_j=sum(self.causes_j.values()),
            footprint_g=self.footprint_g,
            by_cause_j=dict(self.causes_j),
            host_j=self.host_j,
            host_g=self.host_g,
            unresolved_j=self.unresolved_j,
            energy_source="+".join(sorted(self.sources)),
        )

    def _take_gpu(self, key: str, counters: dict[str, float], effective: float) -> None:
        used = self._difference(key, counters)
        for cause, joules in used.items():
            self.causes_j[cause] += joules
        # PUE is part of the effective intensity.
        self.footprint_g += footprint_g(sum(used.values()), effective, 1.0)

    def _difference(self, key: str, counters: dict[str, float]) -> dict[str, float]:
        last = self.counters.get(key, {})
        self.counters[key] = counters
        return {cause: max(0.0, joules - last.get(cause, 0.0)) for cause, joules in counters.items()}

    def _first_reading(self, telemetry: NodeTelemetry, idle_power_w: float) -> float:
        """Close the node's earlier boot; return from when the new boot's energy counts, in ms."""
        earlier = [boot for boot in self.counters_at_ms if boot.rpartition("/")[0] == telemetry.node]
        for boot in earlier:
            silent_s = max(0.0, telemetry.booted_at_ms - self.counters_at_ms.pop(boot)) / 1e3
            self.unresolved_j += silent_s * idle_power_w * len(telemetry.gpus)
            for key in [key for key in self.counters if key.startswith(f"{boot}/")]:
                del self.counters[key]
        return telemetry.booted_at_ms
