"""What an apply will do, what came of it, and where it goes when it fails: decisions only, no waiting. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mig.change import Change, DrainCost, Wanted, plan_change
from mig.device import GpuInstance
from mig.errors import MigError
from mig.partition import Partition
from mig.placement import PlacedProfile
from mig.profiles import GpuModel

EndState: TypeAlias = Literal["unchanged", "applied", "rolled_back", "partial", "unknown"]
"""How an apply ended.

"unchanged": the GPU was as wanted already; "applied": it is as wanted, read back and compared; "rolled_back": the
apply failed and the GPU is cut as before (new instances in place of those that had gone, so with new UUIDs);
"partial": that failed too, and what lives is known; "unknown": the GPU cannot be read any more.
Every one of them can be followed by another apply.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do: destroy `instance`, or create `placed`; the other is None."""

    instance: GpuInstance | None = None
    placed: PlacedProfile | None = None

    def __str__(self) -> str:
        return f"destroy {self.instance}" if self.instance else f"create {self.placed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyPlan:
    """A planned change of one GPU and the way back.

    Attributes:
        change: What stays, what goes, what comes, and the layout that results.
        before: What the GPU is cut into now, half-made instances of ours left out: where a roll-back leads.
        foreign: Instances among those that live which were not created here.
        pinned: Ids of foreign instances that nobody allowed to destroy.
    """

    change: Change[GpuInstance]
    before: Partition
    foreign: tuple[GpuInstance, ...]
    pinned: frozenset[int]

    @property
    def keep(self) -> tuple[GpuInstance, ...]:
        """Instances that stay untouched, by start."""
        return self.change.keep

    @property
    def destroy(self) -> tuple[GpuInstance, ...]:
        """Instances that go, by start."""
        return self.change.destroy

    @property
    def create(self) -> tuple[PlacedProfile, ...]:
        """What is created, the largest first."""
        return self.change.create

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return self.change.is_empty

    @property
    def steps(self) -> tuple[Step, ...]:
        """What to do in order: every destroy before the first create."""
        destroys = tuple(Step(instance=instance) for instance in self.change.destroy)
        return destroys + tuple(Step(placed=placed) for placed in self.change.create)

    def __str__(self) -> str:
        rows = {"keep": self.keep, "destroy": self.destroy, "create": self.create}
        return "; ".join(f"{name} {', '.join(map(str, row)) or 'nothing'}" for name, row in rows.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyReport:
    """What came of an apply on one GPU.

    Attributes:
        gpu: Number of the GPU on its host.
        state: How it ended.
        plan: What was to be done.
        instances: What lives at the end, as read back; None if that cannot be known.
        error: Why it failed; None if it did not.
        rollback_error: Why the roll-back failed as well; None if there was none or it did not.
    """

    gpu: int
    state: EndState
    plan: ApplyPlan
    instances: tuple[GpuInstance, ...] | None
    error: MigError | None = None
    rollback_error: MigError | None = None

    @property
    def ok(self) -> bool:
        """Whether the GPU is as wanted."""
        return self.state in {"unchanged", "applied"}

    def raise_if_failed(self) -> None:
        """Raise why it failed, if it did, with how it ended in the hint."""
        if self.error is None:
            return
        self.error.hint = f"{_ENDS[self.state]} {self.error.hint}".strip()
        raise self.error


_ENDS: dict[EndState, str] = {
    "unchanged": "Nothing was changed.",
    "applied": "The GPU is as wanted.",
    "rolled_back": "The GPU is cut as before; the same can be applied again.",
    "partial": "Going back failed too: see what lives with `clover mig status`, then apply again.",
    "unknown": "What lives on the GPU is not known: see `clover mig status` once its driver answers.",
}


def plan_apply(
    model: GpuModel,
    current: Sequence[GpuInstance],
    wanted: Wanted,
    *,
    foreign: Sequence[GpuInstance] = (),
    allowed: Collection[int] = (),
    drain_cost: DrainCost[GpuInstance] | None = None,
) -> ApplyPlan:
    """Plan an apply: the change that spares most, without touching what is foreign.

    Foreign instances count towards what is wanted. Those of ours that no compute instance fills go in any case.

    Args:
        model: The board.
        current: Its living instances.
        wanted: What the whole GPU shall be cut into.
        foreign: Those of the living that were not created here.
        allowed: Ids of foreign instances that may go.
        drain_cost: What losing an instance costs (default: 1 each).

    Raises:
        PartitionRejectedError: The board cannot hold what is wanted.
        ForeignInstanceError: A foreign instance stands in the way and is not allowed to go.
    """
    pinned = frozenset(instance.id for instance in foreign) - frozenset(allowed)
    broken = _broken(current, pinned)
    change = plan_change(model, current, wanted, drain_cost=drain_cost, pinned=pinned, broken=broken)
    before = Partition(placed=tuple(each.placed for each in current if each.id not in broken))
    return ApplyPlan(change=change, before=before, foreign=tuple(foreign), pinned=pinned)


def plan_rollback(
    model: GpuModel, current: Sequence[GpuInstance], before: Partition, pinned: Collection[int]
) -> Change[GpuInstance]:
    """Plan the way back to a layout that was there before.

    Raises:
        ForeignInstanceError: A foreign instance, of after that time, stands in the way.
        PartitionRejectedError: The layout is not one of this board.
    """
    return plan_change(model, current, before, pinned=pinned, broken=_broken(current, pinned))


def differs(instances: Sequence[GpuInstance], change: Change[GpuInstance], pinned: Collection[int]) -> str:
    """Say how what was read back is not what a change leads to; empty if it is."""
    found = {instance.placed.key for instance in instances}
    wanted = {placed.key for placed in change.layout.placed}
    if found != wanted or len(instances) != len(wanted):
        living = ", ".join(str(instance.placed) for instance in instances) or "nothing"
        return f"it holds {living}: expected {str(change.layout) or 'nothing'}"
    gone = [str(instance) for instance in change.keep if instance not in instances]
    if gone:
        return f"instance {', '.join(gone)} is not the same any more: expected it untouched"
    empty = [str(each) for each in instances if not each.is_whole and each.id not in pinned]
    return f"instance {', '.join(empty)} has no compute instance: expected one" if empty else ""


def assertion(instances: Sequence[GpuInstance], model: GpuModel, wanted: Wanted) -> str:
    """Say how a GPU is not cut as wanted; empty if it is.

    Raises:
        PartitionRejectedError: The board cannot hold what is wanted.
    """
    change = plan_change(model, instances, wanted)
    half = [str(instance) for instance in instances if not instance.is_whole]
    if half:
        return f"instance {', '.join(half)} has no compute instance that fills it: expected one"
    if change.is_empty:
        return ""
    living = " ".join(str(instance.placed) for instance in instances) or "nothing"
    return f"it holds {living}: expected {str(change.layout) or 'nothing'}"


def _broken(current: Sequence[GpuInstance], pinned: Collection[int]) -> frozenset[int]:
    return frozenset(each.id for each in current if not each.is_whole and each.id not in pinned)
