"""Measurements of instances in a closed loop: which configurations to measure, and the figures of each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement, groupby, product
from typing import Any

import msgspec
import numpy as np

from clover.core.configuration import GpuConfiguration, InstanceKind


class InstanceMeasurement(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of one instance, warm-up left out; one inference each, whose requests are answered together.

    Attributes:
        profile, variant: What it was.
        gpu: Index of its GPU.
        service_ms: Begin to end of each, as its client saw it.
        instance_ms: Part of each on the instance; the rest is the host's.
        energy_j: Dynamic energy per request of each.
        start_s: Start of the worker until it was warm.
        memory_mib: Resident memory of the worker, 0 if unknown.
    """

    profile: str
    variant: str
    gpu: int
    service_ms: list[float]
    instance_ms: list[float]
    energy_j: list[float]
    start_s: float
    memory_mib: float = 0.0

    @property
    def kind(self) -> InstanceKind:
        """Profile and variant."""
        return InstanceKind(self.profile, self.variant)

    @property
    def host_ms(self) -> list[float]:
        """Host's part of each answer."""
        return [max(s - i, 0.0) for s, i in zip(self.service_ms, self.instance_ms, strict=True)]


class CellMeasurement(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration of a GPU, measured with one client per instance.

    Attributes:
        cell: Text of the configuration, such as `4g:large 3g:base`.
        outcome: `ok`, `out_of_memory` (a variant does not fit) or `failed`.
        reason: Why, if not ok.
        seconds: Wall time from first to last answer.
        instances: What was measured.
        device: Name of the device.
        versions: Libraries, by name.
    """

    cell: str
    outcome: str
    reason: str = ""
    seconds: float = 0.0
    instances: list[InstanceMeasurement] = []
    device: str = ""
    versions: dict[str, str] = {}


# --- cells


def single_cells(variants: Iterable[str], profiles: Iterable[str]) -> list[GpuConfiguration]:
    """Return each variant on each profile, alone on its GPU."""
    return [GpuConfiguration((InstanceKind(profile, v),)) for profile in profiles for v in variants]


def assignment_cells(partitions: Iterable[Sequence[str]], variants: Sequence[str]) -> list[GpuConfiguration]:
    """Return every distinct assignment of variants to the instances of each partition (the original's `run_mix`)."""
    cells: dict[str, GpuConfiguration] = {}
    for partition in partitions:
        groups = [(profile, len(list(same))) for profile, same in groupby(sorted(partition))]
        choices = [
            [(profile, chosen) for chosen in combinations_with_replacement(variants, n)] for profile, n in groups
        ]
        for choice in product(*choices):
            kinds = tuple(InstanceKind(profile, v) for profile, chosen in choice for v in chosen)
            cell = GpuConfiguration(kinds)
            cells.setdefault(str(cell), cell)
    return list(cells.values())


# --- figures


def figures(cell: str, measured: InstanceMeasurement) -> dict[str, Any]:
    """Return mean, spread and tail of one instance's answers; times in ms, energy in J."""
    service = np.array(measured.service_ms)
    return {
        "cell": cell,
        "profile": measured.profile,
        "variant": measured.variant,
        "gpu": measured.gpu,
        "requests": len(service),
        "mean_ms": rounded(service.mean()),
        "std_ms": rounded(service.std()),
        "p50_ms": rounded(np.quantile(service, 0.5)),
        "p95_ms": rounded(np.quantile(service, 0.95)),
        "p99_ms": rounded(np.quantile(service, 0.99)),
        "host_ms": rounded(np.mean(measured.host_ms)),
        "energy_j": rounded(np.mean(measured.energy_j), 4),
        "start_s": rounded(measured.start_s, 2),
        "memory_mib": rounded(measured.memory_mib, 0),
    }


def rounded(value: Any, digits: int = 3) -> float:
    """Return a figure as it is written into a table."""
    return round(float(value), digits)
