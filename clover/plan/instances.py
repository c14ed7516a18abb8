"""The instances of all agents as arrays, the mean service times at an agent's contention, and that contention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clover.core.application import ServiceModel
from clover.core.closed_form import Floats, KindArrays, operating_points
from clover.plan.engines import Engine, Indices, LongestIdleEngine
from clover.plan.event_engine import Crew, EventEngine
from clover.plan.pull_engine import PullEngine, SharesEngine
from clover.plan.traffic import AgentFleet, Traffic, total_counts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InstanceArrays:
    """Instances numbered agent by agent and kind by kind.

    Attributes:
        kinds: Figures of the kinds, in the order of their indices.
        counts: Instances per agent and kind, (A, K).
        agent, kind: Of each instance, (N,).
    """

    kinds: KindArrays
    counts: Floats
    agent: Indices
    kind: Indices

    @staticmethod
    def of(model: ServiceModel, agents: Sequence[AgentFleet]) -> InstanceArrays:
        """Number the instances.

        Raises:
            ValueError: A variant is unknown or does not fit on its profile.
        """
        kinds = KindArrays.of(model, [kind for kind, _ in total_counts(agents)])
        column = {kind: index for index, kind in enumerate(kinds.kinds)}
        counts = np.zeros((len(agents), len(column)))
        for row, agent in enumerate(agents):
            for kind, count in agent.kinds:
                counts[row, column[kind]] += count
        repeats = counts.astype(np.intp).ravel()
        cells = np.repeat(np.arange(counts.size), repeats)
        return InstanceArrays(kinds=kinds, counts=counts, agent=cells // len(column), kind=cells % len(column))

    def __len__(self) -> int:
        return len(self.kind)

    def host_s(self, rho: Floats) -> Floats:
        """Return the mean host part of each instance, (N,), given the contention of each agent, (A,)."""
        return self.kinds.host_s[self.kind] * (1.0 + self.kinds.kappa * rho[self.agent])

    def gpu_s(self) -> Floats:
        """Return the mean part on each instance, (N,)."""
        return self.kinds.gpu_s[self.kind]

    def contention(self, rates: Floats) -> Floats:
        """Return each agent's mean busy fraction, (A,), at the fixed point for requests/s of shape (A, K).

        By Little's law n rho = sum of rates x mean service times, and these are linear in rho.
        """
        at_rest = rates @ (self.kinds.host_s + self.kinds.gpu_s)
        growth = rates @ (self.kinds.kappa * self.kinds.host_s)
        spare = self.counts.sum(axis=1) - growth
        return np.where(at_rest < spare, at_rest / np.where(spare > 0, spare, 1.0), 1.0)

    def first_contention(self, traffic: Traffic) -> tuple[Floats, bool]:
        """Return what the closed form expects, (A,), and whether the fleet cannot carry the load at all."""
        points = operating_points(self.kinds, self.counts.sum(axis=0, keepdims=True), np.array([traffic.rate_rps]))
        return np.full(len(self.counts), points.rho[0]), bool(points.overloaded[0])


def make_engine(instances: InstanceArrays, agents: Sequence[AgentFleet], traffic: Traffic) -> Engine:
    """Return the fastest engine that does what is asked."""
    alike = len(traffic.classes) == 1 and traffic.classes[0].min_accuracy_pct is None
    if alike and len(agents) == 1 and agents[0].rule.name == "longest_idle":
        return LongestIdleEngine(len(instances))
    crews = [_crew(instances, row, agent) for row, agent in enumerate(agents)]
    if alike and not any(agent.rule.hold_back for agent in agents):
        shares = any(agent.rule.name == "shares" for agent in agents)
        return SharesEngine(crews) if shares else PullEngine(crews)
    return EventEngine(crews, traffic.classes)


def _crew(instances: InstanceArrays, row: int, agent: AgentFleet) -> Crew:
    mine = [k for k in range(instances.counts.shape[1]) if instances.counts[row, k]]
    return Crew(
        rule=agent.rule,
        shares=tuple(agent.rule.shares.get(instances.kinds.kinds[k], 0.0) for k in mine),
        accuracy_pct=tuple(float(instances.kinds.accuracy_pct[k]) for k in mine),
        instances=tuple(tuple(np.flatnonzero((instances.agent == row) & (instances.kind == k)).tolist()) for k in mine),
    )
