"""What is asked of a plan: a weight of carbon, a floor of accuracy, or a budget of carbon."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clover.core.carbon import REFERENCE_INTENSITY_G_PER_KWH, REFERENCE_PUE
from clover.core.objective import Baseline
from clover.core.units import J_PER_KWH

#: What dispatch by shares may miss of the planned accuracy and energy.
_ACCURACY_MARGIN_PCT, _ENERGY_MARGIN = 0.01, 0.002
#: Decides between answers that are equal in what is asked for.
_TIE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A score that is linear in accuracy and energy, and what must be kept beside the SLA.

    score = constant + per_accuracy_pct x accuracy - per_energy_j x energy per request.

    Attributes:
        what: Of the score, for people: `objective`, `-energy_j_per_request` or `accuracy_pct`.
        constant, per_accuracy_pct, per_energy_j: Of the score.
        least_accuracy_pct: To be kept, None if nothing is asked.
        most_energy_j: Likewise, per request of the whole fleet.
    """

    what: str
    constant: float = 0.0
    per_accuracy_pct: float = 0.0
    per_energy_j: float = 0.0
    least_accuracy_pct: float | None = None
    most_energy_j: float | None = None

    @property
    def constrained(self) -> bool:
        """Whether something must be kept beside the SLA."""
        return self.least_accuracy_pct is not None or self.most_energy_j is not None

    def tightened(self) -> Asked:
        """Ask for a little more than must be kept, so that what dispatch really does keeps it too."""
        floor, most = self.least_accuracy_pct, self.most_energy_j
        return replace(
            self,
            least_accuracy_pct=None if floor is None else floor + _ACCURACY_MARGIN_PCT,
            most_energy_j=None if most is None else most * (1.0 - _ENERGY_MARGIN),
        )

    def score(self, accuracy_pct: float, energy_j: float) -> float:
        """Return the score of an answer."""
        return self.constant + self.per_accuracy_pct * accuracy_pct - self.per_energy_j * energy_j


def by_objective(lambda_: float, baseline: Baseline, effective_g_per_kwh: float) -> Asked:
    """Ask for the largest f = lambda x dCarbon - (1 - lambda) x dAccuracy at an intensity x PUE."""
    reference = baseline.energy_j_per_request * REFERENCE_INTENSITY_G_PER_KWH * REFERENCE_PUE
    return Asked(
        what="objective",
        constant=lambda_ - (1.0 - lambda_),
        per_accuracy_pct=(1.0 - lambda_) / baseline.accuracy_pct,
        per_energy_j=lambda_ * effective_g_per_kwh / reference,
    )


def by_accuracy_floor(accuracy_pct: float) -> Asked:
    """Ask for the least energy (and so the least carbon) at no less than an accuracy."""
    return Asked(what="-energy_j_per_request", per_energy_j=1.0, per_accuracy_pct=_TIE, least_accuracy_pct=accuracy_pct)


def by_carbon_budget(g_per_1000_requests: float, effective_g_per_kwh: float) -> Asked:
    """Ask for the highest accuracy at no more than so many gCO2e per 1000 requests."""
    energy_j = float("inf")
    if effective_g_per_kwh > 0:
        energy_j = g_per_1000_requests / 1000.0 / effective_g_per_kwh * J_PER_KWH
    return Asked(what="accuracy_pct", per_accuracy_pct=1.0, per_energy_j=_TIE, most_energy_j=min(energy_j, 1e12))
