"""Names of nodes on every bus: one agent holds a name, and whoever died loses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from clover.bus.port import Bus

Test = Callable[[Bus], Coroutine[Any, Any, None]]


def test_one_agent_has_a_name_until_it_gives_it_back_or_dies(check: Callable[[Test], None]) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.claim_name("n1", "boot-1", ttl_s=60)
        assert await bus.claim_name("n1", "boot-1", ttl_s=60)
        assert not await bus.claim_name("n1", "boot-2", ttl_s=60)
        assert await bus.claim_name("n2", "boot-2", ttl_s=60)
        await bus.release_name("n1", "boot-2")
        assert not await bus.claim_name("n1", "boot-2", ttl_s=60)
        await bus.release_name("n1", "boot-1")
        assert await bus.claim_name("n1", "boot-3", ttl_s=0.05)
        async with asyncio.timeout(10):
            while not await bus.claim_name("n1", "boot-4", ttl_s=60):  # noqa: ASYNC110 - a lease runs out by itself
                await asyncio.sleep(0.02)

    check(test)
