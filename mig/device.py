"""The port through which a GPU that is cut into instances is read and changed.

Methods are coroutines because a real driver blocks for up to seconds (the calls run in a thread) and because
the simulated twin must wait in virtual time. Nothing here decides anything: `mig.change` plans, `mig.managed`
knows which instances are ours, and `mig.apply` carries a plan out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mig.errors import MigDisabledError, ResetRequiredError
from mig.placement import PlacedProfile

if TYPE_CHECKING:
    from mig.placement import Placement
    from mig.profiles import GpuModel, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class MigMode:
    """Whether a GPU is in MIG mode.

    Attributes:
        current: Whether it is now.
        pending: Whether it will be after its next reset.
    """

    current: bool
    pending: bool

    @property
    def waits_for_reset(self) -> bool:
        """Whether a change of mode is not in force yet."""
        return self.current != self.pending

    def require_enabled(self, index: int) -> None:
        """Pass only if instances can be created and destroyed.

        Raises:
            ResetRequiredError: A change of mode waits for a reset.
            MigDisabledError: The GPU is not in MIG mode.
        """
        if self.waits_for_reset:
            raise ResetRequiredError(
                f"GPU {index}: MIG mode is {_on(self.current)} and becomes {_on(self.pending)} at the next reset: "
                "expected no change of mode under way",
                hint="End every process that uses the GPU, then `nvidia-smi --gpu-reset -i N`, or reboot.",
            )
        if not self.current:
            raise MigDisabledError(
                f"GPU {index}: MIG mode is off: expected on", hint="`clover mig enable` switches it on (as root)."
            )

    def __str__(self) -> str:
        return _on(self.current) + (f" ({_on(self.pending)} after a reset)" if self.waits_for_reset else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that uses a GPU or an instance of it.

    Attributes:
        pid: Its number, in the process-id namespace of the reader.
        command: Its name; empty if it cannot be read.
    """

    pid: int
    command: str = ""

    def __str__(self) -> str:
        return f"{self.pid} ({self.command})" if self.command else str(self.pid)


@dataclass(frozen=True, slots=True, kw_only=True)
class MigDevice:
    """A MIG device as every user may see it: no placement, for that needs a privilege.

    Attributes:
        uuid: Name for CUDA_VISIBLE_DEVICES ("MIG-...").
        gpu_instance_id: Number of its GPU instance on the GPU.
        compute_instance_id: Number of its compute instance in the GPU instance.
        compute_slices: Compute slices of its compute instance.
        memory_mib: Memory of its GPU instance, MiB.
    """

    uuid: str
    gpu_instance_id: int
    compute_instance_id: int
    compute_slices: int
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuInstance:
    """A living GPU instance, usually with the one compute instance that fills it.

    Attributes:
        id: Number on its GPU; any free one, not derived from the place, and given again after a destroy.
        profile: Its kind.
        placement: Its memory slices.
        uuid: Name for CUDA_VISIBLE_DEVICES ("MIG-..."). Read it back after each creation and never keep it
            across a destroy: it may change when the same is created again, or come to name another size.
            Empty if no compute instance fills it: it is half made, or somebody split it.
    """

    id: int
    profile: Profile
    placement: Placement
    uuid: str

    @property
    def placed(self) -> PlacedProfile:
        """What it is and where, regardless of its id."""
        return PlacedProfile(profile=self.profile, placement=self.placement)

    @property
    def is_whole(self) -> bool:
        """Whether one compute instance fills it, so that a process can use all of it."""
        return bool(self.uuid)

    def __str__(self) -> str:
        return f"{self.id} ({self.profile.size}@{self.placement.start})"


class Gpu(Protocol):
    """One GPU. Operations on the same GPU never run at the same time.

    Beside what each method names, all of them raise `DriverError` (or a kind of it: no driver, too old, does not
    answer, GPU lost) when the driver fails, and `PermissionDeniedError` when it refuses this process; methods about
    instances raise `MigDisabledError` or `MigNotSupportedError` where there can be none.
    """

    @property
    def index(self) -> int:
        """Number of the GPU on its host, from 0."""
        ...

    @property
    def uuid(self) -> str:
        """Name of the whole GPU ("GPU-...")."""
        ...

    @property
    def title(self) -> str:
        """What the board calls itself, for people."""
        ...

    @property
    def model(self) -> GpuModel:
        """Its board: the driver's own table where there is a driver.

        Raises:
            MigNotSupportedError: It cannot be partitioned.
            PermissionDeniedError: This process may not read the table, and no bundled one fits the board.
        """
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about it, for people: a sentence each, such as profiles that were left out."""
        ...

    async def mode(self) -> MigMode:
        """Read whether it is in MIG mode.

        Raises:
            MigNotSupportedError: It cannot be.
        """
        ...

    async def set_mode(self, *, enabled: bool, allow_reset: bool = False) -> MigMode:
        """Switch MIG mode and return it as read back, in force; nothing is done if it already is.

        Args:
            enabled: What the mode shall be.
            allow_reset: Go on although the board resets itself for it (Ampere), which ends what runs there.

        Raises:
            ResetRequiredError: It needs a reset and that is not allowed (nothing was changed), or the driver put
                it off to the next reset (the mode is pending).
            DeviceBusyError: Something uses the GPU, or instances are left on it; nothing was changed.
        """
        ...

    async def instances(self) -> tuple[GpuInstance, ...]:
        """Read all living instances whoever made them, ordered by start, with half-made ones."""
        ...

    async def devices(self) -> tuple[MigDevice, ...]:
        """Read the MIG devices as every user may; none if MIG mode is off. Ordered by their numbers."""
        ...

    async def create(self, profile: Profile, placement: Placement) -> GpuInstance:
        """Create an instance at an explicit place, fill it with one compute instance, return it as read back.

        If it fails nothing is left behind. On cancellation it exists or it does not, never half; read `instances`
        to know.

        Raises:
            InsufficientResourcesError: The slices are taken or the profile is used up.
            PartitionRejectedError: The board has no such profile, or it cannot start there.
        """
        ...

    async def destroy(self, instance_id: int) -> None:
        """Destroy an instance; one that is gone already counts as done, so this can be repeated.

        One in use is asked again with growing pauses until a deadline. On cancellation it exists or it does
        not; read `instances` to know. A failed destroy may leave it without its compute instance.

        Raises:
            DeviceBusyError: A process still uses it, with the processes; nothing was changed.
        """
        ...

    async def holders(self, instance_id: int) -> tuple[Holder, ...]:
        """Find the processes that use an instance, as far as this process may see them; by pid."""
        ...

    async def energy_mj(self) -> int | None:
        """Read the energy counter of the whole GPU: mJ since the driver was loaded; None if it has none.

        There is no counter per instance, and a sum of what instances report counts the GPU many times.
        """
        ...


def _on(enabled: bool) -> str:
    return "on" if enabled else "off"
