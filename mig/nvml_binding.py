"""A typed face of NVIDIA's own `pynvml`, and the only module that imports it. Every call blocks.

Each method is one function of the driver's library (or its older form where the driver lacks the newer one) and raises
`NvmlFailure` with the driver's return code. What a code means to the caller is decided in `mig.nvml_errors`.
"""

from __future__ import annotations

from ctypes import byref, c_uint
from typing import Any, Final

import pynvml  # pyright: ignore[reportMissingTypeStubs] - it has none

from mig.nvml_values import (
    Attributes,
    Code,
    ComputeHandle,
    DeviceHandle,
    GpuHandle,
    InstanceHandle,
    InstanceInfo,
    NvmlFailure,
    ProfileInfo,
)

_nvml: Any = pynvml

#: Enumerators of profiles whose meaning is known here, from 0; drivers may know more.
KNOWN_ENUMERATORS: Final[int] = pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT

# Two compute profiles of the usual slice counts that are not the plain ones (mig/nvml.h: 1_SLICE_REV1, 7_SLICE_NVL).
_SPECIAL_COMPUTE_PROFILES = {pynvml.NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE_REV1, 0x8}

# More than any board has; lists are read into arrays of this length.
_MOST = 64

# From Hopper on a change of mode needs no reset (NVML_DEVICE_ARCH_HOPPER is 9, unknown is all ones).
_RESETLESS_ARCHITECTURES = range(9, 1 << 16)


_TOO_OLD = {Code.FUNCTION_NOT_FOUND, Code.ARGUMENT_VERSION_MISMATCH}


