"""What can be said about a GPU's partition by somebody who may see its MIG devices and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mig.partition import Multiset, canonical_multiset, format_multiset

if TYPE_CHECKING:
    from mig.device import MigDevice
    from mig.profiles import GpuModel


def seen_multiset(model: GpuModel, devices: Iterable[MigDevice]) -> Multiset | None:
    """Tell the sizes of the instances from their devices, as far as that is possible.

    Devices do not show media engines, so such an instance counts as the plain one; an instance without a device is not
    seen at all.

    Returns:
        Sizes, largest first; None if a device is of no profile of the board (somebody split its instance).
    """
    sizes: list[str] = []
    for device in devices:
        kind = (device.compute_slices, device.memory_mib)
        fits = [each for each in model.profiles if (each.compute_slices, each.memory_mib) == kind]
        if not fits:
            return None
        sizes.append(min(fits, key=lambda each: (not each.is_basic, each.size)).size)
    return canonical_multiset(model, sizes)


def seen_difference(model: GpuModel, devices: Iterable[MigDevice], wanted: Multiset) -> str:
    """Say how the devices differ from what is wanted; empty if they do not."""
    seen = seen_multiset(model, devices)
    if seen == wanted:
        return ""
    holds = "devices of no profile of the board" if seen is None else format_multiset(seen)
    return f"its devices are {holds}: expected {format_multiset(wanted)}"
