"""The GPU instances of one GPU: creates and destroys them, and counts that."""

from __future__ import annotations

from collections.abc import Iterable

from clover.agents.instance import Instance
from clover.core.transition import LiveInstance
from mig.device import Gpu, GpuInstance
from mig.placement import PlacedProfile


class GpuPartition:
    """What one GPU is cut into."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        #: GPU instances created and destroyed so far.
        self.changes = 0

    async def create(self, wanted: Iterable[tuple[PlacedProfile, str]]) -> list[tuple[GpuInstance, str]]:
        """Create instances, each given with the variant that it is for, and return them with it."""
        fresh: list[tuple[GpuInstance, str]] = []
        for placed, variant in wanted:
            fresh.append((await self._gpu.create(placed.profile, placed.placement), variant))
            self.changes += 1
        return fresh

    async def destroy(self, instance_id: int) -> None:
        """Destroy an instance that nobody uses any more."""
        await self._gpu.destroy(instance_id)
        self.changes += 1

    async def destroy_half_made(self) -> None:
        """Remove what no worker could use: an instance whose destroy was broken off between its two steps."""
        for device in await self._gpu.instances():
            if not device.is_whole:
                await self.destroy(device.id)

    async def live(self, serving: Iterable[Instance]) -> list[LiveInstance]:
        """Return the instances that are there, with their variants where one serves."""
        variants = {i.device.id: i.kind.variant for i in serving if i.phase in {"idle", "busy"}}
        return [
            LiveInstance(
                id=device.id,
                profile=device.profile,
                placement=device.placement,
                variant=variants.get(device.id),
            )
            for device in await self._gpu.instances()
        ]
