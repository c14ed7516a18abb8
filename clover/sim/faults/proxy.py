"""A TCP proxy that spoils connections on purpose, in front of one server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self

from clover.sim.faults.toxics import CutError, SlowClose, Toxic

_HOST = "127.0.0.1"
_CHUNK = 1 << 16
#: SO_LINGER with a time of 0: closing sends a reset.
_NO_LINGER = struct.pack("ii", 1, 0)


class Proxy:
    """Passes connections on to a port of this host, through the toxics that are in force at each moment.

    Args:
        port: Of the server behind the proxy; it may come and go.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._toxics: list[Toxic] = []
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._group = asyncio.TaskGroup()
        self._listener = socket.socket()
        self._accepting: asyncio.Task[None] | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._listener.setblocking(False)
        self._listener.bind((_HOST, 0))
        self._listener.listen(128)
        self.port = self._listener.getsockname()[1]
        await self._group.__aenter__()
        self._accepting = self._group.create_task(self._accept())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in [self._accepting, *self._connections]:
            if task is not None:
                task.cancel()
        await self._group.__aexit__(None, None, None)
        self._listener.close()

    @property
    def url(self) -> str:
        """Address of the server as seen through the proxy."""
        return f"redis://{_HOST}:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    @contextlib.contextmanager
    def spoilt(self, *toxics: Toxic) -> Iterator[None]:
        """Put toxics in force for the time of a `with` block, on open connections too."""
        self._toxics += toxics
        try:
            yield
        finally:
            for toxic in toxics:
                self._toxics.remove(toxic)
                toxic.release()

    def cut(self) -> None:
        """Reset all open connections."""
        for writer in list(self._connections.values()):
            _reset(writer)

    # --- one connection

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            accepted, _ = await loop.sock_accept(self._listener)
            reader, writer = await asyncio.open_connection(sock=accepted)
            task = self._group.create_task(self._serve(reader, writer))
            self._connections[task] = writer
            task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._relay(reader, writer)
        except CutError as cut:
            if cut.reset:
                _reset(writer)
        except OSError:
            pass  # either side has gone: so does the connection
        finally:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(_HOST, self._server_port)
        try:
            async with asyncio.TaskGroup() as group:
                up = group.create_task(self._pump(reader, server_writer, up=True))
                down = group.create_task(self._pump(server_reader, writer, up=False))
                # One direction at its end is the end: nobody here half-closes.
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
                await self._before_closing()
                up.cancel()
                down.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            server_writer.close()

    async def _before_closing(self) -> None:
        for toxic in self._toxics:
            if isinstance(toxic, SlowClose):
                await asyncio.sleep(toxic.delay_s)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        passed = 0
        while chunk := await reader.read(_CHUNK):
            toxics = [toxic for toxic in self._toxics if (toxic.upstream if up else toxic.downstream)]
            async for piece in _through(toxics, chunk, passed):
                writer.write(piece)
                await writer.drain()
            passed += len(chunk)


async def _through(toxics: list[Toxic], chunk: bytes, passed: int) -> AsyncIterator[bytes]:
    """Give out a chunk behind all toxics, the first applied first."""
    if not toxics:
        yield chunk
        return
    async for piece in toxics[0].through(chunk, passed):
        async for spoilt in _through(toxics[1:], piece, passed):
            yield spoilt


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()
