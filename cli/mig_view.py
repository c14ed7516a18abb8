"""What is known about a GPU at one moment, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mig.device import Gpu, GpuInstance, Holder, MigDevice, MigMode
from mig.errors import MigError, MigNotSupportedError, PermissionDeniedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mig.store import RecordStore


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuView:
    """One GPU as read.

    Attributes:
        index, uuid, title: Which.
        board: Name of its board; None if its table cannot be read.
        mode: Whether it is in MIG mode; None if it cannot be, or cannot be read.
        instances: Living instances; None if this process may not read them, or there can be none.
        ours: Ids of those that were created by this manager; None if the record cannot be read.
        devices: MIG devices, as everybody may read them.
        holders: Processes by instance id; empty unless asked for.
        apply_open: Whether an apply is under way, or was broken off: the record does not tell which.
        energy_mj: Energy counter of the GPU.
        notes: What is unusual: a sentence each.
    """

    index: int
    uuid: str
    title: str
    board: str | None = None
    mode: MigMode | None = None
    instances: tuple[GpuInstance, ...] | None = None
    ours: frozenset[int] | None = None
    devices: tuple[MigDevice, ...] = ()
    holders: dict[int, tuple[Holder, ...]] | None = None
    apply_open: bool = False
    energy_mj: int | None = None
    notes: tuple[str, ...] = ()

    def owner(self, instance_id: int) -> str:
        """Say who made an instance."""
        if self.ours is None:
            return "unknown"
        return "ours" if instance_id in self.ours else "foreign"


async def read_view(gpu: Gpu, store: RecordStore, *, processes: bool = False) -> GpuView:
    """Read everything that this process may read; what it may not is said in the notes.

    Raises:
        MigError: The driver fails.
    """
    notes = list(gpu.notes)
    fields: dict[str, Any] = {}
    try:
        fields["board"] = gpu.model.name
    except (MigNotSupportedError, PermissionDeniedError) as error:
        notes.append(_note(error))
    try:
        mode = fields["mode"] = await gpu.mode()
        if mode.current:
            fields |= await _read_instances(gpu, store, notes, processes=processes)
    except MigNotSupportedError as error:
        notes.append(_note(error))
    return GpuView(
        index=gpu.index,
        uuid=gpu.uuid,
        title=gpu.title,
        energy_mj=await gpu.energy_mj(),
        notes=tuple(dict.fromkeys(notes)),
        **fields,
    )


async def _read_instances(gpu: Gpu, store: RecordStore, notes: list[str], *, processes: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"devices": await gpu.devices()}
    try:
        instances = fields["instances"] = await gpu.instances()
    except PermissionDeniedError as error:
        notes.append(_note(error))
        return fields
    try:
        record = store.read(gpu.uuid)
        fields["ours"] = frozenset(each.id for each in instances if record.owns(each))
        fields["apply_open"] = record.apply is not None
    except MigError as error:
        notes.append(_note(error))
    if processes:
        fields["holders"] = {each.id: await gpu.holders(each.id) for each in instances}
    return fields


def _note(error: MigError) -> str:
    return f"{error}. {error.hint}" if error.hint else str(error)


def view_fields(view: GpuView) -> dict[str, Any]:
    """Describe a GPU in JSON."""
    return {
        "index": view.index,
        "uuid": view.uuid,
        "title": view.title,
        "board": view.board,
        "mig": None if view.mode is None else {"current": view.mode.current, "pending": view.mode.pending},
        "instances": None if view.instances is None else [_instance_fields(view, each) for each in view.instances],
        "devices": [
            {
                "uuid": device.uuid,
                "gpu_instance_id": device.gpu_instance_id,
                "compute_instance_id": device.compute_instance_id,
                "compute_slices": device.compute_slices,
                "memory_mib": device.memory_mib,
            }
            for device in view.devices
        ],
        "apply_open": view.apply_open,
        "energy_j": None if view.energy_mj is None else view.energy_mj / 1e3,
        "notes": list(view.notes),
    }


def _instance_fields(view: GpuView, instance: GpuInstance) -> dict[str, Any]:
    holders = None if view.holders is None else view.holders.get(instance.id, ())
    return {
        **instance_fields(instance),
        "owner": view.owner(instance.id),
        "processes": None if holders is None else [{"pid": each.pid, "command": each.command} for each in holders],
    }


def instance_fields(instance: GpuInstance) -> dict[str, Any]:
    """Describe an instance in JSON."""
    return {
        "id": instance.id,
        "profile": instance.profile.name,
        "size": instance.profile.size,
        "start": instance.placement.start,
        "memory_slices": instance.placement.size,
        "uuid": instance.uuid or None,
    }


def view_lines(view: GpuView) -> list[str]:
    """Describe a GPU for people."""
    mode = "not available" if view.mode is None else str(view.mode)
    energy = "" if view.energy_mj is None else f"  energy {view.energy_mj / 1e3:.0f} J since the driver was loaded"
    lines = [f"GPU {view.index}  {view.title}  {view.uuid}  MIG {mode}{energy}"]
    if view.instances is not None:
        lines += [f"  {instance_line(each, view)}" for each in view.instances] or ["  no instances"]
    else:
        lines += [f"  {_device_line(device)}" for device in view.devices]
    if view.apply_open:
        lines.append("  note: an apply is under way; if none is, one was broken off: apply again, or reset")
    return lines + [f"  note: {note}" for note in view.notes]


def instance_line(instance: GpuInstance, view: GpuView) -> str:
    """Describe an instance on one line."""
    what = f"{instance.id:>3}  {instance.profile.name:<10} at {instance.placement}  {instance.uuid or 'half made':<40}"
    holders: Sequence[Holder] = (view.holders or {}).get(instance.id, ())
    used = f"  used by {', '.join(map(str, holders))}" if holders else ""
    return f"{what}  {view.owner(instance.id)}{used}"


def _device_line(device: MigDevice) -> str:
    return (
        f"{device.gpu_instance_id:>3}  {device.compute_slices} compute slices, {device.memory_mib} MiB  {device.uuid}"
    )
