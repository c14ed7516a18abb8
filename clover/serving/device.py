"""Where a worker computes: on the MIG device it was started for, checked to be the right one, or else on the CPU.

A MIG UUID may come to name a device of another size, so what CUDA shows is compared with the profile before anything is
loaded onto it. A worker that finds no CUDA goes on with the CPU and says so; nothing takes its figures for a GPU's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from clover.serving.framing import Start
from clover.serving.port import ServingError

#: CUDA shows less memory than the profile names, by what the driver keeps; a neighbouring profile differs by half.
MEMORY_TOLERANCE: Final = 0.15


class DeviceProperties(Protocol):
    """The part of CUDA's description of a device that is compared."""

    @property
    def name(self) -> str:
        """What it calls itself."""
        ...

    @property
    def total_memory(self) -> int:
        """Bytes."""
        ...

    @property
    def multi_processor_count(self) -> int:
        """Streaming multiprocessors."""
        ...


class Cuda(Protocol):
    """The part of `torch.cuda` that is used."""

    def is_available(self) -> bool:
        """Whether there is a device."""
        ...

    def get_device_properties(self, device: int) -> DeviceProperties:
        """Describe a device."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a worker computes.

    Attributes:
        device: As torch names it: "cuda" or "cpu".
        fallback: Why it is the CPU although a MIG device was meant; empty otherwise.
        name: What the device calls itself.
    """

    device: str
    fallback: str = ""
    name: str = "cpu"


def choose_place(start: Start, cuda: Cuda, *, build: str) -> Place:
    """Choose where to compute; `CUDA_VISIBLE_DEVICES` names the one device that CUDA may show.

    Args:
        start: What was asked for.
        cuda: `torch.cuda`.
        build: Version and build of torch, for the message.

    Raises:
        ServingError: The device is not of the size that it was asked for.
    """
    if not start.device:
        return Place(device="cpu")
    if not cuda.is_available():
        return Place(device="cpu", fallback=f"torch {build} finds no CUDA device {start.device}")
    found = cuda.get_device_properties(0)
    mib = found.total_memory / 2**20
    if abs(mib - start.memory_mib) > MEMORY_TOLERANCE * start.memory_mib:
        raise _wrong(start, f"{mib:.0f} MiB", f"{start.memory_mib} MiB")
    if found.multi_processor_count != start.multiprocessors:
        raise _wrong(start, f"{found.multi_processor_count} multiprocessors", f"{start.multiprocessors}")
    return Place(device="cuda", name=found.name)


def _wrong(start: Start, found: str, expected: str) -> ServingError:
    return ServingError(
        f"device {start.device} has {found}: expected {expected}",
        hint="Something else changed the GPU: `clover mig status` shows what lives on it.",
    )
