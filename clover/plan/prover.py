"""Proves plans by simulation, with the nodes that the fleet really has."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from clover.core.application import ServiceModel
from clover.core.configuration import GpuId
from clover.core.queueing import Evaluation, idle_power_w
from clover.plan.certify import certify
from clover.plan.points import PlanPoint, assign, fleet_of
from clover.plan.simulator import simulate
from clover.plan.traffic import Traffic, agents_of

#: A plan that looks good but is not proven is simulated so much longer.
LONGER = 5
#: A short look; its random numbers are shared with no certificate.
_GLANCE_REQUESTS, _GLANCE_STREAM = 8_000, 0x61A2


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
class Seen:
    """What a certificate says of a plan, whatever its GPUs draw while they are idle."""

    certified: bool
    late_upper: float
    late_fraction: float
    evaluation: Evaluation


#: Certificates by all that they depend on.
Proofs = dict[tuple[object, ...], Seen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prover:
    """Certifies plans of one fleet, load and SLA.

    Attributes:
        model: Application and table.
        ids: The fleet; node agents that share a stream are simulated as such.
        rate_rps, sla_ms: Load and promise.
        seed: Of the certificates.
        proofs: What is known; to be shared by provers whose models differ in nothing but idle, parked and off watts.
    """

    model: ServiceModel
    ids: Sequence[GpuId]
    rate_rps: float
    sla_ms: float
    seed: int = 0
    proofs: Proofs = field(default_factory=Proofs)

    def prove(self, point: PlanPoint) -> Proof:
        """Simulate a plan, unless that was done before."""
        fleet = fleet_of(point.layout)
        key = (self.ids, self.rate_rps, self.sla_ms, self.seed, point.layout, point.dispatch.key)
        if key not in self.proofs:
            self.proofs[key] = self._see(point)
        seen = self.proofs[key]
        if not seen.certified:
            return Proof(point=None, late_fraction=seen.late_fraction)
        evaluation = point.evaluation
        # The closed form stays in force where it holds, so that plans are compared by one evaluator without noise.
        if point.dispatch.name != "longest_idle":
            evaluation = dataclasses.replace(seen.evaluation, idle_power_w=idle_power_w(self.model, fleet))
        proven = dataclasses.replace(point, evaluation=evaluation, late_upper=seen.late_upper)
        return Proof(point=proven, late_fraction=seen.late_fraction)

    def __call__(self, point: PlanPoint) -> PlanPoint | None:
        """Return the plan with its certificate, None if it does not keep the promise."""
        return self.prove(point).point

    def glance(self, point: PlanPoint) -> PlanPoint:
        """Simulate a plan shortly with its nodes; what is seen is no proof."""
        configuration = assign(point.layout, self.ids)
        seen = simulate(
            self.model,
            agents_of(configuration, point.dispatch.by_node(configuration)),
            Traffic(rate_rps=self.rate_rps),
            sla_ms=self.sla_ms,
            idle_power_w=idle_power_w(self.model, fleet_of(point.layout)),
            requests=_GLANCE_REQUESTS,
            seed=(_GLANCE_STREAM, self.seed),
        )
        return dataclasses.replace(point, evaluation=seen.evaluation)

    def _see(self, point: PlanPoint) -> Seen:
        """Simulate; what looks good but is not proven is simulated for longer before it is given up.

        Not with shares: there is always another plan that is nearly as good.
        """
        configuration = assign(point.layout, self.ids)
        found = certify(
            self.model,
            agents_of(configuration, point.dispatch.by_node(configuration)),
            Traffic(rate_rps=self.rate_rps),
            sla_ms=self.sla_ms,
            longer=1 if point.dispatch.name == "shares" else LONGER,
            seed=self.seed,
        )
        return Seen(
            certified=found.certified,
            late_upper=found.late_upper,
            late_fraction=found.late_fraction,
            evaluation=found.simulation.evaluation,
        )
