"""From measurements of instances to a performance table: which cells to measure, and what to make of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, groupby, product
from typing import Any

import msgspec
import numpy as np

from clover.core.application import (
    Application,
    ChangeTimes,
    PerformanceTable,
    ServiceModel,
    VariantPerformance,
)
from clover.core.configuration import FleetCounts, GpuConfiguration, InstanceKind
from clover.core.queueing import evaluate

#: A table's promise is this much above BASE's 95th percentile at this utilisation (DESIGN: definitions).
SLA_FACTOR, SLA_UTILISATION = 1.02, 0.3


class InstanceMeasurement(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of one instance, warm-up left out.

    Attributes:
        profile, variant: What it was.
        gpu: Index of its GPU.
        service_ms: Begin to end of each answer, as its client saw it.
        instance_ms: Part of each on the instance; the rest is the host's.
        energy_j: Dynamic energy of each.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a table says of where it comes from.

    Attributes:
        gpu_model: Key of the table.
        date: ISO date.
        host: Processor or board, and system.
        energy_source: Of the joules.
        weights: `published`, `random weights` or a folder.
        idle_power_w, parked_power_w, power_source: Not measured by a closed loop, and where they are from.
        change: Times of creating and destroying an instance; the worker's start is measured.
    """

    gpu_model: str
    date: str
    host: str
    energy_source: str
    weights: str
    idle_power_w: float
    parked_power_w: float
    power_source: str
    change: ChangeTimes


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
        "mean_ms": _rounded(service.mean()),
        "std_ms": _rounded(service.std()),
        "p50_ms": _rounded(np.quantile(service, 0.5)),
        "p95_ms": _rounded(np.quantile(service, 0.95)),
        "p99_ms": _rounded(np.quantile(service, 0.99)),
        "host_ms": _rounded(np.mean(measured.host_ms)),
        "energy_j": _rounded(np.mean(measured.energy_j), 4),
        "start_s": _rounded(measured.start_s, 2),
        "memory_mib": _rounded(measured.memory_mib, 0),
    }


# --- table


def fit_table(
    application: Application, cells: Sequence[CellMeasurement], provenance: Provenance, whole: str
) -> dict[str, Any]:
    """Return a performance table in the form of the shipped files.

    Per variant the host's part is the mean over all its instances, the instance's part the mean per profile; the
    spreads are those of the logarithms within an instance, pooled (a log-normal's sigma). Contention is not fitted: in
    a closed loop all instances are always busy.

    Args:
        application: Names the variants.
        cells: Measurements; those that are not ok only tell what does not fit.
        provenance: Where they come from.
        whole: Profile of a whole GPU, which BASE serves on.

    Raises:
        ValueError: A variant has no measurement, or the largest has none on a whole GPU.
    """
    measured = [instance for cell in cells for instance in cell.instances]
    variants = {v.name: _performance(v.name, measured, cells) for v in application.variants}
    largest = application.largest.name
    if whole not in variants[largest].service_ms:
        raise ValueError(f"{largest} on {whole} has not been measured: the promise of a table is made from it")
    sigmas = [_log_spread([getattr(i, part) for i in measured]) for part in ("host_ms", "instance_ms")]
    start_s = float(np.mean([instance.start_s for instance in measured]))
    change = provenance.change
    table = PerformanceTable(
        gpu_model=provenance.gpu_model,
        application=application.name,
        provenance=_story(provenance, cells),
        sla_p95_ms=1.0,
        idle_power_w=provenance.idle_power_w,
        parked_power_w=provenance.parked_power_w,
        host_lognormal_sigma=sigmas[0],
        gpu_lognormal_sigma=sigmas[1],
        host_contention=0.0,
        energy_contention=0.0,
        change=ChangeTimes(
            create_s=change.create_s,
            destroy_s=change.destroy_s,
            worker_start_s=round(start_s, 2),
            provenance=f"{change.provenance}; worker start: mean of {len(measured)} measured",
        ),
        variants=variants,
    )
    base_p95_ms = base_p95(ServiceModel(application=application, table=table), whole)
    return _as_file(table, provenance, cells, application, base_p95_ms)


def base_p95(model: ServiceModel, whole: str) -> float:
    """Return the modelled 95th percentile (ms) of the largest variant on a whole GPU at 30 % utilisation."""
    kind = InstanceKind(whole, model.application.largest.name)
    rate_rps = SLA_UTILISATION / (model.mean_ms(kind.variant, kind.profile, SLA_UTILISATION) / 1e3)
    fleet = FleetCounts.uniform(GpuConfiguration((kind,)), 1)
    return evaluate(model, fleet, rate_rps, sla_ms=1e9).p95_ms


