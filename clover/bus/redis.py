"""The bus on Redis or Valkey streams; the only module that knows the client library."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool  # noqa: TID251
from redis.asyncio.retry import Retry  # noqa: TID251
from redis.backoff import NoBackoff  # noqa: TID251
from redis.exceptions import (  # noqa: TID251
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as ServerConnectionError  # noqa: TID251
from redis.exceptions import TimeoutError as ServerTimeoutError  # noqa: TID251

from clover.bus.care_calls import CareCalls
from clover.bus.control_calls import ControlCalls
from clover.bus.feed_calls import FeedCalls
from clover.bus.keys import Keys
from clover.bus.link import Argument, GroupMissingError
from clover.bus.scripts import Script
from clover.errors import BusError, BusUnavailableError, ConfigurationError

#: Bound of a call that does not block on the server, and what a blocking one gets on top.
CALL_LIMIT_S = 2.0
READ_MARGIN_S = 1.0

_SCHEMES = ("redis", "rediss", "unix")
#: Beginnings of refusals that pass: a replica, a server that has not finished loading or lacks its replicas.
_PASSING = ("READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "BUSY ")
_NO_GROUP = ("NOGROUP", "UNBLOCKED")
_AUTH_HINT = "Put user and password into the URL (redis://user:password@host:port) or ask for the rights of this role."

#: The C packer takes a tuple of any length; its stub says one element and no result.
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]


def _pool(url: str, client_name: str, size: int) -> ConnectionPool:
    """Return what makes our connections, with everything said that has a default we do not want to inherit."""
    return ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
        url,
        protocol=2,
        client_name=client_name or None,
        # One timer per call is enough, and it is asyncio.timeout's, round the whole call.
        socket_timeout=None,
        socket_connect_timeout=CALL_LIMIT_S,
        health_check_interval=0,
        # A repeated command of unknown outcome is how entries get doubled: repeating is the caller's decision.
        retry=Retry(NoBackoff(), 0),
        # CLIENT SETINFO is newer than Redis 7.0.
        driver_info=None,
        max_connections=size,
    )


class _Channel:
    """A few connections of one use, made when needed; a call that was cut off takes its connection with it."""

    def __init__(self, url: str, client_name: str, *, size: int) -> None:
        self._pool = _pool(url, client_name, size)
        self._free = asyncio.Semaphore(size)
        self._idle: list[AbstractConnection] = []

    async def call(self, packed: bytes, *, again: bool = False) -> Any:
        """Send one command and return its answer; `again` repeats it if an old connection turns out to be dead."""
        async with self._free:
            while True:
                old = bool(self._idle)
                connection = self._idle.pop() if old else self._pool.make_connection()
                try:
                    return await self._exchange(connection, packed)
                except ServerConnectionError:
                    if not (again and old):
                        raise

    async def _exchange(self, connection: AbstractConnection, packed: bytes) -> Any:
        try:
            if not connection.is_connected:
                await connection.connect()
            await connection.send_packed_command(packed, check_health=False)
            answer = cast("Any", await connection.read_response())
        except ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return answer

    async def drop(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)


class RedisLink:
    """Calls on a server through three channels: blocking reads, writes, and idempotent commands.

    Reads block a connection each, so that they never wait for one another; writes share a few and are never repeated.
    """

    def __init__(self, url: str, client_name: str) -> None:
        self._where = _without_password(url)
        self._readers = _Channel(url, f"{client_name}:read", size=32)
        self._writers = _Channel(url, f"{client_name}:write", size=4)
        self._admin = _Channel(url, f"{client_name}:admin", size=4)
        self._closed = False

    async def command(self, *args: Argument) -> Any:
        """Run an idempotent command, a second time if the connection turns out to be closed."""
        return await self._call(self._admin, args, CALL_LIMIT_S, again=True)

    async def read(self, *args: Argument, block_s: float) -> Any:
        """Run a reading command that may block on the server for `block_s`."""
        return await self._call(self._readers, args, block_s + READ_MARGIN_S)

    async def script(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run a script; a server that does not know it (restart, failover) is given its text."""
        try:
            return await self._call(self._writers, ("EVALSHA", script.sha, len(keys), *keys, *args), CALL_LIMIT_S)
        except NoScriptError:
            return await self._call(self._writers, ("EVAL", script.text, len(keys), *keys, *args), CALL_LIMIT_S)

    async def close(self) -> None:
        """Close all connections; idempotent."""
        self._closed = True
        await self._drop()

    async def _drop(self) -> None:
        for channel in (self._readers, self._writers, self._admin):
            await channel.drop()

    async def _call(self, channel: _Channel, args: tuple[Argument, ...], limit_s: float, *, again: bool = False) -> Any:
        if self._closed:
            raise BusError("the bus was closed")
        packed = _pack(args)
        try:
            async with asyncio.timeout(limit_s):
                return await channel.call(packed, again=again)
        except TimeoutError as error:
            raise BusUnavailableError(f"{self._where} did not answer within {limit_s:.1f} s") from error
        except NoScriptError:
            raise
        except (RedisError, OSError) as error:
            await self._disconnect_after(error)
            raise self._mapped(error) from error

    async def _disconnect_after(self, error: Exception) -> None:
        # After a restart all old connections are dead, each of which would cost a caller an error of its own. A former
        # primary answers READONLY: only a new connection finds the present one.
        if isinstance(error, (ReadOnlyError, ServerConnectionError)):
            await self._drop()

    def _mapped(self, error: Exception) -> BusError:
        text = str(error)
        if isinstance(error, (AuthenticationError, AuthorizationError, NoPermissionError)):
            return BusError(f"{self._where} refuses the login: {text}", hint=_AUTH_HINT)
        if isinstance(error, (ServerConnectionError, ServerTimeoutError, OSError)):
            return BusUnavailableError(f"{self._where} cannot be reached: {text}")
        if text.startswith(_NO_GROUP):
            return GroupMissingError(text)
        if isinstance(error, (ReadOnlyError, OutOfMemoryError)) or text.startswith(_PASSING):
            return BusUnavailableError(f"{self._where} is not ready: {text}")
        return BusError(f"{self._where} refused: {text}")


