"""Reads feeds of a deployment entry by entry, for commands that print them; waits for a server that goes away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cli.connection import connected
from cli.output import tell

if TYPE_CHECKING:
    from cli.options import Where
    from clover.bus.port import Bus
    from clover.bus.values import Entry, Feed

#: Most entries of each feed in one read.
_COUNT = 200


async def read_feeds(
    here: Where, name: str, feeds: Sequence[Feed], take: Callable[[Entry], None], *, since_start: bool, follow: bool
) -> None:
    """Give each entry to `take`: what is kept and what comes, or both, for ever or until there is no more.

    Args:
        here: Deployment and server; one that goes away is waited for as at the start.
        name: Of the connection.
        feeds: Which.
        take: Prints an entry.
        since_start: Whether to begin with what is kept, or with what comes next.
        follow: Whether to go on with what comes.

    Raises:
        BusError: The server was not there, or not there again, for as long as `here` waits.
    """
    from clover.errors import BusUnavailableError  # noqa: PLC0415 - keeps --help fast

    cursors: dict[Feed, str] = {}
    while True:
        bus = await connected(here, name)
        try:
            for feed in feeds:
                cursors[feed] = await _begin_at(bus, feed, cursors.get(feed), since_start=since_start)
            while True:
                entries = await bus.follow(cursors, block_s=1.0 if follow else 0.0, count=_COUNT)
                for entry in entries:
                    cursors[entry.feed] = entry.id
                    take(entry)
                if not entries and not follow:
                    return
        except BusUnavailableError as error:
            tell(f"the server is lost, trying for {here.wait_s:g} s to find it again: {error}")
        finally:
            await bus.close()


async def _begin_at(bus: Bus, feed: Feed, cursor: str | None, *, since_start: bool) -> str:
    """Return the id to go on from; a feed that ends before it belongs to a server that has begun anew."""
    from clover.bus.values import entry_order  # noqa: PLC0415 - keeps --help fast

    newest = await bus.newest_id(feed)
    if cursor is None:
        return "0" if since_start else newest
    return "0" if entry_order(newest) < entry_order(cursor) else cursor
