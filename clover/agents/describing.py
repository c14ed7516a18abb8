"""What a node's telemetry says: its kind, its GPUs, its requests, its energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clover.agents.gpu_runner import GpuRunner
from clover.agents.metering import NodeMetering
from clover.agents.pool import InstancePool
from clover.agents.power_switch import PowerSwitch
from clover.agents.requests import RequestServer
from clover.bus.messages import NodeTelemetry
from clover.core.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKind:
    """What does not change while an agent lives.

    Attributes:
        name: Of the node.
        boot_id: Of this start of the agent.
        booted_at_ms: When that was.
        interval_s: Telemetry interval.
        backend: `sim`, `cpu` or `nvml`.
        gpu_model: The board of its GPUs.
        application: What it serves.
        batching: How requests are served together, for people.
    """

    name: str
    boot_id: str
    booted_at_ms: float
    interval_s: float
    backend: str
    gpu_model: str
    application: str
    batching: str


class Describing:
    """Describes one node.

    Args:
        kind: What does not change.
        clock: Wall time.
        pool: Where its instances serve.
        metering: Its meters.
        served_source: Source of the energy that the servicer reports.
        power: Its power commands.
    """

    def __init__(
        self,
        kind: NodeKind,
        *,
        clock: Clock,
        pool: InstancePool,
        metering: NodeMetering,
        served_source: str,
        power: PowerSwitch,
    ) -> None:
        self._kind = kind
        self._clock = clock
        self._pool = pool
        self._metering = metering
        self._served_source = served_source
        self._power = power

    def telemetry(
        self, runners: Sequence[GpuRunner], server: RequestServer, *, epoch: int, leaving: bool
    ) -> NodeTelemetry:
        """Cut all accounts and describe the node; `epoch` is that of the newest target it has read."""
        now_s, kind, counts = self._clock.now_s(), self._kind, server.counts
        return NodeTelemetry(
            node=kind.name,
            boot_id=kind.boot_id,
            booted_at_ms=kind.booted_at_ms,
            at_ms=now_s * 1e3,
            interval_s=kind.interval_s,
            backend=kind.backend,
            gpu_model=kind.gpu_model,
            application=kind.application,
            epoch=epoch,
            applied_epoch=min(runner.applied_epoch for runner in runners),
            gpus=tuple(runner.telemetry(now_s) for runner in runners),
            begun={f"{each.variant}/{each.profile}": n for each, n in sorted(self._pool.begun.items())},
            in_flight=server.in_flight,
            host_j=self._metering.host_j,
            host_source=self._metering.host_source,
            energy_source=self._energy_source(),
            suppressed=counts.suppressed,
            claimed=counts.claimed,
            handed_back=counts.handed_back,
            answered=counts.answered,
            late=counts.late,
            mig_changes=sum(runner.mig_changes for runner in runners),
            change_s=sum(runner.change_s for runner in runners),
            batching=kind.batching,
            power_on_s=self._power.on_takes_s,
            leaving=leaving,
        )

    def _energy_source(self) -> str:
        # What workers spend that fell back to the CPU is in no GPU's counter.
        beside = {instance.worker.energy_source for instance in self._pool if instance.worker.fallback}
        return "+".join(sorted({self._metering.energy_source(self._served_source), *beside}))
