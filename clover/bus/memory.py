"""The bus inside one process: same semantics as on a server, for virtual time and tests.

All agents of a world share one `MemoryBus`. It waits on futures only, reads the time only from the clock it was given,
and passes messages on as they are, unless it is asked to `verify`, when every message goes through the codec.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from clover.bus import codec
from clover.bus.feed_calls import state_ttl_ms
from clover.bus.keys import (
    DEAD_MAXLEN,
    FEED_MAXLEN,
    IDEMPOTENCY_AFTER_DEADLINE_MS,
    LIVE_WINDOW_MS,
    NOW_TTL_MS,
    REPLY_MAXLEN,
    REPLY_TTL_MS,
    TARGET_MAXLEN,
    Keys,
)
from clover.bus.memory_streams import Bell, BoundedStream, Pending, RequestQueue
from clover.bus.messages import (
    LedgerCheckpoint,
    Message,
    NodeTelemetry,
    PlanRecord,
    Reply,
    Request,
    Target,
)
from clover.bus.port import Admission, Claimed, Completion, Delivery, Entry, Feed, QueueStatus

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadRequest:
    """A request that was given up, and why."""

    delivery: Delivery
    reason: str


@dataclass(slots=True)
class _Replies:
    expires_ms: float
    stream: BoundedStream[Reply] = field(default_factory=lambda: BoundedStream(REPLY_MAXLEN))


class MemoryBus:
    """`clover.bus.port.Bus` in this process.

    Args:
        deployment: Name of the deployment.
        clock_ms: Wall time in milliseconds since the Unix epoch.
        verify: Send every message through the codec and deliver what comes out.
    """

    def __init__(self, deployment: str, clock_ms: Callable[[], float], *, verify: bool = False) -> None:
        self._keys = Keys(deployment)
        self._clock_ms = clock_ms
        self._verify = verify
        self._queue = RequestQueue(*self._keys.request_streams)
        self._known: dict[str, float] = {}
        self._known_until: list[tuple[float, str]] = []
        self._replies: dict[str, _Replies] = {}
        self._feeds: dict[Feed, BoundedStream[Message]] = {
            feed: BoundedStream(maxlen) for feed, maxlen in FEED_MAXLEN.items()
        }
        self._states: dict[str, tuple[float, NodeTelemetry]] = {}
        self._now: dict[str, Message] = {}
        self._now_until_ms = 0.0
        self._checkpoint: LedgerCheckpoint | None = None
        self._beats: dict[str, float] = {}
        self._lease: tuple[str, float] = ("", 0.0)
        self._epoch = 0
        self._plan: PlanRecord | None = None
        self._targets: dict[str, BoundedStream[Target]] = {}
        #: Requests that were given up, newest last.
        self.dead: BoundedStream[DeadRequest] = BoundedStream(DEAD_MAXLEN)

    @property
    def deployment(self) -> str:
        """Name of the deployment."""
        return self._keys.deployment

    def _seen(self, message: M) -> M:
        return codec.round_trip(message) if self._verify else message

    # --- requests

    async def admit(self, requests: Sequence[Request], *, bound: int) -> list[Admission]:
        """See `clover.bus.port.Bus`."""
        now_ms = self._clock_ms()
        self._forget(now_ms)
        seen = [self._seen(request) for request in requests]
        admissions = [self._admit(request, bound, now_ms) for request in seen]
        self._queue.serve(now_ms)
        return admissions

    def _admit(self, request: Request, bound: int, now_ms: float) -> Admission:
        if request.id in self._known:
            return Admission.DUPLICATE
        if self._queue.waiting >= bound:
            return Admission.FULL
        until_ms = max(now_ms + 1000.0, request.deadline_ms + IDEMPOTENCY_AFTER_DEADLINE_MS)
        self._known[request.id] = until_ms
        heapq.heappush(self._known_until, (until_ms, request.id))
        self._queue.append(request, now_ms)
        return Admission.ADMITTED

    def _forget(self, now_ms: float) -> None:
        while self._known_until and self._known_until[0][0] <= now_ms:
            del self._known[heapq.heappop(self._known_until)[1]]

    async def pull(self, consumer: str, *, count: int, block_s: float) -> list[Delivery]:
        """See `clover.bus.port.Bus`."""
        taken = self._queue.take(consumer, count, self._clock_ms())
        if taken or block_s <= 0.0:
            return taken
        return await self._queue.next(consumer, count, block_s)

    async def finish(self, completions: Sequence[Completion]) -> list[bool]:
        """See `clover.bus.port.Bus`."""
        now_ms = self._clock_ms()
        seen = [self._seen(completion.reply) for completion in completions]
        return [self._finish(completion, reply, now_ms) for completion, reply in zip(completions, seen, strict=True)]

    def _finish(self, completion: Completion, reply: Reply, now_ms: float) -> bool:
        delivery = completion.delivery
        if self._queue.pending.pop(delivery.entry_id, None) is None:
            return False
        if completion.dead_reason:
            self.dead.append(DeadRequest(delivery=delivery, reason=completion.dead_reason), now_ms)
        replies = self._replies_of(delivery.request.reply_to)
        replies.expires_ms = now_ms + REPLY_TTL_MS
        replies.stream.append(reply, now_ms)
        return True

    async def own_pending(self, consumer: str) -> list[Delivery]:
        """See `clover.bus.port.Bus`."""
        return [pending.delivery for pending in self._in_order() if pending.consumer == consumer]

    async def keep_alive(self, consumer: str, deliveries: Sequence[Delivery]) -> None:
        """See `clover.bus.port.Bus`."""
        now_ms = self._clock_ms()
        for delivery in deliveries:
            pending = self._queue.pending.get(delivery.entry_id)
            if pending is not None and pending.consumer == consumer:
                pending.touched_ms = now_ms

    async def claim(self, consumer: str, *, min_idle_s: float, count: int) -> Claimed:
        """See `clover.bus.port.Bus`."""
        now_ms = self._clock_ms()
        idle = [one for one in self._in_order() if now_ms - one.touched_ms >= min_idle_s * 1e3]
        for pending in idle[:count]:
            pending.consumer, pending.touched_ms = consumer, now_ms
            times = pending.delivery.times_delivered + 1
            pending.delivery = msgspec.structs.replace(pending.delivery, times_delivered=times)
        return Claimed(deliveries=[pending.delivery for pending in idle[:count]], vanished_ids=[])

    def _in_order(self) -> list[Pending]:
        """Return what is pending as the server lists it: high priority first, then by id."""
        high = self._keys.requests_high
        pending = self._queue.pending.values()
        return sorted(pending, key=lambda one: (one.delivery.stream != high, one.key))

    async def queue(self) -> QueueStatus:
        """See `clover.bus.port.Bus`."""
        oldest_ms = self._queue.oldest_ms()
        age_s = 0.0 if oldest_ms is None else max(0.0, self._clock_ms() - oldest_ms) / 1e3
        return QueueStatus(
            waiting=self._queue.waiting,
            pending=len(self._queue.pending),
            admitted=self._queue.admitted,
            oldest_age_s=age_s,
        )

    # --- replies

    def _replies_of(self, producer: str) -> _Replies:
        now_ms = self._clock_ms()
        replies = self._replies.get(producer)
        if replies is None:
            self._keys.replies(producer)
            replies = self._replies[producer] = _Replies(now_ms + REPLY_TTL_MS)
        elif replies.expires_ms <= now_ms:
            # A reader may be waiting: it keeps its bell.
            bell = replies.stream.bell
            replies.stream = BoundedStream(REPLY_MAXLEN)
            replies.stream.bell = bell
        return replies

    async def replies(self, producer: str, after: str, *, block_s: float) -> tuple[list[Reply], str]:
        """See `clover.bus.port.Bus`."""
        found: list[tuple[str, Reply]] = []

        def read() -> bool:
            found.extend(self._replies_of(producer).stream.after(after, 1000))
            return bool(found)

        await _until(read, [self._replies_of(producer).stream.bell], block_s)
        return [reply for _, reply in found], found[-1][0] if found else after

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

        await _until(read, [self._feeds[feed].bell for feed in cursors], block_s)
        return found

    async def newest_id(self, feed: Feed) -> str:
        """See `clover.bus.port.Bus`."""
        return self._feeds[feed].newest_id

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

    async def publish_plan(self, holder: str, plan: PlanRecord, targets: Sequence[Target]) -> int | None:
        """See `clover.bus.port.Bus`."""
        if not self._holds(holder):
            return None
        now_ms = self._clock_ms()
        self._epoch += 1
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

        return targets.newest if await _until(newer, [targets.bell], block_s) else None

    # --- lifetime

    async def ping(self) -> None:
        """See `clover.bus.port.Bus`."""

    async def close(self) -> None:
        """Do nothing: the other agents in this process still use it."""


async def _until(condition: Callable[[], bool], bells: Sequence[Bell], block_s: float) -> bool:
    """Wait until a condition that some bell announces holds; False if the time was up first."""
    if condition():
        return True
    if block_s <= 0.0:
        return False
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(block_s):
            while True:
                future: asyncio.Future[None] = loop.create_future()
                for bell in bells:
                    bell.add(future)
                try:
                    await future
                finally:
                    for bell in bells:
                        bell.discard(future)
                if condition():
                    return True
    except TimeoutError:
        return condition()
