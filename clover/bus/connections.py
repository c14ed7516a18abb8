"""Connections to a server: how they are made, found behind sentinels, shared and given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import hiredis
from redis.asyncio.connection import (  # noqa: TID251
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry  # noqa: TID251
from redis.backoff import NoBackoff  # noqa: TID251
from redis.exceptions import ConnectionError as ServerConnectionError  # noqa: TID251
from redis.exceptions import ReadOnlyError, RedisError, ResponseError  # noqa: TID251

from clover.bus.address import Address
from clover.bus.link import Argument
from clover.bus.sentinel import PrimaryWatcher
from clover.errors import BusUnavailableError

#: Bound of a call that does not block on the server.
CALL_LIMIT_S = 2.0

#: The C packer takes a tuple of any length; its stub says one element and no result.
pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]


def _connection(address: Address, place: tuple[str, int] | None, client_name: str) -> AbstractConnection:
    """Return a connection, not made yet, with everything said that has a default we do not want to inherit."""
    options: dict[str, Any] = {
        "db": address.db,
        "username": address.username or None,
        "password": address.password or None,
        "protocol": 2,
        "client_name": client_name or None,
        # One timer per call is enough, and it is asyncio.timeout's, round the whole call.
        "socket_timeout": None,
        "socket_connect_timeout": CALL_LIMIT_S,
        "health_check_interval": 0,
        # A repeated command of unknown outcome is how entries get doubled: repeating is the caller's decision.
        "retry": Retry(NoBackoff(), 0),
        # CLIENT SETINFO is newer than Redis 7.0.
        "driver_info": None,
    }
    if place is None:
        return UnixDomainSocketConnection(path=address.path, **options)
    options |= {"host": place[0], "port": place[1]}
    if address.tls is None:
        return Connection(**options)
    tls = address.tls
    return SSLConnection(
        ssl_ca_certs=tls.ca or None, ssl_certfile=tls.cert or None, ssl_keyfile=tls.key or None, **options
    )


class ServerLine:
    """One plain connection (`clover.bus.link.Line`)."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection

    async def ask(self, *args: Argument) -> Any:
        """See `clover.bus.link.Line`."""
        try:
            await self._connection.send_packed_command(pack(args), check_health=False)
            return cast("Any", await self._connection.read_response())
        except (RedisError, OSError) as error:
            raise BusUnavailableError(f"{args[0]} was not answered: {error}") from error

    async def listen(self) -> Any:
        """See `clover.bus.link.Line`."""
        try:
            return cast("Any", await self._connection.read_response(disconnect_on_error=False))
        except (RedisError, OSError) as error:
            raise BusUnavailableError(f"the connection broke: {error}") from error

    async def close(self) -> None:
        """See `clover.bus.link.Line`."""
        await self._connection.disconnect(nowait=True)


class Dialer:
    """Makes connections to the server; behind sentinels to whichever is the primary now.

    The task that follows the sentinels belongs to the link and ends with it; if it should break, the next call says so.
    """

    def __init__(self, address: Address, switched: Callable[[], Awaitable[None]]) -> None:
        self._address = address
        self._task: asyncio.Task[None] | None = None
        self._watcher: PrimaryWatcher | None = None
        if address.service:
            self._watcher = PrimaryWatcher(
                address.hosts, address.service, open_line=self._sentinel_line, switched=switched
            )

    async def dial(self, client_name: str) -> AbstractConnection:
        """Return an open connection to the server."""
        if self._watcher is None:
            place = self._address.hosts[0] if self._address.hosts else None
            connection = _connection(self._address, place, client_name)
            await connection.connect()
            return connection
        if self._task is None:
            self._task = asyncio.create_task(self._watcher.run(), name="sentinels")
        elif self._task.done():
            self._task.result()
        connection = _connection(self._address, await self._watcher.primary(), client_name)
        await connection.connect()
        await self._require_primary(connection)
        return connection

    async def _require_primary(self, connection: AbstractConnection) -> None:
        """Refuse a server that is not the primary yet, or no more."""
        await connection.send_packed_command(pack(("ROLE",)), check_health=False)
        role = cast("Any", await connection.read_response())
        if role[0] != b"master":
            await connection.disconnect(nowait=True)
            raise ReadOnlyError(f"it is a {role[0].decode()}, not the primary")

    async def _sentinel_line(self, place: tuple[str, int]) -> ServerLine:
        address = replace(self._address, db=0, username="", password=self._address.sentinel_password)
        connection = _connection(address, place, "")
        try:
            await connection.connect()
        except (RedisError, OSError) as error:
            raise BusUnavailableError(f"sentinel {place[0]}:{place[1]} cannot be reached: {error}") from error
        return ServerLine(connection)

    async def close(self) -> None:
        """End the task."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Channel:
    """A few connections of one use, made when needed; a call that was cut off takes its connection with it."""

    def __init__(self, dialer: Dialer, client_name: str, *, size: int) -> None:
        self._dialer = dialer
        self._client_name = client_name
        self._free = asyncio.Semaphore(size)
        self._idle: list[AbstractConnection] = []
        self._busy: set[AbstractConnection] = set()
        #: What the server calls connections that have run a command with a name.
        self._ids: WeakKeyDictionary[AbstractConnection, int] = WeakKeyDictionary()
        #: The connection that is busy under each name, as the server calls it.
        self.blocked: dict[str, int] = {}

    async def call(self, packed: bytes, *, again: bool = False, name: str = "") -> Any:
        """Send one command and return its answer; `again` repeats it if an old connection turns out to be dead.

        While one with a `name` is under way, `blocked` says by which connection.
        """
        async with self._free:
            while True:
                old = bool(self._idle)
                connection = self._idle.pop() if old else await self._dialer.dial(self._client_name)
                try:
                    return await self._exchange(connection, packed, name)
                except ServerConnectionError:
                    if not (again and old):
                        raise

    async def _exchange(self, connection: AbstractConnection, packed: bytes, name: str) -> Any:
        self._busy.add(connection)
        try:
            if name:
                self.blocked[name] = await self._id_of(connection)
            await connection.send_packed_command(packed, check_health=False)
            answer = cast("Any", await connection.read_response())
        except ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            self.blocked.pop(name, None)
            self._busy.discard(connection)
        self._idle.append(connection)
        return answer

    async def _id_of(self, connection: AbstractConnection) -> int:
        if connection not in self._ids:
            await connection.send_packed_command(pack(("CLIENT", "ID")), check_health=False)
            self._ids[connection] = cast("int", await connection.read_response())
        return self._ids[connection]

    async def drop(self, *, busy: bool = False) -> None:
        """Close the connections that are not in use; with `busy` also those that are, whose calls then fail."""
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)
        for connection in list(self._busy) if busy else ():
            await connection.disconnect(nowait=True)
