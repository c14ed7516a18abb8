"""What the runner of a GPU works with, and how it tells what is on its GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from clover.agents.instance import Instance
from clover.agents.pool import InstancePool
from clover.agents.power_switch import PowerSwitch
from clover.bus.messages import Event, InstanceTelemetry
from clover.core.clock import Clock
from clover.serving.port import InstanceSpec, Servicer
from mig.device import Gpu, GpuInstance


@dataclass(slots=True, kw_only=True)
class RunnerPorts:
    """What a GPU runner works with.

    Attributes:
        node: Name of the node.
        application: What it serves.
        pool: Where its instances serve.
        servicer: Starts workers.
        clock: Wall time.
        changed: Called at each change of phase, so that telemetry goes out at once.
        report: Takes events for the event stream.
        power: Switches GPUs off and on.
        side_by_side: Whether an instance can have two workers for a while, so that a new variant is loaded while the
            old one serves. Emulated GPUs can: their workers are processes that share nothing.
    """

    node: str
    application: str
    pool: InstancePool
    servicer: Servicer
    clock: Clock
    changed: Callable[[], None]
    report: Callable[[Event], None]
    power: PowerSwitch
    side_by_side: bool = False


def instance_spec(gpu: Gpu, device: GpuInstance, application: str, variant: str, *, name: str) -> InstanceSpec:
    """Say what a worker is to be started on."""
    return InstanceSpec(
        application=application,
        variant=variant,
        profile=device.profile.size,
        compute_slices=device.profile.compute_slices,
        total_slices=gpu.model.compute_slices,
        device=device.uuid,
        name=name,
        gpu=gpu.index,
        memory_mib=device.profile.memory_mib,
        multiprocessors=device.profile.multiprocessors,
    )


def instances_telemetry(
    serving: Iterable[Instance], starting: Iterable[tuple[GpuInstance, str]]
) -> tuple[InstanceTelemetry, ...]:
    """Describe what serves on a GPU and what is being started (device and variant), by position."""
    told = [_serving(instance) for instance in serving] + [_starting(device, variant) for device, variant in starting]
    return tuple(sorted(told, key=lambda instance: instance.start))


def _starting(device: GpuInstance, variant: str) -> InstanceTelemetry:
    return InstanceTelemetry(
        profile=device.profile.size,
        start=device.placement.start,
        size=device.placement.size,
        uuid=device.uuid,
        variant=variant,
        phase="starting",
        served=0,
        busy_s=0.0,
    )


def _serving(instance: Instance) -> InstanceTelemetry:
    return InstanceTelemetry(
        profile=instance.kind.profile,
        start=instance.device.placement.start,
        size=instance.device.placement.size,
        uuid=instance.device.uuid,
        variant=instance.kind.variant,
        phase=instance.phase,
        served=instance.served,
        busy_s=instance.busy_s,
        fallback=instance.worker.fallback,
    )
