"""What is ordered by hand, and the complete target of a node that an order means. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from clover.agents.translate import gpu_configuration, gpu_target
from clover.bus.messages import DispatchRule, GpuTarget, GpuTelemetry, NodeTelemetry, Target
from clover.core.configuration import GpuConfiguration, GpuMode, InstanceKind
from clover.errors import ConfigurationError

#: What one GPU shall be, from what it was last told to be and what it reports.
Order = Callable[[GpuConfiguration, GpuTelemetry], GpuConfiguration]


@dataclass(frozen=True, slots=True)
class Sent:
    """A target that was sent by hand.

    Attributes:
        target: With its epoch.
        changed: Indices of the GPUs that the order was about.
    """

    target: Target
    changed: tuple[int, ...]


def cut(sizes: Sequence[str], variants: Sequence[str]) -> Order:
    """Order a partition with a variant on each of its instances."""
    if len(variants) not in {1, len(sizes)}:
        raise ConfigurationError(f"variants {','.join(variants)!r}: expected one, or one for each of {'+'.join(sizes)}")
    named = list(variants) * len(sizes) if len(variants) == 1 else variants
    kinds = tuple(InstanceKind(size, variant) for size, variant in zip(sizes, named, strict=True))
    return lambda _told, _seen: GpuConfiguration(kinds)


def fill(variants: Sequence[str]) -> Order:
    """Order other variants on the partition that a GPU has: one for all instances, or one for each, in their order."""

    def order(told: GpuConfiguration, seen: GpuTelemetry) -> GpuConfiguration:
        if not told.instances:
            raise ConfigurationError(
                f"gpu{seen.index} is {told.mode}: it has no instances to start a variant on",
                hint="cut it with `clover node configure ... --partition`",
            )
        return cut([kind.profile for kind in told.instances], variants)(told, seen)

    return order


def empty(mode: GpuMode) -> Order:
    """Order that a GPU has no instances: `parked` or `off`."""
    return lambda _told, _seen: GpuConfiguration(mode=mode)


def target_of(
    node: NodeTelemetry, newest: Target | None, order: Order, gpus: Iterable[int] | None, *, reason: str
) -> Sent:
    """Return the complete target that an order means; GPUs that it is not about stay what they were told to be.

    Args:
        node: Last telemetry.
        newest: Last target; what it does not say is taken from the telemetry.
        order: What those GPUs shall be.
        gpus: Their indices; None means all.
        reason: One line for people.

    Raises:
        ConfigurationError: There is no such GPU, or the order cannot be carried out on it.
    """
    known = {gpu.index: gpu for gpu in node.gpus}
    asked = sorted(set(known if gpus is None else gpus))
    if unknown := [index for index in asked if index not in known]:
        raise ConfigurationError(f"GPU {unknown[0]} of {node.node}: expected one of {listed(known)}")
    told = {gpu.index: gpu for gpu in newest.gpus} if newest is not None else {}
    gpus_now = {index: _told(told.get(index), seen) for index, seen in known.items()}
    wanted = {i: order(now, known[i]) if i in asked else now for i, now in gpus_now.items()}
    return Sent(
        target=Target(
            epoch=0,
            node=node.node,
            application=node.application,
            gpus=tuple(gpu_target(index, gpu) for index, gpu in sorted(wanted.items())),
            dispatch=DispatchRule(),
            reason=reason,
        ),
        changed=tuple(asked),
    )


def _told(target: GpuTarget | None, seen: GpuTelemetry) -> GpuConfiguration:
    if target is not None:
        return gpu_configuration(target)
    kinds = tuple(InstanceKind(instance.profile, instance.variant) for instance in seen.instances)
    return GpuConfiguration(kinds) if kinds else GpuConfiguration(mode="parked")


def listed(names: Iterable[object]) -> str:
    """Write names in a row."""
    return ", ".join(str(name) for name in names) or "none"
