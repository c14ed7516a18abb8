"""A real server that can be killed, stopped, starved and emptied."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clover.bus.embedded import EmbeddedServer, wheel_binary
from clover.bus.link import Argument
from clover.bus.redis import RedisLink
from clover.errors import BusError, BusUnavailableError, NotReadyError

#: How long a server may take to come back; a test machine may be very busy.
_BACK_S = 30.0


class FaultyServer:
    """The embedded server on a fixed port and directory, so that it can come back as itself.

    Args:
        directory: Where its data goes.
        durable: Whether it keeps an append-only file.
        extra: More of its settings.
    """

    def __init__(self, directory: Path, *, durable: bool = True, extra: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._extra = {**(extra or {}), **({} if durable else {"appendonly": "no"})}
        self._server: EmbeddedServer | None = None
        self._link: RedisLink | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        await self._start(None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._link is not None:
            await self._link.close()
        if self._server is not None:
            await self._server.stop()

    async def _start(self, port: int | None) -> None:
        binary = _patient_binary(self._directory)
        self._server = EmbeddedServer(self._directory, port=port, binary=binary, extra=self._extra)
        await self._server.start()
        self.port = self._server.port
        if self._link is None:
            self._link = RedisLink(self.url, "faults")

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the server that runs."""
        if self._server is None:
            raise NotReadyError("the server is down")
        return self._server.pid

    async def command(self, *args: Argument) -> Any:
        """Run a command on it, whatever a client of the product may think of it."""
        if self._link is None:
            raise NotReadyError("the server is down")
        return await self._link.command(*args)

    # --- faults

    async def kill(self) -> None:
        """Kill it as `kill -9` does."""
        server, self._server = self._server, None
        if server is not None:
            pid = server.pid
            os.kill(pid, signal.SIGKILL)
            while _exists(pid):  # noqa: ASYNC110 - the event loop's own watcher collects the process
                await asyncio.sleep(0.01)
            await server.stop()

    async def restart(self) -> None:
        """Start it again on the same port and directory."""
        async with asyncio.timeout(_BACK_S):
            await self._start(self.port)

    @contextlib.asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Freeze it by SIGSTOP for the time of a `with` block."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """Leave it no memory for another write (`noeviction`) for the time of a `with` block."""
        await self.command("CONFIG", "SET", "maxmemory", "1")
        try:
            yield
        finally:
            await self._persistently("CONFIG", "SET", "maxmemory", "0")

    @contextlib.asynccontextmanager
    async def disk_full(self, *, spare_bytes: int = 0) -> AsyncIterator[None]:
        """Let its files grow by no more than `spare_bytes` (RLIMIT_FSIZE) for the time of a `with` block."""
        pid, biggest = self.pid, max((path.stat().st_size for path in self._directory.rglob("*")), default=0)
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (biggest + spare_bytes, hard))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    async def pause_clients(self, seconds: float) -> None:
        """Let all clients wait."""
        await self.command("CLIENT", "PAUSE", int(seconds * 1e3), "ALL")

    async def kill_clients(self) -> None:
        """Close the connections of all clients but this one."""
        await self.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def flush(self) -> None:
        """Delete everything."""
        await self.command("FLUSHALL")

    async def _persistently(self, *args: Argument) -> Any:
        async with asyncio.timeout(_BACK_S):
            while True:
                try:
                    return await self.command(*args)
                except (BusUnavailableError, BusError):
                    await asyncio.sleep(0.05)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _patient_binary(directory: Path) -> Path:
    """Return a script that starts the server with SIGXFSZ ignored: a full disk is an error then, not a death."""
    directory.mkdir(parents=True, exist_ok=True)
    script = directory / "server.sh"
    script.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec '{wheel_binary()}' \"$@\"\n")
    script.chmod(stat.S_IRWXU)
    return script
