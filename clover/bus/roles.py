"""Who connects to the server, and the groups of commands that the registry of keys grants them.

The ACL file has a user per role (`clover.bus.acl`); which of these groups a role gets on which kind of key stands in
`clover.bus.keys`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

#: Who connects to the server; each role has a user of its own where access is controlled.
Role = Literal["generator", "node", "controller", "monitor", "dashboard", "operator"]

#: Commands on request streams: to admit, to serve, to look after, to look at.
ADMIT = "xadd xlen xpending xgroup|create"
SERVE = "xreadgroup xack xdel xrange xlen xpending xclaim xautoclaim xinfo|stream xgroup|create xgroup|delconsumer"
TEND = "xack xdel xrange xlen xpending xinfo|stream xinfo|consumers xgroup|create xgroup|delconsumer"
LOOK = "xlen xpending xinfo|stream"
#: Commands on feeds: to follow, and for agents also to move what is malformed out of the way.
FOLLOW = "xread xrevrange xinfo|stream"
BURY = "xrange xdel"
#: Commands on the open requests: to close them, to find those that are overdue.
CLOSE = "zrem zrangebyscore zrange zcard"


def may(*, all: str = "", agents: str = "", **roles: str) -> Mapping[Role, tuple[str, ...]]:  # noqa: A002
    """Return groups of commands by role; groups are separated by `+`.

    Args:
        all: For every role but the operator, who may everything.
        agents: For every role that has something to say, so not for the dashboard.
        roles: For one role each.
    """
    speaking: tuple[Role, ...] = ("generator", "node", "controller", "monitor")
    granted: dict[Role, tuple[str, ...]] = {}
    for role in (*speaking, "dashboard"):
        texts = (all, agents if role in speaking else "", roles.get(role, ""))
        groups = tuple(group for text in texts for group in text.split("+") if group)
        if groups:
            granted[role] = groups
    return granted
