"""A controller's state machine in tests: what nodes tell it, and how it comes to serve."""

from __future__ import annotations

from collections.abc import Sequence

from clover.core.configuration import Configuration, GpuConfiguration, GpuId, InstanceKind
from clover.core.control import Command, Decided, GpuReport, IntensitySeen, NodeSeen, Sent
from clover.core.controller import ControllerMachine

WHOLE = GpuConfiguration((InstanceKind("7g", "xxlarge"),))
HALVES = GpuConfiguration((InstanceKind("3g", "large"), InstanceKind("3g", "large")))


def seen(
    node: str = "n1",
    gpus: int = 5,
    *,
    phase: str = "serving",
    epoch: int = 0,
    boot: str = "b1",
    serves: GpuConfiguration | None = None,
) -> NodeSeen:
    reports = {index: GpuReport(phase=phase, applied_epoch=epoch, configuration=serves) for index in range(gpus)}
    return NodeSeen(node=node, boot_id=boot, interval_s=1.0, gpus=reports)


def only(commands: Sequence[Command], kind: type[Command]) -> Command:
    (found,) = [command for command in commands if isinstance(command, kind)]
    return found


def everywhere(gpu: GpuConfiguration, *nodes: str, gpus: int = 5) -> Configuration:
    return Configuration.uniform([GpuId(node, index) for node in nodes for index in range(gpus)], gpu)


def serving(machine: ControllerMachine, gpu: GpuConfiguration = WHOLE, *nodes: str) -> int:
    """Bring a new machine to `serving` with all nodes configured alike; return the epoch."""
    nodes = nodes or ("n1",)
    machine.handle(IntensitySeen(effective=300.0), 0.0)
    for node in nodes:
        machine.handle(seen(node, phase="empty"), 0.0)
    machine.handle(Decided(configuration=everywhere(gpu, *nodes)), 0.0)
    machine.handle(Sent(epoch=1), 0.0)
    for node in nodes:
        machine.handle(seen(node, epoch=1, serves=gpu), 1.0)
    assert machine.state == "serving"
    return 1
