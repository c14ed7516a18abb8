"""What a proxy can do to the bytes that pass it; names and meaning are those of toxiproxy's toxics.

A toxic takes a chunk and gives out what shall be passed on, when it shall be. Raising `CutError` ends the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

Sleep = Callable[[float], Awaitable[None]]


class CutError(Exception):
    """The connection ends here; with `reset` by a TCP reset instead of an orderly close."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__("reset" if reset else "closed")
        self.reset = reset


class Toxic(Protocol):
    """Spoils what a client sends (`upstream`) or what it gets (`downstream`)."""

    @property
    def upstream(self) -> bool:
        """Whether it applies to what clients send."""
        ...

    @property
    def downstream(self) -> bool:
        """Whether it applies to what clients get."""
        ...

    def through(self, chunk: bytes, passed: int) -> AsyncIterator[bytes]:
        """Give out a chunk, spoilt; `passed` bytes went this way on this connection before it."""
        ...

    def release(self) -> None:
        """Let go what is held back: the toxic is taken away."""
        ...


@dataclass(slots=True, kw_only=True)
class _Base:
    upstream: bool = True
    downstream: bool = True

    def release(self) -> None:
        """Nothing is held back."""


@dataclass(slots=True, kw_only=True)
class Latency(_Base):
    """Delays each chunk by `latency_s`, give or take `jitter_s`; order is kept."""

    latency_s: float
    jitter_s: float = 0.0
    rng: Random = field(default_factory=Random)
    sleep: Sleep = asyncio.sleep

    async def through(self, chunk: bytes, passed: int) -> AsyncIterator[bytes]:  # noqa: ARG002
        """See `Toxic`."""
        await self.sleep(max(0.0, self.latency_s + self.rng.uniform(-self.jitter_s, self.jitter_s)))
        yield chunk


@dataclass(slots=True, kw_only=True)
class Bandwidth(_Base):
    """Passes at most `rate_kb_s` KiB/s, in pieces of at most a tenth of a second."""

    rate_kb_s: float
    sleep: Sleep = asyncio.sleep

    async def through(self, chunk: bytes, passed: int) -> AsyncIterator[bytes]:  # noqa: ARG002
        """See `Toxic`."""
        per_second = self.rate_kb_s * 1024.0
        size = max(1, int(per_second / 10.0))
        for start in range(0, len(chunk), size):
            piece = chunk[start : start + size]
            await self.sleep(len(piece) / per_second)
            yield piece


@dataclass(slots=True, kw_only=True)
class Slicer(_Base):
    """Cuts chunks into pieces of `average` bytes, give or take `variation`, each `delay_s` after the last."""

    average: int
    variation: int = 0
    delay_s: float = 0.0
    rng: Random = field(default_factory=Random)
    sleep: Sleep = asyncio.sleep

    async def through(self, chunk: bytes, passed: int) -> AsyncIterator[bytes]:  # noqa: ARG002
        """See `Toxic`."""
        while chunk:
            size = max(1, self.average + self.rng.randint(-self.variation, self.variation))
            yield chunk[:size]
            chunk = chunk[size:]
            if chunk:
                await self.sleep(self.delay_s)


@dataclass(slots=True, kw_only=True)
class LimitData(_Base):
    """Closes a connection after `limit` bytes in one direction."""

    limit: int

    async def through(self, chunk: bytes, passed: int) -> AsyncIterator[bytes]:
        """See `Toxic`."""
        room = self.limit - passed
        if room > 0:
            yield chunk[:room]
        if len(chunk) >= room:
            raise CutError(reset=False)


@dataclass(slots=True, kw_only=True)
class SlowClose(_Base):
    """Marks that the end of a connection is passed on `delay_s` late (the proxy does it)."""

    delay_s: float

    async def through(self, chunk: bytes, passed: int) -> AsyncIterator[bytes]:  # noqa: ARG002
        """See `Toxic`."""
        yield chunk


@dataclass(slots=True, kw_only=True)
class ResetPeer(_Base):
    """Resets the connection `timeout_s` after the next chunk, which is not passed on."""

    timeout_s: float = 0.0
    sleep: Sleep = asyncio.sleep

    async def through(self, chunk: bytes, passed: int) -> AsyncIterator[bytes]:  # noqa: ARG002
        """See `Toxic`."""
        await self.sleep(self.timeout_s)
        raise CutError(reset=True)
        yield chunk  # makes this a generator


@dataclass(slots=True, kw_only=True)
class CutBeforeReply(_Base):
    """Passes what the client sends and cuts when the answer comes: the client cannot know whether it was done.

    With `times` it does so that often, then lets everything pass.
    """

    upstream: bool = False
    times: int | None = None
    cuts: int = 0

    async def through(self, chunk: bytes, passed: int) -> AsyncIterator[bytes]:  # noqa: ARG002
        """See `Toxic`."""
        if self.times is None or self.cuts < self.times:
            self.cuts += 1
            raise CutError(reset=False)
        yield chunk


@dataclass(slots=True, kw_only=True)
class BlackHole(_Base):
    """Holds everything back until the toxic is taken away (toxiproxy's `timeout`, with 0)."""

    _open: asyncio.Event = field(default_factory=asyncio.Event)

    async def through(self, chunk: bytes, passed: int) -> AsyncIterator[bytes]:  # noqa: ARG002
        """See `Toxic`."""
        await self._open.wait()
        yield chunk

    def release(self) -> None:
        """See `Toxic`."""
        self._open.set()
