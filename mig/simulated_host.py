"""Simulated GPUs that live in files of a folder, so that one command finds what an earlier one did.

A process that changes such a GPU does so under its writer lock (`mig.managed`), as on a real one; the file holds what a
board would remember.
"""

from __future__ import annotations

import random
import re
import zlib
from pathlib import Path

import msgspec

from mig.device import Gpu, GpuInstance, Holder, MigDevice, MigMode
from mig.errors import MigError, RecordError
from mig.files import replace_file
from mig.goal import InvalidGoalError
from mig.placement import Placement, place
from mig.profiles import GpuModel, Profile, gpu_model
from mig.simulated import SimulatedGpu
from mig.store import FileStore

MAX_GPUS = 16
"""Most simulated GPUs of one host."""

#: Boards that reset themselves when their mode changes (Ampere); Hopper does not.
_RESETTING = {"a100-40gb", "a100-80gb", "a30"}


class _KeptInstance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: int
    profile: str
    start: int
    uuid: str


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file of one GPU holds; `busy` names a process by instance id, and is set by whoever plays it."""

    enabled: bool = True
    created: int = 0
    instances: tuple[_KeptInstance, ...] = ()
    busy: dict[int, int] = {}


class KeptGpu(SimulatedGpu):
    """A simulated GPU whose state is in a file; otherwise as its base.

    Args:
        model: The board.
        index: Number on its host.
        folder: Where its file is; made when it is first changed.
    """

    def __init__(self, model: GpuModel, index: int, folder: Path) -> None:
        super().__init__(
            model,
            index,
            seed=zlib.crc32(model.name.encode()),
            create_s=0.0,
            destroy_s=0.0,
            resets_for_mode=model.name in _RESETTING,
        )
        self._path = folder / f"{model.name}.{index}.json"

    async def mode(self) -> MigMode:
        """Read whether it is in MIG mode."""
        self._load()
        return await super().mode()

    async def set_mode(self, *, enabled: bool, allow_reset: bool = False) -> MigMode:
        """Switch MIG mode."""
        self._load()
        mode = await super().set_mode(enabled=enabled, allow_reset=allow_reset)
        self._save()
        return mode

    async def instances(self) -> tuple[GpuInstance, ...]:
        """Read the living instances."""
        self._load()
        return await super().instances()

    async def devices(self) -> tuple[MigDevice, ...]:
        """Read the MIG devices."""
        self._load()
        return await super().devices()

    async def create(self, profile: Profile, placement: Placement) -> GpuInstance:
        """Create an instance."""
        self._load()
        instance = await super().create(profile, placement)
        self._save()
        return instance

    async def destroy(self, instance_id: int) -> None:
        """Destroy an instance."""
        self._load()
        await super().destroy(instance_id)
        self._save()

    async def holders(self, instance_id: int) -> tuple[Holder, ...]:
        """Find the process that uses an instance."""
        self._load()
        return await super().holders(instance_id)

    def _load(self) -> None:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
            instances = {each.id: self._instance(each) for each in kept.instances}
        except FileNotFoundError:
            kept, instances = _Kept(), {}
        except (OSError, msgspec.MsgspecError, MigError, ValueError) as error:
            raise RecordError(
                f"simulated GPU {self._path}: {error}: expected a file that `clover mig --simulate` wrote",
                hint="Remove it to begin with a new simulated GPU.",
            ) from error
        self._mode = MigMode(current=kept.enabled, pending=kept.enabled)
        self._instances = instances
        self._created = kept.created
        self.busy = dict(kept.busy)
        # Ids go on as if one process had given all of them.
        self._random = random.Random(f"{self.uuid}/{self._created}")  # noqa: S311 - repeatable, not secret

    def _instance(self, kept: _KeptInstance) -> GpuInstance:
        placed = place(self.model.profile(kept.profile), kept.start)
        return GpuInstance(id=kept.id, profile=placed.profile, placement=placed.placement, uuid=kept.uuid)

    def _save(self) -> None:
        kept = _Kept(
            enabled=self._mode.current,
            created=self._created,
            instances=tuple(
                _KeptInstance(id=each.id, profile=each.profile.name, start=each.placement.start, uuid=each.uuid)
                for each in self._ordered()
            ),
            busy=self.busy,
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, msgspec.json.encode(kept))
        except OSError as error:
            raise RecordError(f"simulated GPU {self._path}: {error.strerror}: expected a folder to write to") from error


def simulated_host(text: str, folder: Path) -> tuple[tuple[Gpu, ...], FileStore]:
    """Give the simulated GPUs of a host and the store of their records.

    Args:
        text: Board and how many, such as "a100-40gb:2"; one if there is no number.
        folder: Where they live.

    Raises:
        InvalidGoalError: The text cannot be read.
        UnknownGpuModelError: There is no table for such a board.
    """
    match = re.fullmatch(r"([^:]+)(?::(\d{1,3}))?", text.strip().lower())
    if match is None or not 1 <= int(match[2] or 1) <= MAX_GPUS:
        raise InvalidGoalError(f"simulated GPUs {text!r}: expected a board and 1 to {MAX_GPUS}, such as a100-40gb:2")
    model = gpu_model(match[1])
    gpus = tuple(KeptGpu(model, index, folder) for index in range(int(match[2] or 1)))
    return gpus, FileStore(folder / "records", boot="simulated")
