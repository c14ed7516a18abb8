"""The energy counter of a real GPU, through the GPU port; MIG instances have none of their own."""

from __future__ import annotations

from mig.device import Gpu
from mig.errors import MigError


class NvmlMeter:
    """Reads the parent GPU's total energy counter."""

    source = "nvml"

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    async def read_j(self) -> float | None:
        """Return joules since the driver was loaded; None if there is no counter or it did not answer."""
        try:
            counter_mj = await self._gpu.energy_mj()
        except MigError:
            return None
        return None if counter_mj is None else counter_mj / 1e3
