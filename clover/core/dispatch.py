"""Which idle instance takes the next request: one pure function, used by node agents and by the simulator alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from clover.core.configuration import InstanceKind

RuleName = Literal["longest_idle", "fastest", "accurate", "shares"]

#: A kind may be this many requests ahead of its share before it must wait.
SHARE_SLACK_REQUESTS = 5.0

#: When requests wait longer than this, the kind that is least ahead of its share takes one anyway.
SHARE_PATIENCE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchRule:
    """How a node hands requests to its instances.

    Attributes:
        name: `longest_idle` (the original's: equal shares at low load), `fastest` (smallest mean service time),
            `accurate` (highest accuracy, then fastest) or `shares`.
        hold_back: With `fastest`: an instance stays idle if waiting for a faster one is expected to be sooner done.
        shares: With `shares`: wanted share of this node's requests per kind, summing to 1.
        weight: With `shares`: planned part of the fleet's requests that this node begins.
    """

    name: RuleName = "longest_idle"
    hold_back: bool = False
    shares: Mapping[InstanceKind, float] = field(default_factory=dict[InstanceKind, float])
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleInstance:
    """An instance that could take a request now.

    Attributes:
        key: What the caller knows it by.
        kind: Variant and profile.
        idle_since_s: When it last finished (or became ready).
        mean_service_ms: Expected service time at the present contention.
        accuracy_pct: Of its variant.
    """

    key: int
    kind: InstanceKind
    idle_since_s: float
    mean_service_ms: float
    accuracy_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What waits at the moment of the choice.

    Attributes:
        oldest_wait_s: How long the oldest known request has been waiting.
        min_accuracy_pct: What the request asks for at least, None for anything.
        expected_wait_ms: With `hold_back`: expected time until the fastest busy kind is free for this request,
            inf if unknown.
        fastest_busy_ms: With `hold_back`: mean service time of that kind.
    """

    oldest_wait_s: float = 0.0
    min_accuracy_pct: float | None = None
    expected_wait_ms: float = float("inf")
    fastest_busy_ms: float = float("inf")


def soonest_busy(busy: Iterable[tuple[float, int]]) -> tuple[float, float]:
    """Return what `hold_back` weighs an idle instance against: (expected wait, mean service time) in ms.

    The first of n busy instances of a kind is expected to be free after S / n (exact for exponential times); the kind
    with the smallest sum of wait and service counts. Both are inf if nothing is busy.

    Args:
        busy: Mean service time in ms and number of busy instances, for each kind that may answer the request.
    """
    options = [(mean_ms / count, mean_ms) for mean_ms, count in busy if count > 0]
    return min(options, key=sum, default=(float("inf"), float("inf")))


def choose(
    idle: Sequence[IdleInstance],
    served: Mapping[InstanceKind, int],
    rule: DispatchRule,
    demand: Demand = Demand(),
) -> IdleInstance | None:
    """Choose the idle instance that takes the next request, or None if all shall wait.

    Args:
        idle: Candidates, in any order; ties are broken by key so that the choice is deterministic.
        served: Requests begun per kind on this node since the rule came into force (used by `shares`).
        rule: The rule in force.
        demand: What waits.
    """
    able = [i for i in idle if demand.min_accuracy_pct is None or i.accuracy_pct >= demand.min_accuracy_pct]
    if not able:
        return None
    if rule.name == "longest_idle":
        return min(able, key=lambda i: (i.idle_since_s, i.key))
    if rule.name == "accurate":
        return min(able, key=lambda i: (-i.accuracy_pct, i.mean_service_ms, i.idle_since_s, i.key))
    if rule.name == "fastest":
        best = min(able, key=lambda i: (i.mean_service_ms, i.idle_since_s, i.key))
        sooner_elsewhere = demand.expected_wait_ms + demand.fastest_busy_ms < best.mean_service_ms
        return None if rule.hold_back and sooner_elsewhere else best
    return _by_shares(able, served, rule.shares, demand.oldest_wait_s)


def _by_shares(
    able: Sequence[IdleInstance],
    served: Mapping[InstanceKind, int],
    shares: Mapping[InstanceKind, float],
    oldest_wait_s: float,
) -> IdleInstance | None:
    begun = sum(served.values())
    best = min(able, key=lambda i: (ahead(i.kind, served, shares, begun), i.idle_since_s, i.key))
    if ahead(best.kind, served, shares, begun) <= SHARE_SLACK_REQUESTS or oldest_wait_s > SHARE_PATIENCE_S:
        return best
    return None


def ahead(
    kind: InstanceKind, served: Mapping[InstanceKind, int], shares: Mapping[InstanceKind, float], begun: int
) -> float:
    """Return how many requests a kind is ahead of its share of the `begun` ones (behind, if negative)."""
    return served.get(kind, 0) - shares.get(kind, 0.0) * begun
