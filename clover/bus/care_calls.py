"""Requests on a server that need care: leases, handing back, consumers that are gone, requests that nobody answers."""

from __future__ import annotations

from collections.abc import Sequence

from clover.bus import codec, scripts
from clover.bus.calls import entries_by_stream
from clover.bus.link import Argument
from clover.bus.messages import Reply
from clover.bus.request_calls import RequestCalls, with_group
from clover.bus.values import Delivery, QueueStatus, Swept
from clover.core.outcome import Outcome

EXPIRED = "the deadline passed before there was an answer"
VANISHED = "lost: its entry is gone from the request stream, where somebody has trimmed or deleted it"


class CareCalls(RequestCalls):
    """The part of the bus that sees to it that every request ends."""

    @with_group
    async def keep_alive(self, consumer: str, deliveries: Sequence[Delivery]) -> None:
        """See `clover.bus.port.Bus`."""
        if not deliveries:
            return
        args: list[Argument] = [consumer]
        for delivery in deliveries:
            args += (self._streams.index(delivery.stream) + 1, delivery.entry_id)
        await self._link.script(scripts.KEEP, self._streams, args)

    @with_group
    async def hand_back(self, consumer: str, deliveries: Sequence[Delivery]) -> None:
        """See `clover.bus.port.Bus`."""
        if not deliveries:
            return
        args: list[Argument] = [consumer]
        for delivery in deliveries:
            args += (self._streams.index(delivery.stream) + 1, delivery.entry_id, delivery.times_delivered)
        await self._link.script(scripts.RELEASE, self._streams, args)

    @with_group
    async def leave(self, consumer: str) -> int:
        """See `clover.bus.port.Bus`."""
        self._surplus.pop(consumer, None)
        return await self._link.script(scripts.LEAVE, self._streams, [consumer])

    @with_group
    async def reap(self, *, idle_s: float) -> list[str]:
        """See `clover.bus.port.Bus`."""
        names = await self._link.script(scripts.REAP, self._streams, [int(idle_s * 1e3)])
        return sorted({name.decode() for name in names})

    async def sweep(self, *, grace_s: float, limit: int = 500) -> Swept:
        """See `clover.bus.port.Bus`."""
        keys = [self._keys.open, *self._streams]
        found, first = await self._link.script(scripts.OVERDUE, keys, [int(grace_s * 1e3), limit])
        for stream, entries in entries_by_stream(first):
            # Buries what is malformed: a tier that nobody answers at present has no reader who would.
            await self._decoded(stream, entries, codec.decode_request)
        overdue = [(name.decode(), there == 1) for name, there in zip(found[::2], found[1::2], strict=True)]
        if not overdue:
            return Swept(expired=[], vanished=[])
        args: list[Argument] = [len(self._streams)]
        for name, there in overdue:
            args += self._closing(name, there, keys)
        closed = await self._link.script(scripts.CLOSE, keys, args)
        ended = [(name.split(" ", 3)[3], there) for (name, there), first in zip(overdue, closed, strict=True) if first]
        return Swept(
            expired=[request_id for request_id, there in ended if there],
            vanished=[request_id for request_id, there in ended if not there],
        )

    def _closing(self, name: str, there: bool, keys: list[str]) -> tuple[Argument, ...]:
        """Return the arguments that close one request, and add its reply stream to the keys."""
        kind, entry_id, producer, request_id = name.split(" ", 3)
        replies = self._keys.replies(producer)
        if replies not in keys:
            keys.append(replies)
        outcome, reason = (Outcome.EXPIRED, EXPIRED) if there else (Outcome.FAILED, VANISHED)
        _, header, _ = codec.encode_reply(Reply(id=request_id, outcome=outcome, reason=reason))
        return name, self._place_of[kind], entry_id, keys.index(replies) + 1, request_id, header

    async def known(self, request_ids: Sequence[str]) -> list[bool]:
        """See `clover.bus.port.Bus`."""
        if not request_ids:
            return []
        values = await self._link.command("MGET", *(self._keys.idempotency(one) for one in request_ids))
        return [value is not None for value in values]

    async def queue(self) -> QueueStatus:
        """See `clover.bus.port.Bus`."""
        waiting, pending, admitted, oldest_ms = await self._link.script(scripts.QUEUE, self._streams, [])
        return QueueStatus(waiting=waiting, pending=pending, admitted=admitted, oldest_age_s=oldest_ms / 1e3)
