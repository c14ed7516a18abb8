"""The one registry of everything that Clover keeps on the server: key, type, writers, readers, bound, time to live.

docs/wire.md and the ACL file are generated from this module (`clover.bus.wire`, `clover.bus.acl`). Names of concrete
keys are made in `clover.bus.key_names`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clover.bus.key_names import is_deployment
from clover.bus.port import Feed
from clover.core.tiers import MAX_TIERS

#: Consumer group of the request streams.
GROUP = "serve"
#: Pseudo-consumer that holds what was handed back, idle for so long that every claim takes it.
RELEASED = "released"
RELEASED_IDLE_MS = 100_000_000
#: Most open requests that one look for vanished entries goes through.
VANISHED_SCAN = 10_000
#: First entries of each request stream that a sweep looks at if some were never admitted.
STRANGERS_SCAN = 10

#: An id stays known until this long after the request's deadline.
IDEMPOTENCY_AFTER_DEADLINE_MS = 60_000
#: Replies that nobody fetches vanish this long after the last one was written.
REPLY_TTL_MS = 600_000
#: Last intensity and ledger; long enough to see over a weekend what the grid monitor last said.
NOW_TTL_MS = 7 * 86_400_000
#: Heartbeats older than this are forgotten.
LIVE_WINDOW_MS = 3_600_000

REPLY_MAXLEN = 20_000
DEAD_MAXLEN = 10_000
TARGET_MAXLEN = 100
FEED_MAXLEN: dict[Feed, int] = {
    Feed.LOG: 100_000,
    Feed.TELEMETRY: 50_000,
    Feed.CARBON: 20_000,
    Feed.EVENTS: 100_000,
}

#: Who connects to the server; each role has a user of its own where access is controlled.
Role = Literal["generator", "node", "controller", "monitor", "dashboard", "operator"]

#: Commands on request streams: to admit, to serve, to look after, to look at.
_ADMIT = "xadd xlen xpending xgroup|create"
_SERVE = "xreadgroup xack xdel xrange xlen xpending xclaim xautoclaim xinfo|stream xgroup|create xgroup|delconsumer"
_TEND = "xack xdel xrange xlen xpending xinfo|stream xinfo|consumers xgroup|create xgroup|delconsumer"
_LOOK = "xlen xpending xinfo|stream"
#: Commands on feeds: to follow, and for agents also to move what is malformed out of the way.
_FOLLOW = "xread xrevrange xinfo|stream"
_BURY = "xrange xdel"
#: Commands on the open requests: to close them, to find those that are overdue.
_CLOSE = "zrem zrangebyscore zrange zcard"


def _may(*, all: str = "", agents: str = "", **roles: str) -> Mapping[Role, tuple[str, ...]]:  # noqa: A002
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


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpec:
    """One kind of key.

    Attributes:
        pattern: Name, where `{d}` stands for the hash tag and `<x>` for a name.
        kind: Redis type.
        writers, readers: Which agents do so.
        bound: What keeps it from growing, for people.
        ttl: How long it lives after the last write, for people; empty if it is permanent.
        what: Meaning.
        commands: What each role may do with it, from which the ACL file is made (`clover.bus.acl`); a role that is
            not named may nothing, `operator` everything.
    """

    pattern: str
    kind: Literal["stream", "string", "hash", "zset"]
    writers: str
    readers: str
    bound: str
    ttl: str
    what: str
    commands: Mapping[Role, tuple[str, ...]] = field(hash=False)

    @property
    def permanent(self) -> bool:
        """Whether the key stays until somebody deletes it."""
        return not self.ttl


REGISTRY: tuple[KeySpec, ...] = (
    KeySpec(
        pattern="{d}:req",
        kind="stream",
        writers="producers",
        readers="nodes (group `serve`)",
        bound="admission bound; never trimmed, deleted on acknowledge",
        ttl="",
        what="requests of normal priority",
        commands=_may(generator=_ADMIT, node=_SERVE, controller=_TEND, dashboard=_LOOK),
    ),
    KeySpec(
        pattern="{d}:req:hi",
        kind="stream",
        writers="producers",
        readers="nodes (group `serve`)",
        bound="admission bound, shared with `{d}:req`",
        ttl="",
        what="requests of high priority, read first",
        commands=_may(generator=_ADMIT, node=_SERVE, controller=_TEND, dashboard=_LOOK),
    ),
    KeySpec(
        pattern="{d}:req:t<tier>",
        kind="stream",
        writers="producers",
        readers="nodes that can answer (group `serve`)",
        bound="the tier's bound, and the admission bound, shared with `{d}:req`",
        ttl="",
        what=f"requests that ask for an accuracy, one stream per tier from 2 to {MAX_TIERS}, read strictest first",
        commands=_may(generator=_ADMIT, node=_SERVE, controller=_TEND, dashboard=_LOOK),
    ),
    KeySpec(
        pattern="{d}:open",
        kind="zset",
        writers="producers, nodes, controller",
        readers="nodes, controller",
        bound="admission bound and what is in work",
        ttl="",
        what="admitted requests without an answer, scored by deadline (ms): `h`, `n` or the tier for the stream, entry "
        "id, producer and request id, separated by blanks; who sweeps it answers what nobody else will",
        commands=_may(generator="zadd", node=_CLOSE, controller=_CLOSE),
    ),
    KeySpec(
        pattern="{d}:rep:<producer>",
        kind="stream",
        writers="nodes, controller",
        readers="the producer",
        bound=f"~{REPLY_MAXLEN} entries",
        ttl="10 min after the last reply",
        what="replies to one producer",
        commands=_may(generator="xread xrange xdel", node="xadd pexpire", controller="xadd pexpire"),
    ),
    KeySpec(
        pattern="{d}:idm:<id>",
        kind="string",
        writers="producers",
        readers="producers",
        bound="one per admitted request",
        ttl="until 60 s after the request's deadline",
        what="a request id that was admitted already",
        commands=_may(generator="set exists mget"),
    ),
    KeySpec(
        pattern="{d}:dead",
        kind="stream",
        writers="all agents",
        readers="operators",
        bound=f"~{DEAD_MAXLEN} entries",
        ttl="",
        what="malformed entries and exhausted requests: `stream`, `id`, `reason`, and the raw fields as `raw:<field>`, "
        "cut to 4 KiB in all",
        commands=_may(generator="xadd", node="xadd", controller="xadd", monitor="xadd"),
    ),
    KeySpec(
        pattern="{d}:log",
        kind="stream",
        writers="producers; all agents",
        readers="dashboard, analysis; controller (`--evaluate live`)",
        bound=f"~{FEED_MAXLEN[Feed.LOG]} entries",
        ttl="",
        what="finished requests in batches (`requests`) and log lines from warning up (`log`)",
        commands=_may(agents="xadd", controller=f"{_FOLLOW}+{_BURY}", dashboard=_FOLLOW),
    ),
    KeySpec(
        pattern="{d}:tel",
        kind="stream",
        writers="nodes",
        readers="carbon monitor, controller, dashboard",
        bound=f"~{FEED_MAXLEN[Feed.TELEMETRY]} entries",
        ttl="",
        what="telemetry (`telemetry`)",
        commands=_may(node="xadd", monitor=f"{_FOLLOW}+{_BURY}", controller=f"{_FOLLOW}+{_BURY}", dashboard=_FOLLOW),
    ),
    KeySpec(
        pattern="{d}:carbon",
        kind="stream",
        writers="carbon monitor",
        readers="controller, dashboard",
        bound=f"~{FEED_MAXLEN[Feed.CARBON]} entries",
        ttl="",
        what="carbon intensity (`intensity`), what is expected of it (`forecast`) and the ledger (`ledger`)",
        commands=_may(monitor="xadd", controller=f"{_FOLLOW}+{_BURY}", dashboard=_FOLLOW),
    ),
    KeySpec(
        pattern="{d}:evt",
        kind="stream",
        writers="all agents",
        readers="dashboard, analysis",
        bound=f"~{FEED_MAXLEN[Feed.EVENTS]} entries",
        ttl="",
        what="decisions and lifecycle events (`event`)",
        commands=_may(agents="xadd", generator=f"{_FOLLOW}+{_BURY}", dashboard=_FOLLOW),
    ),
    KeySpec(
        pattern="{d}:state:<node>",
        kind="hash",
        writers="the node",
        readers="controller, dashboard",
        bound="one per node",
        ttl="ten telemetry intervals, at least 60 s",
        what="last telemetry of a node: `v`, `t`, `d`",
        commands=_may(all="hgetall", node="hset pexpire"),
    ),
    KeySpec(
        pattern="{d}:nodes",
        kind="zset",
        writers="nodes",
        readers="controller, dashboard",
        bound="expired nodes are removed at each write",
        ttl="",
        what="nodes that have a state, scored by when it expires (ms)",
        commands=_may(all="zrange", node="zadd zremrangebyscore"),
    ),
    KeySpec(
        pattern="{d}:now",
        kind="hash",
        writers="carbon monitor",
        readers="controller, dashboard",
        bound="four fields",
        ttl="7 days",
        what="newest `intensity`, `forecast` and `ledger` as JSON, and `v`",
        commands=_may(all="hgetall", monitor="hset pexpire"),
    ),
    KeySpec(
        pattern="{d}:ledger",
        kind="hash",
        writers="carbon monitor",
        readers="carbon monitor, dashboard",
        bound="one",
        ttl="",
        what="energy checkpoint (`checkpoint`): `v`, `t`, `d`",
        commands=_may(dashboard="hgetall", monitor="hset hgetall"),
    ),
    KeySpec(
        pattern="{d}:live",
        kind="zset",
        writers="all agents",
        readers="controller, dashboard",
        bound="heartbeats older than one hour are removed at each write",
        ttl="",
        what="agents, scored by their last heartbeat (ms)",
        commands=_may(agents="zadd zremrangebyscore", all="zrangebyscore"),
    ),
    KeySpec(
        pattern="{d}:lease",
        kind="string",
        writers="controllers",
        readers="controllers",
        bound="one",
        ttl="the lease's",
        what="who is the acting controller",
        commands=_may(controller="get set del"),
    ),
    KeySpec(
        pattern="{d}:name:<node>",
        kind="string",
        writers="the node",
        readers="nodes",
        bound="one per node",
        ttl="the lease's",
        what="which agent (its boot id) is the node of this name; a second one is refused",
        commands=_may(node="get set del"),
    ),
    KeySpec(
        pattern="{d}:epoch",
        kind="string",
        writers="controller",
        readers="controller",
        bound="one",
        ttl="",
        what="counts published plans; fences targets",
        commands=_may(controller="get incr"),
    ),
    KeySpec(
        pattern="{d}:plan",
        kind="hash",
        writers="controller",
        readers="everyone",
        bound="one",
        ttl="",
        what="plan in force (`plan`): `v`, `t`, `epoch`, `d`; the field `epoch` overrides the one in `d`; `tiers`: "
        "accuracy and bound of each tier, for admission",
        commands=_may(all="hgetall", generator="hget", controller="hset"),
    ),
    KeySpec(
        pattern="{d}:override",
        kind="hash",
        writers="operators",
        readers="controller, dashboard",
        bound="one",
        ttl="",
        what="what people have decided over the controller's head (`override`): `v`, `t`, `d`",
        commands=_may(controller="hgetall", dashboard="hgetall"),
    ),
    KeySpec(
        pattern="{d}:target:<node>",
        kind="stream",
        writers="controller, operators",
        readers="the node",
        bound=f"~{TARGET_MAXLEN} entries",
        ttl="",
        what="complete desired state of one node (`target`); the field `epoch` overrides the one in `d`",
        commands=_may(controller="xadd xrevrange", node=f"{_FOLLOW}+{_BURY}"),
    ),
)


def spec_of(key: str) -> KeySpec | None:
    """Return what the registry says about a concrete key; None for a key that is not ours."""
    tag, colon, rest = key.partition("}:")
    if not colon or not is_deployment(tag.removeprefix("{")):
        return None
    for spec in REGISTRY:
        head, _, variable = spec.pattern.removeprefix("{d}:").partition("<")
        if rest == head if not variable else rest.startswith(head) and len(rest) > len(head):
            return spec
    return None
