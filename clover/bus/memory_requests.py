"""Requests and replies of the bus inside one process."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from clover.bus import codec
from clover.bus.care_calls import EXPIRED
from clover.bus.key_names import Keys
from clover.bus.keys import RELEASED, RELEASED_IDLE_MS
from clover.bus.limits import DEAD_MAXLEN, IDEMPOTENCY_AFTER_DEADLINE_MS, REPLY_MAXLEN, REPLY_TTL_MS
from clover.bus.memory_streams import Bell, BoundedStream, Pending, RequestQueue
from clover.bus.messages import Message, Reply, Request, Tier
from clover.bus.values import ALL_TIERS, NO_TIERS, Admission, Claimed, Completion, Delivery, QueueStatus, Swept
from clover.core.outcome import Outcome
from clover.core.tiers import ANY, tier_of

M = TypeVar("M", bound=Message)

#: "As many as there is room for".
NO_LIMIT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadRequest:
    """A request that was given up, and why."""

    delivery: Delivery
    reason: str


@dataclass(slots=True)
class _Replies:
    expires_ms: float
    stream: BoundedStream[Reply] = field(default_factory=lambda: BoundedStream(REPLY_MAXLEN))


class MemoryRequests:
    """The part of the in-process bus that carries requests and replies."""

    def __init__(self, deployment: str, clock_ms: Callable[[], float], *, verify: bool) -> None:
        self._keys = Keys(deployment)
        self._clock_ms = clock_ms
        self._verify = verify
        self._queue = RequestQueue(self._keys.request_streams)
        self._known: dict[str, float] = {}
        self._known_until: list[tuple[float, str]] = []
        self._replies: dict[str, _Replies] = {}
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
        stream = self._stream_for(request)
        if isinstance(stream, Admission):
            return stream
        until_ms = max(now_ms + 1000.0, request.deadline_ms + IDEMPOTENCY_AFTER_DEADLINE_MS)
        self._known[request.id] = until_ms
        heapq.heappush(self._known_until, (until_ms, request.id))
        self._queue.append(stream, request, now_ms)
        return Admission.ADMITTED

    def _stream_for(self, request: Request) -> str | Admission:
        """Return the stream that a request waits in, or why it is refused."""
        tiers = self._tiers()
        tier = tier_of(tuple(one.accuracy_pct for one in tiers), request.min_accuracy) if tiers else ANY
        if tier == ANY:
            return self._keys.requests_high if request.priority == "high" else self._keys.requests
        if tier is None or tiers[tier - 1].bound <= 0:
            return Admission.UNMET
        strict = sum(self._queue.unread[self._keys.tier(stricter)] for stricter in range(tier, len(tiers) + 1))
        return Admission.FULL if strict >= tiers[tier - 1].bound else self._keys.tier(tier)

    def _tiers(self) -> Sequence[Tier]:
        """Return the tiers of the plan in force."""
        return ()

    def _limits(self, tiers: Mapping[int, int]) -> dict[str, int]:
        """Return the streams that are read, in order, with the limit of each."""
        keys = self._keys
        strict = {keys.tier(tier): tiers[tier] for tier in sorted(tiers, reverse=True) if tiers[tier] > 0}
        return {keys.requests_high: NO_LIMIT, **strict, keys.requests: NO_LIMIT}

    def _forget(self, now_ms: float) -> None:
        while self._known_until and self._known_until[0][0] <= now_ms:
            del self._known[heapq.heappop(self._known_until)[1]]

    async def pull(
        self, consumer: str, *, count: int, block_s: float, tiers: Mapping[int, int] = NO_TIERS
    ) -> list[Delivery]:
        """See `clover.bus.port.Bus`."""
        limits = self._limits(tiers)
        taken = self._queue.take(consumer, count, limits, self._clock_ms())
        if taken or block_s <= 0.0:
            return taken
        return await self._queue.next(consumer, count, limits, block_s)

    async def wake(self, consumer: str) -> None:
        """See `clover.bus.port.Bus`."""
        self._queue.wake(consumer)

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
        self._reply(delivery.request.reply_to, reply, now_ms)
        return True

    def _reply(self, producer: str, reply: Reply, now_ms: float) -> None:
        replies = self._replies_of(producer)
        replies.expires_ms = now_ms + REPLY_TTL_MS
        replies.stream.append(reply, now_ms)

    async def own_pending(self, consumer: str) -> list[Delivery]:
        """See `clover.bus.port.Bus`."""
        self._queue.consumers[consumer] = self._clock_ms()
        return [pending.delivery for pending in self._in_order() if pending.consumer == consumer]

    async def keep_alive(self, consumer: str, deliveries: Sequence[Delivery]) -> None:
        """See `clover.bus.port.Bus`."""
        now_ms = self._clock_ms()
        if deliveries:
            self._queue.consumers[consumer] = now_ms
        for delivery in deliveries:
            pending = self._queue.pending.get(delivery.entry_id)
            if pending is not None and pending.consumer == consumer:
                pending.touched_ms = now_ms

    async def claim(
        self, consumer: str, *, min_idle_s: float, count: int, tiers: Mapping[int, int] = ALL_TIERS
    ) -> Claimed:
        """See `clover.bus.port.Bus`."""
        now_ms = self._clock_ms()
        self._queue.consumers[consumer] = now_ms
        limits = self._limits(tiers)
        idle: list[Pending] = []
        strict = 0
        for pending in self._in_order() if self._queue.pending else ():
            limit = limits.get(pending.delivery.stream, 0)
            if now_ms - pending.touched_ms < min_idle_s * 1e3 or 0 <= limit <= strict or len(idle) >= count:
                continue
            strict += limit >= 0
            idle.append(pending)
        for pending in idle:
            pending.consumer, pending.touched_ms = consumer, now_ms
            times = pending.delivery.times_delivered + 1
            pending.delivery = msgspec.structs.replace(pending.delivery, times_delivered=times)
        return Claimed(deliveries=[pending.delivery for pending in idle], vanished_ids=[])

    async def hand_back(self, consumer: str, deliveries: Sequence[Delivery]) -> None:
        """See `clover.bus.port.Bus`."""
        for delivery in deliveries:
            pending = self._queue.pending.get(delivery.entry_id)
            if pending is not None and pending.consumer == consumer:
                self._release(pending, delivery.times_delivered - 1)

    def _release(self, pending: Pending, times: int) -> None:
        pending.consumer, pending.touched_ms = RELEASED, self._clock_ms() - RELEASED_IDLE_MS
        pending.delivery = msgspec.structs.replace(pending.delivery, times_delivered=max(0, times))

    async def leave(self, consumer: str) -> int:
        """See `clover.bus.port.Bus`."""
        held = self._queue.holds(consumer)
        for pending in held:
            self._release(pending, pending.delivery.times_delivered - 1)
        self._queue.consumers.pop(consumer, None)
        return len(held)

    async def reap(self, *, idle_s: float) -> list[str]:
        """See `clover.bus.port.Bus`."""
        silent_ms = self._clock_ms() - idle_s * 1e3
        consumers = self._queue.consumers
        gone = [name for name, at in consumers.items() if at <= silent_ms and not self._queue.holds(name)]
        for name in gone:
            del consumers[name]
        return sorted(gone)

    async def sweep(self, *, grace_s: float, limit: int = 500) -> Swept:
        """See `clover.bus.port.Bus`; nothing vanishes from memory."""
        now_ms = self._clock_ms()
        expired = self._queue.expire(now_ms - grace_s * 1e3, limit)
        for request in expired:
            reply = Reply(id=request.id, outcome=Outcome.EXPIRED, reason=EXPIRED)
            self._reply(request.reply_to, self._seen(reply), now_ms)
        return Swept(expired=[request.id for request in expired], vanished=[])

    async def known(self, request_ids: Sequence[str]) -> list[bool]:
        """See `clover.bus.port.Bus`."""
        self._forget(self._clock_ms())
        return [request_id in self._known for request_id in request_ids]

    def _in_order(self) -> list[Pending]:
        """Return what is pending as the server lists it: stream by stream in their order, then by id."""
        places = {stream: place for place, stream in enumerate(self._keys.request_streams)}
        pending = self._queue.pending.values()
        return sorted(pending, key=lambda one: (places[one.delivery.stream], one.key))

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

        await until(read, [self._replies_of(producer).stream.bell], block_s)
        return [reply for _, reply in found], found[-1][0] if found else after


async def until(condition: Callable[[], bool], bells: Sequence[Bell], block_s: float) -> bool:
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
