"""The one registry of everything that Clover keeps on the server: key, type, writers, readers, bound, time to live.

docs/wire.md and the ACL file are generated from this module (`clover.bus.wire`, `clover.bus.acl`). Names of concrete
keys are made in `clover.bus.key_names`, the numbers behind bounds and times to live stand in `clover.bus.limits`, roles
and their commands in `clover.bus.roles`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clover.bus.key_names import is_deployment
from clover.bus.limits import DEAD_MAXLEN, FEED_MAXLEN, REPLY_MAXLEN, TARGET_MAXLEN
from clover.bus.roles import ADMIT, BURY, CLOSE, FOLLOW, LOOK, SERVE, TEND, Role, may
from clover.bus.values import Feed
from clover.core.tiers import MAX_TIERS

#: Consumer group of the request streams.
GROUP = "serve"
#: Pseudo-consumer that holds what was handed back, idle for so long that every claim takes it.
RELEASED = "released"
RELEASED_IDLE_MS = 100_000_000


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
        commands=may(generator=ADMIT, node=SERVE, controller=TEND, dashboard=LOOK),
    ),
    KeySpec(
        pattern="{d}:req:hi",
        kind="stream",
        writers="producers",
        readers="nodes (group `serve`)",
        bound="admission bound, shared with `{d}:req`",
        ttl="",
        what="requests of high priority, read first",
        commands=may(generator=ADMIT, node=SERVE, controller=TEND, dashboard=LOOK),
    ),
    KeySpec(
        pattern="{d}:req:t<tier>",
        kind="stream",
        writers="producers",
        readers="nodes that can answer (group `serve`)",
        bound="the tier's bound, and the admission bound, shared with `{d}:req`",
        ttl="",
        what=f"requests that ask for an accuracy, one stream per tier from 2 to {MAX_TIERS}, read strictest first",
        commands=may(generator=ADMIT, node=SERVE, controller=TEND, dashboard=LOOK),
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
        commands=may(generator="zadd", node=CLOSE, controller=CLOSE),
    ),
    KeySpec(
        pattern="{d}:rep:<producer>",
        kind="stream",
        writers="nodes, controller",
        readers="the producer",
        bound=f"~{REPLY_MAXLEN} entries",
        ttl="10 min after the last reply",
        what="replies to one producer",
        commands=may(generator="xread xrange xdel", node="xadd pexpire", controller="xadd pexpire"),
    ),
    KeySpec(
        pattern="{d}:idm:<id>",
        kind="string",
        writers="producers",
        readers="producers",
        bound="one per admitted request",
        ttl="until 60 s after the request's deadline",
        what="a request id that was admitted already",
        commands=may(generator="set exists mget"),
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
        commands=may(generator="xadd", node="xadd", controller="xadd", monitor="xadd"),
    ),
    KeySpec(
        pattern="{d}:log",
        kind="stream",
        writers="producers; all agents",
        readers="dashboard, analysis; controller (`--evaluate live`)",
        bound=f"~{FEED_MAXLEN[Feed.LOG]} entries",
        ttl="",
        what="finished requests in batches (`requests`) and log lines from warning up (`log`)",
        commands=may(agents="xadd", controller=f"{FOLLOW}+{BURY}", dashboard=FOLLOW),
    ),
    KeySpec(
        pattern="{d}:tel",
        kind="stream",
        writers="nodes",
        readers="carbon monitor, controller, dashboard",
        bound=f"~{FEED_MAXLEN[Feed.TELEMETRY]} entries",
        ttl="",
        what="telemetry (`telemetry`)",
        commands=may(node="xadd", monitor=f"{FOLLOW}+{BURY}", controller=f"{FOLLOW}+{BURY}", dashboard=FOLLOW),
    ),
    KeySpec(
        pattern="{d}:carbon",
        kind="stream",
        writers="carbon monitor",
        readers="controller, dashboard",
        bound=f"~{FEED_MAXLEN[Feed.CARBON]} entries",
        ttl="",
        what="carbon intensity (`intensity`), what is expected of it (`forecast`) and the ledger (`ledger`)",
        commands=may(monitor="xadd", controller=f"{FOLLOW}+{BURY}", dashboard=FOLLOW),
    ),
    KeySpec(
        pattern="{d}:evt",
        kind="stream",
        writers="all agents",
        readers="dashboard, analysis, a controller that knows a generator's load in advance",
        bound=f"~{FEED_MAXLEN[Feed.EVENTS]} entries",
        ttl="",
        what="decisions and lifecycle events (`event`)",
        commands=may(agents="xadd", controller=f"{FOLLOW}+{BURY}", generator=f"{FOLLOW}+{BURY}", dashboard=FOLLOW),
    ),
    KeySpec(
        pattern="{d}:state:<node>",
        kind="hash",
        writers="the node",
        readers="controller, dashboard",
        bound="one per node",
        ttl="ten telemetry intervals, at least 60 s",
        what="last telemetry of a node: `v`, `t`, `d`",
        commands=may(all="hgetall", node="hset pexpire"),
    ),
    KeySpec(
        pattern="{d}:nodes",
        kind="zset",
        writers="nodes",
        readers="controller, dashboard",
        bound="expired nodes are removed at each write",
        ttl="",
        what="nodes that have a state, scored by when it expires (ms)",
        commands=may(all="zrange", node="zadd zremrangebyscore"),
    ),
    KeySpec(
        pattern="{d}:now",
        kind="hash",
        writers="carbon monitor",
        readers="controller, dashboard",
        bound="four fields",
        ttl="7 days",
        what="newest `intensity`, `forecast` and `ledger` as JSON, and `v`",
        commands=may(all="hgetall", monitor="hset pexpire"),
    ),
    KeySpec(
        pattern="{d}:ledger",
        kind="hash",
        writers="carbon monitor",
        readers="carbon monitor, dashboard",
        bound="one",
        ttl="",
        what="energy checkpoint (`checkpoint`): `v`, `t`, `d`",
        commands=may(dashboard="hgetall", monitor="hset hgetall"),
    ),
    KeySpec(
        pattern="{d}:live",
        kind="zset",
        writers="all agents",
        readers="controller, dashboard",
        bound="heartbeats older than one hour are removed at each write",
        ttl="",
        what="agents, scored by their last heartbeat (ms)",
        commands=may(agents="zadd zremrangebyscore", all="zrangebyscore"),
    ),
    KeySpec(
        pattern="{d}:lease",
        kind="string",
        writers="controllers",
        readers="controllers",
        bound="one",
        ttl="the lease's",
        what="who is the acting controller: its name, a dot, and the boot id of its process",
        commands=may(controller="get set del"),
    ),
    KeySpec(
        pattern="{d}:name:<node>",
        kind="string",
        writers="the node",
        readers="nodes",
        bound="one per node",
        ttl="the lease's",
        what="which agent (its boot id) is the node of this name; a second one is refused",
        commands=may(node="get set del"),
    ),
    KeySpec(
        pattern="{d}:epoch",
        kind="string",
        writers="controller",
        readers="controller",
        bound="one",
        ttl="",
        what="counts published plans; fences targets",
        commands=may(controller="get incr"),
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
        commands=may(all="hgetall", generator="hget", controller="hset"),
    ),
    KeySpec(
        pattern="{d}:override",
        kind="hash",
        writers="operators",
        readers="controller, dashboard",
        bound="one",
        ttl="",
        what="what people have decided over the controller's head (`override`): `v`, `t`, `d`",
        commands=may(controller="hgetall", dashboard="hgetall"),
    ),
    KeySpec(
        pattern="{d}:target:<node>",
        kind="stream",
        writers="controller, operators",
        readers="the node",
        bound=f"~{TARGET_MAXLEN} entries",
        ttl="",
        what="complete desired state of one node (`target`); the field `epoch` overrides the one in `d`",
        commands=may(controller="xadd xrevrange", node=f"{FOLLOW}+{BURY}"),
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
