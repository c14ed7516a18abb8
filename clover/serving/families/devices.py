"""The device of a worker; imports torch: workers only."""

from __future__ import annotations

import torch

from clover.serving.port import ServingError

#: What a driver reports may be off a table's figure by this part.
_TOLERANCE = 0.05


def device() -> torch.device:
    """Return the CUDA device that this process sees, or the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def checked_cuda_device(memory_mib: int) -> str:
    """Return the name of the one CUDA device.

    Raises:
        ServingError: There is none, there are several, or it has not the memory that the plan says.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count != 1:
        raise ServingError(
            f"this instance sees {count} CUDA devices, expected its own and no other",
            hint="is torch a CUDA build, and does the MIG device still exist? (nvidia-smi -L)",
        )
    properties = torch.cuda.get_device_properties(0)
    found_mib = properties.total_memory / 2**20
    if memory_mib and abs(found_mib - memory_mib) > _TOLERANCE * memory_mib:
        raise ServingError(f"{properties.name} has {found_mib:.0f} MiB, but the plan says {memory_mib} MiB")
    return str(properties.name)
