"""Its place makes `support` importable for all tests; each test that asks for a server gets its own, on a free port."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from clover.bus.embedded import EmbeddedServer

REDIS_SERVER = shutil.which("redis-server")


def _served(directory: Path, binary: Path | None = None) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(directory, binary=binary)
    with asyncio.Runner() as runner:
        runner.run(server.start())
        try:
            yield server
        finally:
            runner.run(server.stop())


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """The embedded server."""
    yield from _served(tmp_path_factory.mktemp("valkey"))


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A real Redis of this host."""
    if REDIS_SERVER is None:
        pytest.skip("redis-server is not installed (package redis-server)")
    yield from _served(tmp_path_factory.mktemp("redis"), Path(REDIS_SERVER))
