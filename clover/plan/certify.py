"""Proves by simulation that a plan keeps its promise: a one-sided upper bound of P(latency > SLA).

The mean over requests is estimated by batch means. Neighbouring batches of a queue are not quite independent, most of
all in large fleets, where a batch is short against a service time; the variance of the mean is therefore widened by
(1 + r) / (1 - r) with r the lag-one correlation of the batch means if that is positive (an AR(1) of batch means).
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
from clover.plan.simulator import Simulation, Simulator, late_by_batch
from clover.plan.traffic import AgentFleet, Traffic

#: A certificate takes at least this many requests after the warm-up, in at least this many batches.
LEAST_REQUESTS = 200_000
LEAST_BATCHES = 20
BATCHES = 32
#: In large fleets every batch is at least this many requests per instance long.
_BATCH_PER_INSTANCE = 1.5
CONFIDENCE = 0.99
#: A plan that already fails with this confidence after these parts of the requests is not simulated to the end. That a
#: good one is lost so is unlikely; that a bad one passes is not possible, since only the whole is proof.
_GIVE_UP_CONFIDENCE = 0.9999
_GIVE_UP_AFTER = (1.0 / 8.0, 3.0 / 8.0)
#: Certificates draw from their own random numbers: first element of every seed, so that no search shares them.
_CERTIFICATE_STREAM = 0x5EED


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Certificate:
    """What a simulation proves about a plan.

    Attributes:
        certified: The upper bound is within the limit.
        late_upper: One-sided 99 % upper bound of P(latency > SLA); 1 if overloaded.
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
        seed: Of the certificate; its random numbers are shared with no search, whatever seed that has.

    Raises:
        ValueError: Fewer requests or batches than a certificate needs, or an error of `simulate`.
    """
    if requests < LEAST_REQUESTS or batches < LEAST_BATCHES:
        raise ValueError(
            f"requests = {requests}, batches = {batches}: a certificate needs at least {LEAST_REQUESTS} and "
            f"{LEAST_BATCHES}"
        )
    simulator = Simulator(model, agents, traffic, seed=(_CERTIFICATE_STREAM, seed))
    late, finished = np.ones(batches), True
    if not simulator.overloaded:
        instances = sum(agent.instances for agent in agents)
        length = max(-(-requests // batches), math.ceil(_BATCH_PER_INSTANCE * instances))
        late, finished = _run(simulator, length, batches, sla_ms=sla_ms, limit=limit)
    simulation = simulator.result(sla_ms=sla_ms, idle_power_w=idle_power_w)
    upper = 1.0 if simulator.overloaded else min(1.0, float(late.mean()) + _margin(late, len(simulation.latency_ms)))
    return Certificate(
        certified=finished and upper <= limit,
        late_upper=upper,
        late_fraction=float(late.mean()),
        limit=limit,
        requests=len(simulation.latency_ms),
        batches=len(late),
        simulation=simulation,
    )


def _run(simulator: Simulator, length: int, batches: int, *, sla_ms: float, limit: float) -> tuple[Floats, bool]:
    """Return the late fraction of each batch, and whether all of them were simulated."""
    ran = 0
    for part in _GIVE_UP_AFTER:
        more = math.ceil(part * batches) - ran
        simulator.run(more * length)
        ran += more
        early = late_by_batch(simulator.latency_ms(), sla_ms, LEAST_BATCHES)
        if early.mean() - _margin(early, ran * length, _GIVE_UP_CONFIDENCE) > limit:
            return early, False
    simulator.run((batches - ran) * length)
    simulator.finish()
    return late_by_batch(simulator.latency_ms(), sla_ms, batches), True


def _margin(late: Floats, requests: int, confidence: float = CONFIDENCE) -> float:
    """Return how far the true mean may lie from that of the batches at this confidence, on one side."""
    n = len(late)
    variance = float(late.var(ddof=1))
    if variance == 0.0:
        # Nobody was late: what a binomial count of none allows ("rule of three").
        return -math.log(1.0 - confidence) / requests
    centred = late - late.mean()
    correlation = float((centred[1:] * centred[:-1]).sum() / (centred**2).sum())
    # The estimate is low by about 1 / n on average (Marriott and Pope 1954).
    r = min(max(correlation + 1.0 / n, 0.0), 0.9)
    return student_t_quantile(confidence, n - 1) * math.sqrt(variance / n * (1.0 + r) / (1.0 - r))


def student_t_quantile(q: float, freedom: int) -> float:
    """Return a quantile of Student's t (Cornish-Fisher expansion, Abramowitz and Stegun 26.7.5; freedom >= 10)."""
    z = NormalDist().inv_cdf(q)
    terms = (
        (z**3 + z) / 4.0,
        (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0,
        (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
