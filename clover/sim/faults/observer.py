"""Watches a deployment from outside: every reply stream, the dead stream, bounds, memory, carbon data and totals."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from clover.bus.codec import decode_reply
from clover.bus.key_names import Keys
from clover.bus.limits import DEAD_MAXLEN, FEED_MAXLEN, REPLY_MAXLEN, TARGET_MAXLEN
from clover.bus.messages import IntensityReading, LedgerReading
from clover.bus.values import Feed, QueueStatus, entry_order
from clover.errors import BusUnavailableError, MessageRejectedError, NotReadyError
from clover.sim.faults.history import (
    AnyRecord,
    Buried,
    CarbonSeen,
    ReplySeen,
    Sample,
    TotalsSeen,
    now_ms,
)
from clover.sim.faults.rig import Rig

_EVERY_S = 1.0
#: What is kept of the feeds, as an archiver would: their bounds are for weeks, memory is to be flat in minutes.
_KEPT = 1000
#: Trimming by whole nodes leaves some more than the bound (`MAXLEN ~`).
_SLACK = 1.1
_BATCH = 1000


class Observer:
    """Reads what the agents write, and puts it down.

    Args:
        rig: The deployment.
        bound: Most requests that may wait.
    """

    def __init__(self, rig: Rig, *, bound: int = 100_000) -> None:
        self._rig = rig
        self._keys = Keys(rig.settings.deployment)
        self._bound = bound
        self._reply_cursors: dict[str, str] = {}
        self._dead_cursor = "0-0"
        self._carbon_cursor = "0"

    async def watch(self) -> None:
        """Look once a second until cancelled; what cannot be read now is read later."""
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.look()
            except BusUnavailableError:
                continue

    async def look(self, *, final: bool = False) -> QueueStatus:
        """Look once, at everything that is new."""
        for producer in list(self._rig.producers):
            await self._read_replies(producer)
        await self._read_dead()
        await self._read_carbon()
        queue = await self._rig.bus.queue()
        self._write([await self._sample(queue, final=final)])
        for feed in (Feed.LOG, Feed.TELEMETRY, Feed.EVENTS):
            await self._rig.server.command("XTRIM", self._keys.feed(feed), "MAXLEN", "~", _KEPT)
        return queue

    async def quiet(self, *, limit_s: float) -> bool:
        """Wait until nothing waits and nothing is pending, then put down the final state; False if it never is."""
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    try:
                        queue = await self.look()
                        if queue.waiting == 0 and queue.pending == 0:
                            break
                    except BusUnavailableError:
                        pass
                    await asyncio.sleep(_EVERY_S / 4.0)
        except TimeoutError:
            await self.look(final=True)
            return False
        await self.look(final=True)
        return True

    def _write(self, records: list[AnyRecord]) -> None:
        self._rig.history.write(records)

    # --- streams

    async def _entries(self, stream: str, after: str) -> list[Any]:
        return await self._rig.server.command("XRANGE", stream, f"({after}", "+", "COUNT", _BATCH)

    async def _read_replies(self, producer: str) -> None:
        stream = self._keys.replies(producer)
        while entries := await self._entries(stream, self._reply_cursors.get(producer, "0-0")):
            at_ms = now_ms()
            for entry_id, raw in entries:
                self._reply_cursors[producer] = entry_id.decode()
                try:
                    reply = decode_reply(raw)
                except MessageRejectedError:
                    continue  # planted; the producer buries it
                self._write(
                    [ReplySeen(at_ms=at_ms, id=reply.id, by="observer", outcome=reply.outcome, node=reply.node)]
                )

    async def _read_dead(self) -> None:
        while entries := await self._entries(self._keys.dead, self._dead_cursor):
            at_ms = now_ms()
            for entry_id, raw in entries:
                self._dead_cursor = entry_id.decode()
                fields = {key: value.decode(errors="replace") for key, value in zip(raw[::2], raw[1::2], strict=True)}
                self._write(
                    [
                        Buried(
                            at_ms=at_ms,
                            stream=fields.get(b"stream", ""),
                            entry_id=fields.get(b"id", ""),
                            reason=fields.get(b"reason", ""),
                        )
                    ]
                )

    async def _read_carbon(self) -> None:
        at_ms = now_ms()
        for entry in await self._rig.bus.follow({Feed.CARBON: self._carbon_cursor}, block_s=0.0):
            self._carbon_cursor = max(self._carbon_cursor, entry.id, key=entry_order)
            if isinstance(entry.message, LedgerReading):
                totals = entry.message
                self._write([TotalsSeen(at_ms=at_ms, energy_j=totals.energy_j, footprint_g=totals.footprint_g)])
        told = (await self._rig.bus.carbon_now()).get("intensity")
        if isinstance(told, IntensityReading):
            self._write(
                [
                    CarbonSeen(
                        at_ms=at_ms,
                        to_ms=told.to_ms,
                        status=told.status,
                        source=told.source,
                        fallback_level=told.fallback_level,
                    )
                ]
            )

    # --- state

    async def _sample(self, queue: QueueStatus, *, final: bool) -> Sample:
        bounds = self._bounds()
        lengths = {stream: await self._rig.server.command("XLEN", stream) for stream in bounds}
        return Sample(
            at_ms=now_ms(),
            waiting=queue.waiting,
            pending=queue.pending,
            lengths=lengths,
            bounds=bounds,
            memory_bytes=await self._memory(lengths),
            final=final,
        )

    def _bounds(self) -> dict[str, int]:
        keys = self._keys
        bounds = dict.fromkeys(keys.request_streams, self._bound)
        bounds |= {keys.feed(feed): round(bound * _SLACK) for feed, bound in FEED_MAXLEN.items()}
        bounds |= {keys.replies(producer): round(REPLY_MAXLEN * _SLACK) for producer in self._rig.producers}
        bounds |= {keys.target(node.name): round(TARGET_MAXLEN * _SLACK) for node in self._rig.of("node")}
        return bounds | {keys.dead: round(DEAD_MAXLEN * _SLACK)}

    async def _memory(self, lengths: dict[str, int]) -> dict[str, int]:
        """Return bytes of the server without its bounded streams (MEMORY USAGE samples: an estimate), and of agents."""
        told = (await self._rig.server.command("INFO", "memory")).decode()
        used = next(int(line[12:]) for line in told.splitlines() if line.startswith("used_memory:"))
        for stream, length in lengths.items():
            if length:
                used -= await self._rig.server.command("MEMORY", "USAGE", stream) or 0
        memory = {"server": max(0, used)}
        for agent in self._rig.agents.values():
            try:
                memory[f"{agent.name}/{agent.pid}"] = _resident_bytes(agent.pid)
            except (NotReadyError, OSError, StopIteration):
                continue  # it is down at present
        return memory


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
