"""How many requests may wait before the door is closed. Pure."""

from __future__ import annotations

from collections.abc import Collection

from clover.core.application import ServiceModel
from clover.core.configuration import Configuration, GpuId
from clover.core.outcome import default_deadline_s


def finishable(
    model: ServiceModel,
    configuration: Configuration,
    *,
    sla_ms: float,
    changed: Collection[GpuId] = (),
    shed: bool = False,
    min_accuracy_pct: float = 0.0,
) -> float:
    """Return how many requests the fleet can finish between now and a request's deadline.

    Args:
        model: Application and table.
        configuration: Of the fleet.
        sla_ms: Promised 95th percentile, which gives the default deadline.
        changed: GPUs that change now and so begin later: overload is said at the door and not by expiry.
        shed: Count only requests that can begin and end within the SLA.
        min_accuracy_pct: Count only variants that are at least as accurate.
    """
    change = model.table.change
    change_s = change.destroy_s + change.create_s + change.worker_start_s
    until_s = sla_ms / 1e3 if shed else default_deadline_s(sla_ms)
    count = 0.0
    for gpu, content in configuration.gpus:
        begins_s = change_s if gpu in changed else 0.0
        for kind in content.instances:
            if model.application.variant(kind.variant).accuracy_pct >= min_accuracy_pct:
                mean_s = model.mean_ms(kind.variant, kind.profile, 1.0) / 1e3
                spent_s = mean_s if shed else sla_ms / 1e3
                count += max(0.0, until_s - spent_s - begins_s) / mean_s
    return count


def admission_bound(
    model: ServiceModel,
    configuration: Configuration,
    *,
    sla_ms: float,
    changed: Collection[GpuId] = (),
    shed: bool = False,
) -> int:
    """Return the most requests that may wait, at least one; arguments as `finishable`."""
    return max(1, int(finishable(model, configuration, sla_ms=sla_ms, changed=changed, shed=shed)))
