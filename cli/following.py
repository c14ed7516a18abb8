"""Feeds a view from the bus: what is kept of the recent past, then what comes; for the dashboard and for `up`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from clover.agents.lifetime import until_stopped
from clover.analysis.view import DeploymentView
from clover.bus.messages import Message, Override
from clover.bus.port import Bus
from clover.bus.values import Entry, Feed, entry_order
from clover.errors import BusUnavailableError, MessageRejectedError

#: Feeds are read this far back at the start: a run that is younger is counted whole.
_BACK_S = 1800.0
#: Of telemetry only the newest matters; this much gives busy fractions.
_TELEMETRY_BACK_S = 12.0
#: Plan and queue are values, not feeds; they are asked for this often.
_VALUES_S = 1.0
#: While the server is away it is tried this often.
_RETRY_S = 0.5


async def follow_into(
    bus: Bus,
    view: DeploymentView,
    stop: asyncio.Event,
    *,
    cursors: dict[Feed, str] | None = None,
    seen: Callable[[], None] = lambda: None,
    tap: Tap | None = None,
    moved: Callable[[], bool] = lambda: False,
) -> None:
    """Feed a view from the bus until `stop` is set.

    While the server is away the view says so, and nothing is lost of what it still keeps when it is back.

    Args:
        bus: Of the deployment.
        view: Takes the messages in.
        stop: Ends it.
        cursors: Where to begin; None begins with what is kept of the last half hour.
        seen: Called after each batch.
        tap: Is given everything too, for a recording.
        moved: Asked while the server is away; True ends it, because the deployment is elsewhere by now.
    """
    await until_stopped(stop, _follow(bus, _Fed(view, tap), cursors, seen, moved))


class Tap(Protocol):
    """Listens to what a view is fed with."""

    def take(self, message: Message, *, now_ms: float) -> None:
        """Take in a message."""
        ...

    def value(self, name: str, value: Any, *, now_ms: float) -> None:
        """Take in a value that was asked for: `plan`, `queue`, `agents`, `override`."""
        ...


class _Fed:
    """A view, and who listens."""

    def __init__(self, view: DeploymentView, tap: Tap | None) -> None:
        self.view = view
        self._tap = tap

    def take(self, message: Message, *, now_ms: float) -> None:
        self.view.take(message, now_ms=now_ms)
        if self._tap is not None:
            self._tap.take(message, now_ms=now_ms)

    async def ask_values(self, bus: Bus) -> None:
        """Ask for what is no feed."""
        plan, queue, alive, override = await bus.plan(), await bus.queue(), await bus.alive(), await _override(bus)
        now_ms = time.time() * 1e3
        self.view.set_plan(plan)
        self.view.set_override(override)
        self.view.set_queue(queue)
        self.view.set_alive(alive, now_ms=now_ms)
        if self._tap is not None:
            for name, value in (("plan", plan), ("queue", queue), ("agents", alive), ("override", override)):
                self._tap.value(name, value, now_ms=now_ms)


async def _override(bus: Bus) -> Override | None:
    """Return what people have decided; None if a newer Clover wrote it in words that this one does not know."""
    try:
        return await bus.override()
    except MessageRejectedError:
        return None


async def _follow(
    bus: Bus,
    fed: _Fed,
    cursors: dict[Feed, str] | None,
    seen: Callable[[], None],
    moved: Callable[[], bool],
) -> None:
    while True:
        try:
            if cursors is None:
                cursors = await _catch_up(bus, fed)
            cursors = await _not_beyond_the_end(bus, cursors)
            fed.view.set_trouble("")
            await _follow_on(bus, fed, cursors, seen)
        except BusUnavailableError as error:
            fed.view.set_trouble(str(error))
            if moved():
                return
            await asyncio.sleep(_RETRY_S)


async def _follow_on(bus: Bus, fed: _Fed, cursors: dict[Feed, str], seen: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    asked_s = float("-inf")
    while True:
        if loop.time() - asked_s >= _VALUES_S:
            asked_s = loop.time()
            await fed.ask_values(bus)
        for entry in await bus.follow(cursors, block_s=_VALUES_S):
            cursors[entry.feed] = entry.id
            fed.take(entry.message, now_ms=time.time() * 1e3)
        seen()


async def catch_up(bus: Bus, view: DeploymentView) -> dict[Feed, str]:
    """Take in what the feeds keep of the recent past, in the order in which it was written; return where to go on."""
    return await _catch_up(bus, _Fed(view, None))


async def _catch_up(bus: Bus, fed: _Fed) -> dict[Feed, str]:
    await fed.ask_values(bus)
    values = [*(await bus.node_states()).values(), *(await bus.carbon_now()).values()]
    # The server's own clock made the ids, so it also says how far back they are.
    now_ms = max([entry_order(await bus.newest_id(feed))[0] for feed in Feed])
    back_s = {feed: _TELEMETRY_BACK_S if feed is Feed.TELEMETRY else _BACK_S for feed in Feed}
    cursors = {feed: f"{max(0, now_ms - int(back_s[feed] * 1e3))}-0" for feed in Feed}
    entries: list[Entry] = []
    while found := await bus.follow(cursors, block_s=0.0):
        entries += found
        cursors |= {entry.feed: entry.id for entry in found}
    covered = {_subject(entry.message) for entry in entries}
    for value in values:
        if _subject(value) not in covered:
            fed.take(value, now_ms=getattr(value, "at_ms", 0.0))
    for entry in sorted(entries, key=lambda entry: entry_order(entry.id)):
        fed.take(entry.message, now_ms=entry_order(entry.id)[0])
    return cursors


def _subject(message: Message) -> tuple[type[Message], str]:
    """Return what a message is about, so that a last value is only used where its feed has nothing."""
    return type(message), getattr(message, "node", "")


async def _not_beyond_the_end(bus: Bus, cursors: dict[Feed, str]) -> dict[Feed, str]:
    """Begin anew where a feed ends before the cursor: the server has lost its data or is another one."""
    newest = {feed: await bus.newest_id(feed) for feed in cursors}
    return {
        feed: "0" if entry_order(newest[feed]) < entry_order(cursor) else cursor for feed, cursor in cursors.items()
    }
