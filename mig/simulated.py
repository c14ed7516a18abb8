"""A GPU that exists only in memory, with a board's rules and latencies: the twin of `mig.device.Gpu`.

It knows nothing of power; the power model of a simulated GPU lives with the meters.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import TYPE_CHECKING, Literal, TypeAlias

from mig.device import GpuInstance, Holder, MigDevice, MigMode
from mig.errors import (
    DeviceBusyError,
    GpuLostError,
    InsufficientResourcesError,
    PartitionRejectedError,
    ResetRequiredError,
)
from mig.patience import Patience, ask_until_free
from mig.placement import misplaced, shortage, unfit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mig.device import Gpu
    from mig.placement import Placement
    from mig.profiles import GpuModel, Profile

UuidPolicy: TypeAlias = Literal["stable", "fresh"]
"""What a MIG UUID depends on.

"stable": the GPU and the instance id only, so that one UUID may later name an instance of another size;
"fresh": new at each creation. Reports about real boards contradict each other, so nothing may rely on either.
"""

# Any fixed value; it makes the names of one seed the same in every run.
_NAMESPACE = uuid.UUID("6f1c3f0e-6c0b-5d0a-9d5e-2f5b7a1e4c33")


class SimulatedGpu:
    """One simulated GPU; see `Gpu` for what the methods promise.

    Cancelling an operation while it waits leaves the GPU as it was before that operation.

    Args:
        model: The board.
        index: Number on its host, from 0.
        seed: Fixes the instance ids and the UUIDs.
        sleep: Waits a number of seconds; `asyncio.sleep` also in virtual time.
        create_s: How long a creation takes, s. By default half of the assumed 1 s for destroy and create.
        destroy_s: How long a destroy takes, s.
        uuid_policy: Whether a MIG UUID survives re-creation.
        mode: MIG mode at first; by default on.
        resets_for_mode: Whether a change of mode resets the board, as on an A100.
        patience: How long a destroy goes on asking when a process uses the instance; by default it asks once.

    Attributes:
        busy: Process that uses an instance, by instance id; such an instance refuses to be destroyed. Set by
            whoever plays the process.
        defers_mode: Whether a change of mode waits for `reset`, as in many virtual machines. Set by whoever plays it.
        lost: Whether the GPU has fallen off the bus. Set by whoever plays it.
    """

    def __init__(
        self,
        model: GpuModel,
        index: int,
        *,
        seed: int,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        create_s: float = 0.5,
        destroy_s: float = 0.5,
        uuid_policy: UuidPolicy = "stable",
        mode: MigMode | None = None,
        resets_for_mode: bool = False,
        patience: Patience | None = None,
    ) -> None:
        for field, value in (("create_s", create_s), ("destroy_s", destroy_s)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{field} is {value}: expected a finite number of seconds from 0")
        self.busy: dict[int, int] = {}
        self.defers_mode = False
        self.lost = False
        self._model = model
        self._index = index
        self._uuid = f"GPU-{uuid.uuid5(_NAMESPACE, f'{seed}/{index}')}"
        self._sleep = sleep
        self._create_s = create_s
        self._destroy_s = destroy_s
        self._uuid_policy: UuidPolicy = uuid_policy
        self._mode = mode or MigMode(current=True, pending=True)
        self._resets_for_mode = resets_for_mode
        self._patience = patience or Patience(total_s=0.0)
        self._created = 0
        self._instances: dict[int, GpuInstance] = {}
        self._random = random.Random(f"{seed}/{index}")  # noqa: S311 - repeatable, not secret
        self._lock = asyncio.Lock()

    @property
    def index(self) -> int:
        """Number of the GPU on its host, from 0."""
        return self._index

    @property
    def uuid(self) -> str:
        """Name of the whole GPU ("GPU-..."), fixed by seed and index."""
        return self._uuid

    @property
    def title(self) -> str:
        """The board's title, marked as simulated."""
        return f"{self._model.title} (simulated)"

    @property
    def model(self) -> GpuModel:
        """Its board."""
        return self._model

    @property
    def notes(self) -> tuple[str, ...]:
        """That it is simulated."""
        return ("simulated, from the bundled table",)

    async def mode(self) -> MigMode:
        """Read whether it is in MIG mode."""
        async with self._lock:
            self._check_present()
            return self._mode

    async def set_mode(self, *, enabled: bool, allow_reset: bool = False) -> MigMode:
        """Switch MIG mode; takes no time.

        Raises:
            ResetRequiredError: The board resets for it and that is not allowed, or it waits for a reset.
            DeviceBusyError: Instances are left on it.
        """
        async with self._lock:
            self._check_present()
            if self._mode != MigMode(current=enabled, pending=enabled):
                self._check_mode_change(enabled, allow_reset=allow_reset)
                self._mode = MigMode(current=self._mode.current if self.defers_mode else enabled, pending=enabled)
            if self._mode.waits_for_reset:
                raise ResetRequiredError(
                    f"GPU {self._index}: MIG mode is {self._mode}: expected it in force", hint="Reset the GPU."
                )
            return self._mode

    def reset(self) -> None:
        """Do what a reset of the board does: a pending mode comes into force, instances are gone."""
        self._mode = MigMode(current=self._mode.pending, pending=self._mode.pending)
        self._instances.clear()
        self.busy.clear()

    async def instances(self) -> tuple[GpuInstance, ...]:
        """Read the living instances, ordered by start; waits for an operation under way."""
        async with self._lock:
            self._check_on()
            return self._ordered()

    async def devices(self) -> tuple[MigDevice, ...]:
        """Read the MIG devices; none if MIG mode is off."""
        async with self._lock:
            self._check_present()
            return tuple(_device(instance) for instance in sorted(self._instances.values(), key=lambda each: each.id))

    async def create(self, profile: Profile, placement: Placement) -> GpuInstance:
        """Create an instance; a rejected one costs no time.

        Raises:
            InsufficientResourcesError: The slices are taken or the profile is used up.
            PartitionRejectedError: It cannot exist there.
        """
        async with self._lock:
            self._check_on()
            self._check(profile, placement)
            await self._sleep(self._create_s)
            self._check_on()
            # Nothing is written before the wait and nothing awaited after it: a cancelled creation never was.
            instance_id = self._free_id()
            self._created += 1
            instance = GpuInstance(
                id=instance_id, profile=profile, placement=placement, uuid=self._mig_uuid(instance_id)
            )
            self._instances[instance_id] = instance
            return instance

    async def destroy(self, instance_id: int) -> None:
        """Destroy an instance; an unknown id is done already and costs no time.

        Raises:
            DeviceBusyError: The id is in `busy`.
        """

        async def attempt() -> None:
            async with self._lock:
                await self._destroy(instance_id)

        await ask_until_free(attempt, self._patience, self._sleep)

    async def holders(self, instance_id: int) -> tuple[Holder, ...]:
        """Find the process that uses an instance."""
        async with self._lock:
            self._check_present()
            return self._holders(instance_id)

    async def energy_mj(self) -> int | None:
        """There is no counter: None."""
        return None

    async def _destroy(self, instance_id: int) -> None:
        self._check_on()
        if instance_id not in self._instances:
            return
        self._check_idle(instance_id)
        await self._sleep(self._destroy_s)
        # A process may have come while the destroy waited; then the driver says no as well.
        self._check_on()
        self._check_idle(instance_id)
        del self._instances[instance_id]

    def _ordered(self) -> tuple[GpuInstance, ...]:
        return tuple(sorted(self._instances.values(), key=lambda instance: instance.placement.start))

    def _holders(self, instance_id: int) -> tuple[Holder, ...]:
        return (Holder(pid=self.busy[instance_id]),) if instance_id in self.busy else ()

    def _check_present(self) -> None:
        if self.lost:
            raise GpuLostError(f"GPU {self._index}: it is lost: expected it on the bus", hint="Reset it.")

    def _check_on(self) -> None:
        self._check_present()
        if not self._mode.current:
            self._mode.require_enabled(self._index)

    def _check_mode_change(self, enabled: bool, *, allow_reset: bool) -> None:
        if self._instances:
            raise DeviceBusyError(
                f"GPU {self._index}: it holds {len(self._instances)} instances: expected none when its mode changes",
                hint="Destroy them first.",
            )
        if self._resets_for_mode and self._mode.current != enabled and not allow_reset:
            raise ResetRequiredError(
                f"GPU {self._index}: a change of MIG mode resets this board: expected leave to do that",
                hint="End what runs on it, then allow the reset.",
            )

    def _check(self, profile: Profile, placement: Placement) -> None:
        if profile not in self._model.profiles:
            raise PartitionRejectedError(
                f"GPU {self._index}: profile {profile.name} (id {profile.nvml_id}): expected one of {self._model.name}"
            )
        wrong = misplaced(profile, placement)
        if wrong:
            raise PartitionRejectedError(f"GPU {self._index}: {wrong}")
        placed = [instance.placed for instance in self._ordered()]
        why = shortage(profile, placement, placed)
        if why:
            raise InsufficientResourcesError(
                f"GPU {self._index}: insufficient resources: {unfit(profile, placement, placed)}",
                shortage=why,
                hint="Read the instances again and plan the change from what is there.",
            )

    def _check_idle(self, instance_id: int) -> None:
        holders = self._holders(instance_id)
        if holders:
            raise DeviceBusyError(
                f"GPU {self._index}: instance {instance_id} is in use by process {holders[0]}: expected none",
                holders=holders,
                hint="End the process that uses it, then try again.",
            )

    def _free_id(self) -> int:
        # Real ids are no function of the place and are soon given again; twice the slices is room to shuffle.
        free = [each for each in range(1, 2 * self._model.memory_slices + 1) if each not in self._instances]
        return self._random.choice(free)

    def _mig_uuid(self, instance_id: int) -> str:
        name = f"{self._uuid}/{instance_id}"
        if self._uuid_policy == "fresh":
            name += f"/{self._created}"
        return f"MIG-{uuid.uuid5(_NAMESPACE, name)}"


def _device(instance: GpuInstance) -> MigDevice:
    return MigDevice(
        uuid=instance.uuid,
        gpu_instance_id=instance.id,
        compute_instance_id=0,
        compute_slices=instance.profile.compute_slices,
        memory_mib=instance.profile.memory_mib,
    )


if TYPE_CHECKING:
    # The type checker proves here that the twin fits the port.
    _twin: type[Gpu] = SimulatedGpu