class RedisBus(CareCalls, FeedCalls, ControlCalls):
    """`clover.bus.port.Bus` on a server; connections are made with the first call."""

    def __init__(self, url: str, deployment: str, client_name: str) -> None:
        super().__init__(RedisLink(_checked_url(url), client_name), Keys(deployment))

    @property
    def deployment(self) -> str:
        """Name of the deployment."""
        return self._keys.deployment

    async def ping(self) -> None:
        """See `clover.bus.port.Bus`."""
        await self._link.command("PING")

    async def close(self) -> None:
        """See `clover.bus.port.Bus`."""
        await self._link.close()


def connect(url: str, deployment: str, client_name: str) -> RedisBus:
    """Return the bus of a deployment on a server; nothing is sent yet.

    Args:
        url: redis://, rediss:// (TLS) or unix:// address.
        deployment: Name of the deployment.
        client_name: Who we are, for CLIENT LIST.

    Raises:
        ConfigurationError: The URL or the deployment name cannot be used.
    """
    return RedisBus(url, deployment, client_name)


def _checked_url(url: str) -> str:
    hint = "Use redis://host:port, rediss://host:port (TLS) or unix:///path/to/socket."
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _SCHEMES and bool(parts.path if parts.scheme == "unix" else parts.hostname)
        # Reading the port is what checks it.
        usable = usable and parts.port != 0
        if usable:
            _pool(url, "", 1)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"server URL {_without_password(url)!r}: {error}", hint=hint) from error
    if not usable:
        raise ConfigurationError(f"server URL {_without_password(url)!r}: expected a host or socket", hint=hint)
    return url


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.split('://')[0]}://***@{tail}" if at else url
