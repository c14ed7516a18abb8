"""Memory of a worker: what it takes, what it may take at most, and what running out looks like."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

_MIB: Final = 2**20

#: How the allocators of torch say that there is no more (they raise plain RuntimeErrors on the processor).
_SIGNS: Final = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad alloc")


def limit_memory(memory_mib: int) -> None:
    """Make the kernel refuse this process more private memory than an instance has, where it can (Linux).

    A slice of a CPU has no memory of its own: this stands for the memory of the GPU instance that it emulates.
    """
    if memory_mib <= 0 or not Path("/proc/self/statm").exists():
        return
    import resource  # noqa: PLC0415 - not on every system

    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = memory_mib * _MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def resident_mib() -> float:
    """Return the resident memory of this process, MiB; 0 where it cannot be told."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("VmRSS:"))) / 1024.0
    return 0.0


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, of a CUDA device or of the host."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _SIGNS)
