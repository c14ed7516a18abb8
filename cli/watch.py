"""Shows a deployment while it runs: `clover dashboard`, and the same inside `clover up`."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.dashboard_live import FRAME_S, LiveDashboard, ascii_of, known_variants
from cli.output import print_json, tell

if TYPE_CHECKING:
    from clover.analysis.view import DeploymentView
    from clover.bus.messages import Message
    from clover.bus.port import Bus, Entry, Feed

__all__ = ["LiveDashboard", "dashboard", "follow_into"]

#: Feeds are read this far back at the start: a run that is younger is counted whole.
_BACK_S = 1800.0
#: Of telemetry only the newest matters; this much gives busy fractions.
_TELEMETRY_BACK_S = 12.0
#: Plan and queue are values, not feeds; they are asked for this often.
_VALUES_S = 1.0
_JSON_S = 1.0
#: Size of a picture that is drawn for no terminal.
_WIDTH, _HEIGHT = 120, 40


def dashboard(
    *,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: options.Wait = "60s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    once: Annotated[bool, typer.Option("--once", help="Show one picture and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a second (with --once: one).")] = False,
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw one picture into this file and exit.")] = None,
) -> None:
    """Watch a running deployment; q quits. Without a terminal: a line every few seconds.

    Examples: clover dashboard; clover dashboard --once --json; clover dashboard --svg now.svg
    """
    here = options.where(deployment, redis, state_dir, wait)
    asyncio.run(_dashboard(here, once=once, as_json=as_json, svg=svg))


async def _dashboard(here: options.Where, *, once: bool, as_json: bool, svg: Path | None) -> None:
    from clover.agents.runtime import stop_on_signals, wait_for_bus  # noqa: PLC0415 - keeps --help fast
    from clover.analysis.view import DeploymentView  # noqa: PLC0415

    bus = await wait_for_bus(
        redis=here.redis,
        state_folder=here.state_folder,
        deployment=here.deployment,
        client="dashboard",
        wait_s=here.wait_s,
        tell=tell,
    )
    try:
        view = DeploymentView()
        if once or svg is not None:
            await _catch_up(bus, view)
            _show_once(view, here.deployment, as_json=as_json, svg=svg)
            return
        stop = stop_on_signals()
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(follow_into(bus, view, stop))
            shown = (
                _print_lines(view, stop, here.deployment)
                if as_json
                else LiveDashboard(deployment=here.deployment).run(view, stop)
            )
            await shown
            follower.cancel()
    finally:
        await bus.close()


# --- feeding


async def follow_into(bus: Bus, view: DeploymentView, stop: asyncio.Event) -> None:
    """Feed a view from the bus until `stop` is set, beginning with what is kept of the last half hour.

    While the server is away the view says so, and nothing is lost of what it still keeps when it is back.
    """
    from clover.agents.lifetime import until_stopped  # noqa: PLC0415 - keeps --help fast

    await until_stopped(stop, _follow(bus, view))


async def _follow(bus: Bus, view: DeploymentView) -> None:
    from clover.errors import BusUnavailableError  # noqa: PLC0415 - keeps --help fast

    cursors: dict[Feed, str] | None = None
    while True:
        try:
            if cursors is None:
                cursors = await _catch_up(bus, view)
            cursors = await _not_beyond_the_end(bus, cursors)
            view.set_trouble("")
            await _follow_on(bus, view, cursors)
        except BusUnavailableError as error:
            view.set_trouble(str(error))
            await asyncio.sleep(FRAME_S)


async def _follow_on(bus: Bus, view: DeploymentView, cursors: dict[Feed, str]) -> None:
    loop = asyncio.get_running_loop()
    asked_s = float("-inf")
    while True:
        if loop.time() - asked_s >= _VALUES_S:
            asked_s = loop.time()
            await _ask_values(bus, view)
        for entry in await bus.follow(cursors, block_s=_VALUES_S):
            cursors[entry.feed] = entry.id
            view.take(entry.message, now_ms=_now_ms())


async def _ask_values(bus: Bus, view: DeploymentView) -> None:
    view.set_plan(await bus.plan())
    view.set_queue(await bus.queue())


async def _catch_up(bus: Bus, view: DeploymentView) -> dict[Feed, str]:
    """Take in what the feeds keep of the recent past, in the order in which it was written; return where to go on."""
    from clover.bus.port import Feed  # noqa: PLC0415 - keeps --help fast

    await _ask_values(bus, view)
    values = [*(await bus.node_states()).values(), *(await bus.carbon_now()).values()]
    # The server's own clock made the ids, so it also says how far back they are.
    now_ms = max([_id(await bus.newest_id(feed))[0] for feed in Feed])
    back_s = {feed: _TELEMETRY_BACK_S if feed is Feed.TELEMETRY else _BACK_S for feed in Feed}
    cursors = {feed: f"{max(0, now_ms - int(back_s[feed] * 1e3))}-0" for feed in Feed}
    entries: list[Entry] = []
    while found := await bus.follow(cursors, block_s=0.0):
        entries += found
        cursors |= {entry.feed: entry.id for entry in found}
    covered = {_subject(entry.message) for entry in entries}
    for value in values:
        if _subject(value) not in covered:
            view.take(value, now_ms=getattr(value, "at_ms", 0.0))
    for entry in sorted(entries, key=lambda entry: _id(entry.id)):
        view.take(entry.message, now_ms=_id(entry.id)[0])
    return cursors


def _subject(message: Message) -> tuple[type[Message], str]:
    """Return what a message is about, so that a last value is only used where its feed has nothing."""
    return type(message), getattr(message, "node", "")


async def _not_beyond_the_end(bus: Bus, cursors: dict[Feed, str]) -> dict[Feed, str]:
    """Begin anew where a feed ends before the cursor: the server has lost its data or is another one."""
    newest = {feed: await bus.newest_id(feed) for feed in cursors}
    return {feed: "0" if _id(newest[feed]) < _id(cursor) else cursor for feed, cursor in cursors.items()}


def _id(text: str) -> tuple[int, int]:
    """Return a stream id as numbers that can be compared (`0` is before all)."""
    head, _, tail = text.partition("-")
    return int(head), int(tail or 0)


def _now_ms() -> float:
    return time.time() * 1e3


# --- showing without a terminal


def _show_once(view: DeploymentView, deployment: str, *, as_json: bool, svg: Path | None) -> None:
    from rich.console import Console  # noqa: PLC0415 - JSON needs none

    from cli.dashboard import render  # noqa: PLC0415

    snapshot = view.snapshot(_now_ms())
    known = known_variants(snapshot.application)
    if svg is not None:
        drawn = Console(record=True, width=_WIDTH, height=_HEIGHT, file=io.StringIO(), force_terminal=True)
        drawn.print(render(snapshot, _WIDTH, _HEIGHT, deployment=deployment, variants=known))
        drawn.save_svg(str(svg), title=f"clover {deployment}")
        tell(f"wrote {svg}")
    if as_json:
        print_json({"deployment": deployment, **dataclasses.asdict(snapshot)})
    elif svg is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDTH)
        height = console.height - 1 if console.is_terminal else _HEIGHT
        ascii_only = ascii_of(console)
        console.print(
            render(snapshot, console.width, height, deployment=deployment, variants=known, ascii_only=ascii_only)
        )


async def _print_lines(view: DeploymentView, stop: asyncio.Event, deployment: str) -> None:
    from clover.agents.lifetime import happens_within  # noqa: PLC0415 - keeps --help fast

    while not await happens_within(stop, _JSON_S):
        print_json({"deployment": deployment, **dataclasses.asdict(view.snapshot(_now_ms()))})
