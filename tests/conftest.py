"""Its place makes `support` importable for all tests; each test that asks for a server gets its own, on a free port."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from nvml_fake import GCC, FakeNvml, compile_library
from skips import pytest_runtest_makereport

from clover.bus.embedded import EmbeddedServer

__all__ = ["pytest_runtest_makereport"]

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


@pytest.fixture(scope="session")
def nvml_libraries(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Path of the fake driver's library by its age: 0 new, 1 old, 2 very old; compiled once each."""
    if GCC is None:
        pytest.skip("gcc is not installed (packages gcc and libc6-dev): it compiles the fake driver")
    directory = tmp_path_factory.mktemp("fake-nvml")
    return cache(lambda age: compile_library(directory / str(age), age=age))


@pytest.fixture
def fake_nvml(nvml_libraries: Callable[[int], Path], tmp_path: Path) -> Iterator[FakeNvml]:
    """A new fake driver without GPUs, which this process's binding uses."""
    fake = FakeNvml(nvml_libraries(0), tmp_path / "nvml-state")
    with fake.loaded():
        yield fake
