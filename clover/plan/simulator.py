"""Simulates one fleet request by request: arrivals, dispatch, service times; no GPU, no clock, no waiting.

Service times are drawn from the same table and with the same meaning of contention as in the closed form and in live
simulated serving: the host part grows with the mean busy fraction rho of the agent's live instances, solved to its
fixed point. It starts from the closed form and is corrected during the warm-up from the rates at which the dispatch
rule really uses each kind; after the warm-up it stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from clover.core.application import ServiceModel
from clover.core.closed_form import Floats
from clover.core.queueing import Evaluation
from clover.plan.engines import Begun, Engine, Indices, Requests
from clover.plan.instances import InstanceArrays, make_engine
from clover.plan.traffic import AgentFleet, Traffic, check_answerable

#: Warm-up: requests in all, and per instance, whichever is more.
WARM_UP_REQUESTS = 6_000
WARM_UP_PER_INSTANCE = 10
_WARM_UP_PIECES = 6
_PIECE = 50_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Simulation:
    """What was seen after the warm-up.

    Attributes:
        evaluation: In the words of the closed form; overloaded fleets are not simulated but evaluated as such.
        latency_ms: Of each request in order of arrival, (R,); empty if overloaded.
        part: Class of each request, (R,).
        agent_rho: Contention of each agent that the service times were drawn with, (A,).
        realised_rho: The same, from the rates that were seen, (A,).
    """

    evaluation: Evaluation
    latency_ms: Floats
    part: Indices
    agent_rho: Floats
    realised_rho: Floats


def late_by_batch(latency_ms: Floats, sla_ms: float, batches: int) -> Floats:
    """Return the fraction of late requests in each of some batches of equal length, (batches,).

    Raises:
        ValueError: There are more batches than requests.
    """
    length = len(latency_ms) // batches
    if length < 1:
        raise ValueError(f"batches = {batches}: expected at most the {len(latency_ms)} requests")
    return (latency_ms[: length * batches] > sla_ms).reshape(batches, length).mean(axis=1)


def simulate(
    model: ServiceModel,
    agents: Sequence[AgentFleet],
    traffic: Traffic,
    *,
    sla_ms: float,
    idle_power_w: float = 0.0,
    requests: int = 200_000,
    warm_up: int | None = None,
    seed: int | Sequence[int] = 0,
) -> Simulation:
    """Simulate a fleet; the same arguments give the same result.

    Args:
        model: Application and table.
        agents: Instances and dispatch rule of each node.
        traffic: Arrivals.
        sla_ms: Latency beyond which a request is late.
        idle_power_w: Of all GPUs, for the energy per request (`clover.core.queueing.idle_power_w`).
        requests: How many are looked at.
        warm_up: How many are left out before; by default enough for the fleet's size.
        seed: Of arrivals and service times.

    Raises:
        ValueError: There is no instance, a variant does not fit, no instance may answer a class, or a number is not
            above 0.
    """
    simulator = Simulator(model, agents, traffic, warm_up=warm_up, seed=seed)
    if not simulator.overloaded:
        simulator.run(requests)
    return simulator.result(sla_ms=sla_ms, idle_power_w=idle_power_w)


@dataclass(slots=True)
class _Seen:
    """What has been seen so far."""

    arrivals: list[Requests] = field(default_factory=list[Requests])
    begun: list[Begun] = field(default_factory=list[Begun])


class Simulator:
    """A fleet that can be simulated piece by piece; arguments and errors as `simulate`.

    Attributes:
        overloaded: The fleet cannot carry the load; nothing is simulated.
        independent: Batches of latencies do not depend on each other.
    """

    independent = False

    def __init__(
        self,
        model: ServiceModel,
        agents: Sequence[AgentFleet],
        traffic: Traffic,
        *,
        warm_up: int | None = None,
        seed: int | Sequence[int] = 0,
    ) -> None:
        crews = [agent for agent in agents if agent.instances]
        check_answerable(model, crews, traffic)
        self._instances = InstanceArrays.of(model, crews)
        self._traffic = traffic
        self._rng = np.random.default_rng(seed)
        self._engine: Engine = make_engine(self._instances, crews, traffic)
        self._fractions = np.cumsum([part.fraction for part in traffic.classes])[:-1]
        self._now_s, self._next = 0.0, 0
        self._seen = _Seen()
        self._rho, self.overloaded = self._instances.first_contention(traffic)
        self._set_rho(self._rho)
        default = max(WARM_UP_REQUESTS, WARM_UP_PER_INSTANCE * len(self._instances))
        self._warm_up = default if warm_up is None else warm_up
        if not self.overloaded:
            self._warm(self._warm_up)

    def run(self, requests: int) -> None:
        """Simulate some more requests and wait until all of them have begun.

        Raises:
            ValueError: The number is not above 0.
        """
        if requests < 1:
            raise ValueError(f"requests = {requests}: expected at least 1")
        for first in range(0, requests, _PIECE):
            self._piece(min(_PIECE, requests - first))

    def finish(self) -> None:
        """Let all that still wait begin; nothing may be run afterwards."""
        self._seen.begun.append(self._engine.drain())

    def latency_ms(self) -> Floats:
        """Return the latencies since the warm-up in order of arrival, (R,); nan for those that still wait."""
        return self._observed()[0]

    def result(self, *, sla_ms: float, idle_power_w: float = 0.0) -> Simulation:
        """Finish, and return what was seen since the warm-up."""
        if not sla_ms > 0:
            raise ValueError(f"sla_ms = {sla_ms}: expected a number above 0")
        if self.overloaded:
            return self._overloaded(idle_power_w)
        self.finish()
        latency_ms, cells = self._observed()
        rates = self._rates(cells)
        return Simulation(
            evaluation=self._evaluation(latency_ms, rates, sla_ms=sla_ms, idle_power_w=idle_power_w),
            latency_ms=latency_ms,
            part=self._seen_parts(),
            agent_rho=self._rho,
            realised_rho=self._instances.contention(rates),
        )

    def _observed(self) -> tuple[Floats, Indices]:
        """Return latency and cell (agent and kind) of each request since the warm-up."""
        arrival_s = np.concatenate([piece.arrival_s for piece in self._seen.arrivals])
        latency_ms, cells = np.full(len(arrival_s), np.nan), np.zeros(len(arrival_s), dtype=np.intp)
        for begun in self._seen.begun:
            # What arrived during the warm-up is nobody's; it may begin after it.
            mine = begun.number >= self._warm_up
            numbers = begun.number[mine] - self._warm_up
            spent_s = begun.finish_s[mine] - arrival_s[numbers]
            latency_ms[numbers] = self._latency_ms(spent_s, begun.instance[mine])
            cells[numbers] = self._cells(begun.instance[mine])
        return latency_ms, cells

    def _latency_ms(self, spent_s: Floats, instances: Indices) -> Floats:
        """Return latencies of requests that waited and were served for so long: what they take beside is added."""
        return (spent_s + self._instances.kinds.beside_s[self._instances.kind[instances]]) * 1e3

    def _seen_parts(self) -> Indices:
        return np.concatenate([piece.part for piece in self._seen.arrivals])

    # --- pieces

    def _warm(self, requests: int) -> None:
        """Fill the fleet, and bring contention to its fixed point for the rates that the rule really gives."""
        cells: list[Indices] = []
        length = -(-requests // _WARM_UP_PIECES)
        for first in range(0, requests, max(length, 1)):
            self._piece(min(length, requests - first))
            # The first piece begins with an empty fleet and says little.
            cells += [self._cells(begun.instance) for begun in self._seen.begun if first > 0]
            if cells:
                self._set_rho(self._instances.contention(self._rates(np.concatenate(cells))))
            self._seen = _Seen()

    def _piece(self, length: int) -> None:
        rng, kinds = self._rng, self._instances.kinds
        arrival_s = self._now_s + np.cumsum(rng.exponential(1.0 / self._traffic.rate_rps, length))
        requests = Requests(
            first=self._next,
            arrival_s=arrival_s,
            host=log_normal(rng, kinds.host_sigma, length),
            gpu=log_normal(rng, kinds.gpu_sigma, length),
            part=self._parts(length),
        )
        self._now_s, self._next = float(arrival_s[-1]), self._next + length
        self._seen.arrivals.append(requests)
        self._seen.begun.append(self._engine.run(requests))

    def _parts(self, length: int) -> Indices:
        if not len(self._fractions):
            return np.zeros(length, dtype=np.intp)
        return np.searchsorted(self._fractions, self._rng.random(length), side="right")

    def _set_rho(self, rho: Floats) -> None:
        self._rho = rho
        self._engine.set_times(self._instances.host_s(rho).tolist(), self._instances.gpu_s().tolist())

    # --- figures

    def _cells(self, instances: Indices) -> Indices:
        """Return agent x K + kind of each instance."""
        return self._instances.agent[instances] * len(self._instances.kinds.kinds) + self._instances.kind[instances]

    def _rates(self, cells: Indices) -> Floats:
        """Return requests/s by agent and kind, (A, K)."""
        counts = np.bincount(cells, minlength=self._instances.counts.size).reshape(self._instances.counts.shape)
        return counts / len(cells) * self._traffic.rate_rps

    def _evaluation(self, latency_ms: Floats, rates: Floats, *, sla_ms: float, idle_power_w: float) -> Evaluation:
        kinds = self._instances.kinds
        shares = rates / self._traffic.rate_rps
        dynamic = ((shares @ kinds.dynamic_j) * (1.0 - kinds.energy_contention * self._rho)).sum()
        instances = self._instances.counts.sum(axis=1)
        return Evaluation(
            rate_rps=self._traffic.rate_rps,
            served_rate_rps=self._traffic.rate_rps,
            utilisation=float((self._rho * instances).sum() / instances.sum()),
            p95_ms=float(np.quantile(latency_ms, 0.95, method="inverted_cdf")),
            late_fraction=float((latency_ms > sla_ms).mean()),
            accuracy_pct=float((shares @ kinds.accuracy_pct).sum()),
            dynamic_j=float(dynamic),
            idle_power_w=idle_power_w,
            shares=dict(zip(kinds.kinds, shares.sum(axis=0).tolist(), strict=True)),
        )

    def _overloaded(self, idle_power_w: float) -> Simulation:
        kinds = self._instances.kinds
        rates = self._instances.counts / kinds.mean_s(np.ones(1))
        shares = rates.sum(axis=0) / rates.sum()
        evaluation = Evaluation(
            rate_rps=self._traffic.rate_rps,
            served_rate_rps=float(rates.sum()),
            utilisation=1.0,
            p95_ms=float("inf"),
            late_fraction=1.0,
            accuracy_pct=float(shares @ kinds.accuracy_pct),
            dynamic_j=float(shares @ kinds.dynamic_j) * (1.0 - kinds.energy_contention),
            idle_power_w=idle_power_w,
            shares=dict(zip(kinds.kinds, shares.tolist(), strict=True)),
        )
        nothing = np.empty(0)
        rho = np.ones(len(self._instances.counts))
        part = np.empty(0, dtype=np.intp)
        return Simulation(evaluation=evaluation, latency_ms=nothing, part=part, agent_rho=rho, realised_rho=rho)


def log_normal(rng: np.random.Generator, sigma: float, size: int | tuple[int, ...]) -> Floats:
    """Draw log-normal factors with mean 1, as service times are spread."""
    return np.exp(rng.standard_normal(size) * sigma - sigma**2 / 2.0)
