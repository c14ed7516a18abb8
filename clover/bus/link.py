"""What the calls of the bus need of a connection to the server, without saying which client library makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from clover.bus.scripts import Script
from clover.errors import BusError

Argument = str | bytes | int | float


class GroupMissingError(BusError):
    """The consumer group is gone (somebody emptied the server); it can be made again."""


class Link(Protocol):
    """Three kinds of calls, each bounded in time; answers are those of RESP2, undecoded."""

    async def command(self, *args: Argument) -> Any:
        """Run an idempotent command, a second time if the connection turns out to be closed."""
        ...

    async def read(self, *args: Argument, block_s: float, name: str = "") -> Any:
        """Run a reading command that may block on the server for `block_s`, on a connection of its own.

        One that has a name can be made to return at once, see `unblock`.
        """
        ...

    async def unblock(self, name: str) -> bool:
        """Let the blocking read of this name return with nothing; False if the server does not block it (yet)."""
        ...

    async def script(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run a script, once: if the outcome is unknown, that is the caller's to deal with."""
        ...

    async def close(self) -> None:
        """Close all connections; idempotent."""
        ...


class Line(Protocol):
    """One plain connection to a server, for what is not a call on the bus."""

    async def ask(self, *args: Argument) -> Any:
        """Send a command and return its answer."""
        ...

    async def listen(self) -> Any:
        """Return the next message that the server sends by itself; a wait that is cut off loses none."""
        ...

    async def close(self) -> None:
        """Close it."""
        ...
