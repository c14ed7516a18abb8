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
from cli.connection import connected
from cli.dashboard_live import LiveDashboard, ascii_of, known_variants
from cli.output import print_json, tell

if TYPE_CHECKING:
    from clover.analysis.view import DeploymentView
    from clover.bus.port import Bus

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
    from clover.agents.runtime import stop_on_signals  # noqa: PLC0415 - keeps --help fast

    if once or svg is not None:
        await _picture(here, as_json=as_json, svg=svg)
        return
    stop = stop_on_signals()
    watched = await _Watched.find(here)
    async with asyncio.TaskGroup() as group:
        follower = group.create_task(watched.follow(stop))
        if as_json:
            await _print_lines(watched, stop, here.deployment)
        else:
            await LiveDashboard(deployment=here.deployment).run(lambda: watched.view, stop)
        follower.cancel()


async def _picture(here: options.Where, *, as_json: bool, svg: Path | None) -> None:
    """Show what is kept of the recent past, once."""
    from cli.following import catch_up  # noqa: PLC0415 - keeps --help fast

    watched = await _Watched.find(here)
    try:
        await catch_up(watched.bus, watched.view)
        _show_once(watched.view, here.deployment, as_json=as_json, svg=svg)
    finally:
        await watched.bus.close()


class _Watched:
    """A deployment that is watched; one that ends and starts again elsewhere is found again, and counted anew."""

    def __init__(self, here: options.Where, bus: Bus) -> None:
        self._here = here
        self._watch(bus)

    def _watch(self, bus: Bus) -> None:
        from clover.analysis.view import DeploymentView  # noqa: PLC0415 - keeps --help fast

        self._url = _url_of(self._here)
        self.bus = bus
        self.view = DeploymentView()

    @classmethod
    async def find(cls, here: options.Where) -> _Watched:
        """Connect to the deployment, waiting for it as long as was asked for."""
        return cls(here, await connected(here, "dashboard"))

    async def follow(self, stop: asyncio.Event) -> None:
        """Feed the view until `stop` is set."""
        from cli.following import follow_into  # noqa: PLC0415 - keeps --help fast

        try:
            while not stop.is_set():
                await follow_into(self.bus, self.view, stop, moved=lambda: _url_of(self._here) not in {None, self._url})
                if not stop.is_set():
                    await self._move()
        finally:
            await self.bus.close()

    async def _move(self) -> None:
        bus = await connected(self._here, "dashboard")
        await self.bus.close()
        self._watch(bus)


def _url_of(here: options.Where) -> str | None:
    from clover.agents.deployment import find_url  # noqa: PLC0415 - keeps --help fast

    return find_url(here.redis, here.state_folder, here.deployment)


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


async def _print_lines(watched: _Watched, stop: asyncio.Event, deployment: str) -> None:
    from clover.agents.lifetime import happens_within  # noqa: PLC0415 - keeps --help fast

    while not await happens_within(stop, _JSON_S):
        print_json({"deployment": deployment, **dataclasses.asdict(watched.view.snapshot(_now_ms()))})
