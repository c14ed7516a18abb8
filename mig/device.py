"""The port through which a GPU that is cut into instances is read and changed.

Methods are coroutines because a real driver blocks for up to seconds (the calls run in a thread) and because
the simulated twin must wait in virtual time. Nothing here decides anything; planning is in `mig.change`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mig.placement import PlacedProfile

if TYPE_CHECKING:
    from mig.placement import Placement
    from mig.profiles import GpuModel, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuInstance:
    """A living GPU instance with the one compute instance that fills it.

    Attributes:
        id: Number on its GPU; any free one, not derived from the place, and given again after a destroy.
        profile: Its kind.
        placement: Its memory slices.
        uuid: Name for CUDA_VISIBLE_DEVICES ("MIG-..."). Read it back after each creation and never keep it
            across a destroy: it may change when the same is created again, or come to name another size.
    """

    id: int
    profile: Profile
    placement: Placement
    uuid: str

    @property
    def placed(self) -> PlacedProfile:
        """What it is and where, regardless of its id."""
        return PlacedProfile(profile=self.profile, placement=self.placement)


class Gpu(Protocol):
    """One GPU in MIG mode. Operations on the same GPU never run at the same time."""

    @property
    def index(self) -> int:
        """Number of the GPU on its host, from 0."""
        ...

    @property
    def uuid(self) -> str:
        """Name of the whole GPU ("GPU-...")."""
        ...

    @property
    def model(self) -> GpuModel:
        """Its board: the driver's own table where there is a driver."""
        ...

    async def instances(self) -> tuple[GpuInstance, ...]:
        """Read the living instances, ordered by start."""
        ...

    async def create(self, profile: Profile, placement: Placement) -> GpuInstance:
        """Create an instance at an explicit place and return it as read back.

        On cancellation it exists or it does not, never half; read `instances` to know.

        Raises:
            PartitionRejectedError: The slices are taken, the profile is used up, or it cannot start there.
        """
        ...

    async def destroy(self, instance_id: int) -> None:
        """Destroy an instance; one that is gone already counts as done, so this can be repeated.

        On cancellation it exists or it does not, never half; read `instances` to know.

        Raises:
            DeviceBusyError: A process still uses it; nothing was changed.
        """
        ...

    async def energy_mj(self) -> int | None:
        """Read the energy counter of the whole GPU: mJ since the driver was loaded; None if it has none.

        There is no counter per instance, and a sum of what instances report counts the GPU many times.
        """
        ...
