"""The port of energy meters: a number that only grows, or `None` where it cannot be told."""

from __future__ import annotations

from typing import Protocol


class GpuMeter(Protocol):
    """The energy counter of a whole GPU; there is none per instance."""

    @property
    def source(self) -> str:
        """What every figure is labelled with, such as `nvml`."""
        ...

    async def read_j(self) -> float | None:
        """Return the counter in joules since some fixed moment; None if it did not answer (unknown, not zero)."""
        ...


class HostMeter(Protocol):
    """What the host uses, which is a total of its own and never part of a GPU's."""

    @property
    def source(self) -> str:
        """What every figure is labelled with, such as `rapl` or `estimate:cpu`."""
        ...

    def read_j(self) -> float | None:
        """Return joules since the meter was made; None if it did not answer (unknown, not zero)."""
        ...
