"""A bus on a server, and a way past it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clover.bus.key_names import Keys
from clover.bus.redis import RedisBus, RedisLink


class World:
    """A bus on a server, and a way past it to the raw keys."""

    def __init__(self, url: str) -> None:
        deployment = f"f-{uuid.uuid4().hex[:12]}"
        self.bus = RedisBus(url, deployment, "test")
        self.keys = Keys(deployment)
        self.raw = RedisLink(url, "raw").command

    async def dead(self) -> list[dict[bytes, bytes]]:
        entries = await self.raw("XRANGE", self.keys.dead, "-", "+")
        return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]


@asynccontextmanager
async def world(url: str) -> AsyncIterator[World]:
    one = World(url)
    try:
        yield one
    finally:
        await one.bus.close()
        await one.raw.__self__.close()
