"""Names of the keys of one deployment, made here and nowhere else.

All of them share the hash tag `{<deployment>}`, so that one script may touch several under Redis Cluster as well. What
each key is, the registry tells (`clover.bus.keys`).
"""

from __future__ import annotations

import re
from functools import lru_cache

from clover.bus.values import Feed
from clover.core.tiers import ANY, MAX_TIERS
from clover.errors import ConfigurationError, MessageRejectedError

_DEPLOYMENT = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")


class Keys:
    """Concrete key names of one deployment."""

    __slots__ = (
        "_prefix",
        "dead",
        "deployment",
        "epoch",
        "lease",
        "ledger",
        "live",
        "nodes",
        "now",
        "open",
        "override",
        "plan",
        "requests",
        "requests_high",
    )

    def __init__(self, deployment: str) -> None:
        self.deployment = checked_deployment(deployment)
        prefix = f"{{{deployment}}}:"
        self._prefix = prefix
        self.requests = f"{prefix}req"
        self.requests_high = f"{prefix}req:hi"
        self.open = f"{prefix}open"
        self.dead = f"{prefix}dead"
        self.nodes = f"{prefix}nodes"
        self.now = f"{prefix}now"
        self.ledger = f"{prefix}ledger"
        self.live = f"{prefix}live"
        self.lease = f"{prefix}lease"
        self.epoch = f"{prefix}epoch"
        self.plan = f"{prefix}plan"
        self.override = f"{prefix}override"

    @property
    def request_streams(self) -> tuple[str, ...]:
        """Request streams in the order in which they are read: high priority, tiers from the strictest, normal."""
        return (self.requests_high, *(self.tier(tier) for tier in range(MAX_TIERS, ANY, -1)), self.requests)

    def tier(self, tier: int) -> str:
        """Return the stream of an accuracy tier, from 2."""
        return f"{self._prefix}req:t{tier}"

    def tier_of(self, stream: str) -> int:
        """Return the tier of a request stream, 1 for those that any variant may answer."""
        head, sign, tail = stream.rpartition(":t")
        return int(tail) if sign and head == self.requests else ANY

    def open_kind(self, stream: str) -> str:
        """Return what the names of open requests say of a request stream: `h`, `n`, or its tier."""
        if stream == self.requests_high:
            return "h"
        return "n" if stream == self.requests else str(self.tier_of(stream))

    def feed(self, feed: Feed) -> str:
        """Return the stream of a feed."""
        return f"{self._prefix}{feed.value}"

    def replies(self, producer: str) -> str:
        """Return the reply stream of a producer."""
        return f"{self._prefix}rep:{checked_name('reply_to', producer)}"

    def idempotency(self, request_id: str) -> str:
        """Return the key that remembers an admitted request."""
        return f"{self._prefix}idm:{request_id}"

    def state(self, node: str) -> str:
        """Return the last state of a node."""
        return f"{self._prefix}state:{checked_name('node', node)}"

    def name(self, node: str) -> str:
        """Return what says which agent is the node of a name."""
        return f"{self._prefix}name:{checked_name('node', node)}"

    def target(self, node: str) -> str:
        """Return the target stream of a node."""
        return f"{self._prefix}target:{checked_name('node', node)}"


def is_deployment(name: str) -> bool:
    """Return whether the name may name a deployment."""
    return bool(_DEPLOYMENT.fullmatch(name))


def checked_deployment(name: str) -> str:
    """Return the name if it may name a deployment, else raise `ConfigurationError`."""
    if not is_deployment(name):
        raise ConfigurationError(
            f"deployment {name!r}: expected lower-case letters, digits and hyphens, at most 41, no hyphen first"
        )
    return name


@lru_cache(maxsize=4096)
def checked_name(field: str, name: str) -> str:
    """Return the name if it may become part of a key, else raise `MessageRejectedError`."""
    if not _NAME.fullmatch(name):
        raise MessageRejectedError(
            f"field {field!r}: {name[:80]!r}, expected at most 128 letters, digits and . _ : @ -, no sign first"
        )
    return name
