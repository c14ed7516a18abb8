"""How many requests may wait before the door is closed. Pure."""

from __future__ import annotations

from collections.abc import Collection

from clover.core.application import ServiceModel
from clover.core.configuration import Configuration, GpuId
from clover.core.outcome import default_deadline_s


def admission_bound(
    model: ServiceModel,
    configuration: Configuration,
    *,
    sla_ms: float,
    changed: Collection[GpuId] = (),
    shed: bool = False,
) -> int:
    """Return the most requests that may wait: what the fleet can finish between now and a request's deadline.

    A GPU of `changed` begins that much later, so that overload is said at the door and not by expiry. With `shed` only
    so many are let in as can begin and end within the SLA.
    """
    return max(1, int(_finishable(model, configuration, 0.0, sla_ms=sla_ms, changed=changed, shed=shed)))


def tier_bound(
    model: ServiceModel,
    configuration: Configuration,
    least_pct: float,
    *,
    sla_ms: float,
    changed: Collection[GpuId] = (),
    shed: bool = False,
) -> int:
    """Return the same of requests that ask for at least an accuracy in %; 0 if no variant there is as accurate."""
    best = (
        model.application.variant(kind.variant).accuracy_pct for _, gpu in configuration.gpus for kind in gpu.instances
    )
    if max(best, default=-1.0) < least_pct:
        return 0
    return max(1, int(_finishable(model, configuration, least_pct, sla_ms=sla_ms, changed=changed, shed=shed)))


def _finishable(
    model: ServiceModel,
    configuration: Configuration,
    least_pct: float,
    *,
    sla_ms: float,
    changed: Collection[GpuId],
    shed: bool,
) -> float:
    """Return how many requests instances of at least some accuracy can finish in time."""
    change = model.table.change
    change_s = change.destroy_s + change.create_s + change.worker_start_s
    until_s = sla_ms / 1e3 if shed else default_deadline_s(sla_ms)
    bound = 0.0
    for gpu, content in configuration.gpus:
        begins_s = change_s if gpu in changed else 0.0
        able = [k for k in content.instances if model.application.variant(k.variant).accuracy_pct >= least_pct]
        for kind in able:
            mean_s = model.mean_ms(kind.variant, kind.profile, 1.0) / 1e3
            spent_s = mean_s if shed else sla_ms / 1e3
            bound += max(0.0, until_s - spent_s - begins_s) / mean_s
    return bound
