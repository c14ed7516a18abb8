"""What is simulated: Poisson arrivals of requests of several classes, handed out by one or several node agents."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clover.core.application import ServiceModel
from clover.core.configuration import Configuration, FleetCounts, InstanceKind
from clover.core.dispatch import DispatchRule


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestClass:
    """A part of the requests that asks for the same.

    Attributes:
        fraction: Of all requests, above 0; the fractions of all classes sum to 1.
        min_accuracy_pct: Least accuracy that may answer, None for any.
        high_priority: Goes before all requests of normal priority.
    """

    fraction: float = 1.0
    min_accuracy_pct: float | None = None
    high_priority: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Poisson arrivals.

    Attributes:
        rate_rps: Arrival rate, above 0.
        classes: What the requests ask for; by default all the same, nothing in particular.
    """

    rate_rps: float
    classes: tuple[RequestClass, ...] = (RequestClass(),)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate_rps) and self.rate_rps > 0):
            raise ValueError(f"rate_rps = {self.rate_rps}: expected a finite number above 0")
        fractions = [part.fraction for part in self.classes]
        if not fractions or min(fractions) <= 0 or abs(math.fsum(fractions) - 1.0) > 1e-9:
            raise ValueError(f"classes with fractions {fractions}: expected numbers above 0 that sum to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFleet:
    """The instances that one node agent hands requests to, and its rule.

    Attributes:
        kinds: Number of instances by kind, each at least 1.
        rule: The dispatch rule of this node (with `shares`, this node's own shares).
    """

    kinds: tuple[tuple[InstanceKind, int], ...]
    rule: DispatchRule = field(default_factory=DispatchRule)

    def __post_init__(self) -> None:
        for kind, count in self.kinds:
            if count < 1:
                raise ValueError(f"{count} instances of {kind}: expected at least 1")
        if self.rule.name == "shares":
            _check_shares(self.rule.shares, {kind for kind, _ in self.kinds})

    @property
    def instances(self) -> int:
        """Number of instances."""
        return sum(count for _, count in self.kinds)


def one_agent(fleet: FleetCounts, rule: DispatchRule | None = None) -> tuple[AgentFleet, ...]:
    """Let one agent hand requests to all instances of a fleet, as the original's controller does."""
    kinds = tuple((kind, count) for kind, count in fleet.kinds if count)
    return (AgentFleet(kinds=kinds, rule=rule or DispatchRule()),)


def agents_of(
    configuration: Configuration, rules: Mapping[str, DispatchRule] | DispatchRule | None = None
) -> tuple[AgentFleet, ...]:
    """Return the agents of a configuration, one per node with a serving GPU.

    Args:
        configuration: All GPUs.
        rules: One rule for all nodes, or each node's own by its name (longest-idle for those not named).
    """
    nodes: dict[str, Counter[InstanceKind]] = {}
    for gpu_id, gpu in configuration.gpus:
        nodes.setdefault(gpu_id.node, Counter()).update(gpu.instances)
    common = rules if isinstance(rules, DispatchRule) else None
    own: Mapping[str, DispatchRule] = rules if isinstance(rules, Mapping) else {}
    return tuple(
        AgentFleet(kinds=tuple(sorted(kinds.items())), rule=common or own.get(node, DispatchRule()))
        for node, kinds in nodes.items()
        if kinds
    )


def total_counts(agents: Sequence[AgentFleet]) -> tuple[tuple[InstanceKind, int], ...]:
    """Return the instances of all agents by kind."""
    counts: Counter[InstanceKind] = Counter()
    for agent in agents:
        counts.update(dict(agent.kinds))
    return tuple(sorted(counts.items()))


def check_answerable(model: ServiceModel, agents: Sequence[AgentFleet], traffic: Traffic) -> None:
    """Raise ValueError if a class asks for more accuracy than any instance has, or if there is no instance."""
    if not any(agent.instances for agent in agents):
        raise ValueError("fleet has no instance: expected at least one")
    best = max(model.application.variant(k.variant).accuracy_pct for agent in agents for k, _ in agent.kinds)
    for part in traffic.classes:
        if part.min_accuracy_pct is not None and part.min_accuracy_pct > best:
            raise ValueError(f"min_accuracy_pct = {part.min_accuracy_pct}: expected at most {best}, the fleet's best")


def _check_shares(shares: Mapping[InstanceKind, float], kinds: set[InstanceKind]) -> None:
    unknown = sorted(str(kind) for kind in shares if kind not in kinds)
    if unknown:
        raise ValueError(f"shares of {', '.join(unknown)}: expected only kinds that the node has")
    if any(not 0.0 <= share <= 1.0 for share in shares.values()) or abs(math.fsum(shares.values()) - 1.0) > 1e-6:
        raise ValueError(f"shares {[round(s, 6) for s in shares.values()]}: expected numbers from 0 to 1 that sum to 1")
