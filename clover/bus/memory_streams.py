"""Streams in memory, with the semantics of the server's: ids, bounds, pending lists, first blocked first served."""

from __future__ import annotations

import asyncio
import heapq
import re
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from clover.bus.messages import Request
from clover.bus.values import Delivery
from clover.errors import BusError

T = TypeVar("T")
#: Milliseconds and sequence number: what an entry id says.
EntryKey = tuple[int, int]

_ID = re.compile(r"(\d+)(?:-(\d+))?")
#: A bounded stream is trimmed when it is this much above its bound, as `MAXLEN ~` does.
_SLACK = 1.05


def key_of(entry_id: str) -> EntryKey:
    """Return an id as a pair that sorts."""
    match = _ID.fullmatch(entry_id)
    if match is None:
        raise BusError(f"stream id {entry_id!r}: expected milliseconds-sequence")
    return int(match[1]), int(match[2] or 0)


def id_of(key: EntryKey) -> str:
    """Return a pair as the id that it stands for."""
    return f"{key[0]}-{key[1]}"


class IdSource:
    """Makes ids that only grow, even if the clock stands still or goes back."""

    def __init__(self) -> None:
        self._last: EntryKey = (0, 0)

    def next(self, now_ms: float) -> EntryKey:
        """Return a new id."""
        milliseconds = int(now_ms)
        last = self._last
        self._last = (milliseconds, 0) if milliseconds > last[0] else (last[0], last[1] + 1)
        return self._last