def _performance(
    variant: str, measured: Sequence[InstanceMeasurement], cells: Sequence[CellMeasurement]
) -> VariantPerformance:
    mine = [instance for instance in measured if instance.variant == variant]
    if not mine:
        raise ValueError(f"{variant} has no measurement: {_why(variant, cells)}")
    profiles = sorted({instance.profile for instance in mine}, reverse=True)
    return VariantPerformance(
        host_ms=_rounded(np.mean([np.mean(instance.host_ms) for instance in mine])),
        service_ms={
            profile: _rounded(np.mean([np.mean(i.instance_ms) for i in mine if i.profile == profile]))
            for profile in profiles
        },
        dynamic_energy_j=_rounded(np.mean([np.mean(instance.energy_j) for instance in mine]), 4),
        out_of_memory_on=frozenset(_too_small(variant, cells)),
    )


def _too_small(variant: str, cells: Sequence[CellMeasurement]) -> set[str]:
    """Return the profiles on which the variant, alone, ran out of memory."""
    alone = {cell.cell for cell in cells if cell.outcome == "out_of_memory"}
    return {cell.partition(":")[0] for cell in alone if cell.endswith(f":{variant}") and " " not in cell}


def _why(variant: str, cells: Sequence[CellMeasurement]) -> str:
    reasons = [cell.reason for cell in cells if variant in cell.cell and cell.reason]
    return reasons[0] if reasons else "it was left out"


def _log_spread(samples: Sequence[Sequence[float]]) -> float:
    """Return the pooled standard deviation of the logarithm, each instance about its own mean."""
    deviations: list[float] = []
    for each in samples:
        positive = np.array([value for value in each if value > 0.0])
        if len(positive) > 1:
            logs = np.log(positive)
            deviations.extend(float(d) for d in logs - logs.mean())
    return _rounded(np.sqrt(np.mean(np.square(deviations))), 4) if deviations else 0.0


def _story(provenance: Provenance, cells: Sequence[CellMeasurement]) -> str:
    answers = sum(len(i.service_ms) for cell in cells for i in cell.instances)
    return (
        f"measured {provenance.date} in a closed loop, one client per instance: {len(cells)} configurations, "
        f"{answers} answers, {provenance.weights}; {provenance.host}; energy {provenance.energy_source}; "
        "contention between instances not fitted"
    )


def _as_file(
    table: PerformanceTable,
    provenance: Provenance,
    cells: Sequence[CellMeasurement],
    application: Application,
    base_p95_ms: float,
) -> dict[str, Any]:
    change = table.change
    versions: dict[str, str] = next((cell.versions for cell in cells if cell.versions), dict[str, str]())
    return {
        "schema": 1,
        "gpu_model": table.gpu_model,
        "application": table.application,
        "provenance": table.provenance,
        "request_batch": application.request_items,
        "sla_p95_ms": _rounded(SLA_FACTOR * base_p95_ms, 1),
        "sla_source": f"{SLA_FACTOR} x the p95 of {application.largest.name} on a whole GPU at 30 % utilisation, "
        f"{base_p95_ms:.1f} ms, modelled from these measured times",
        "idle_power_w": table.idle_power_w,
        "parked_power_w": table.parked_power_w,
        "parked_power_source": provenance.power_source,
        "host_lognormal_sigma": table.host_lognormal_sigma,
        "host_contention_kappa": table.host_contention,
        "gpu_lognormal_sigma": table.gpu_lognormal_sigma,
        "energy_contention": table.energy_contention,
        "change": {
            "create_s": change.create_s,
            "destroy_s": change.destroy_s,
            "worker_start_s": change.worker_start_s,
            "provenance": change.provenance,
        },
        "variants": {name: _variant_as_file(performance) for name, performance in table.variants.items()},
        "measurement": {
            "date": provenance.date,
            "host": provenance.host,
            "device": next((cell.device for cell in cells if cell.device), ""),
            "versions": versions,
            "weights": provenance.weights,
            "energy_source": provenance.energy_source,
            "instances": [figures(cell.cell, instance) for cell in cells for instance in cell.instances],
            "not_measured": {cell.cell: f"{cell.outcome}: {cell.reason}" for cell in cells if cell.outcome != "ok"},
        },
    }


def _variant_as_file(performance: VariantPerformance) -> dict[str, Any]:
    service_ms: Mapping[str, float] = performance.service_ms
    return {
        "host_ms": performance.host_ms,
        "dynamic_energy_j": performance.dynamic_energy_j,
        "service_ms": dict(service_ms),
        "out_of_memory_on": sorted(performance.out_of_memory_on),
    }


def _rounded(value: Any, digits: int = 3) -> float:
    return round(float(value), digits)
