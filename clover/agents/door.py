"""How many requests may wait, in all and by accuracy: what plan records tell admission."""

from __future__ import annotations

import math

from clover.bus.messages import Tier
from clover.core.admission import admission_bound, finishable
from clover.core.application import ServiceModel
from clover.core.configuration import Configuration, GpuId
from clover.core.tiers import accuracy_tiers


class Door:
    """Bounds of one application at one SLA.

    Args:
        model: Application and table.
        sla_ms: Promised 95th percentile.
        shed: Only as many are let in as can begin and end within the SLA.
    """

    def __init__(self, model: ServiceModel, sla_ms: float, *, shed: bool) -> None:
        self._model, self._sla_ms, self._shed = model, sla_ms, shed

    def bound(self, configuration: Configuration, *, changed: tuple[GpuId, ...] = ()) -> int:
        """Return how many requests may wait while a configuration serves and some of its GPUs change."""
        return admission_bound(self._model, configuration, sla_ms=self._sla_ms, changed=changed, shed=self._shed)

    def tiers(self, configuration: Configuration, *, changed: tuple[GpuId, ...] = ()) -> tuple[Tier, ...]:
        """Return the application's accuracy tiers with what the fleet can finish of each in time."""
        accuracies = accuracy_tiers(variant.accuracy_pct for variant in self._model.application.variants)
        return tuple(
            Tier(accuracy_pct=accuracy, bound=self._tier(configuration, changed, accuracy)) for accuracy in accuracies
        )

    def _tier(self, configuration: Configuration, changed: tuple[GpuId, ...], accuracy_pct: float) -> int:
        number = finishable(
            self._model,
            configuration,
            sla_ms=self._sla_ms,
            changed=changed,
            shed=self._shed,
            min_accuracy_pct=accuracy_pct,
        )
        return math.ceil(number)