class Nvml:
    """The library of this process; see the module."""

    # --- session and GPUs

    def init(self) -> None:
        """Load the library and begin a session."""
        _call("nvmlInit")

    def shutdown(self) -> None:
        """End the session."""
        _call("nvmlShutdown")

    def driver_version(self) -> str:
        """Version of the driver, such as "580.65.06"."""
        return str(_call("nvmlSystemGetDriverVersion"))

    def count(self) -> int:
        """Count the GPUs that this process may see."""
        return int(_call("nvmlDeviceGetCount"))

    def gpu(self, index: int) -> GpuHandle:
        """Handle of the index-th GPU."""
        return GpuHandle(_call("nvmlDeviceGetHandleByIndex", index))

    def gpu_by_uuid(self, uuid: str) -> GpuHandle:
        """Handle of a GPU by its name."""
        return GpuHandle(_call("nvmlDeviceGetHandleByUUID", uuid))

    def name(self, gpu: GpuHandle) -> str:
        """What the board calls itself."""
        return str(_call("nvmlDeviceGetName", gpu))

    def uuid(self, device: GpuHandle | DeviceHandle) -> str:
        """Name of a GPU or of a MIG device."""
        return str(_call("nvmlDeviceGetUUID", device))

    def minor(self, gpu: GpuHandle) -> int:
        """Number of the GPU's device node, /dev/nvidiaN."""
        return int(_call("nvmlDeviceGetMinorNumber", gpu))

    def resets_for_mode(self, gpu: GpuHandle) -> bool:
        """Whether a change of MIG mode resets the board; assumed of boards whose driver cannot tell what they are."""
        try:
            return int(_call("nvmlDeviceGetArchitecture", gpu)) not in _RESETLESS_ARCHITECTURES
        except NvmlFailure as failure:
            if failure.code in _TOO_OLD | {Code.NOT_SUPPORTED}:
                return True
            raise

    def energy_mj(self, gpu: GpuHandle) -> int:
        """Energy counter of the whole GPU: mJ since the driver was loaded."""
        return int(_call("nvmlDeviceGetTotalEnergyConsumption", gpu))

    def processes(self, device: GpuHandle | DeviceHandle) -> tuple[int, ...]:
        """Ids of the processes with a compute context on a GPU or a MIG device."""
        try:
            found: Any = _call("nvmlDeviceGetComputeRunningProcesses_v3", device)
        except NvmlFailure as failure:
            if failure.code not in _TOO_OLD:
                raise
            found = _call("nvmlDeviceGetComputeRunningProcesses_v2", device)
        return tuple(sorted({int(process.pid) for process in found}))

    # --- mode

    def mode(self, gpu: GpuHandle) -> tuple[bool, bool]:
        """Whether MIG mode is on, and whether it will be after the next reset."""
        current, pending = _call("nvmlDeviceGetMigMode", gpu)
        return bool(current), bool(pending)

    def set_mode(self, gpu: GpuHandle, *, enabled: bool) -> int:
        """Ask for a mode; returns the code of its activation, which the library does not raise."""
        return int(_call("nvmlDeviceSetMigMode", gpu, int(enabled)))

    # --- tables

    def profile_info(self, gpu: GpuHandle, enumerator: int) -> ProfileInfo:
        """Describe a kind of GPU instance by its enumerator, which is not its id."""
        info: Any = _newest("nvmlDeviceGetGpuInstanceProfileInfo", gpu, enumerator)
        return ProfileInfo(
            enumerator=enumerator,
            id=info.id,
            name=_text(getattr(info, "name", "")),
            compute_slices=info.sliceCount,
            multiprocessors=info.multiprocessorCount,
            max_count=info.instanceCount,
            memory_mib=info.memorySizeMB,
        )

    def placements(self, gpu: GpuHandle, profile_id: int) -> tuple[tuple[int, int], ...]:
        """Starts and sizes at which a profile may lie on an empty board."""
        count = c_uint(_MOST)
        array = (_nvml.c_nvmlGpuInstancePlacement_t * _MOST)()
        try:
            _call("nvmlDeviceGetGpuInstancePossiblePlacements", gpu, profile_id, array, byref(count))
        except NvmlFailure as failure:
            if failure.code not in _TOO_OLD:
                raise
            count = c_uint(_MOST)
            _first_version("nvmlDeviceGetGpuInstancePossiblePlacements", gpu, profile_id, array, byref(count))
        return tuple((placement.start, placement.size) for placement in array[: count.value])

    def compute_profiles(self, instance: InstanceHandle) -> tuple[tuple[int, int], ...]:
        """Ids and slices of the compute profiles that an instance offers, the plain ones first."""
        found: dict[int, tuple[int, int]] = {}
        for enumerator in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
            shared = pynvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
            try:
                info: Any = _newest("nvmlGpuInstanceGetComputeInstanceProfileInfo", instance, enumerator, shared)
            except NvmlFailure as failure:
                if failure.code not in {Code.NOT_SUPPORTED, Code.INVALID_ARGUMENT}:
                    raise
                continue
            found[enumerator] = (info.id, info.sliceCount)
        plain_first = sorted(found, key=lambda enumerator: (enumerator in _SPECIAL_COMPUTE_PROFILES, enumerator))
        return tuple(found[enumerator] for enumerator in plain_first)

    # --- instances

    def instances(self, gpu: GpuHandle, profile_id: int) -> tuple[InstanceHandle, ...]:
        """Handles of the living GPU instances of a profile."""
        count = c_uint(_MOST)
        array = (_nvml.c_nvmlGpuInstance_t * _MOST)()
        _call("nvmlDeviceGetGpuInstances", gpu, profile_id, array, byref(count))
        return tuple(InstanceHandle(handle) for handle in array[: count.value])

    def instance(self, gpu: GpuHandle, instance_id: int) -> InstanceHandle:
        """Handle of a GPU instance by its number; raises NOT_FOUND if there is none."""
        return InstanceHandle(_call("nvmlDeviceGetGpuInstanceById", gpu, instance_id))

    def instance_info(self, instance: InstanceHandle) -> InstanceInfo:
        """What a GPU instance is and where."""
        info: Any = _call("nvmlGpuInstanceGetInfo", instance)
        return InstanceInfo(info.id, info.profileId, info.placement.start, info.placement.size)

    def create_instance(self, gpu: GpuHandle, profile_id: int, start: int, size: int) -> InstanceHandle:
        """Create a GPU instance at a place."""
        placement = _nvml.c_nvmlGpuInstancePlacement_t(start, size)
        return InstanceHandle(_call("nvmlDeviceCreateGpuInstanceWithPlacement", gpu, profile_id, byref(placement)))

    def destroy_instance(self, instance: InstanceHandle) -> None:
        """Destroy a GPU instance without compute instances."""
        _call("nvmlGpuInstanceDestroy", instance)

    def compute_instances(self, instance: InstanceHandle, profile_id: int) -> tuple[ComputeHandle, ...]:
        """Handles of the compute instances of a profile in a GPU instance."""
        count = c_uint(_MOST)
        array = (_nvml.c_nvmlComputeInstance_t * _MOST)()
        _call("nvmlGpuInstanceGetComputeInstances", instance, profile_id, array, byref(count))
        return tuple(ComputeHandle(handle) for handle in array[: count.value])

    def create_compute(self, instance: InstanceHandle, profile_id: int) -> ComputeHandle:
        """Create a compute instance in a GPU instance."""
        return ComputeHandle(_call("nvmlGpuInstanceCreateComputeInstance", instance, profile_id))

    def destroy_compute(self, compute: ComputeHandle) -> None:
        """Destroy a compute instance."""
        _call("nvmlComputeInstanceDestroy", compute)

    def compute_device(self, compute: ComputeHandle) -> DeviceHandle:
        """MIG device that a compute instance is."""
        try:
            info: Any = _call("nvmlComputeInstanceGetInfo_v2", compute)
        except NvmlFailure as failure:
            if failure.code not in _TOO_OLD:
                raise
            # The older structure is the beginning of the newer one.
            info = _nvml.c_nvmlComputeInstanceInfo_t()
            _first_version("nvmlComputeInstanceGetInfo", compute, byref(info))
        return DeviceHandle(info.device)

    # --- MIG devices, for every user

    def device_slots(self, gpu: GpuHandle) -> int:
        """How many MIG devices there can be at most; 0 if MIG mode is off."""
        return int(_call("nvmlDeviceGetMaxMigDeviceCount", gpu))

    def device(self, gpu: GpuHandle, slot: int) -> DeviceHandle:
        """MIG device in a slot; raises NOT_FOUND for a hole, which is not the end."""
        return DeviceHandle(_call("nvmlDeviceGetMigDeviceHandleByIndex", gpu, slot))

    def gpu_instance_id(self, device: DeviceHandle) -> int:
        """Number of the GPU instance that a MIG device belongs to."""
        return int(_call("nvmlDeviceGetGpuInstanceId", device))

    def compute_instance_id(self, device: DeviceHandle) -> int:
        """Number of the compute instance that a MIG device is."""
        return int(_call("nvmlDeviceGetComputeInstanceId", device))

    def attributes(self, device: DeviceHandle) -> Attributes:
        """What a MIG device has."""
        info: Any = _call("nvmlDeviceGetAttributes", device)
        return Attributes(info.gpuInstanceSliceCount, info.computeInstanceSliceCount, info.memorySizeMB)


def _call(name: str, *arguments: object) -> Any:
    try:
        return getattr(_nvml, name)(*arguments)
    except _nvml.NVMLError as error:
        raise NvmlFailure(name, int(error.value), _text(str(error))) from error


def _newest(name: str, *arguments: object) -> Any:
    """Call a function with its newer structure, which has a name, or with the older one."""
    try:
        return _call(name, *arguments)
    except NvmlFailure as failure:
        if failure.code not in _TOO_OLD:
            raise
    try:
        return getattr(_nvml, name)(*arguments, version=1)
    except _nvml.NVMLError as error:
        raise NvmlFailure(name, int(error.value), _text(str(error))) from error


def _first_version(name: str, *arguments: object) -> None:
    """Call a function of the library that `pynvml` knows in its second version only."""
    function = getattr(_nvml.nvmlLib, name, None)
    code = Code.FUNCTION_NOT_FOUND if function is None else int(function(*arguments))
    if code:
        raise NvmlFailure(name, code, "first version")


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
