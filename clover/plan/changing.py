"""What it takes to get from one configuration of a fleet to another: time, changes of MIG, energy. Pure."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from clover.core.application import ServiceModel
from clover.core.configuration import Configuration, GpuConfiguration
from clover.core.rolling import ROLL_FRACTION


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """From one configuration to another.

    Attributes:
        seconds: How long the roll lasts.
        mig_changes: GPU instances destroyed and created (the fewest possible; placements may ask for more).
        gpus: GPUs that change.
        wake_j: Energy of waking GPUs before they serve, above what they drew before.
    """

    seconds: float = 0.0
    mig_changes: int = 0
    gpus: int = 0
    wake_j: float = 0.0


def change_between(model: ServiceModel, old: Configuration, new: Configuration) -> Change:
    """Return what it takes to get from one configuration of a fleet to another."""
    now = old.as_dict()
    moved = [(now[gpu_id], gpu) for gpu_id, gpu in new.gpus if now.get(gpu_id) not in {None, gpu}]
    if not moved:
        return Change()
    times, table = model.table.change, model.table
    power = {"serving": table.idle_power_w, "parked": table.parked_power_w, "off": table.off_power_w}
    longest, mig_changes, wake_j = 0.0, 0, 0.0
    for before, after in moved:
        gone, made = _instances_changed(before, after)
        starts = times.worker_start_s if after.instances else 0.0
        seconds = gone * times.destroy_s + made * times.create_s + starts
        longest, mig_changes = max(longest, seconds), mig_changes + gone + made
        if before.mode != "serving" and after.mode == "serving":
            wake_j += (power["serving"] - power[before.mode]) * seconds
    steps = math.ceil(len(moved) / max(1, len(new.gpus) // ROLL_FRACTION))
    return Change(seconds=steps * longest, mig_changes=mig_changes, gpus=len(moved), wake_j=wake_j)


def _instances_changed(before: GpuConfiguration, after: GpuConfiguration) -> tuple[int, int]:
    old, new = Counter(before.multiset), Counter(after.multiset)
    return sum((old - new).values()), sum((new - old).values())
