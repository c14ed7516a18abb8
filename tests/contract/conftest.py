"""The fixture of the suite that every bus has to pass: in memory, and on two servers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from support import run

from clover.bus.keys import spec_of
from clover.bus.memory import MemoryBus
from clover.bus.port import Bus
from clover.bus.redis import RedisBus, RedisLink

Test = Callable[[Bus], Coroutine[Any, Any, None]]
Check = Callable[[Test], None]


@pytest.fixture(params=["memory", "valkey", "redis"])
def check(request: pytest.FixtureRequest) -> Iterator[Check]:
    """Run a test's coroutine on a bus; afterwards every key has a time to live or is meant to stay."""
    deployment = f"t-{uuid.uuid4().hex[:12]}"
    if request.param == "memory":
        bus = MemoryBus(deployment, lambda: time.time() * 1e3, verify=True)
        yield lambda test: run(test(bus))
        return
    server = request.getfixturevalue("valkey" if request.param == "valkey" else "redis_server")

    async def on_server(test: Test) -> None:
        bus = RedisBus(server.url, deployment, "test")
        try:
            await test(bus)
        finally:
            await bus.close()

    yield lambda test: run(on_server(test))
    run(leaks(server.url, deployment))


async def leaks(url: str, deployment: str) -> None:
    """Fail on keys that the registry does not know, or that would stay though they should not."""
    link = RedisLink(url, "leaks")
    try:
        for key in await link.command("KEYS", "*"):
            spec = spec_of(key.decode())
            assert spec is not None, f"{key} is not in the registry"
            assert key.decode().startswith(f"{{{deployment}}}:")
            assert await link.command("TYPE", key) == spec.kind.encode()
            assert spec.permanent == (await link.command("PTTL", key) == -1), f"{key}: {spec.ttl or 'permanent'}"
    finally:
        await link.close()
