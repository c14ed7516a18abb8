"""Nodes, GPUs and instances as their telemetry tells, with how busy each instance was over the last seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from clover.analysis.view_state import GpuNow, InstanceNow, NodeNow
from clover.bus.messages import GpuTelemetry, InstanceTelemetry, NodeTelemetry
from mig.profiles import GPU_MODELS

#: Busy fractions cover this long.
_BUSY_S = 10.0
#: After this many telemetry intervals without a word a node is called silent.
SILENT_INTERVALS = 3.0
SILENT_LEAST_S = 3.0
#: A node that has been silent for this long is forgotten.
_FORGOTTEN_S = 600.0
#: One that has said that it goes is forgotten after this long.
_LEFT_S = 3.0

_InstanceKey = tuple[int, str, str]


@dataclass(slots=True)
class _Node:
    latest: NodeTelemetry
    energy: deque[tuple[float, dict[int, float]]] = field(
        default_factory=lambda: deque[tuple[float, dict[int, float]]](maxlen=64)
    )
    busy: deque[tuple[float, dict[_InstanceKey, float]]] = field(
        default_factory=lambda: deque[tuple[float, dict[_InstanceKey, float]]](maxlen=64)
    )


class FleetFold:
    """Folds telemetry into the present state of the fleet."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self.variants: list[str] = []

    @property
    def newest_ms(self) -> float | None:
        """Time of the newest telemetry of any node."""
        return max((node.latest.at_ms for node in self._nodes.values()), default=None)

    @property
    def latest(self) -> NodeTelemetry | None:
        """The newest telemetry of any node."""
        return max((node.latest for node in self._nodes.values()), key=lambda t: t.at_ms, default=None)

    def take(self, telemetry: NodeTelemetry) -> None:
        """Take in one node's telemetry; older than what is known is ignored."""
        known = self._nodes.get(telemetry.node)
        if known is not None and telemetry.at_ms < known.latest.at_ms:
            return
        if known is None or known.latest.boot_id != telemetry.boot_id:
            known = self._nodes[telemetry.node] = _Node(telemetry)
        known.latest = telemetry
        known.busy.append((telemetry.at_ms, _busy_seconds(telemetry)))
        known.energy.append((telemetry.at_ms, {gpu.index: _joules(gpu) for gpu in telemetry.gpus}))
        for past in (known.busy, known.energy):
            while telemetry.at_ms - past[0][0] > _BUSY_S * 1e3:
                past.popleft()
        for gpu in telemetry.gpus:
            self.see_variants(instance.variant for instance in gpu.instances)

    def see_variants(self, names: Iterable[str]) -> None:
        """Remember variants in order of first sight."""
        for name in names:
            if name not in self.variants:
                self.variants.append(name)

    def nodes(self, now_ms: float) -> tuple[NodeNow, ...]:
        """Return all nodes by name; those that have been silent for long are forgotten, those that left soon."""
        for name, node in list(self._nodes.items()):
            if now_ms - node.latest.at_ms > 1e3 * (_LEFT_S if node.latest.leaving else _FORGOTTEN_S):
                del self._nodes[name]
        return tuple(_node_now(self._nodes[name], now_ms) for name in sorted(self._nodes, key=_natural))


def _natural(name: str) -> tuple[str, int, str]:
    """Sort n2 before n10."""
    head = name.rstrip("0123456789")
    digits = name[len(head) :]
    return head, int(digits or -1), name


def _busy_seconds(telemetry: NodeTelemetry) -> dict[_InstanceKey, float]:
    return {_key(gpu, instance): instance.busy_s for gpu in telemetry.gpus for instance in gpu.instances}


def _joules(gpu: GpuTelemetry) -> float:
    energy = gpu.energy
    dynamic = sum(energy.requests_j.values())
    return dynamic + energy.idle_j + energy.unallocated_j + energy.parked_j + energy.transition_j


def _power_w(node: _Node, index: int) -> float | None:
    """Return a GPU's mean power over the last seconds, from its cumulative joules."""
    (from_ms, first), (to_ms, last) = node.energy[0], node.energy[-1]
    if to_ms - from_ms < 500.0 or index not in first or last[index] < first[index]:
        return None
    return (last[index] - first[index]) * 1e3 / (to_ms - from_ms)


def _key(gpu: GpuTelemetry, instance: InstanceTelemetry) -> _InstanceKey:
    return gpu.index, instance.uuid, instance.variant


def _node_now(node: _Node, now_ms: float) -> NodeNow:
    latest = node.latest
    age_s = max(0.0, (now_ms - latest.at_ms) / 1e3)
    silent = age_s > max(SILENT_LEAST_S, SILENT_INTERVALS * latest.interval_s)
    return NodeNow(
        name=latest.node,
        gpu_model=latest.gpu_model,
        backend=latest.backend,
        memory_slices=_memory_slices(latest),
        epoch=latest.epoch,
        applied_epoch=latest.applied_epoch,
        in_flight=0 if silent else latest.in_flight,
        age_s=age_s,
        silent_s=age_s if silent else 0.0,
        gpus=tuple(_gpu_now(node, gpu, now_ms) for gpu in sorted(latest.gpus, key=lambda g: g.index)),
    )


def _memory_slices(telemetry: NodeTelemetry) -> int:
    model = GPU_MODELS.get(telemetry.gpu_model)
    if model is not None:
        return model.memory_slices
    return max((i.start + i.size for gpu in telemetry.gpus for i in gpu.instances), default=8)


def _gpu_now(node: _Node, gpu: GpuTelemetry, now_ms: float) -> GpuNow:
    return GpuNow(
        index=gpu.index,
        phase=gpu.phase,
        reason=gpu.reason,
        since_s=max(0.0, (now_ms - gpu.since_ms) / 1e3),
        applied_epoch=gpu.applied_epoch,
        power_w=_power_w(node, gpu.index),
        instances=tuple(
            InstanceNow(
                profile=instance.profile,
                start=instance.start,
                size=instance.size,
                variant=instance.variant,
                phase=instance.phase,
                busy=_busy_fraction(node, _key(gpu, instance)),
            )
            for instance in sorted(gpu.instances, key=lambda i: i.start)
        ),
    )


def _busy_fraction(node: _Node, key: _InstanceKey) -> float | None:
    """Return busy time over time since the oldest kept telemetry that knew the same worker."""
    at_ms, latest = node.busy[-1]
    now_s = latest[key]
    for from_ms, seconds in node.busy:
        if key in seconds and seconds[key] <= now_s and at_ms > from_ms:
            return min(1.0, (now_s - seconds[key]) * 1e3 / (at_ms - from_ms))
    return None
