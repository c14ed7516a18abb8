"""Simulates one fleet many times side by side, each with its own draws and warm-up: one step of numpy per request.

For small fleets under rules that take whatever they are offered this is several times as fast as one long run. The
instances are rows, preferred ones first, the replications columns. A replication begins empty: how long it is warmed up
follows from how fast a queue forgets where it began. The relaxation time of a queue that is busy for a fraction u of
the time is about 1 / (1 - sqrt(u))^2 services of the whole fleet (exact for M/M/1: Cohen 1982), or u / (1 - sqrt(u))^2
requests; a service that was under way is forgotten after as many requests as there are instances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clover.core.application import ServiceModel
from clover.core.closed_form import Booleans, Floats
from clover.plan.engines import Indices
from clover.plan.instances import InstanceArrays
from clover.plan.simulator import Simulator, log_normal
from clover.plan.sweep import Matrix
from clover.plan.traffic import AgentFleet, Traffic

_REPLICATIONS = 256
#: A larger fleet is simulated faster with a heap, and one that forgets more slowly in one long run.
_MOST_INSTANCES, _LONGEST_WARM_UP = 128, 4_000
#: Warm-up: requests per instance, relaxation times, and requests in any case.
_PER_INSTANCE, _RELAXATIONS, _LEAST_WARM_UP = 8, 5.0, 500
_PIECE = 500
_NEVER = np.iinfo(np.int64).max


class AgentsMatrix(Matrix):
    """As `Matrix`, for agents that pull in turn: the one that has waited longest with an idle instance is asked first.

    An agent lines up when it takes a request and still has an idle instance, or else when its next one becomes free:
    since the later of the two, it waits.

    Args:
        sizes: Instances of each agent, whose rows follow each other.
        ranked: For each agent whether it prefers idle instances of lower rows; else the longest idle one.
        columns: Number of replications.
    """

    def __init__(self, sizes: Sequence[int], ranked: Sequence[bool], columns: int) -> None:
        super().__init__(np.full(columns, sum(sizes), dtype=np.intp))
        ends = np.cumsum(sizes).tolist()
        self._rows = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self._ranked = list(ranked)
        self._row: NDArray[np.int64] = np.arange(sum(sizes), dtype=np.int64)[:, None]
        self._free: NDArray[np.int64] = np.zeros((len(sizes), columns), dtype=np.int64)
        self._preferred: NDArray[np.int64] = self._free.copy()
        self._since: NDArray[np.int64] = self._free.copy()
        self._asked: NDArray[np.intp] = np.zeros(columns, dtype=np.intp)

    def _best(self, keys: NDArray[np.int64], arrival_s: Floats, out: NDArray[np.int64]) -> None:
        now = arrival_s.view(np.int64) | self._numbers
        for agent, rows in enumerate(self._rows):
            own = keys[rows]
            np.minimum.reduce(own, axis=0, out=self._free[agent])
            if self._ranked[agent]:
                np.minimum.reduce(np.where(own <= now, self._row[rows], _NEVER), axis=0, out=self._preferred[agent])
            else:
                self._preferred[agent] = self._free[agent]
        free, columns = self._free, self._columns
        lined_up = np.where(free <= now, np.maximum(free, self._since), _NEVER)
        # If all are busy, the instance that is free first takes the request.
        first: NDArray[np.intp] = free.argmin(axis=0)
        longest: NDArray[np.intp] = lined_up.argmin(axis=0)
        busy: Booleans = free[first, columns] > now
        self._asked = np.where(busy, first, longest)
        out[:] = np.where(busy, free[first, columns], self._preferred[self._asked, columns])

    def _begun(self, start_s: Floats) -> None:
        self._since[self._asked, self._columns] = start_s.view(np.int64)


class Replications(Simulator):
    """A small fleet that is simulated side by side after the warm-up of `Simulator` has found its contention.

    Latencies are those of the first replication, then of the second, and so on: batches do not depend on each other.
    """

    def __init__(
        self, model: ServiceModel, agents: Sequence[AgentFleet], traffic: Traffic, *, seed: int | Sequence[int] = 0
    ) -> None:
        super().__init__(model, agents, traffic, seed=seed)
        self._rows = preferences(self._instances, [agent for agent in agents if agent.instances], self._rho)
        self._spent_s: list[Floats] = []
        self._served: list[Indices] = []
        self._at_s: Floats = np.zeros(_REPLICATIONS)
        self.independent = self.quick
        if self.quick:
            self._matrix = self._make_matrix([agent for agent in agents if agent.instances])
            self._serve(self.forgets_after)
            self._spent_s, self._served = [], []

    @property
    def forgets_after(self) -> int:
        """Number of requests after which where a replication began does not matter."""
        busy = min(float((self._rho * self._instances.counts.sum(axis=1)).sum()) / len(self._instances), 0.999)
        relaxation = busy / (1.0 - math.sqrt(busy)) ** 2
        return max(_LEAST_WARM_UP, _PER_INSTANCE * len(self._instances), math.ceil(_RELAXATIONS * relaxation))

    @property
    def quick(self) -> bool:
        """Whether side by side is faster."""
        small = len(self._instances) <= _MOST_INSTANCES
        return not self.overloaded and small and self.forgets_after <= _LONGEST_WARM_UP

    def run(self, requests: int) -> None:
        """Simulate some more requests, at least so many in all replications together; errors as in `Simulator`."""
        if not self.quick:
            super().run(requests)
            return
        if requests < 1:
            raise ValueError(f"requests = {requests}: expected at least 1")
        self._serve(-(-requests // _REPLICATIONS))

    def _observed(self) -> tuple[Floats, Indices]:
        if not self.quick:
            return super()._observed()
        instances = self._rows[np.concatenate(self._served).T.ravel()]
        return self._latency_ms(np.concatenate(self._spent_s).T.ravel(), instances), self._cells(instances)

    def _seen_parts(self) -> Indices:
        return np.zeros(sum(rows.size for rows in self._served), dtype=np.intp) if self.quick else super()._seen_parts()

    def _serve(self, each: int) -> None:
        rng, kinds = self._rng, self._instances.kinds
        for first in range(0, each, _PIECE):
            shape = (min(_PIECE, each - first), _REPLICATIONS)
            arrival_s = self._at_s + np.cumsum(rng.exponential(1.0 / self._traffic.rate_rps, shape), axis=0)
            host, gpu = log_normal(rng, kinds.host_sigma, shape), log_normal(rng, kinds.gpu_sigma, shape)
            finish_s, row = self._matrix.serve(arrival_s, host, gpu)
            self._at_s = arrival_s[-1]
            self._spent_s.append(finish_s - arrival_s)
            self._served.append(row)

    def _make_matrix(self, agents: Sequence[AgentFleet]) -> Matrix:
        instances, rows = self._instances, self._rows
        sizes = [agent.instances for agent in agents]
        ranked = [agent.rule.name != "longest_idle" for agent in agents]
        if len(agents) == 1:
            matrix = Matrix(np.full(_REPLICATIONS, sizes[0], dtype=np.intp), ranked=ranked[0])
        else:
            matrix = AgentsMatrix(sizes, ranked, _REPLICATIONS)
        shape = (len(rows), _REPLICATIONS)
        matrix.set_times(
            np.broadcast_to(instances.host_s(self._rho)[rows, None], shape),
            np.broadcast_to(instances.gpu_s()[rows, None], shape),
        )
        return matrix


def preferences(instances: InstanceArrays, agents: Sequence[AgentFleet], rho: Floats) -> Indices:
    """Return the instances agent by agent, those that its rule prefers at a contention of (A,) first."""
    names = np.array([agent.rule.name for agent in agents])[instances.agent]
    mean_s = np.where(names == "longest_idle", 0.0, instances.host_s(rho) + instances.gpu_s())
    accuracy = np.where(names == "accurate", instances.kinds.accuracy_pct[instances.kind], 0.0)
    return np.lexsort([mean_s, -accuracy, instances.agent])


def make_simulator(
    model: ServiceModel, agents: Sequence[AgentFleet], traffic: Traffic, *, seed: int | Sequence[int] = 0
) -> Simulator:
    """Return the simulator that is fastest for a certificate; arguments and errors as `Simulator`."""
    alike = len(traffic.classes) == 1 and traffic.classes[0].min_accuracy_pct is None
    takes_all = all(agent.rule.name != "shares" and not agent.rule.hold_back for agent in agents)
    return (Replications if alike and takes_all else Simulator)(model, agents, traffic, seed=seed)
