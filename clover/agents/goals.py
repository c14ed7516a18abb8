"""What a deployment is asked to achieve, and the question that this makes of what there is to be decided. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clover.core.application import ServiceModel
from clover.core.control import Decide
from clover.plan.problem import Parking, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What the deployment is asked to achieve.

    Attributes:
        lambda_: Weight of carbon against accuracy, 0..1.
        sla_ms: Promised 95th percentile.
        parking: What GPUs that are not needed may become.
        reserve: Serving GPUs beyond those that the load needs.
        accuracy_floor_pct: Asked for instead of `lambda_`: least carbon at no less than this accuracy.
        carbon_budget_g: Asked for instead of `lambda_`: highest accuracy within so many gCO2e per 1000 requests.
    """

    lambda_: float
    sla_ms: float
    parking: Parking = "none"
    reserve: int = 0
    accuracy_floor_pct: float | None = None
    carbon_budget_g: float | None = None

    def problem(
        self,
        ask: Decide,
        model: ServiceModel,
        multisets: Sequence[tuple[str, ...]],
        *,
        intensity_g_per_kwh: float,
        pue: float,
    ) -> Problem:
        """Return the question for a scheme.

        Args:
            ask: What is to be decided.
            model: Application and the table in use.
            multisets: Partitions that the board allows.
            intensity_g_per_kwh: Of the grid.
            pue: Of the building.
        """
        return Problem(
            model=model,
            multisets=tuple(multisets),
            gpus=ask.gpus,
            rate_rps=ask.rate_rps,
            sla_ms=self.sla_ms,
            lambda_=self.lambda_,
            intensity_g_per_kwh=intensity_g_per_kwh,
            pue=pue,
            current=ask.current,
            present=ask.present,
            parking=self.parking,
            # A fleet that has lost GPUs serves with what is left of it.
            reserve=min(self.reserve, len(ask.gpus) - 1),
            accuracy_floor_pct=self.accuracy_floor_pct,
            carbon_budget_g=self.carbon_budget_g,
        )
