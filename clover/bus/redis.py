"""The bus on Redis or Valkey streams; with `connections` the only module that knows the client library."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Sequence
from typing import Any

from redis.exceptions import (  # noqa: TID251
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as ServerConnectionError  # noqa: TID251
from redis.exceptions import TimeoutError as ServerTimeoutError  # noqa: TID251

from clover.bus.address import parse_address
from clover.bus.care_calls import CareCalls
from clover.bus.connections import CALL_LIMIT_S, Channel, Dialer, pack
from clover.bus.control_calls import ControlCalls
from clover.bus.feed_calls import FeedCalls
from clover.bus.key_names import Keys
from clover.bus.link import Argument, GroupMissingError
from clover.bus.scripts import Script
from clover.errors import BusDeniedError, BusError, BusUnavailableError

#: What a call that blocks on the server gets on top of its block.
READ_MARGIN_S = 1.0

#: Beginnings of refusals that pass: a replica, a server that has not finished loading or lacks its replicas.
_PASSING = ("READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "BUSY ")
_NO_GROUP = ("NOGROUP", "UNBLOCKED", "no such key")
_NO_LOGIN = ("NOAUTH", "WRONGPASS", "Authentication required")
#: Said by Redis 7.0 and by later ones.
_DENIED_IN_SCRIPT = ("The user executing the script can't", "ACL failure in script")
_AUTH_HINT = (
    "Give the user's name in the URL or CLOVER_REDIS_USERNAME, the password in CLOVER_REDIS_PASSWORD or its _FILE."
)
_RIGHTS_HINT = "Log in as the user of this role; `clover config acl` prints what each may do."
_TLS_HINT = "Give the authority with `ca` in the URL or CLOVER_REDIS_CA; for mutual TLS `cert` and `key` as well."


class RedisLink:
    """Calls on a server through three channels: blocking reads, writes, and idempotent commands.

    Reads block a connection each, so that they never wait for one another; writes share a few and are never repeated.
    """

    def __init__(self, url: str, client_name: str) -> None:
        address = parse_address(url, os.environ)
        #: Where the server is, as it may be shown.
        self.where = str(address)
        self.behind_sentinels = bool(address.service)
        self._dialer = Dialer(address, self._renew)
        self._readers = Channel(self._dialer, f"{client_name}:read", size=32)
        self._writers = Channel(self._dialer, f"{client_name}:write", size=4)
        self._admin = Channel(self._dialer, f"{client_name}:admin", size=4)
        self._closed = False

    async def command(self, *args: Argument) -> Any:
        """Run an idempotent command, a second time if the connection turns out to be closed."""
        return await self._call(self._admin, args, CALL_LIMIT_S, again=True)

    async def read(self, *args: Argument, block_s: float, name: str = "") -> Any:
        """Run a reading command that may block on the server for `block_s`; `unblock` ends one that has a name."""
        return await self._call(self._readers, args, block_s + READ_MARGIN_S, name=name)

    async def unblock(self, name: str) -> bool:
        """Let the blocking read of this name return with nothing; False if the server does not block it (yet)."""
        client_id = self._readers.blocked.get(name)
        return client_id is not None and await self.command("CLIENT", "UNBLOCK", client_id) == 1

    async def script(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run a script; a server that does not know it (restart, failover) is given its text."""
        try:
            return await self._call(self._writers, ("EVALSHA", script.sha, len(keys), *keys, *args), CALL_LIMIT_S)
        except NoScriptError:
            return await self._call(self._writers, ("EVAL", script.text, len(keys), *keys, *args), CALL_LIMIT_S)

    async def close(self) -> None:
        """Close all connections; idempotent."""
        self._closed = True
        await self._dialer.close()
        await self._drop()

    async def _drop(self, *, busy: bool = False) -> None:
        for channel in (self._readers, self._writers, self._admin):
            await channel.drop(busy=busy)

    async def _renew(self) -> None:
        """Give up every connection: the primary is another server, and what the former one still takes is lost."""
        await self._drop(busy=True)

    async def _call(
        self, channel: Channel, args: tuple[Argument, ...], limit_s: float, *, again: bool = False, name: str = ""
    ) -> Any:
        if self._closed:
            raise BusError("the bus was closed")
        packed = pack(args)
        try:
            async with asyncio.timeout(limit_s):
                return await channel.call(packed, again=again, name=name)
        except TimeoutError as error:
            raise BusUnavailableError(f"{self.where} did not answer within {limit_s:.1f} s") from error
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
        if isinstance(error, NoPermissionError) or any(words in text for words in _DENIED_IN_SCRIPT):
            return BusDeniedError(f"{self.where} does not allow this user to do that: {text}", hint=_RIGHTS_HINT)
        if isinstance(error, (AuthenticationError, AuthorizationError)) or text.startswith(_NO_LOGIN):
            return BusError(f"{self.where} refuses the login: {text}", hint=_AUTH_HINT)
        if isinstance(error, (ServerConnectionError, ServerTimeoutError, OSError)):
            return self._unreachable(error, text)
        if text.startswith(_NO_GROUP):
            return GroupMissingError(text)
        passes = isinstance(error, (ReadOnlyError, OutOfMemoryError)) or text.startswith(_PASSING)
        return (BusUnavailableError if passes else BusError)(
            f"{self.where} {'is not ready' if passes else 'refused'}: {text}"
        )

    def _unreachable(self, error: Exception, text: str) -> BusError:
        if isinstance(error.__cause__ or error.__context__, ssl.SSLError):
            # Waiting does not mend a certificate.
            return BusError(f"{self.where} and we do not trust each other: {text}", hint=_TLS_HINT)
        return BusUnavailableError(f"{self.where} cannot be reached: {text}")


class RedisBus(CareCalls, FeedCalls, ControlCalls):
    """`clover.bus.port.Bus` on a server; connections are made with the first call."""

    def __init__(self, url: str, deployment: str, client_name: str) -> None:
        super().__init__(RedisLink(url, client_name), Keys(deployment))

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
        url: As `clover.bus.address` reads it.
        deployment: Name of the deployment.
        client_name: Who we are, for CLIENT LIST.

    Raises:
        ConfigurationError: The URL or the deployment name cannot be used.
    """
    return RedisBus(url, deployment, client_name)
