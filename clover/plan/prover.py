"""Proves plans by simulation, with the nodes that the fleet really has."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from clover.core.application import ServiceModel
from clover.core.configuration import GpuId
from clover.core.objective import LATE_LIMIT
from clover.core.queueing import idle_power_w
from clover.plan.certify import LEAST_REQUESTS, Certificate, certify
from clover.plan.points import PlanPoint, assign, fleet_of
from clover.plan.traffic import Traffic, agents_of

#: A plan that looks good but is not proven is simulated so much longer, if that can prove it at all.
_LONGER = 4
_WORTH_IT = LATE_LIMIT - 0.0006


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What came out.

    Attributes:
        point: The plan with its certificate, None if it does not keep the promise.
        late_fraction: Estimated P(latency > SLA).
    """

    point: PlanPoint | None
    late_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prover:
    """Certifies plans of one fleet, load and SLA.

    Attributes:
        model: Application and table.
        ids: The fleet; node agents that share a stream are simulated as such.
        rate_rps, sla_ms: Load and promise.
        seed: Of the certificates.
    """

    model: ServiceModel
    ids: Sequence[GpuId]
    rate_rps: float
    sla_ms: float
    seed: int = 0

    def prove(self, point: PlanPoint) -> Proof:
        """Simulate a plan.

        Under longest-idle one that looks good is simulated for longer before it is given up; with shares there is
        always another plan that is nearly as good.
        """
        certificate = self._certificate(point, 1)
        simple = point.dispatch.name == "longest_idle"
        if simple and not certificate.certified and certificate.late_fraction <= _WORTH_IT:
            certificate = self._certificate(point, _LONGER)
        if not certificate.certified:
            return Proof(point=None, late_fraction=certificate.late_fraction)
        # The closed form stays in force where it holds, so that plans are compared by one evaluator without noise.
        seen = point.evaluation if simple else certificate.simulation.evaluation
        proven = dataclasses.replace(point, evaluation=seen, late_upper=certificate.late_upper)
        return Proof(point=proven, late_fraction=certificate.late_fraction)

    def __call__(self, point: PlanPoint) -> PlanPoint | None:
        """Return the plan with its certificate, None if it does not keep the promise."""
        return self.prove(point).point

    def _certificate(self, point: PlanPoint, factor: int) -> Certificate:
        fleet = fleet_of(point.layout)
        configuration = assign(point.layout, self.ids)
        return certify(
            self.model,
            agents_of(configuration, point.dispatch.by_node(configuration)),
            Traffic(rate_rps=self.rate_rps),
            sla_ms=self.sla_ms,
            idle_power_w=idle_power_w(self.model, fleet),
            requests=factor * LEAST_REQUESTS,
            seed=self.seed,
        )
