"""What NVIDIA's library returns, as values: handles, codes and descriptions. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NewType

GpuHandle = NewType("GpuHandle", object)
InstanceHandle = NewType("InstanceHandle", object)
ComputeHandle = NewType("ComputeHandle", object)
DeviceHandle = NewType("DeviceHandle", object)


class Code:
    """Return codes of the driver's library that this package tells apart."""

    UNINITIALIZED: Final = 1
    INVALID_ARGUMENT: Final = 2
    NOT_SUPPORTED: Final = 3
    NO_PERMISSION: Final = 4
    NOT_FOUND: Final = 6
    DRIVER_NOT_LOADED: Final = 9
    LIBRARY_NOT_FOUND: Final = 12
    FUNCTION_NOT_FOUND: Final = 13
    GPU_IS_LOST: Final = 15
    RESET_REQUIRED: Final = 16
    LIB_RM_VERSION_MISMATCH: Final = 18
    IN_USE: Final = 19
    INSUFFICIENT_RESOURCES: Final = 23
    ARGUMENT_VERSION_MISMATCH: Final = 25
    GPU_NOT_FOUND: Final = 28


GONE: Final = frozenset({Code.NOT_FOUND, Code.INVALID_ARGUMENT})
"""Codes of a handle or number whose instance is not there any more."""


class NvmlFailure(Exception):  # noqa: N818 - it never leaves the package; there it becomes one of `mig.errors`
    """A function of the library returned something else than success."""

    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(f"{call}: {text} ({code})")
        self.call = call
        self.code = code


@dataclass(frozen=True, slots=True)
class ProfileInfo:
    """A kind of GPU instance as the driver describes it; `name` is empty where the driver is too old to have it."""

    enumerator: int
    id: int
    name: str
    compute_slices: int
    multiprocessors: int
    max_count: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """What a living GPU instance is."""

    id: int
    profile_id: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a MIG device has."""

    gpu_instance_slices: int
    compute_instance_slices: int
    memory_mib: int
