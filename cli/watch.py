"""Shows a deployment while it runs: `clover dashboard`, and the same inside `clover up`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from cli import options
from cli.dashboard import render, status_line
from cli.output import tell
from clover.agents.lifetime import happens_within
from clover.analysis.summary import RunSummary
from clover.analysis.view import DeploymentView
from clover.bus.messages import Event
from clover.bus.port import Bus, Feed
from clover.errors import BusUnavailableError

_FRAME_S = 0.5
_LINE_S = 5.0


class LiveDashboard:
    """Draws a view twice a second on a terminal, or writes a line every five seconds where there is none.

    Args:
        deployment: For the header.
        show: False for lines even on a terminal.
    """

    def __init__(self, *, deployment: str, show: bool = True) -> None:
        self._deployment = deployment
        usable = sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._show = show and usable

    async def run(self, view: DeploymentView, stop: asyncio.Event) -> None:
        """Show until `stop` is set; `q` sets it."""
        if not self._show:
            while not await happens_within(stop, _LINE_S):
                tell(status_line(view.snapshot(time.time() * 1e3)))
            return
        console = Console()
        # Live restores the screen and the keyboard's settings come back whatever happens in between.
        with _keys(stop), Live(console=console, screen=True, auto_refresh=False) as live:
            while not stop.is_set():
                snapshot = view.snapshot(time.time() * 1e3)
                live.update(render(snapshot, console.width, console.height, deployment=self._deployment), refresh=True)
                await happens_within(stop, _FRAME_S)


@contextlib.contextmanager
def _keys(stop: asyncio.Event) -> Iterator[None]:
    """Read single keys without echo; put the terminal back as it was."""
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def on_key() -> None:
        if b"q" in os.read(descriptor, 64).lower():
            stop.set()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, on_key)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def follow_into(bus: Bus, view: DeploymentView, cursors: dict[Feed, str]) -> None:
    """Feed a view from the bus for ever; while the server is away the view says for how long."""
    plan_epoch = -1
    while True:
        try:
            entries = await bus.follow(cursors, block_s=1.0)
            if plan_epoch < 0 or any(isinstance(entry.message, Event) for entry in entries):
                plan = await bus.plan()
                plan_epoch = plan.epoch if plan else -1
                view.set_plan(plan)
        except BusUnavailableError:
            await asyncio.sleep(_FRAME_S)
            continue
        now_ms = time.time() * 1e3
        for entry in entries:
            cursors[entry.feed] = entry.id
            view.take(entry.message, now_ms=now_ms)


def dashboard(
    *,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: options.Wait = "60s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    once: Annotated[bool, typer.Option("--once", help="Print one frame and exit.")] = False,
) -> None:
    """Watch a running deployment; q quits.

    Example: clover dashboard --deployment demo
    """
    asyncio.run(_dashboard(options.where(deployment, redis, state_dir, wait), once=once))


async def _dashboard(here: options.Where, *, once: bool) -> None:
    from clover.agents.runtime import stop_on_signals, wait_for_bus  # noqa: PLC0415 - keeps --help fast

    bus = await wait_for_bus(
        redis=here.redis,
        state_folder=here.state_folder,
        deployment=here.deployment,
        client="dashboard",
        wait_s=here.wait_s,
        tell=tell,
    )
    try:
        view = await _caught_up(bus)
        if once:
            console = Console()
            console.print(render(view.snapshot(time.time() * 1e3), console.width, 40, deployment=here.deployment))
            return
        stop = stop_on_signals()
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(follow_into(bus, view, {feed: await bus.newest_id(feed) for feed in Feed}))
            await LiveDashboard(deployment=here.deployment).run(view, stop)
            follower.cancel()
    finally:
        await bus.close()


async def _caught_up(bus: Bus) -> DeploymentView:
    """Return a view of everything that the feeds still hold."""
    plan = await bus.plan()
    view = DeploymentView(RunSummary(sla_p95_ms=plan.sla_p95_ms if plan else 0.0))
    view.set_plan(plan)
    cursors = dict.fromkeys(Feed, "0")
    ends = {feed: await bus.newest_id(feed) for feed in Feed}
    while any(_before(cursors[feed], ends[feed]) for feed in Feed):
        entries = await bus.follow(cursors, block_s=0.0)
        if not entries:
            break
        for entry in entries:
            cursors[entry.feed] = entry.id
            view.take(entry.message, now_ms=time.time() * 1e3)
    return view


def _before(cursor: str, end: str) -> bool:
    """Return whether a stream id is before another (`0` is before all)."""
    parts = [tuple(int(part) for part in (text + "-0").split("-")[:2]) for text in (cursor, end)]
    return parts[0] < parts[1]
