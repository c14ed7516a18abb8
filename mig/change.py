"""How to get from the instances of a GPU to what is wanted and touch as few of them as possible. Pure.

Instances that stay at their place need not be touched, and a multiset usually has several layouts: so the
layout is chosen that keeps the most. All destroys come before the creates; with explicit placements no retry
is ever needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from mig.errors import ForeignInstanceError, PartitionRejectedError
from mig.partition import Partition, layouts_of

if TYPE_CHECKING:
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


Wanted: TypeAlias = Sequence[str] | Partition
"""What a whole GPU shall be cut into: sizes or profile names in any order (none: nothing), or an exact layout."""


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
    wanted: Wanted,
    *,
    drain_cost: DrainCost[InstanceT] | None = None,
    pinned: Collection[int] = (),
    broken: Collection[int] = (),
) -> Change[InstanceT]:
    """Choose the layout of what is wanted that spares the most of what is there, and say how to get to it.

    Among the layouts, the one whose kept instances have the highest total drain cost wins; then the one that
    keeps the most instances; then the one that leaves the most choices for further instances; then the lowest
    starts. The same arguments always give the same change, whatever order `current` has.

    Args:
        model: The board.
        current: Its living instances.
        wanted: What it shall be cut into, all of it: an exact layout, or sizes whose best layout is chosen.
        drain_cost: What losing an instance costs (default: 1 each).
        pinned: Ids of instances that must stay (somebody else's); they count towards what is wanted.
        broken: Ids of instances that cannot stay as they are (half made), even where one like them is wanted.

    Raises:
        PartitionRejectedError: The board cannot hold what is wanted.
        ForeignInstanceError: No layout of what is wanted keeps every pinned instance.
        ValueError: A drain cost is negative or not finite.
    """
    ordered = sorted(current, key=lambda instance: (instance.placement.start, instance.id))
    keepable = [instance for instance in ordered if instance.id in pinned or instance.id not in broken]
    costs = [_cost(instance, drain_cost) for instance in keepable]
    keys = [_key(instance) for instance in keepable]

    def spared(layout: Partition) -> tuple[float, int]:
        there = _keys(layout)
        kept = [cost for key, cost in zip(keys, costs, strict=True) if key in there]
        return (math.fsum(kept), len(kept))

    # Of equals, max takes the first, and the layouts come in order of preference.
    choices = _choices(model, wanted, [instance for instance in keepable if instance.id in pinned])
    return _change(ordered, keepable, max(choices, key=spared))


def _choices(model: GpuModel, wanted: Wanted, pinned: Sequence[PlacedInstance]) -> Sequence[Partition]:
    every = (_checked(model, wanted),) if isinstance(wanted, Partition) else layouts_of(model, wanted)
    must = {_key(instance) for instance in pinned}
    choices = [layout for layout in every if must <= _keys(layout)]
    if choices:
        return choices
    named = ", ".join(f"{each.id} ({each.profile.size}@{each.placement.start})" for each in pinned)
    goal = "+".join(every[0].multiset) or "nothing"
    raise ForeignInstanceError(
        f"instances {named} were not created by this manager, and no layout of {goal} keeps all of them: "
        "expected a partition around them",
        instance_ids=[each.id for each in pinned],
        hint="Want a partition that contains them, or allow by its id what may be destroyed.",
    )


def _checked(model: GpuModel, layout: Partition) -> Partition:
    for each in layout.placed:
        if each.profile not in model.profiles:
            raise PartitionRejectedError(f"profile {each.profile.name} of {layout}: expected one of {model.name}")
    return layout


def _change(ordered: Sequence[InstanceT], keepable: Sequence[InstanceT], layout: Partition) -> Change[InstanceT]:
    wanted = _keys(layout)
    keep = [instance for instance in keepable if _key(instance) in wanted]
    present = {_key(instance) for instance in keep}
    missing = [each for each in layout.placed if each.key not in present]
    return Change(
        keep=tuple(keep),
        destroy=tuple(instance for instance in ordered if instance not in keep),
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
