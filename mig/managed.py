"""A GPU as its one manager sees it: the port, with the lock held and a record of what was created here.

Everything that changes a GPU goes through this: the command line, the node agent and `mig.apply`. It fits the port, so
whatever works on a GPU works on a managed one, except that it destroys nothing foreign.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mig.device import Gpu, GpuInstance, Holder, MigDevice, MigMode
from mig.errors import DriverError, ForeignInstanceError, InsufficientResourcesError
from mig.ownership import GpuRecord
from mig.partition import Partition
from mig.placement import PlacedProfile, Placement
from mig.profiles import GpuModel, Profile
from mig.store import RecordStore


class ManagedGpu:
    """One GPU and the right to change it, from entering (`with`) to leaving.

    Args:
        gpu: The GPU.
        store: Where its record and its lock are.
        allowed: Ids of foreign instances that may be destroyed all the same.
    """

    def __init__(self, gpu: Gpu, store: RecordStore, *, allowed: Collection[int] = ()) -> None:
        self._gpu = gpu
        self._store = store
        self._allowed = set(allowed)
        self._lock = ExitStack()
        self._record: GpuRecord | None = None

    def __enter__(self) -> Self:
        """Take the lock and read the record.

        Raises:
            GpuLockedError: Another process manages the GPU.
            RecordError: The record cannot be used.
        """
        with ExitStack() as taken:
            taken.enter_context(self._store.lock(self._gpu.uuid))
            self._record = self._store.read(self._gpu.uuid)
            self._lock = taken.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let others manage the GPU."""
        self._record = None
        self._lock.close()

    @property
    def record(self) -> GpuRecord:
        """What is recorded; only between entering and leaving."""
        if self._record is None:
            raise RuntimeError("a ManagedGpu is used outside of its `with` block")
        return self._record

    def keep(self, record: GpuRecord) -> None:
        """Replace the record, on disk first."""
        if record != self.record:
            self._store.write(record)
            self._record = record

    @property
    def index(self) -> int:
        """Number of the GPU on its host, from 0."""
        return self._gpu.index

    @property
    def uuid(self) -> str:
        """Name of the whole GPU."""
        return self._gpu.uuid

    @property
    def title(self) -> str:
        """What the board calls itself."""
        return self._gpu.title

    @property
    def model(self) -> GpuModel:
        """Its board."""
        return self._gpu.model

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about it."""
        return self._gpu.notes

    async def mode(self) -> MigMode:
        """Read whether it is in MIG mode."""
        return await self._gpu.mode()

    async def set_mode(self, *, enabled: bool, allow_reset: bool = False) -> MigMode:
        """Switch MIG mode."""
        return await self._gpu.set_mode(enabled=enabled, allow_reset=allow_reset)

    async def instances(self) -> tuple[GpuInstance, ...]:
        """Read all living instances, ours and foreign."""
        return await self._gpu.instances()

    async def devices(self) -> tuple[MigDevice, ...]:
        """Read the MIG devices."""
        return await self._gpu.devices()

    async def holders(self, instance_id: int) -> tuple[Holder, ...]:
        """Find the processes that use an instance."""
        return await self._gpu.holders(instance_id)

    async def energy_mj(self) -> int | None:
        """Read the energy counter of the whole GPU."""
        return await self._gpu.energy_mj()

    def pinned(self, instances: Iterable[GpuInstance]) -> frozenset[int]:
        """Ids of the foreign instances that nobody allowed to destroy."""
        return frozenset(instance.id for instance in self.record.foreign(instances)) - self._allowed

    async def adopt(self, instance_ids: Collection[int]) -> tuple[GpuInstance, ...]:
        """Count living instances as ours from now on; returns those that were not before."""
        living = await self.instances()
        wanted = [instance for instance in living if instance.id in instance_ids]
        new = tuple(self.record.foreign(wanted))
        self.keep(self.record.adopt(new))
        return new

    async def create(self, profile: Profile, placement: Placement) -> GpuInstance:
        """Create an instance, noted before and after, so that it is known as ours even after a crash."""
        # Settle what a broken-off creation left in doubt, before its note is overwritten.
        before = await self.reconcile()
        self.keep(self.record.begin_create(PlacedProfile(profile=profile, placement=placement), before))
        try:
            instance = await self._gpu.create(profile, placement)
        except InsufficientResourcesError:
            # Nothing was made; if the very same is there now, somebody else made it.
            self.keep(self.record.reconcile(before))
            raise
        self.keep(self.record.reconcile((*before, instance)))
        return instance

    async def destroy(self, instance_id: int) -> None:
        """Destroy an instance if it is ours or allowed by its id.

        Raises:
            ForeignInstanceError: It is neither.
            DeviceBusyError: A process still uses it; nothing was changed.
            DriverError: The driver reports it gone, and it lives.
        """
        living = await self.reconcile()
        if instance_id in self.pinned(each for each in living if each.id == instance_id):
            raise ForeignInstanceError(
                f"GPU {self.index}: instance {instance_id} was not created by this manager: expected one that was",
                instance_ids=[instance_id],
                hint="Allow it by its id if it may go.",
            )
        await self._gpu.destroy(instance_id)
        # The number may be given again, to an instance that nobody allowed.
        self._allowed.discard(instance_id)
        # What is recorded follows from what lives, never from what a driver said about it.
        if instance_id in {each.id for each in await self.reconcile()}:
            raise DriverError(f"GPU {self.index}: instance {instance_id} is reported gone and lives: expected it gone")

    async def reconcile(self) -> tuple[GpuInstance, ...]:
        """Read all living instances and bring the record in line with them."""
        living = await self.instances()
        self.keep(self.record.reconcile(living))
        return living

    def begin_apply(self, before: Partition, wanted: Partition) -> None:
        """Note that an apply begins."""
        self.keep(self.record.begin_apply(before, wanted))

    def end_apply(self) -> None:
        """Note that an apply came to an end that is known."""
        self.keep(self.record.end_apply())


if TYPE_CHECKING:
    # The type checker proves here that a managed GPU fits the port.
    _managed: type[Gpu] = ManagedGpu
