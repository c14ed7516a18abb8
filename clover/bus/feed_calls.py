"""Feeds and last values on a server: telemetry, carbon, events, heartbeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clover.bus import codec, scripts
from clover.bus.calls import Calls, Patience, block_args, entries_by_stream
from clover.bus.limits import FEED_MAXLEN
from clover.bus.link import Argument
from clover.bus.messages import LedgerCheckpoint, Message, NodeTelemetry
from clover.bus.values import Entry, Feed, FeedExtent
from clover.errors import BusError, MessageRejectedError


class FeedCalls(Calls):
    """The part of the bus that anyone may follow."""

    async def publish(self, feed: Feed, messages: Sequence[Message]) -> None:
        """See `clover.bus.port.Bus`."""
        if not messages:
            return
        args: list[Argument] = [FEED_MAXLEN[feed]]
        for message in messages:
            args += codec.encode(message)
        await self._link.script(scripts.PUBLISH, [self._keys.feed(feed)], args)

    async def follow(self, cursors: Mapping[Feed, str], *, block_s: float, count: int = 1000) -> list[Entry]:
        """See `clover.bus.port.Bus`."""
        feeds = {self._keys.feed(feed): feed for feed in cursors}
        patience = Patience(block_s)
        while True:
            piece_s = patience.piece_s()
            command = ("XREAD", "COUNT", count, *block_args(piece_s), "STREAMS", *feeds, *cursors.values())
            found: list[Entry] = []
            for stream, entries in entries_by_stream(await self._link.read(*command, block_s=piece_s)):
                decoded = await self._decoded(stream, entries, codec.decode)
                found += (Entry(feed=feeds[stream], id=key, message=message) for key, message in decoded)
            if found or piece_s == 0.0:
                return found

    async def newest_id(self, feed: Feed) -> str:
        """See `clover.bus.port.Bus`."""
        newest = await self._link.command("XREVRANGE", self._keys.feed(feed), "+", "-", "COUNT", 1)
        return newest[0][0].decode() if newest else "0-0"

    async def extent(self, feed: Feed) -> FeedExtent:
        """See `clover.bus.port.Bus`."""
        try:
            answer = await self._link.command("XINFO", "STREAM", self._keys.feed(feed))
        except BusError as error:
            if "no such key" not in str(error):
                raise
            return FeedExtent(first_id="0-0", last_id="0-0", length=0, added=0)
        facts = dict(zip(answer[::2], answer[1::2], strict=True))
        first = facts[b"first-entry"]
        return FeedExtent(
            first_id=first[0].decode() if first else "0-0",
            last_id=facts[b"last-generated-id"].decode(),
            length=facts[b"length"],
            added=facts[b"entries-added"],
        )

    # --- last values

    async def publish_telemetry(self, telemetry: NodeTelemetry) -> None:
        """See `clover.bus.port.Bus`."""
        _, header = codec.encode(telemetry)
        keys = [self._keys.feed(Feed.TELEMETRY), self._keys.state(telemetry.node), self._keys.nodes]
        args = [FEED_MAXLEN[Feed.TELEMETRY], telemetry.node, int(state_ttl_ms(telemetry)), header]
        await self._link.script(scripts.TELEMETRY, keys, args)

    async def node_states(self) -> dict[str, NodeTelemetry]:
        """See `clover.bus.port.Bus`."""
        states: dict[str, NodeTelemetry] = {}
        for name in await self._link.command("ZRANGE", self._keys.nodes, 0, -1):
            # One value at a time: a fleet has few nodes, and its dashboard asks once a second.
            raw = await self._link.command("HGETALL", self._keys.state(name.decode()))
            if raw:
                try:
                    states[name.decode()] = codec.decode_as(NodeTelemetry, raw)
                except MessageRejectedError:
                    # A value, not an entry: the node's next telemetry overwrites it.
                    continue
        return states

    async def publish_carbon(self, messages: Sequence[Message], checkpoint: LedgerCheckpoint) -> None:
        """See `clover.bus.port.Bus`."""
        keys = [self._keys.feed(Feed.CARBON), self._keys.now, self._keys.ledger]
        args: list[Argument] = [FEED_MAXLEN[Feed.CARBON], codec.encode(checkpoint)[1]]
        for message in messages:
            args += codec.encode(message)
        await self._link.script(scripts.CARBON, keys, args)

    async def carbon_now(self) -> dict[str, Message]:
        """See `clover.bus.port.Bus`."""
        raw: list[bytes] = await self._link.command("HGETALL", self._keys.now)
        fields = dict(zip(raw[::2], raw[1::2], strict=True))
        version = fields.pop(b"v", b"")
        return {
            name.decode(): codec.decode([b"v", version, b"t", name, b"d", header]) for name, header in fields.items()
        }

    async def checkpoint(self) -> LedgerCheckpoint | None:
        """See `clover.bus.port.Bus`."""
        raw = await self._link.command("HGETALL", self._keys.ledger)
        return codec.decode_as(LedgerCheckpoint, raw) if raw else None

    # --- heartbeats

    async def beat(self, agent: str) -> None:
        """See `clover.bus.port.Bus`."""
        await self._link.script(scripts.BEAT, [self._keys.live], [agent])

    async def alive(self) -> dict[str, float]:
        """See `clover.bus.port.Bus`."""
        found = await self._link.script(scripts.ALIVE, [self._keys.live], [])
        return {agent.decode(): age_ms / 1e3 for agent, age_ms in zip(found[::2], found[1::2], strict=True)}


def state_ttl_ms(telemetry: NodeTelemetry) -> float:
    """Return how long a node's last state is kept: ten telemetry intervals, at least a minute; 0 of one that leaves."""
    if telemetry.leaving:
        return 0.0
    return max(60.0, 10.0 * telemetry.interval_s) * 1e3
