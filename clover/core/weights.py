"""Corrects the shares of nodes from what they really served, so that the fleet's shares are as planned. Pure.

Each node holds its kinds to shares of its own requests; how many requests it takes is decided by who is free first. So
the fleet's share of a kind drifts when kinds are not spread over the nodes alike. What a node's shares must be for the
requests that it really takes is found by iterative proportional fitting (W. E. Deming, F. F. Stephan, "On a least
squares adjustment of a sampled frequency table", Ann. Math. Statist. 11, 1940): rows are nodes, columns kinds.

Every correction lets the nodes begin their counts anew, and with them the slack that each kind has: a correction that
follows noise makes shares worse. So there is none before a deviation is more than chance and more than a floor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from clover.core.configuration import InstanceKind

Cell = tuple[str, InstanceKind]

#: Fewer requests say nothing about shares.
LEAST_REQUESTS = 200
#: Deviations of the fleet's shares up to this are left alone.
TOLERATED = 0.01
#: So many standard errors of a share are chance. Requests are taken to be independent, which is on the safe side:
#: dispatch by shares is more even than that.
CHANCE = 3.0
#: What was served so long ago counts 1/e, but this many requests are remembered in any case.
MEMORY_S, MEMORY_REQUESTS = 120.0, 2000.0
#: After a plan or a correction came into force nothing counts for so long: what had waited goes where there is room.
SETTLE_S = 30.0
#: The share of some kind on some node must move by more than this for targets to be sent again.
WORTH_SENDING = 0.01
_ROUNDS = 60


def fitted(
    flows: Mapping[Cell, float], nodes: Mapping[str, float], kinds: Mapping[InstanceKind, float]
) -> dict[Cell, float]:
    """Scale flows so that they sum to given totals by node and by kind, as nearly as their zeros allow.

    Args:
        flows: Share of all requests by node and kind.
        nodes: Wanted totals by node; they sum to 1.
        kinds: Wanted totals by kind; they sum to 1.
    """
    now = dict(flows)
    for _ in range(_ROUNDS):
        by_kind = _kind_sums(now)
        now = {cell: _part(flow, kinds.get(cell[1], 0.0), by_kind[cell[1]]) for cell, flow in now.items()}
        by_node = _node_sums(now)
        now = {cell: _part(flow, nodes.get(cell[0], 0.0), by_node[cell[0]]) for cell, flow in now.items()}
    return now


def _part(flow: float, wanted: float, total: float) -> float:
    return flow * wanted / total if total > 0.0 else 0.0


def _kind_sums(flows: Mapping[Cell, float]) -> dict[InstanceKind, float]:
    sums: dict[InstanceKind, float] = {}
    for (_, kind), flow in flows.items():
        sums[kind] = sums.get(kind, 0.0) + flow
    return sums


def _node_sums(flows: Mapping[Cell, float]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for (node, _), flow in flows.items():
        sums[node] = sums.get(node, 0.0) + flow
    return sums


def matters(served: float, planned: float, effective: float) -> bool:
    """Return whether a share differs from what is planned by more than the floor and by more than chance.

    Args:
        served: Share of all requests, 0..1.
        planned: What it was to be.
        effective: Number of independent requests that `served` was counted on.
    """
    deviation = abs(served - planned)
    if effective < LEAST_REQUESTS or deviation <= TOLERATED:
        return False
    return deviation > CHANCE * math.sqrt(planned * (1.0 - planned) / effective)


@dataclass(slots=True)
class ShareCorrector:
    """Remembers what was served under a plan with shares.

    What nodes are told is not what the fleet then serves: a kind that is asked for more than it can take is always
    preferred, and the rest goes elsewhere. The plan knows, its certificate has simulated just that. So what was told is
    corrected by the ratio of what was planned to what was served, and nothing changes while they agree.

    Attributes:
        planned: Share of all requests that each kind serves under the plan; sums to 1.
    """

    planned: Mapping[InstanceKind, float]
    _served: dict[Cell, float] = field(default_factory=dict[Cell, float])
    #: Sum of the squares of the weights with which requests count.
    _squares: float = 0.0
    _at_s: float | None = None
    _since_s: float | None = None

    def take(self, begun: Mapping[Cell, int], now_s: float) -> None:
        """Take in how many requests each node has begun by kind since the last call."""
        self._since_s = now_s if self._since_s is None else self._since_s
        if now_s - self._since_s < SETTLE_S:
            return
        new, total = sum(begun.values()), sum(self._served.values())
        keep = 1.0 if self._at_s is None else math.exp(-max(0.0, now_s - self._at_s) / MEMORY_S)
        if total > 0.0:
            keep = max(keep, min(1.0, (MEMORY_REQUESTS - new) / total))
        self._at_s = now_s
        self._served = {cell: count * keep for cell, count in self._served.items()}
        self._squares = self._squares * keep * keep + new
        for cell, count in begun.items():
            self._served[cell] = self._served.get(cell, 0.0) + count

    def forget(self) -> None:
        """Begin anew: what was served under other shares says nothing about these."""
        self._served, self._squares, self._at_s, self._since_s = {}, 0.0, None, None

    def deviations(self) -> dict[InstanceKind, float]:
        """Return by how much the fleet's share of each kind differs from what is planned; empty before any request."""
        total = sum(self._served.values())
        if total <= 0.0:
            return {}
        served = _kind_sums(self._served)
        kinds = sorted(served.keys() | self.planned)
        return {kind: served.get(kind, 0.0) / total - self.planned.get(kind, 0.0) for kind in kinds}

    def corrected(self, told: Mapping[Cell, float]) -> dict[str, dict[InstanceKind, float]] | None:
        """Return each node's shares for what comes next; None if the fleet's shares are near enough, or not known.

        Args:
            told: Share of its own requests that each node is told to give each of its kinds at present.
        """
        total = sum(self._served.values())
        effective = total * total / self._squares if self._squares else 0.0
        off = {kind: (self.planned.get(kind, 0.0), by) for kind, by in self.deviations().items()}
        if not any(matters(planned + by, planned, effective) for planned, by in off.values()):
            return None
        nodes = {node: count / total for node, count in _node_sums(self._served).items()}
        # What would be served if every node did as it is told with the requests that it really takes.
        asked = {cell: share * nodes.get(cell[0], 0.0) for cell, share in told.items() if share > 0.0}
        wanted = {kind: share * _ratio(*off.get(kind, (0.0, 0.0))) for kind, share in _kind_sums(asked).items()}
        scale = sum(wanted.values()) or 1.0
        flows = fitted(asked, nodes, {kind: share / scale for kind, share in wanted.items()})
        sums = _node_sums(flows)
        shares: dict[str, dict[InstanceKind, float]] = {}
        for (node, kind), flow in flows.items():
            if sums[node] > 0.0:
                shares.setdefault(node, {})[kind] = flow / sums[node]
        return shares


def _ratio(planned: float, by: float) -> float:
    """Return planned / served; no more than twice as much, and no less than half."""
    served = planned + by
    return 1.0 if planned <= 0.0 else min(2.0, max(0.5, planned / served)) if served > 0.0 else 2.0
