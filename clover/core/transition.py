"""How one GPU gets from what it is to what it shall be with the least harm to those who are being served. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from clover.core.configuration import GpuConfiguration, InstanceKind
from mig.change import plan_change
from mig.placement import PlacedProfile, Placement, unfit
from mig.profiles import GpuModel, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveInstance:
    """A GPU instance as it is: `variant` None if no worker serves on it."""

    id: int
    profile: Profile
    placement: Placement
    variant: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """What to do, in this order.

    Attributes:
        keep: Instances that go on serving untouched.
        restart: Instances that stay but get another variant.
        destroy: Instances that go, once drained.
        create: What to create in their place, with the variant to start there.
    """

    keep: tuple[LiveInstance, ...]
    restart: tuple[tuple[LiveInstance, str], ...]
    destroy: tuple[LiveInstance, ...]
    create: tuple[tuple[PlacedProfile, str], ...]

    @property
    def is_empty(self) -> bool:
        """Whether the GPU already is what it shall be."""
        return not (self.restart or self.destroy or self.create)

    @property
    def mig_changes(self) -> int:
        """GPU instances destroyed plus created."""
        return len(self.destroy) + len(self.create)

    def beside(self) -> tuple[tuple[PlacedProfile, str], ...]:
        """Return which of `create` there is room for while everything that leaves is still there.

        They can serve before anything stops: make before break.
        """
        there = [
            PlacedProfile(profile=one.profile, placement=one.placement)
            for one in (*self.keep, *(kept for kept, _ in self.restart), *self.destroy)
        ]
        early: list[tuple[PlacedProfile, str]] = []
        for placed, variant in self.create:
            if not unfit(placed.profile, placed.placement, there):
                there.append(placed)
                early.append((placed, variant))
        return tuple(early)


def plan_transition(model: GpuModel, current: Sequence[LiveInstance], wanted: GpuConfiguration) -> Transition:
    """Plan the change of one GPU.

    Among the layouts of the wanted partition the one that keeps most is taken; an instance whose variant is still
    wanted counts double, because losing it also costs a restart of its worker.

    Raises:
        mig.errors.PartitionRejectedError: The board cannot hold the wanted partition.
    """
    wanted_variants = {kind.variant for kind in wanted.instances}
    cost = {instance.id: 2.0 if instance.variant in wanted_variants else 1.0 for instance in current}
    change = plan_change(model, current, wanted.multiset, drain_cost=cost)
    open_places = Counter(wanted.instances)
    keep: list[LiveInstance] = []
    refill: list[LiveInstance] = []
    for instance in change.keep:
        kind = InstanceKind(instance.profile.size, instance.variant or "")
        if open_places[kind] > 0:
            open_places[kind] -= 1
            keep.append(instance)
        else:
            refill.append(instance)
    restart = tuple((instance, _take(open_places, instance.profile.size)) for instance in refill)
    create = tuple((placed, _take(open_places, placed.profile.size)) for placed in change.create)
    return Transition(keep=tuple(keep), restart=restart, destroy=change.destroy, create=create)


def _take(open_places: Counter[InstanceKind], size: str) -> str:
    """Take one wanted variant of a profile size that nobody serves yet."""
    kind = min(kind for kind, left in open_places.items() if kind.profile == size and left > 0)
    open_places[kind] -= 1
    return kind.variant
