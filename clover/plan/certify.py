"""Proves by simulation that a plan keeps its promise: a one-sided upper bound of P(latency > SLA).

The mean over requests is estimated by batch means. Neighbouring batches of a queue are not quite independent, most of
all in large fleets, where a batch is short against a service time; the variance of the mean is therefore widened by
(1 + r) / (1 - r) with r the lag-one correlation of the batch means if that is positive (an AR(1) of batch means).
Batches of replications side by side (`clover.plan.replications`) are independent, and there are more of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from clover.core.application import ServiceModel
from clover.core.closed_form import Floats
from clover.core.objective import LATE_LIMIT
from clover.plan.replications import make_simulator
from clover.plan.simulator import Simulation, Simulator, late_by_batch
from clover.plan.traffic import AgentFleet, Traffic

#: A certificate takes at least this many requests after the warm-up, in at least this many batches.
LEAST_REQUESTS = 200_000
LEAST_BATCHES = 20
BATCHES, INDEPENDENT_BATCHES = 32, 128
#: In large fleets every batch is at least this many requests per instance long.
_BATCH_PER_INSTANCE = 1.5
CONFIDENCE = 0.99
#: After these parts of the requests a plan is given up that hardly can pass in the end any more. That a good one is
#: lost so is unlikely; that a bad one passes is not possible, since only the whole is proof.
_GIVE_UP_AFTER = (1.0 / 16.0, 1.0 / 8.0, 1.0 / 4.0, 1.0 / 2.0)
#: Standard deviations of luck that a plan is still granted there, and before it is simulated for longer.
_LUCK, _LUCK_BEFORE_LONGER = 3.0, 1.0
#: Certificates draw from their own random numbers: first element of every seed, so that no search shares them.
_CERTIFICATE_STREAM = 0x5EED


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Certificate:
    """What a simulation proves about a plan.

    Attributes:
        certified: The upper bound is within the limit.
        late_upper: One-sided upper bound of P(latency > SLA) with at least 99 % confidence; 1 if overloaded.
        late_fraction: Its estimate.
        limit: What was to be kept.
        requests, batches: Looked at after the warm-up; fewer than asked for if the plan failed early.
        simulation: All else that was seen.
    """

    certified: bool
    late_upper: float
    late_fraction: float
    limit: float
    requests: int
    batches: int
    simulation: Simulation


def certify(
    model: ServiceModel,
    agents: Sequence[AgentFleet],
    traffic: Traffic,
    *,
    sla_ms: float,
    idle_power_w: float = 0.0,
    limit: float = LATE_LIMIT,
    requests: int = LEAST_REQUESTS,
    batches: int = BATCHES,
    longer: int = 1,
    seed: int = 0,
) -> Certificate:
    """Simulate a plan at its own contention and with its own dispatch rule, and bound P(latency > SLA).

    Args:
        model: Application and table.
        agents: Instances and dispatch rule of each node.
        traffic: Arrivals to plan for.
        sla_ms: Promised 95th percentile.
        idle_power_w: Of all GPUs, for the energy in the simulation's figures.
        limit: Largest fraction of late requests.
        requests: At least `LEAST_REQUESTS`; large fleets get more.
        batches: At least `LEAST_BATCHES`.
        longer: A plan that is nearly proven is simulated on until there are so many times as many requests. To look
            twice is to try one's luck twice: each look then takes half of the 1 % by which a certificate may err.
        seed: Of the certificate; its random numbers are shared with no search, whatever seed that has.

    Raises:
        ValueError: Fewer requests or batches than a certificate needs, or an error of `simulate`.
    """
    if requests < LEAST_REQUESTS or batches < LEAST_BATCHES:
        raise ValueError(
            f"requests = {requests}, batches = {batches}: a certificate needs at least {LEAST_REQUESTS} and "
            f"{LEAST_BATCHES}"
        )
    simulator = make_simulator(model, agents, traffic, seed=(_CERTIFICATE_STREAM, seed))
    late, finished, confidence = np.ones(batches), True, CONFIDENCE
    if longer > 1:
        confidence = (1.0 + CONFIDENCE) / 2.0
    if not simulator.overloaded:
        instances = sum(agent.instances for agent in agents)
        if simulator.independent:
            batches = max(batches, INDEPENDENT_BATCHES)
        length = max(-(-requests // batches), math.ceil(_BATCH_PER_INSTANCE * instances))
        run = _Run(simulator, length, batches, sla_ms=sla_ms, limit=limit, confidence=confidence)
        late, finished = run.look(max(batches, math.ceil(longer * requests / length)))
    simulation = simulator.result(sla_ms=sla_ms, idle_power_w=idle_power_w)
    seen = len(simulation.latency_ms)
    upper = 1.0 if simulator.overloaded else min(1.0, float(late.mean()) + _margin(late, seen, confidence, simulator))
    return Certificate(
        certified=finished and upper <= limit,
        late_upper=upper,
        late_fraction=float(late.mean()),
        limit=limit,
        requests=seen,
        batches=len(late),
        simulation=simulation,
    )


class _Run:
    """A simulation in batches that is looked at on the way."""

    def __init__(
        self, simulator: Simulator, length: int, batches: int, *, sla_ms: float, limit: float, confidence: float
    ) -> None:
        self._simulator, self._length, self._batches = simulator, length, batches
        self._sla_ms, self._limit, self._confidence = sla_ms, limit, confidence
        self._ran = 0

    def look(self, most: int) -> tuple[Floats, bool]:
        """Return the late fraction of each batch, and whether there are enough for a proof.

        Args:
            most: Usual batches to which a plan is simulated that is nearly proven.
        """
        for part in _GIVE_UP_AFTER:
            if self._hopeless(self._until(math.ceil(part * self._batches), LEAST_BATCHES), most, _LUCK):
                return self._finished(LEAST_BATCHES), False
        late = self._until(self._batches, self._batches)
        if most == self._batches or late.mean() + self._margin(late) <= self._limit:
            return self._finished(self._batches), True
        if self._hopeless(late, most, _LUCK_BEFORE_LONGER):
            return self._finished(self._batches), False
        late = self._until((self._batches + most) // 2, self._batches)
        if self._hopeless(late, most, _LUCK_BEFORE_LONGER):
            return self._finished(self._batches), False
        self._until(most, self._batches)
        return self._finished(self._batches), True

    def _until(self, ran: int, batches: int) -> Floats:
        """Simulate until so many batches of the usual length are there; return them cut into so many."""
        self._simulator.run((ran - self._ran) * self._length)
        self._ran = ran
        return late_by_batch(self._simulator.latency_ms(), self._sla_ms, batches)

    def _finished(self, batches: int) -> Floats:
        self._simulator.finish()
        return late_by_batch(self._simulator.latency_ms(), self._sla_ms, batches)

    def _margin(self, late: Floats) -> float:
        return _margin(late, self._ran * self._length, self._confidence, self._simulator)

    def _hopeless(self, late: Floats, most: int, luck: float) -> bool:
        """Return whether even with some luck too many will have been late in the end, after so many batches.

        The mean of the whole differs from that of a part by a standard deviation of sqrt(1 - part) times that of the
        part's mean, whose own error is sqrt(1 / part) times that of the whole.
        """
        part, margin = self._ran / most, self._margin(late)
        deviation = margin / student_t_quantile(self._confidence, len(late) - 1)
        best = late.mean() - luck * math.sqrt(1.0 - part) * deviation
        return best + math.sqrt(part) * margin > self._limit


def _margin(late: Floats, requests: int, confidence: float, simulator: Simulator) -> float:
    """Return how far the true mean may lie from that of the batches at this confidence, on one side."""
    n = len(late)
    variance = float(late.var(ddof=1))
    if variance == 0.0:
        # Nobody was late: what a binomial count of none allows ("rule of three").
        return -math.log(1.0 - confidence) / requests
    r = 0.0 if simulator.independent else _correlation(late)
    return student_t_quantile(confidence, n - 1) * math.sqrt(variance / n * (1.0 + r) / (1.0 - r))


def _correlation(late: Floats) -> float:
    """Return the lag-one correlation of batches, from 0 to 0.9."""
    centred = late - late.mean()
    found = float((centred[1:] * centred[:-1]).sum() / (centred**2).sum())
    # The estimate is low by about 1 / n on average (Marriott and Pope 1954).
    return min(max(found + 1.0 / len(late), 0.0), 0.9)


def student_t_quantile(q: float, freedom: int) -> float:
    """Return a quantile of Student's t (Cornish-Fisher expansion, Abramowitz and Stegun 26.7.5; freedom >= 10)."""
    z = NormalDist().inv_cdf(q)
    terms = (
        (z**3 + z) / 4.0,
        (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0,
        (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
