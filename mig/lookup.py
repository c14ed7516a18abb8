"""The original's lookup table: the UUID of every slice under every partition code, found by really walking the codes.

A table is a picture of one moment. Whether a UUID comes back when the same instance is created again is not promised
by any driver, so nothing in this project reads such a table; it is for programs that were written for the original.
`Walk.repeatable` tells whether they came back while the table was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mig.apply import apply_managed
from mig.codes import CODES, layout_of_code
from mig.device import GpuInstance
from mig.errors import DeviceBusyError, ForeignInstanceError
from mig.managed import ManagedGpu
from mig.partition import Partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What one GPU had under each code.

    Attributes:
        gpu: Number of the GPU on its host.
        uuid: Name of the GPU.
        board: Name of its board.
        codes: Instances of each code, in the order in which the code lists its slices.
        repeatable: Whether every instance that was created again at its place got the same UUID again; None if none
            was.
    """

    gpu: int
    uuid: str
    board: str
    codes: Mapping[int, tuple[GpuInstance, ...]]
    repeatable: bool | None


@dataclass(slots=True)
class _Sightings:
    """UUIDs by profile and start, to see whether they come back."""

    last: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    again: list[bool] = field(default_factory=list[bool])

    def see(self, instances: Iterable[GpuInstance], kept: Iterable[GpuInstance]) -> None:
        stayed = {instance.placed.key for instance in kept}
        for instance in instances:
            key = instance.placed.key
            if key in self.last and key not in stayed:
                self.again.append(self.last[key] == instance.uuid)
            self.last[key] = instance.uuid

    @property
    def repeatable(self) -> bool | None:
        return all(self.again) if self.again else None


def in_code_order(code: int, instances: Iterable[GpuInstance]) -> tuple[GpuInstance, ...]:
    """Order the instances of a code as the code lists its slices; of equal sizes the highest start comes first.

    That is the order in which `mig.codes.layout_of_code` creates them.
    """
    left = sorted(instances, key=lambda instance: -instance.placement.start)
    ordered: list[GpuInstance] = []
    for size in CODES[code]:
        chosen = next(instance for instance in left if instance.profile.size == size)
        left.remove(chosen)
        ordered.append(chosen)
    return tuple(ordered)


async def walk_codes(
    gpu: ManagedGpu, codes: Sequence[int], *, done: Callable[[int], None] = lambda _code: None
) -> Walk:
    """Cut a free GPU by each code in turn, note the UUIDs, and cut it as it was before, whatever happens.

    Instances that were there before come back with new ids, and maybe new UUIDs.

    Args:
        gpu: The GPU, with the lock held.
        codes: Which codes.
        done: Called after each.

    Raises:
        DeviceBusyError, ForeignInstanceError: The GPU is not free; nothing was changed.
        PartitionRejectedError: The board has no codes; nothing was changed.
        MigError: A change failed; the GPU is cut as before unless the message of the last error says otherwise.
    """
    layouts = {code: Partition(placed=layout_of_code(gpu.model, code)) for code in codes}
    before = await require_free(gpu)
    found: dict[int, tuple[GpuInstance, ...]] = {}
    seen = _Sightings()
    try:
        for code, layout in layouts.items():
            report = await apply_managed(gpu, layout)
            report.raise_if_failed()
            found[code] = in_code_order(code, report.instances or ())
            seen.see(found[code], report.plan.keep)
            done(code)
    finally:
        (await apply_managed(gpu, before)).raise_if_failed()
    return Walk(gpu=gpu.index, uuid=gpu.uuid, board=gpu.model.name, codes=found, repeatable=seen.repeatable)


def original_table(host: str, walks: Iterable[Walk]) -> dict[str, Any]:
    """Arrange walks as the original's table: host -> GPU -> code -> UUIDs in the order of the code's slices."""
    return {
        host: {
            str(walk.gpu): {
                str(code): [instance.uuid for instance in instances] for code, instances in walk.codes.items()
            }
            for walk in walks
        }
    }


def full_table(host: str, walks: Iterable[Walk]) -> dict[str, Any]:
    """Arrange walks with profile, placement and ids of every slice, and the UUID of every GPU."""
    return {
        "host": host,
        "gpus": [
            {
                "index": walk.gpu,
                "uuid": walk.uuid,
                "board": walk.board,
                "repeatable": walk.repeatable,
                "codes": {str(code): [_slice(each) for each in each_code] for code, each_code in walk.codes.items()},
            }
            for walk in walks
        ],
    }


def _slice(instance: GpuInstance) -> dict[str, Any]:
    return {
        "size": instance.profile.size,
        "profile": instance.profile.name,
        "start": instance.placement.start,
        "memory_slices": instance.placement.size,
        "instance_id": instance.id,
        "uuid": instance.uuid,
    }


async def require_free(gpu: ManagedGpu) -> Partition:
    """Read the layout that a GPU has; refuse if somebody else has a part in it, or a process uses it.

    Raises:
        DeviceBusyError, ForeignInstanceError: It is not free.
        MigError: The mode is not on, or the GPU or its record cannot be read.
    """
    (await gpu.mode()).require_enabled(gpu.index)
    living = await gpu.reconcile()
    foreign = gpu.record.foreign(living)
    if foreign:
        raise ForeignInstanceError(
            f"GPU {gpu.index}: instances {', '.join(map(str, foreign))} were not created by this manager: "
            "expected a free GPU",
            instance_ids=[instance.id for instance in foreign],
            hint="Walking the codes destroys everything on the GPU; remove them first, or leave this GPU out.",
        )
    for instance in living:
        holders = await gpu.holders(instance.id)
        if holders:
            raise DeviceBusyError(
                f"GPU {gpu.index}: instance {instance} is in use by process {', '.join(map(str, holders))}: "
                "expected a free GPU",
                holders=holders,
                hint="Walking the codes destroys everything on the GPU; end the processes first.",
            )
    return Partition(placed=tuple(instance.placed for instance in living if instance.is_whole))
