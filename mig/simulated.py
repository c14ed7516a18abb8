"""A GPU that exists only in memory, with a board's rules and latencies: the twin of `mig.device.Gpu`.

It knows nothing of power; the power model of a simulated GPU lives with the meters.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import TYPE_CHECKING, Literal, TypeAlias

from mig.device import GpuInstance
from mig.errors import DeviceBusyError, PartitionRejectedError
from mig.placement import unfit

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
    """One simulated GPU in MIG mode; see `Gpu` for what the methods promise.

    Cancelling an operation while it waits leaves the GPU as it was before that operation.

    Args:
        model: The board.
        index: Number on its host, from 0.
        seed: Fixes the instance ids and the UUIDs.
        sleep: Waits a number of seconds; `asyncio.sleep` also in virtual time.
        create_s: How long a creation takes, s. By default half of the assumed 1 s for destroy and create.
        destroy_s: How long a destroy takes, s.
        uuid_policy: Whether a MIG UUID survives re-creation.

    Attributes:
        busy: Ids of instances that a process uses; they refuse to be destroyed. Set by whoever plays it.
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
    ) -> None:
        for field, value in (("create_s", create_s), ("destroy_s", destroy_s)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{field} is {value}: expected a finite number of seconds from 0")
        self.busy: set[int] = set()
        self._model = model
        self._index = index
        self._uuid = f"GPU-{uuid.uuid5(_NAMESPACE, f'{seed}/{index}')}"
        self._sleep = sleep
        self._create_s = create_s
        self._destroy_s = destroy_s
        self._uuid_policy: UuidPolicy = uuid_policy
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
    def model(self) -> GpuModel:
        """Its board."""
        return self._model

    async def instances(self) -> tuple[GpuInstance, ...]:
        """Read the living instances, ordered by start; waits for an operation under way."""
        async with self._lock:
            return self._ordered()

    async def create(self, profile: Profile, placement: Placement) -> GpuInstance:
        """Create an instance; a rejected one costs no time.

        Raises:
            PartitionRejectedError: The slices are taken, the profile is used up, or it cannot exist there.
        """
        async with self._lock:
            self._check(profile, placement)
            await self._sleep(self._create_s)
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
        async with self._lock:
            if instance_id not in self._instances:
                return
            self._check_idle(instance_id)
            await self._sleep(self._destroy_s)
            # A process may have come while the destroy waited; then the driver says no as well.
            self._check_idle(instance_id)
            del self._instances[instance_id]

    async def energy_mj(self) -> int | None:
        """There is no counter: None."""
        return None

    def _ordered(self) -> tuple[GpuInstance, ...]:
        return tuple(sorted(self._instances.values(), key=lambda instance: instance.placement.start))

    def _check(self, profile: Profile, placement: Placement) -> None:
        if profile not in self._model.profiles:
            raise PartitionRejectedError(
                f"GPU {self._index}: profile {profile.name} (id {profile.nvml_id}): expected one of {self._model.name}"
            )
        reason = unfit(profile, placement, (instance.placed for instance in self._ordered()))
        if reason:
            raise PartitionRejectedError(
                f"GPU {self._index}: insufficient resources: {reason}",
                hint="Read the instances again and plan the change from what is there.",
            )

    def _check_idle(self, instance_id: int) -> None:
        if instance_id in self.busy:
            raise DeviceBusyError(
                f"GPU {self._index}: instance {instance_id} is in use by a process: expected none",
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


if TYPE_CHECKING:
    # The type checker proves here that the twin fits the port.
    _twin: type[Gpu] = SimulatedGpu
