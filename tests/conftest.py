"""Its place makes `support` importable for all tests; each test that asks for a server gets its own, on a free port.

Where CI is set everything must be there that a test needs: a skip that `allowed_skips.txt` does not name is a failure.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from clover.bus.embedded import EmbeddedServer

ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")
REDIS_SERVER = shutil.which("redis-server")


def may_be_skipped(node_id: str, allowed: str) -> bool:
    """Return whether a list of patterns (one a line, `#` begins a comment) names a test."""
    patterns = [line.partition("#")[0].strip() for line in allowed.splitlines()]
    return any(fnmatch.fnmatchcase(node_id, pattern) for pattern in patterns if pattern)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    unexpected = report.skipped and not hasattr(report, "wasxfail") and bool(os.environ.get("CI"))
    if unexpected and not may_be_skipped(item.nodeid, ALLOWED_SKIPS.read_text()):
        report.outcome = "failed"
        report.longrepr = f"skipped where CI is set, and not in {ALLOWED_SKIPS.name}: {report.longrepr}"
    return report


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
