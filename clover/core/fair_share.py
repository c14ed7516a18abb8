"""How far a node is ahead of its planned part of the fleet's requests. Pure.

Nodes pull, and each takes what it can begin: without a correction their parts follow their idle instances and not the
plan. A node that is ahead of its part leaves new requests to the others for a moment. It counts against what the whole
fleet has begun, which the request streams tell (admitted so far less unread), so that the correction neither needs a
controller nor accumulates an error of an estimated rate.
"""

from __future__ import annotations

from dataclasses import dataclass

#: A node may be this many requests ahead before it must wait.
NODE_SLACK_REQUESTS = 2.0

#: When the others have left this many requests in a row unread, they cannot: waiting for them only costs time. The
#: count begins anew, with so much more slack.
GIVE_UP_AFTER, GIVE_UP_SLACK_REQUESTS = 8, 64.0


@dataclass(slots=True)
class FairShare:
    """One node's account under one dispatch rule.

    Attributes:
        weight: Planned part of the fleet's requests, 0..1.
    """

    weight: float
    _own_base: int = 0
    _fleet_base: int | None = None
    _fleet: int = 0
    _slack: float = NODE_SLACK_REQUESTS
    _patience: int = GIVE_UP_AFTER

    def see_fleet(self, fleet_begun: int, own_begun: int) -> None:
        """Take in how many requests the fleet has begun ever, and this node under the rule."""
        if self._fleet_base is None or fleet_begun < self._fleet:
            # The first look, or a server that has lost its count.
            self._fleet_base, self._own_base = fleet_begun, own_begun
        self._fleet = fleet_begun
        if self._ahead(own_begun) <= 0.0:
            self._slack, self._patience = NODE_SLACK_REQUESTS, GIVE_UP_AFTER

    def must_wait(self, own_begun: int) -> bool:
        """Return whether the node shall leave new requests to the others, as far as it has seen the fleet."""
        if self.weight >= 1.0:
            return False
        return self._fleet_base is None or self._ahead(own_begun) > self._slack

    def nobody_else(self, own_begun: int) -> None:
        """Note that what was left to the others stayed unread, and is taken after all."""
        self._patience = max(0, self._patience - 1)
        if self._patience == 0:
            self._slack = GIVE_UP_SLACK_REQUESTS
            self._own_base, self._fleet_base = own_begun, self._fleet

    def _ahead(self, own_begun: int) -> float:
        fleet = self._fleet - (self._fleet_base or 0)
        return (own_begun - self._own_base) - self.weight * fleet