class Bell:
    """Wakes everyone who waits for something to be appended."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Wake all who wait now."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def add(self, future: asyncio.Future[None]) -> None:
        """Let a future be woken by the next ring."""
        self._waiting.append(future)

    def discard(self, future: asyncio.Future[None]) -> None:
        """Forget a future that no longer waits."""
        if future in self._waiting:
            self._waiting.remove(future)


class BoundedStream(Generic[T]):
    """Entries in order of id; the oldest go when there are too many."""

    def __init__(self, maxlen: int) -> None:
        self._maxlen = maxlen
        self._ids = IdSource()
        self._keys: list[EntryKey] = []
        self._items: list[T] = []
        #: Entries ever appended.
        self.added = 0
        self.bell = Bell()

    def append(self, item: T, now_ms: float) -> str:
        """Append and wake the readers."""
        key = self._ids.next(now_ms)
        self._keys.append(key)
        self._items.append(item)
        self.added += 1
        if len(self._keys) > self._maxlen * _SLACK + 1:
            excess = len(self._keys) - self._maxlen
            del self._keys[:excess]
            del self._items[:excess]
        self.bell.ring()
        return id_of(key)

    def after(self, cursor: str, count: int) -> list[tuple[str, T]]:
        """Return ids and items behind a cursor, oldest first."""
        if not self._keys:
            return []
        start = bisect_right(self._keys, key_of(cursor))
        stop = start + count
        return [(id_of(key), item) for key, item in zip(self._keys[start:stop], self._items[start:stop], strict=True)]

    @property
    def length(self) -> int:
        """Entries that are kept."""
        return len(self._keys)

    @property
    def oldest_id(self) -> str:
        """Id of the oldest entry that is kept, `0-0` if there is none."""
        return id_of(self._keys[0]) if self._keys else "0-0"

    @property
    def newest_id(self) -> str:
        """Id of the newest entry, `0-0` if there is none."""
        return id_of(self._keys[-1]) if self._keys else "0-0"

    @property
    def newest(self) -> T | None:
        """The newest item."""
        return self._items[-1] if self._items else None


@dataclass(slots=True)
class Pending:
    """An entry that was delivered and not finished."""

    key: EntryKey
    delivery: Delivery
    consumer: str
    touched_ms: float


@dataclass(slots=True, eq=False)
class _Reader:
    consumer: str
    count: int
    limits: Mapping[str, int]
    future: asyncio.Future[list[Delivery]]


class RequestQueue:
    """The request streams and their group: unread by stream, pending by entry id, both until their deadline.

    Args:
        streams: In the order in which they are read.
    """

    def __init__(self, streams: Sequence[str]) -> None:
        self._ids = IdSource()
        # Bounded: by the admission bound and what expired since the last look at the queue.
        self._order: dict[str, deque[EntryKey]] = {stream: deque() for stream in streams}
        #: Entries that nobody has read yet, by stream.
        self.unread: Counter[str] = Counter()
        self._stream_of: dict[EntryKey, str] = {}
        self._unread: dict[EntryKey, Request] = {}
        self._deadlines: list[tuple[float, EntryKey]] = []
        # Bounded: by the consumers, one each.
        self._readers: deque[_Reader] = deque()
        #: When each consumer was last heard of.
        self.consumers: dict[str, float] = {}
        self.pending: dict[str, Pending] = {}
        self.admitted = 0

    @property
    def waiting(self) -> int:
        """Entries that nobody has read yet."""
        return len(self._unread)

    def append(self, stream: str, request: Request, now_ms: float) -> None:
        """Append one request; call `serve` when all of a batch are in."""
        key = self._ids.next(now_ms)
        self._order[stream].append(key)
        self._stream_of[key] = stream
        self._unread[key] = request
        self.unread[stream] += 1
        heapq.heappush(self._deadlines, (request.deadline_ms, key))
        self.admitted += 1

    def serve(self, now_ms: float) -> None:
        """Hand unread entries to blocked readers, the longest blocked first."""
        for reader in list(self._readers) if self._unread else ():
            if not reader.future.done() and (taken := self.take(reader.consumer, reader.count, reader.limits, now_ms)):
                reader.future.set_result(taken)
                self._readers.remove(reader)

    def take(self, consumer: str, count: int, limits: Mapping[str, int], now_ms: float) -> list[Delivery]:
        """Deliver up to `count` unread entries of the streams in `limits`, in order.

        A limit is what the stream may give together with the limited ones before it; below 0 there is none.
        """
        self.consumers[consumer] = now_ms
        if not self._unread:
            return []
        taken: list[Delivery] = []
        strict = 0
        for stream, limit in limits.items():
            order, before = self._order[stream], len(taken)
            room = count if limit < 0 else min(count, before + limit - strict)
            while order and len(taken) < room:
                key = order.popleft()
                request = self._unread.get(key)
                if request is None:
                    continue
                self._read(key)
                delivery = Delivery(entry_id=id_of(key), stream=stream, request=request)
                self.pending[delivery.entry_id] = Pending(key, delivery, consumer, now_ms)
                taken.append(delivery)
            strict += len(taken) - before if limit >= 0 else 0
        return taken

    def _read(self, key: EntryKey) -> Request | None:
        """Remove an entry from the unread ones, if it is one."""
        request = self._unread.pop(key, None)
        if request is not None:
            self.unread[self._stream_of.pop(key)] -= 1
        return request

    def wake(self, consumer: str) -> None:
        """Let the waiting reader of a consumer return with nothing."""
        for reader in self._readers:
            if reader.consumer == consumer and not reader.future.done():
                reader.future.set_result([])

    async def next(self, consumer: str, count: int, limits: Mapping[str, int], block_s: float) -> list[Delivery]:
        """Wait for entries to be delivered; what arrives as the wait is cut off stays pending."""
        reader = _Reader(consumer, count, limits, asyncio.get_running_loop().create_future())
        self._readers.append(reader)
        try:
            async with asyncio.timeout(block_s):
                return await reader.future
        except TimeoutError:
            # Served in the very moment in which the time was up: these are ours all the same.
            return reader.future.result() if _has_result(reader.future) else []
        finally:
            if reader in self._readers:
                self._readers.remove(reader)

    def expire(self, before_ms: float, limit: int) -> list[Request]:
        """Remove up to `limit` entries, unread or pending, whose deadline was before a moment, and return them."""
        expired: list[Request] = []
        while self._deadlines and self._deadlines[0][0] <= before_ms and len(expired) < limit:
            _, key = heapq.heappop(self._deadlines)
            pending = self.pending.pop(id_of(key), None)
            request = pending.delivery.request if pending else self._read(key)
            if request is not None:
                expired.append(request)
        return expired

    def holds(self, consumer: str) -> list[Pending]:
        """Return what is pending for a consumer."""
        return [pending for pending in self.pending.values() if pending.consumer == consumer]

    def oldest_ms(self) -> int | None:
        """Return when the first entry was appended that is not finished."""
        heads = [pending.key for pending in self.pending.values()]
        for order in self._order.values():
            while order and order[0] not in self._unread:
                order.popleft()
            heads += [order[0]] if order else []
        return min(heads)[0] if heads else None


def _has_result(future: asyncio.Future[list[Delivery]]) -> bool:
    return future.done() and not future.cancelled()
