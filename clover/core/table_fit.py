"""From measurements of instances to a performance table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clover.core.application import (
    Application,
    ChangeTimes,
    PerformanceTable,
    ServiceModel,
    VariantPerformance,
)
from clover.core.configuration import FleetCounts, GpuConfiguration, InstanceKind
from clover.core.profiling import CellMeasurement, InstanceMeasurement, figures, rounded
from clover.core.queueing import evaluate

#: A table's promise is this much above BASE's 95th percentile at this utilisation (DESIGN: definitions).
SLA_FACTOR, SLA_UTILISATION = 1.02, 0.3


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
        think_s: Mean pause of a client between two inferences.
        batch_size: Requests per inference.
        path_ms: Of each request that was sent through a server to an instance that answers at once: its latency.
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
    think_s: float = 0.0
    batch_size: int = 1
    path_ms: tuple[float, ...] = ()


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
        transport_ms=rounded(np.mean(provenance.path_ms)) if provenance.path_ms else 0.0,
        batch_size=provenance.batch_size,
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
        host_ms=rounded(np.mean([np.mean(instance.host_ms) for instance in mine])),
        service_ms={
            profile: rounded(np.mean([np.mean(i.instance_ms) for i in mine if i.profile == profile]))
            for profile in profiles
        },
        dynamic_energy_j=rounded(np.mean([np.mean(instance.energy_j) for instance in mine]), 4),
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
    return rounded(np.sqrt(np.mean(np.square(deviations))), 4) if deviations else 0.0


def _story(provenance: Provenance, cells: Sequence[CellMeasurement]) -> str:
    answers = sum(len(i.service_ms) for cell in cells for i in cell.instances)
    think = f", pauses of {provenance.think_s * 1e3:g} ms on average" if provenance.think_s else ", back to back"
    batches = f" of {provenance.batch_size} requests" if provenance.batch_size > 1 else ""
    return (
        f"measured {provenance.date} in a closed loop, one client per instance{think}: {len(cells)} configurations, "
        f"{answers} answers{batches}, {provenance.weights}; {provenance.host}; energy {provenance.energy_source}; "
        "contention between instances not fitted"
    )


def _transport_story(path_ms: Sequence[float]) -> str:
    if not path_ms:
        return "not measured"
    return (
        f"mean of {len(path_ms)} requests through a server on this host to an instance that answers at once, "
        f"p95 {np.quantile(path_ms, 0.95):.1f} ms"
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
        "batch_size": table.batch_size,
        "sla_p95_ms": rounded(SLA_FACTOR * base_p95_ms, 1),
        "sla_source": f"{SLA_FACTOR} x the p95 of {application.largest.name} on a whole GPU at 30 % utilisation, "
        f"{base_p95_ms:.1f} ms, modelled from these measured times",
        "idle_power_w": table.idle_power_w,
        "parked_power_w": table.parked_power_w,
        "parked_power_source": provenance.power_source,
        "transport_ms": table.transport_ms,
        "transport_source": _transport_story(provenance.path_ms),
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
