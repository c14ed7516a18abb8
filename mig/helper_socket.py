"""The socket of a helper and one client at its other end, with limits on size and time."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mig.helper_protocol import MAX_REQUEST_BYTES, HelperError


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperLimits:
    """What clients may take up.

    Attributes:
        connections: At the same time.
        idle_s: Between two requests of a connection, s.
        request_s: For a request from its first byte to its last, and for an answer to be taken, s.
        work_s: For what a request asks for, s.
    """

    connections: int = 64
    idle_s: float = 3600.0
    request_s: float = 5.0
    work_s: float = 120.0


class Client:
    """One connection: a line in, a line out, with limits on size and time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: HelperLimits) -> None:
        self._reader = reader
        self._writer = writer
        self._limits = limits
        self._early = b""

    @classmethod
    async def over(cls, connection: socket.socket, limits: HelperLimits) -> Self:
        """Talk to a client over a connected socket, which is closed with it."""
        # The limit counts neither the first byte, which is read alone, nor the line end.
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_REQUEST_BYTES - 2)
        return cls(reader, writer, limits)

    async def next_line(self, within_s: float) -> bytes | None:
        """Read the next request; None if the client is gone or was silent for so long.

        Raises:
            HelperError: It is too long, or stays incomplete.
        """
        try:
            async with asyncio.timeout(within_s):
                first = self._early or await self._reader.read(1)
        except TimeoutError:
            return None
        self._early = b""
        if first in {b"", b"\n"}:
            return first or None
        try:
            async with asyncio.timeout(self._limits.request_s):
                return first + await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            raise HelperError(f"request: longer than {MAX_REQUEST_BYTES} bytes") from None
        except TimeoutError:
            raise HelperError(f"request: not complete within {self._limits.request_s:g} s") from None

    async def while_there(self, work: Coroutine[Any, Any, bytes]) -> bytes | None:
        """Do something for a client; None, and it is broken off, if the client goes meanwhile."""
        async with asyncio.TaskGroup() as group:
            working = group.create_task(work)
            listening = group.create_task(self._listen())
            await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
            if listening.done() and listening.result():
                # It sends the next request before it has the answer to this one.
                self._early = listening.result()
                await asyncio.wait({working})
            listening.cancel()
            working.cancel()
        return None if working.cancelled() else working.result()

    async def send(self, answer: bytes) -> None:
        """Write an answer; raises TimeoutError if it is not taken."""
        self._writer.write(answer)
        async with asyncio.timeout(self._limits.request_s):
            await self._writer.drain()

    async def close(self) -> None:
        """Close, and let what is still to be written be taken within the limit."""
        self._writer.close()
        try:
            async with asyncio.timeout(self._limits.request_s):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()

    async def _listen(self) -> bytes:
        try:
            return await self._reader.read(1)
        except OSError:
            return b""


def close(listener: socket.socket, path: Path) -> None:
    """Listen no longer, and leave no socket behind."""
    listener.close()
    with suppress(OSError):
        path.unlink()


def listen(path: Path) -> socket.socket:
    """Make the socket; one that nobody listens on any more is replaced.

    Raises:
        HelperError: It cannot be made, or another helper listens on it.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        # Anybody may connect; who is answered is decided by what the kernel says about the peer.
        path.chmod(0o666)
        listener.listen()
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise HelperError(
            f"socket {path}: {error.strerror or error}: expected a path in a folder that this user may write to",
            hint="Choose another with --socket.",
        ) from error
    except HelperError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that a helper which was killed left behind; nothing else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise HelperError(f"socket {path}: it is something else: expected a socket or nothing")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise HelperError(f"socket {path}: a helper listens there: expected none", hint="End it, or choose another socket.")
