"""The ledger: turns cumulative joules of all nodes into grams at the intensity in force when they were used.

Node agents publish cumulative counters, so a reading that is lost costs nothing, a reading that is taken in twice adds
nothing, and a restart of the monitor goes on from its checkpoint. The energy between two readings of a GPU is spread
evenly over that time and cut where the intensity changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from clover.bus.messages import (
    EnergyCounters,
    GpuTelemetry,
    LedgerCheckpoint,
    LedgerParts,
    LedgerReading,
    NodeTelemetry,
)
from clover.core.units import footprint_g
from clover.power.parts import Parts

CAUSES = ("requests", "idle", "unallocated", "parked", "transition")

#: Mean of intensity x PUE (gCO2e per kWh of IT energy) between two wall times in seconds.
EffectiveIntensity = Callable[[float, float], float]

_REQUESTS, _ANSWERED = "requests/", "answered/"


def by_cause(counters: EnergyCounters) -> dict[str, float]:
    """Return the joules of one GPU by cause."""
    return {
        "requests": sum(counters.requests_j.values()),
        "idle": counters.idle_j,
        "unallocated": counters.unallocated_j,
        "parked": counters.parked_j,
        "transition": counters.transition_j,
    }


def _flat(counters: EnergyCounters) -> dict[str, float]:
    """Return everything cumulative of one GPU in one mapping; requests by variant."""
    flat = {_REQUESTS + variant: joules for variant, joules in counters.requests_j.items()}
    flat |= {cause: joules for cause, joules in by_cause(counters).items() if cause != "requests"}
    flat |= {_ANSWERED + variant: float(n) for variant, n in counters.answered.items()}
    return flat | {"unresolved": counters.unresolved_j}


@dataclass(slots=True)
class Ledger:
    """Totals of the deployment and the last counters of each GPU.

    Attributes:
        effective_intensity: Mean intensity x PUE of an interval.
        counters: Last cumulative values per `node/boot/gpu`.
        counters_at_ms: When those were cut, per `node/boot` and per `node/boot/gpu`.
        parts: By variant, node, GPU, hour and source.
    """

    effective_intensity: EffectiveIntensity
    at_ms: float = 0.0
    began_ms: float | None = None
    gpu_s: float = 0.0
    answered: int = 0
    footprint_g: float = 0.0
    host_j: float = 0.0
    host_g: float = 0.0
    unresolved_j: float = 0.0
    causes_j: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0.0))
    sources: set[str] = field(default_factory=set[str])
    host_sources: set[str] = field(default_factory=set[str])
    counters: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    counters_at_ms: dict[str, float] = field(default_factory=dict[str, float])
    parts: Parts = field(default_factory=Parts)

    def restore(self, saved: LedgerCheckpoint) -> None:
        """Go on from a checkpoint."""
        reading = saved.ledger
        self.at_ms, self.footprint_g = reading.at_ms, reading.footprint_g
        self.began_ms, self.gpu_s, self.answered = reading.began_ms, reading.gpu_s, reading.answered
        self.host_j, self.host_g, self.unresolved_j = reading.host_j, reading.host_g, reading.unresolved_j
        self.causes_j = {cause: reading.by_cause_j.get(cause, 0.0) for cause in CAUSES}
        self.sources = set(filter(None, reading.energy_source.split("+")))
        self.host_sources = set(filter(None, reading.host_source.split("+")))
        self.counters = {key: dict(value) for key, value in saved.counters.items()}
        self.counters_at_ms = dict(saved.counters_at_ms)
        self.parts = Parts(saved.parts)

    def take(self, telemetry: NodeTelemetry, *, idle_power_w: float) -> None:
        """Add what a node has used since its last reading.

        A new boot of a known node starts its counters at zero; the silence before it is `unresolved`, as the node's
        meter tells or estimated at the idle power of its GPUs.

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
        self.began_ms = from_ms if self.began_ms is None else min(self.began_ms, from_ms)
        for gpu in telemetry.gpus:
            self._take_gpu(gpu, telemetry, boot, from_ms)
        if telemetry.host_j is not None:
            self._take_host(telemetry.host_j, boot, from_ms, telemetry.at_ms)
            self.host_sources.add(telemetry.host_source or telemetry.energy_source)
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
            host_source="+".join(sorted(self.host_sources)),
            began_ms=self.began_ms,
            gpu_s=self.gpu_s,
            answered=self.answered,
        )

    def in_parts(self) -> LedgerParts:
        """Return the totals in parts."""
        return self.parts.message()

    def _take_gpu(self, gpu: GpuTelemetry, telemetry: NodeTelemetry, boot: str, node_from_ms: float) -> None:
        key = f"{boot}/{gpu.index}"
        from_ms = self.counters_at_ms.get(key, node_from_ms)
        to_ms = telemetry.at_ms if gpu.energy_at_ms is None else gpu.energy_at_ms
        if to_ms < from_ms:
            return
        used = self._difference(key, _flat(gpu.energy))
        self.counters_at_ms[key] = to_ms
        self.gpu_s += (to_ms - from_ms) / 1e3
        self.unresolved_j += used.pop("unresolved", 0.0)
        answered = {name.removeprefix(_ANSWERED): int(n) for name, n in used.items() if name.startswith(_ANSWERED)}
        joules = {name: j for name, j in used.items() if not name.startswith(_ANSWERED)}
        self.answered += sum(answered.values())
        for name, j in joules.items():
            self.causes_j["requests" if name.startswith(_REQUESTS) else name] += j
        # PUE is part of the effective intensity.
        effective = self.effective_intensity(from_ms / 1e3, to_ms / 1e3)
        total_j = sum(joules.values())
        self.footprint_g += footprint_g(total_j, effective, 1.0)
        requests = {n.removeprefix(_REQUESTS): j for n, j in joules.items() if n.startswith(_REQUESTS)}
        self.parts.add_variants(requests, answered, effective)
        where = {"node": telemetry.node, "gpu": f"{telemetry.node}/{gpu.index}", "source": telemetry.energy_source}
        self.parts.add(where, total_j, footprint_g(total_j, effective, 1.0), sum(answered.values()))
        self.parts.add_hours(total_j, sum(answered.values()), from_ms / 1e3, to_ms / 1e3, self.effective_intensity)

    def _take_host(self, host_j: float, boot: str, node_from_ms: float, to_ms: float) -> None:
        key = f"{boot}/host"
        from_ms = self.counters_at_ms.get(key, node_from_ms)
        used = self._difference(key, {"host": host_j})["host"]
        self.counters_at_ms[key] = to_ms
        self.host_j += used
        self.host_g += footprint_g(used, self.effective_intensity(from_ms / 1e3, to_ms / 1e3), 1.0)

    def _difference(self, key: str, counters: Mapping[str, float]) -> dict[str, float]:
        last = self.counters.get(key, {})
        self.counters[key] = dict(counters)
        return {name: max(0.0, value - last.get(name, 0.0)) for name, value in counters.items()}

    def _first_reading(self, telemetry: NodeTelemetry, idle_power_w: float) -> float:
        """Close the node's earlier boots; return from when the new boot's energy counts, in ms."""
        prefix = f"{telemetry.node}/"
        last_ms = max((at for key, at in self.counters_at_ms.items() if key.startswith(prefix)), default=None)
        for known in (self.counters_at_ms, self.counters):
            for key in [key for key in known if key.startswith(prefix)]:
                del known[key]
        if last_ms is not None:
            silent_s = max(0.0, telemetry.booted_at_ms - last_ms) / 1e3
            unmetered = sum(not gpu.energy.gap_measured for gpu in telemetry.gpus)
            self.unresolved_j += silent_s * idle_power_w * unmetered
        return telemetry.booted_at_ms
