"""What the calls on a server share: their link and keys, blocking in bounded pieces, burying malformed entries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from clover.bus import codec, scripts
from clover.bus.key_names import Keys
from clover.bus.link import Link
from clover.bus.messages import Reply
from clover.core.outcome import Outcome
from clover.errors import BusDeniedError, MessageRejectedError

#: Longest time that one command blocks on the server. A stopped server is noticed this long plus the time limit of a
#: call later, so that a caller who wants to wait longer is served in pieces.
MAX_BLOCK_S = 1.0

T = TypeVar("T")
#: One entry as the server gives it: id, and names and values alternating (None: pending, but deleted).
RawEntry = tuple[bytes, list[bytes] | None]


class Calls:
    """Base of the groups of calls that together are the bus on a server."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def _decoded(
        self, stream: str, entries: Sequence[RawEntry], decode: Callable[[list[bytes]], T]
    ) -> list[tuple[str, T]]:
        """Return ids and messages of the entries that can be read; the others go to the dead stream."""
        decoded: list[tuple[str, T]] = []
        for entry_id, raw in entries:
            if raw is None:
                continue
            try:
                decoded.append((entry_id.decode(), decode(raw)))
            except MessageRejectedError as error:
                await self._bury(stream, entry_id.decode(), str(error), raw)
        return decoded

    async def _bury(self, stream: str, entry_id: str, reason: str, raw: list[bytes]) -> None:
        keys = [stream, self._keys.dead]
        args: list[str | bytes] = [entry_id, reason]
        address = codec.address_of(raw) if stream in self._keys.request_streams else None
        if address is not None:
            request_id, producer = address
            answer = Reply(id=request_id, outcome=Outcome.FAILED, reason=f"malformed request: {reason}")
            keys += (self._keys.replies(producer), self._keys.open)
            kind = self._keys.open_kind(stream)
            args += (*codec.encode_reply(answer), f"{kind} {entry_id} {producer} {request_id}")
        try:
            await self._link.script(scripts.BURY, keys, args)
        except BusDeniedError:
            # Who may only look leaves it to those who may clear it away, and reads on.
            return


class Patience:
    """Splits a long wait into pieces that one blocking command may take."""

    def __init__(self, block_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + block_s

    def piece_s(self) -> float:
        """Return how long the next command may block; 0 if the time is up."""
        return min(MAX_BLOCK_S, max(0.0, self._until - self._loop.time()))


def block_args(block_s: float) -> tuple[str | int, ...]:
    """Return the BLOCK argument of a read; none for a time that is up, since `BLOCK 0` waits for ever."""
    return ("BLOCK", int(block_s * 1e3)) if block_s >= 1e-3 else ()


def entries_by_stream(answer: Any) -> list[tuple[str, list[RawEntry]]]:
    """Return streams and their entries of the answer to XREAD or XREADGROUP (RESP2)."""
    return [(stream.decode(), entries) for stream, entries in answer or ()]
