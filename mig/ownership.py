"""Which instances of a GPU were created here: a record that is kept beside the GPU, as values. Pure.

A driver does not say who created an instance, and ids and UUIDs are given again. So each creation is noted before it
is asked for and again when it is done; after a crash, what lives is compared with the note. An instance is ours only
if id, profile, start and UUID are the recorded ones, or if it is the very one whose creation was under way. All others
are foreign. Instances do not survive a reboot, so neither does a record (it names the boot).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mig.device import GpuInstance
from mig.partition import Partition
from mig.placement import PlacedProfile, place
from mig.profiles import GpuModel


class PlacedName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A profile name and a start, as recorded; see `PlacedProfile`."""

    profile: str
    start: int


class RecordedInstance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An instance that was created here. `uuid` is empty while it is without a compute instance."""

    id: int
    profile: str
    start: int
    uuid: str


class Interrupted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An apply under way; found in a record when nobody holds the lock, it was broken off.

    Attributes:
        before: What the GPU was cut into when it began: where a roll-back leads.
        wanted: Where it was to lead.
    """

    before: tuple[PlacedName, ...]
    wanted: tuple[PlacedName, ...]


class GpuRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known about one GPU beyond what its driver says.

    Attributes:
        gpu_uuid: Which GPU.
        boot_id: During which boot of the host; of another one nothing is left.
        ours: Instances created here.
        creating: What was asked for last, if it is not known whether it came to be, with the ids that lived before.
        creating_beside: Those ids.
        apply: The apply under way.
        version: Of this form.
    """

    gpu_uuid: str
    boot_id: str
    ours: tuple[RecordedInstance, ...] = ()
    creating: PlacedName | None = None
    creating_beside: tuple[int, ...] = ()
    apply: Interrupted | None = None
    version: int = 1

    def owns(self, instance: GpuInstance) -> bool:
        """Whether an instance that lives now was created here."""
        return _recorded(instance) in self.ours or self._was_under_way(instance) or self._lost_its_device(instance)

    def foreign(self, instances: Iterable[GpuInstance]) -> tuple[GpuInstance, ...]:
        """Those that were not created here."""
        return tuple(instance for instance in instances if not self.owns(instance))

    def begin_create(self, placed: PlacedProfile, beside: Iterable[GpuInstance]) -> GpuRecord:
        """Note that an instance is about to be created beside those that live."""
        ids = tuple(instance.id for instance in beside)
        return msgspec.structs.replace(self, creating=named(placed), creating_beside=ids)

    def reconcile(self, instances: Iterable[GpuInstance]) -> GpuRecord:
        """Bring the record in line with what lives: the settled truth, with no creation in doubt."""
        ours = tuple(_recorded(instance) for instance in instances if self.owns(instance))
        return msgspec.structs.replace(self, ours=ours, creating=None, creating_beside=())

    def adopt(self, instances: Iterable[GpuInstance]) -> GpuRecord:
        """Count instances as ours from now on."""
        more = tuple(_recorded(instance) for instance in instances if not self.owns(instance))
        return msgspec.structs.replace(self, ours=self.ours + more)

    def begin_apply(self, before: Partition, wanted: Partition) -> GpuRecord:
        """Note that an apply begins; one that was broken off before keeps its own `before`."""
        start = self.apply.before if self.apply is not None else _names(before)
        return msgspec.structs.replace(self, apply=Interrupted(before=start, wanted=_names(wanted)))

    def end_apply(self) -> GpuRecord:
        """Note that an apply came to an end that is known."""
        return msgspec.structs.replace(self, apply=None)

    def _was_under_way(self, instance: GpuInstance) -> bool:
        return named(instance) == self.creating and instance.id not in self.creating_beside

    def _lost_its_device(self, instance: GpuInstance) -> bool:
        # A destroy that was broken off between its two steps leaves an instance that is ours and has no UUID.
        shape = (instance.id, instance.profile.name, instance.placement.start)
        return not instance.is_whole and any((each.id, each.profile, each.start) == shape for each in self.ours)


def named(placed: PlacedProfile | GpuInstance) -> PlacedName:
    """Write down what and where."""
    return PlacedName(profile=placed.profile.name, start=placed.placement.start)


def layout(model: GpuModel, names: Iterable[PlacedName]) -> Partition:
    """Read a layout that was written down.

    Raises:
        PartitionRejectedError: The board has no such profile.
        ValueError: It never was one of this board.
    """
    return Partition(placed=tuple(place(model.profile(each.profile), each.start) for each in names))


def _names(partition: Partition) -> tuple[PlacedName, ...]:
    return tuple(named(each) for each in partition.placed)


def _recorded(instance: GpuInstance) -> RecordedInstance:
    return RecordedInstance(
        id=instance.id, profile=instance.profile.name, start=instance.placement.start, uuid=instance.uuid
    )
