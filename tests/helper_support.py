"""A helper in the test's own event loop, and raw connections to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from mig_boards import Board, OpenBoard

from mig.device import Gpu
from mig.helper_client import HelperDriver, HelperGpu
from mig.helper_policy import HelperPolicy
from mig.helper_server import HelperServer
from mig.helper_socket import HelperLimits


@contextlib.asynccontextmanager
async def a_helper(
    path: Path, gpus: Sequence[Gpu], *, policy: HelperPolicy | None = None, limits: HelperLimits | None = None
) -> AsyncIterator[Path]:
    """Run a helper for GPUs; by default it does everything that the port can."""
    stop, ready = asyncio.Event(), asyncio.Event()
    server = HelperServer(gpus, policy or HelperPolicy(mode=True), limits)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(path, stop, ready=ready.set))
        await ready.wait()
        try:
            yield path
        finally:
            stop.set()


@contextlib.asynccontextmanager
async def helped(
    path: Path, gpus: Sequence[Gpu], *, policy: HelperPolicy | None = None, limits: HelperLimits | None = None
) -> AsyncIterator[tuple[HelperGpu, ...]]:
    """Run a helper and give its GPUs as a client sees them."""
    async with a_helper(path, gpus, policy=policy, limits=limits), HelperDriver(path, call_timeout_s=10.0) as driver:
        yield await driver.gpus()


class Raw:
    """A connection that sends whatever it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, data: bytes) -> bytes:
        """Send bytes and read one line; empty if the other side closed."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()
        return await self.hear()

    async def hear(self) -> bytes:
        """Read one line; empty if the other side closed."""
        try:
            async with asyncio.timeout(10.0):
                return await self.reader.readline()
        except ConnectionError:
            return b""


@contextlib.asynccontextmanager
async def raw(path: Path) -> AsyncIterator[Raw]:
    """Connect without any protocol."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def helped_board(inner: OpenBoard, path: Path) -> OpenBoard:
    """A board behind a helper: played directly, changed through the socket."""

    @contextlib.asynccontextmanager
    async def opened(*arguments: Any, **options: Any) -> AsyncIterator[Board]:
        async with inner(*arguments, **options) as board, helped(path, [board.gpu]) as (gpu,):
            yield Board(gpu, board.play)

    return opened
