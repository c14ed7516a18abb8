"""The bus inside one process: same semantics as on a server, for virtual time and tests.

All agents of a world share one `MemoryBus`. It waits on futures only, reads the time only from the clock it was given,
and passes messages on as they are, unless it is asked to `verify`, when every message goes through the codec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from clover.bus import codec
from clover.bus.feed_calls import state_ttl_ms
from clover.bus.limits import FEED_MAXLEN, LIVE_WINDOW_MS, NOW_TTL_MS, TARGET_MAXLEN
from clover.bus.memory_requests import MemoryRequests, until
from clover.bus.memory_streams import BoundedStream
from clover.bus.messages import (
    LedgerCheckpoint,
    Message,
    NodeTelemetry,
    Override,
    PlanRecord,
    Target,
    Tier,
)
from clover.bus.values import Entry, Feed, FeedExtent

M = TypeVar("M", bound=Message)


class MemoryBus(MemoryRequests):
    """`clover.bus.port.Bus` in this process.

    Args:
        deployment: Name of the deployment.
        clock_ms: Wall time in milliseconds since the Unix epoch.
        verify: Send every message through the codec and deliver what comes out.
    """

    def __init__(self, deployment: str, clock_ms: Callable[[], float], *, verify: bool = False) -> None:
        super().__init__(deployment, clock_ms, verify=verify)
        self._feeds: dict[Feed, BoundedStream[Message]] = {
            feed: BoundedStream(maxlen) for feed, maxlen in FEED_MAXLEN.items()
        }
        self._states: dict[str, tuple[float, NodeTelemetry]] = {}
        self._now: dict[str, Message] = {}
        self._now_until_ms = 0.0
        self._checkpoint: LedgerCheckpoint | None = None
        self._beats: dict[str, float] = {}
        self._lease: tuple[str, float] = ("", 0.0)
        self._names: dict[str, tuple[str, float]] = {}
        self._epoch = 0
        self._plan: PlanRecord | None = None
        self._override = Override()
        self._targets: dict[str, BoundedStream[Target]] = {}

    # --- feeds

    async def publish(self, feed: Feed, messages: Sequence[Message]) -> None:
        """See `clover.bus.port.Bus`."""
        now_ms = self._clock_ms()
        for message in [self._seen(message) for message in messages]:
            self._feeds[feed].append(message, now_ms)

    async def follow(self, cursors: Mapping[Feed, str], *, block_s: float, count: int = 1000) -> list[Entry]:
        """See `clover.bus.port.Bus`."""
        found: list[Entry] = []

        def read() -> bool:
            for feed, cursor in cursors.items():
                entries = self._feeds[feed].after(cursor, count)
                found.extend(Entry(feed=feed, id=key, message=message) for key, message in entries)
            return bool(found)

        await until(read, [self._feeds[feed].bell for feed in cursors], block_s)
        return found

    async def newest_id(self, feed: Feed) -> str:
        """See `clover.bus.port.Bus`."""
        return self._feeds[feed].newest_id

    async def extent(self, feed: Feed) -> FeedExtent:
        """See `clover.bus.port.Bus`."""
        stream = self._feeds[feed]
        return FeedExtent(first_id=stream.oldest_id, last_id=stream.newest_id, length=stream.length, added=stream.added)

    # --- state

    async def publish_telemetry(self, telemetry: NodeTelemetry) -> None:
        """See `clover.bus.port.Bus`."""
        now_ms = self._clock_ms()
        seen = self._seen(telemetry)
        self._feeds[Feed.TELEMETRY].append(seen, now_ms)
        self._states[telemetry.node] = (now_ms + state_ttl_ms(telemetry), seen)

    async def node_states(self) -> dict[str, NodeTelemetry]:
        """See `clover.bus.port.Bus`."""
        now_ms = self._clock_ms()
        self._states = {node: state for node, state in self._states.items() if state[0] > now_ms}
        return {node: telemetry for node, (_, telemetry) in self._states.items()}

    async def publish_carbon(self, messages: Sequence[Message], checkpoint: LedgerCheckpoint) -> None:
        """See `clover.bus.port.Bus`."""
        now_ms = self._clock_ms()
        for message in [self._seen(message) for message in messages]:
            self._feeds[Feed.CARBON].append(message, now_ms)
            self._now[codec.type_name(message)] = message
        self._now_until_ms = now_ms + NOW_TTL_MS
        self._checkpoint = self._seen(checkpoint)

    async def carbon_now(self) -> dict[str, Message]:
        """See `clover.bus.port.Bus`."""
        return dict(self._now) if self._clock_ms() < self._now_until_ms else {}

    async def checkpoint(self) -> LedgerCheckpoint | None:
        """See `clover.bus.port.Bus`."""
        return self._checkpoint

    async def beat(self, agent: str) -> None:
        """See `clover.bus.port.Bus`."""
        self._beats[agent] = self._clock_ms()

    async def alive(self) -> dict[str, float]:
        """See `clover.bus.port.Bus`."""
        now_ms = self._clock_ms()
        self._beats = {agent: at for agent, at in self._beats.items() if now_ms - at <= LIVE_WINDOW_MS}
        return {agent: max(0.0, now_ms - at) / 1e3 for agent, at in self._beats.items()}

    # --- control

    def _holds(self, holder: str) -> bool:
        return self._lease[0] == holder and self._clock_ms() < self._lease[1]

    async def acquire_lease(self, holder: str, *, ttl_s: float) -> bool:
        """See `clover.bus.port.Bus`."""
        now_ms = self._clock_ms()
        if now_ms < self._lease[1] and self._lease[0] != holder:
            return False
        self._lease = (holder, now_ms + ttl_s * 1e3)
        return True

    async def release_lease(self, holder: str) -> None:
        """See `clover.bus.port.Bus`."""
        if self._holds(holder):
            self._lease = ("", 0.0)

    async def lease_holder(self) -> str:
        """See `clover.bus.port.Bus`."""
        return self._lease[0] if self._clock_ms() < self._lease[1] else ""

    async def override(self) -> Override:
        """See `clover.bus.port.Bus`."""
        return self._override

    async def set_override(self, override: Override) -> None:
        """See `clover.bus.port.Bus`."""
        self._override = self._seen(override)

    async def send_by_hand(self, target: Target, *, above: int = 0) -> int:
        """See `clover.bus.port.Bus`."""
        self._epoch = max(self._epoch, above) + 1
        sent = self._seen(msgspec.structs.replace(target, epoch=self._epoch))
        self._targets_of(target.node).append(sent, self._clock_ms())
        return self._epoch

    async def claim_name(self, node: str, holder: str, *, ttl_s: float) -> bool:
        """See `clover.bus.port.Bus`."""
        now_ms = self._clock_ms()
        owner, until_ms = self._names.get(self._keys.name(node), (holder, 0.0))
        if now_ms < until_ms and owner != holder:
            return False
        self._names[self._keys.name(node)] = (holder, now_ms + ttl_s * 1e3)
        return True

    async def release_name(self, node: str, holder: str) -> None:
        """See `clover.bus.port.Bus`."""
        if self._names.get(self._keys.name(node), ("", 0.0))[0] == holder:
            del self._names[self._keys.name(node)]

    async def publish_plan(
        self, holder: str, plan: PlanRecord, targets: Sequence[Target], *, above: int = 0
    ) -> int | None:
        """See `clover.bus.port.Bus`."""
        if not self._holds(holder):
            return None
        now_ms = self._clock_ms()
        self._epoch = max(self._epoch, above) + 1
        self._plan = self._seen(msgspec.structs.replace(plan, epoch=self._epoch))
        for target in targets:
            sent = self._seen(msgspec.structs.replace(target, epoch=self._epoch))
            self._targets_of(target.node).append(sent, now_ms)
        return self._epoch

    async def update_plan(self, holder: str, plan: PlanRecord) -> bool:
        """See `clover.bus.port.Bus`."""
        if not self._holds(holder):
            return False
        self._plan = self._seen(msgspec.structs.replace(plan, epoch=self._epoch))
        return True

    async def plan(self) -> PlanRecord | None:
        """See `clover.bus.port.Bus`."""
        return self._plan

    def _tiers(self) -> Sequence[Tier]:
        return self._plan.tiers if self._plan else ()

    def _targets_of(self, node: str) -> BoundedStream[Target]:
        targets = self._targets.get(node)
        if targets is None:
            self._keys.target(node)
            targets = self._targets[node] = BoundedStream(TARGET_MAXLEN)
        return targets

    async def target(self, node: str) -> Target | None:
        """See `clover.bus.port.Bus`."""
        return self._targets_of(node).newest

    async def next_target(self, node: str, *, after_epoch: int, block_s: float) -> Target | None:
        """See `clover.bus.port.Bus`."""
        targets = self._targets_of(node)

        def newer() -> bool:
            return targets.newest is not None and targets.newest.epoch > after_epoch

        return targets.newest if await until(newer, [targets.bell], block_s) else None

    # --- lifetime

    async def ping(self) -> None:
        """See `clover.bus.port.Bus`."""

    async def close(self) -> None:
        """Do nothing: the other agents in this process still use it."""
