"""From the records on the bus to the values that a controller goes on with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from clover.agents.translate import gpu_configuration
from clover.bus.messages import Calibration, GpuTarget
from clover.core.calibration import Factors
from clover.core.configuration import GpuConfiguration, GpuId, InstanceKind

_GPU = re.compile(r"(?P<node>.+)/gpu(?P<index>\d+)")


def configurations(nodes: Mapping[str, Iterable[GpuTarget]]) -> dict[GpuId, GpuConfiguration]:
    """Read configurations of GPUs by node; raises ValueError if one contradicts itself."""
    return {GpuId(node, gpu.index): gpu_configuration(gpu) for node, gpus in nodes.items() for gpu in gpus}


def gpu_id(name: str) -> GpuId:
    """Read a GPU's name such as `n1/gpu3`; raises ValueError saying what was expected."""
    found = _GPU.fullmatch(name)
    if found is None:
        raise ValueError(f"GPU {name!r}: expected node/gpuN, such as n1/gpu3")
    return GpuId(found["node"], int(found["index"]))


def gpu_ids(names: Iterable[str]) -> list[GpuId]:
    """Read names of GPUs."""
    return [gpu_id(name) for name in names]


def factors_of(calibration: Calibration) -> Factors:
    """Read what a table was re-calibrated with; what makes no sense is left out."""
    service: dict[InstanceKind, float] = {}
    for key, factor in calibration.service.items():
        variant, slash, profile = key.rpartition("/")
        if slash and factor > 0.0:
            service[InstanceKind(profile, variant)] = factor
    return Factors(service=service, energy={name: f for name, f in calibration.energy.items() if f > 0.0})
