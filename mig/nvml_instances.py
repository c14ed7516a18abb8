"""Reads, creates and destroys the instances of one GPU through its driver. Blocks; runs in the owner thread.

A compute instance over the whole GPU instance is made with it and goes before it; whatever was made halfway is taken
away again. Source of the order of calls and of what their failures mean: nvml.h and the MIG User Guide of NVIDIA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mig.device import GpuInstance, MigDevice
from mig.errors import (
    DeviceBusyError,
    DriverError,
    InsufficientResourcesError,
    MigError,
    PartitionRejectedError,
    Shortage,
)
from mig.nvml_binding import Nvml
from mig.nvml_discovery import BoardTable, profile_of
from mig.nvml_errors import translate
from mig.nvml_values import GONE, Code, ComputeHandle, DeviceHandle, GpuHandle, InstanceHandle, NvmlFailure
from mig.placement import Placement, misplaced, shortage, unfit
from mig.profiles import GpuModel, Profile


@dataclass(slots=True, kw_only=True)
class Board:
    """One GPU in the hands of the owner thread.

    Attributes:
        nvml: The library.
        gpu: Handle of the GPU; another one after a change of mode.
        index: Number of the GPU, for messages.
        table: What the driver offers on it.
    """

    nvml: Nvml
    gpu: GpuHandle
    index: int
    table: BoardTable
    _compute_profiles: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=lambda: {})  # noqa: PIE807 - typed

    @property
    def model(self) -> GpuModel:
        """Its table, or raise why there is none."""
        if isinstance(self.table.model, MigError):
            raise self.table.model
        return self.table.model

    # --- reading

    def instances(self) -> tuple[GpuInstance, ...]:
        """Read the living instances, ordered by start."""
        try:
            return self._read()
        except NvmlFailure as failure:
            # One that goes while it is being read takes its handle along; the next look does not find it.
            if failure.code not in GONE:
                raise self._named(failure, "reading its instances") from failure
        try:
            return self._read()
        except NvmlFailure as failure:
            raise self._named(failure, "reading its instances") from failure

    def devices(self) -> tuple[MigDevice, ...]:
        """Read the MIG devices as every user may."""
        try:
            found = [self._device(handle) for handle in self._slots()]
        except NvmlFailure as failure:
            raise self._named(failure, "reading its MIG devices") from failure
        return tuple(sorted(found, key=lambda each: (each.gpu_instance_id, each.compute_instance_id)))

    def processes(self, instance_id: int) -> frozenset[int]:
        """Ids of the processes with a compute context on an instance, as far as the driver tells."""
        try:
            handles = [each for each in self._slots() if self.nvml.gpu_instance_id(each) == instance_id]
            return frozenset(pid for handle in handles for pid in self.nvml.processes(handle))
        except NvmlFailure as failure:
            raise self._named(failure, f"reading who uses instance {instance_id}") from failure

    def _read(self) -> tuple[GpuInstance, ...]:
        living = [self._instance(handle) for kind in self.table.kinds for handle in self.nvml.instances(self.gpu, kind)]
        return tuple(sorted(living, key=lambda instance: (instance.placement.start, instance.id)))

    def _instance(self, handle: InstanceHandle) -> GpuInstance:
        info = self.nvml.instance_info(handle)
        return GpuInstance(
            id=info.id,
            profile=self._profile(info.profile_id, info.start, info.size),
            placement=Placement(start=info.start, size=info.size),
            uuid=self._uuid(handle, info.profile_id),
        )

    def _profile(self, profile_id: int, start: int, size: int) -> Profile:
        known = self.table.model.profiles if isinstance(self.table.model, GpuModel) else ()
        for profile in known:
            if profile.nvml_id == profile_id and start in profile.starts and size == profile.memory_slices:
                return profile
        return profile_of(self.table.kinds[profile_id], start, size)

    def _uuid(self, handle: InstanceHandle, profile_id: int) -> str:
        """Name of the compute instance that fills a GPU instance; empty if there is none or another."""
        compute = self._compute_instances(handle, profile_id)
        if [slices for _, slices in compute] != [self.table.kinds[profile_id].compute_slices]:
            return ""
        return self.nvml.uuid(self.nvml.compute_device(compute[0][0]))

    def _compute_instances(self, handle: InstanceHandle, profile_id: int) -> list[tuple[ComputeHandle, int]]:
        every = self._profiles_in(handle, profile_id)
        return [(compute, slices) for each, slices in every for compute in self.nvml.compute_instances(handle, each)]

    def _profiles_in(self, handle: InstanceHandle, profile_id: int) -> tuple[tuple[int, int], ...]:
        # The compute profiles of a kind of instance do not change, and asking for them takes nine calls.
        if profile_id not in self._compute_profiles:
            self._compute_profiles[profile_id] = self.nvml.compute_profiles(handle)
        return self._compute_profiles[profile_id]

    def _slots(self) -> Iterator[DeviceHandle]:
        for slot in range(self.nvml.device_slots(self.gpu)):
            try:
                yield self.nvml.device(self.gpu, slot)
            except NvmlFailure as failure:
                if failure.code not in GONE:
                    raise

    def _device(self, handle: DeviceHandle) -> MigDevice:
        attributes = self.nvml.attributes(handle)
        return MigDevice(
            uuid=self.nvml.uuid(handle),
            gpu_instance_id=self.nvml.gpu_instance_id(handle),
            compute_instance_id=self.nvml.compute_instance_id(handle),
            compute_slices=attributes.compute_instance_slices,
            memory_mib=attributes.memory_mib,
        )

    # --- creating

    def create(self, profile: Profile, placement: Placement) -> GpuInstance:
        """Create an instance with its compute instance and return it as read back; nothing is left if that fails."""
        doing = f"creating {profile.name} at {placement}"
        if profile not in self.model.profiles:
            raise PartitionRejectedError(
                f"GPU {self.index}: profile {profile.name} (id {profile.nvml_id}): expected one of {self.model.name}"
            )
        wrong = misplaced(profile, placement)
        if wrong:
            raise PartitionRejectedError(f"GPU {self.index}: {wrong}")
        try:
            handle = self.nvml.create_instance(self.gpu, profile.nvml_id, placement.start, placement.size)
        except NvmlFailure as failure:
            if failure.code == Code.INSUFFICIENT_RESOURCES:
                raise self._no_room(profile, placement) from failure
            raise self._named(failure, doing) from failure
        try:
            return self._fill(handle, profile, placement)
        except (NvmlFailure, DriverError) as error:
            named = self._named(error, doing) if isinstance(error, NvmlFailure) else error
            self._take_away(handle, named)
            raise named from error

    def _fill(self, handle: InstanceHandle, profile: Profile, placement: Placement) -> GpuInstance:
        self._create_compute(handle, profile.nvml_id, profile.compute_slices)
        created = self._instance(handle)
        if (created.profile, created.placement) != (profile, placement) or not created.is_whole:
            raise DriverError(
                f"GPU {self.index}: the driver made {created.profile.name} at {created.placement}: "
                f"expected {profile.name} at {placement} with one compute instance"
            )
        return created

    def _create_compute(self, handle: InstanceHandle, profile_id: int, compute_slices: int) -> None:
        """Create the compute instance that fills a GPU instance; the plain one where several have its slices."""
        every = [each for each, slices in self._profiles_in(handle, profile_id) if slices == compute_slices]
        if not every:
            raise DriverError(
                f"GPU {self.index}: no compute profile has {compute_slices} slices: expected one that fills it"
            )
        self.nvml.create_compute(handle, every[0])

    def _take_away(self, handle: InstanceHandle, error: MigError) -> None:
        try:
            for compute, _ in self._compute_instances(handle, self.nvml.instance_info(handle).profile_id):
                self.nvml.destroy_compute(compute)
            self.nvml.destroy_instance(handle)
        except NvmlFailure as failure:
            error.hint = f"It was left half made ({failure}); the next apply takes it away. {error.hint}".strip()

    def _no_room(self, profile: Profile, placement: Placement) -> InsufficientResourcesError:
        placed = [each.placed for each in self.instances()]
        why: Shortage = shortage(profile, placement, placed) or "unexplained"
        reason = unfit(profile, placement, placed) or (
            f"by the table {profile.name} fits at {placement}, and yet the driver refuses: expected it to be made"
        )
        return InsufficientResourcesError(
            f"GPU {self.index}: insufficient resources ({why.replace('_', ' ')}): {reason}",
            shortage=why,
            hint="Read the instances again and plan the change from what is there.",
        )

    # --- destroying

    def destroy(self, instance_id: int) -> None:
        """Destroy an instance, its compute instances first; what is gone already is done. Asks once."""
        doing = f"destroying instance {instance_id}"
        try:
            handle = self._handle(instance_id)
            if handle is None:
                return
            for compute in self._compute_of(handle):
                _unless_gone(lambda compute=compute: self.nvml.destroy_compute(compute))
            _unless_gone(lambda: self.nvml.destroy_instance(handle))
            remnant = self._handle(instance_id) is not None
        except NvmlFailure as failure:
            if failure.code == Code.IN_USE:
                raise DeviceBusyError(
                    f"GPU {self.index}: instance {instance_id} is in use by a process: expected none",
                    hint="End the process that uses it, then try again.",
                ) from failure
            raise self._named(failure, doing) from failure
        if remnant:
            raise DriverError(
                f"GPU {self.index}: {doing}: the driver reports success and still lists it: expected it gone"
            )

    def refill(self, instance_id: int) -> None:
        """Give an instance that could be destroyed only halfway its compute instance back, if it has none."""
        try:
            handle = self._handle(instance_id)
            if handle is not None and not self._compute_of(handle):
                profile_id = self.nvml.instance_info(handle).profile_id
                self._create_compute(handle, profile_id, self.table.kinds[profile_id].compute_slices)
        except NvmlFailure as failure:
            raise self._named(failure, f"restoring instance {instance_id}") from failure

    def _handle(self, instance_id: int) -> InstanceHandle | None:
        try:
            return self.nvml.instance(self.gpu, instance_id)
        except NvmlFailure as failure:
            if failure.code == Code.NOT_FOUND:
                return None
            raise

    def _compute_of(self, handle: InstanceHandle) -> list[ComputeHandle]:
        profile_id = self.nvml.instance_info(handle).profile_id
        return [compute for compute, _ in self._compute_instances(handle, profile_id)]

    def _named(self, failure: NvmlFailure, doing: str) -> MigError:
        return translate(failure, f"GPU {self.index}: {doing}")


def _unless_gone(call: Callable[[], None]) -> None:
    try:
        call()
    except NvmlFailure as failure:
        if failure.code != Code.NOT_FOUND:
            raise
