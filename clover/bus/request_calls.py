"""Requests and replies on a server: admission, pulling, claiming, finishing."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar

from clover.bus import codec, scripts
from clover.bus.calls import Calls, Patience, RawEntry, block_args, entries_by_stream
from clover.bus.key_names import Keys
from clover.bus.keys import GROUP
from clover.bus.link import Argument, GroupMissingError, Link
from clover.bus.messages import Reply, Request
from clover.bus.values import ALL_TIERS, NO_TIERS, Admission, Claimed, Completion, Delivery
from clover.errors import BusError, MessageRejectedError

_ADMISSIONS = {1: Admission.ADMITTED, 0: Admission.DUPLICATE, -1: Admission.FULL, -2: Admission.UNMET}
#: Most replies taken in one read; what is left comes with the next.
_REPLY_BATCH = 1000
#: After a request of high priority or of a tier has been seen, every pull first takes what is there in order, in one
#: script, for this long; otherwise one pull a second does, since it costs a call. (A read on all streams would count
#: for each of them apart.)
_URGENT_IN_USE_S = 10.0
_URGENT_CHECK_S = 1.0

#: Tries to end a blocking read that may only just be on its way to the server, and the pause between them.
_WAKE_TRIES = 5
_WAKE_PAUSE_S = 0.002

#: "As many as there is room for" in scripts that take entries.
_NO_LIMIT = -1

#: Most requests or replies, and most of their bytes, in one call of a script; more go in several.
MAX_CALL_ITEMS = 1000
MAX_CALL_BYTES = 16 << 20

#: A completion and the encoded fields of its reply.
_Encoded = tuple[Completion, codec.ReplyFields]

P = ParamSpec("P")
T = TypeVar("T")


def with_group(call: Callable[P, CoroutineType[Any, Any, T]]) -> Callable[P, CoroutineType[Any, Any, T]]:
    """Make the consumer groups again if they are gone, then repeat the call: nothing was read or written."""

    @functools.wraps(call)
    async def healed(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await call(*args, **kwargs)
        except GroupMissingError:
            calls = args[0]
            assert isinstance(calls, RequestCalls)  # noqa: S101 - a decorator of methods of this class only
            await calls.make_groups()
            return await call(*args, **kwargs)

    return healed


class RequestCalls(Calls):
    """The part of the bus that carries requests and replies."""

    def __init__(self, link: Link, keys: Keys) -> None:
        super().__init__(link, keys)
        self._streams = keys.request_streams
        self._place_of = {keys.open_kind(stream): index + 2 for index, stream in enumerate(self._streams)}
        self._urgent_in_use_until = 0.0
        self._urgent_check_at = 0.0
        #: Consumers whose pull waits, and those of them that shall return.
        self._pulling: set[str] = set()
        self._woken: set[str] = set()
        #: Delivered beyond the count, because the server counts per stream; handed out with the next pull.
        self._surplus: dict[str, list[Delivery]] = {}

    async def make_groups(self) -> None:
        """Create the consumer group on the request streams, from their beginning, where it is missing."""
        for stream in self._streams:
            try:
                await self._link.command("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
            except BusError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def admit(self, requests: Sequence[Request], *, bound: int) -> list[Admission]:
        """See `clover.bus.port.Bus`."""
        if not requests:
            return []
        answers: list[Admission] = []
        # Encoded before anything is sent: one that cannot be written keeps all of them out.
        for piece in _pieces([codec.encode_request(request) for request in requests], _request_bytes):
            keys = [self._keys.open, self._keys.plan, *self._streams]
            args: list[Argument] = [bound, len(self._streams)]
            for fields in piece:
                keys.append(self._keys.idempotency(fields[0]))
                args += fields
            answers += (_ADMISSIONS[code] for code in await self._link.script(scripts.ADMIT, keys, args))
        return answers

    # --- taking

    @with_group
    async def pull(
        self, consumer: str, *, count: int, block_s: float, tiers: Mapping[int, int] = NO_TIERS
    ) -> list[Delivery]:
        """See `clover.bus.port.Bus`."""
        surplus = self._surplus.pop(consumer, None)
        if surplus:
            return self._at_most(consumer, surplus, count)
        self._pulling.add(consumer)
        try:
            return await self._pull(consumer, count, Patience(block_s), self._limits(tiers))
        finally:
            self._pulling.discard(consumer)
            self._woken.discard(consumer)

    async def _pull(self, consumer: str, count: int, patience: Patience, limits: dict[str, int]) -> list[Delivery]:
        while True:
            piece_s = patience.piece_s()
            taken: list[Delivery] = []
            if self._urgent_first():
                taken = await self._take(consumer, count, limits)
            if not taken and consumer not in self._woken:
                taken = await self._await(consumer, count, piece_s, limits)
            if taken or piece_s == 0.0 or consumer in self._woken:
                return self._at_most(consumer, taken, count)

    def _limits(self, tiers: Mapping[int, int]) -> dict[str, int]:
        """Return the streams that are read, in order, with the limit of each."""
        named = {self._keys.tier(tier): most for tier, most in tiers.items() if most > 0}
        plain = (self._keys.requests_high, self._keys.requests)
        return {stream: named.get(stream, _NO_LIMIT) for stream in self._streams if stream in plain or stream in named}

    def _urgent_first(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        return now_s < self._urgent_in_use_until or now_s >= self._urgent_check_at

    async def _take(self, consumer: str, count: int, limits: dict[str, int]) -> list[Delivery]:
        """Take what is there, in order and within the limits."""
        answer = await self._link.script(scripts.TAKE, list(limits), [consumer, count, *limits.values()])
        self._urgent_check_at = asyncio.get_running_loop().time() + _URGENT_CHECK_S
        return await self._noted(answer)

    async def _await(self, consumer: str, count: int, block_s: float, limits: dict[str, int]) -> list[Delivery]:
        """Wait for the first to arrive; where a tier may give less than the count, for one alone."""
        least = min((most for most in limits.values() if most != _NO_LIMIT), default=count)
        command = ("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count if least >= count else 1)
        streams = ("STREAMS", *limits, *(">" for _ in limits))
        answer = await self._link.read(*command, *block_args(block_s), *streams, block_s=block_s, name=consumer)
        return await self._noted(answer)

    async def _noted(self, answer: Any) -> list[Delivery]:
        taken: list[Delivery] = []
        for stream, entries in entries_by_stream(answer):
            if stream != self._keys.requests:
                self._urgent_in_use_until = asyncio.get_running_loop().time() + _URGENT_IN_USE_S
            taken += await self._deliveries(stream, entries)
        return taken

    async def wake(self, consumer: str) -> None:
        """See `clover.bus.port.Bus`."""
        if consumer not in self._pulling:
            return
        self._woken.add(consumer)
        for _ in range(_WAKE_TRIES):
            if await self._link.unblock(consumer) or consumer not in self._pulling:
                return
            await asyncio.sleep(_WAKE_PAUSE_S)

    def _at_most(self, consumer: str, deliveries: list[Delivery], count: int) -> list[Delivery]:
        if len(deliveries) > count:
            self._surplus[consumer] = deliveries[count:]
            return deliveries[:count]
        return deliveries

    async def _deliveries(self, stream: str, entries: list[RawEntry]) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for entry_id, raw in entries:
            if raw is None:
                continue
            try:
                request = codec.decode_request(raw)
            except MessageRejectedError as error:
                await self._bury(stream, entry_id.decode(), str(error), raw)
                continue
            deliveries.append(Delivery(entry_id=entry_id.decode(), stream=stream, request=request))
        return deliveries

    @with_group
    async def own_pending(self, consumer: str) -> list[Delivery]:
        """See `clover.bus.port.Bus`."""
        self._surplus.pop(consumer, None)
        return await self._redelivered(await self._link.script(scripts.OWN, self._streams, [consumer]))

    @with_group
    async def claim(
        self, consumer: str, *, min_idle_s: float, count: int, tiers: Mapping[int, int] = ALL_TIERS
    ) -> Claimed:
        """See `clover.bus.port.Bus`."""
        limits = self._limits(tiers)
        args = [consumer, int(min_idle_s * 1e3), count, *limits.values()]
        entries, vanished = await self._link.script(scripts.CLAIM, list(limits), args)
        return Claimed(
            deliveries=await self._redelivered(entries),
            vanished_ids=[entry_id.decode() for entry_id in vanished],
        )

    async def _redelivered(self, entries: list[Any]) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for stream, entry_id, times, raw in entries:
            for key, request in await self._decoded(stream.decode(), [(entry_id, raw)], codec.decode_request):
                deliveries.append(
                    Delivery(entry_id=key, stream=stream.decode(), request=request, times_delivered=times)
                )
        return deliveries

    # --- finishing

    async def finish(self, completions: Sequence[Completion]) -> list[bool]:
        """See `clover.bus.port.Bus`."""
        if not completions:
            return []
        done: list[bool] = []
        encoded = [(one, codec.encode_reply(one.reply)) for one in completions]
        for piece in _pieces(encoded, _completion_bytes):
            done += await self._finish(piece)
        return done

    async def _finish(self, piece: Sequence[_Encoded]) -> list[bool]:
        keys = [self._keys.dead, self._keys.open]
        places: dict[str, int] = {}

        def place_of(key: str) -> int:
            if key not in places:
                keys.append(key)
                places[key] = len(keys)
            return places[key]

        args: list[Argument] = []
        for completion, (request_id, header, payload) in piece:
            delivery = completion.delivery
            stream, replies = place_of(delivery.stream), place_of(self._keys.replies(delivery.request.reply_to))
            args += (stream, delivery.entry_id, replies, request_id, header, payload, completion.dead_reason)
        return [code == 1 for code in await self._link.script(scripts.DONE, keys, args)]

    async def replies(self, producer: str, after: str, *, block_s: float) -> tuple[list[Reply], str]:
        """See `clover.bus.port.Bus`."""
        stream = self._keys.replies(producer)
        patience = Patience(block_s)
        while True:
            piece_s = patience.piece_s()
            command = ("XREAD", "COUNT", _REPLY_BATCH, *block_args(piece_s), "STREAMS", stream, after)
            answer = await self._link.read(*command, block_s=piece_s)
            for _, entries in entries_by_stream(answer):
                decoded = await self._decoded(stream, entries, codec.decode_reply)
                return [reply for _, reply in decoded], entries[-1][0].decode()
            if piece_s == 0.0:
                return [], after


def _pieces(items: Sequence[T], size_of: Callable[[T], int]) -> Iterator[Sequence[T]]:
    """Split what goes into one script: the server takes neither endless arguments nor gigabytes at once."""
    start, size = 0, 0
    for index, item in enumerate(items):
        size += size_of(item)
        if index > start and (size > MAX_CALL_BYTES or index - start >= MAX_CALL_ITEMS):
            yield items[start:index]
            start, size = index, size_of(item)
    yield items[start:]


def _request_bytes(fields: codec.RequestFields) -> int:
    return len(fields[7]) + len(fields[8])


def _completion_bytes(encoded: _Encoded) -> int:
    return len(encoded[1][1]) + len(encoded[1][2])
