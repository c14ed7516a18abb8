"""How to get from the instances of a GPU to a wanted multiset and touch as few of them as possible. Pure.

Instances that stay at their place need not be touched, and a multiset usually has several layouts: so the
layout is chosen that keeps the most. All destroys come before the creates; with explicit placements no retry
is ever needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from mig.partition import layouts_of

if TYPE_CHECKING:
    from mig.partition import Partition
    from mig.placement import PlacedProfile, Placement
    from mig.profiles import GpuModel, Profile


class PlacedInstance(Protocol):
    """What planning needs to know of a living instance; `mig.device.GpuInstance` is one."""

    @property
    def id(self) -> int:
        """Number of the instance on its GPU."""
        ...

    @property
    def profile(self) -> Profile:
        """Its kind."""
        ...

    @property
    def placement(self) -> Placement:
        """Its memory slices."""
        ...


InstanceT = TypeVar("InstanceT", bound=PlacedInstance)

DrainCost: TypeAlias = Callable[[InstanceT], float] | Mapping[int, float]
"""What losing an instance costs, in any one unit, finite, from 0: by instance, or by its id (else 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[InstanceT]):
    """A planned move of one GPU: first every destroy, then the creates in order.

    Attributes:
        keep: Instances that stay untouched, by start.
        destroy: Instances that go, by start.
        create: Instances to create, the largest first; each fits once the destroys are done.
        layout: What the GPU is cut into afterwards.
    """

    keep: tuple[InstanceT, ...]
    destroy: tuple[InstanceT, ...]
    create: tuple[PlacedProfile, ...]
    layout: Partition

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.destroy and not self.create


def plan_change(
    model: GpuModel,
    current: Sequence[InstanceT],
    wanted: Sequence[str],
    *,
    drain_cost: DrainCost[InstanceT] | None = None,
) -> Change[InstanceT]:
    """Choose the layout of a multiset that spares the most of what is there, and say how to get to it.

    Among the layouts, the one whose kept instances have the highest total drain cost wins; then the one that
    keeps the most instances; then the one that leaves the most choices for further instances; then the lowest
    starts. The same arguments always give the same change, whatever order `current` has.

    Args:
        model: The board.
        current: Its living instances.
        wanted: Sizes or profile names in any order; none means that every instance goes.
        drain_cost: What losing an instance costs (default: 1 each).

    Raises:
        PartitionRejectedError: The board cannot hold what is wanted.
        ValueError: A drain cost is negative or not finite.
    """
    ordered = sorted(current, key=lambda instance: (instance.placement.start, instance.id))
    costs = [_cost(instance, drain_cost) for instance in ordered]
    keys = [_key(instance) for instance in ordered]

    def spared(layout: Partition) -> tuple[float, int]:
        there = _keys(layout)
        kept = [cost for key, cost in zip(keys, costs, strict=True) if key in there]
        return (math.fsum(kept), len(kept))

    # Of equals, max takes the first, and the layouts come in order of preference.
    return _change(ordered, max(layouts_of(model, wanted), key=spared))


def _change(ordered: Sequence[InstanceT], layout: Partition) -> Change[InstanceT]:
    wanted = _keys(layout)
    present = {_key(instance) for instance in ordered}
    missing = [each for each in layout.placed if each.key not in present]
    return Change(
        keep=tuple(instance for instance in ordered if _key(instance) in wanted),
        destroy=tuple(instance for instance in ordered if _key(instance) not in wanted),
        create=tuple(sorted(missing, key=lambda each: (each.profile.rank, each.placement.start))),
        layout=layout,
    )


def _key(instance: PlacedInstance) -> tuple[str, int]:
    return (instance.profile.size, instance.placement.start)


def _keys(layout: Partition) -> set[tuple[str, int]]:
    return {each.key for each in layout.placed}


def _cost(instance: InstanceT, drain_cost: DrainCost[InstanceT] | None) -> float:
    if drain_cost is None:
        return 1.0
    cost = drain_cost(instance) if callable(drain_cost) else drain_cost.get(instance.id, 1.0)
    if not math.isfinite(cost) or cost < 0:
        raise ValueError(f"drain_cost of instance {instance.id} is {cost}: expected a finite number from 0")
    return cost
