"""Shows a deployment while it runs: `clover dashboard`, and the same inside `clover up`."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from cli import options
from cli.connection import connected
from cli.output import print_json, tell

if TYPE_CHECKING:
    from cli.dashboard_control import DashboardExtras
    from cli.dashboard_options import ViewOptions
    from clover.analysis.view import DeploymentView
    from clover.analysis.view_state import Snapshot
    from clover.bus.port import Bus

_JSON_S = 1.0
#: Lines of JSON carry the newest slots only: the others were in the lines before.
_JSON_SLOTS = 12
#: Size of a picture that is drawn for no terminal.
_SIZE = (120, 40)
_LEAST_SIZE, _MOST_SIZE = 20, 1000


def parse_size(text: str) -> tuple[int, int]:
    """Read the size of a picture such as `120x40`."""
    match = re.fullmatch(r"\s*(\d+)x(\d+)\s*", text)
    if match is None or not all(_LEAST_SIZE // 4 <= int(n) <= _MOST_SIZE for n in match.groups()):
        raise typer.BadParameter(f"{text!r} is not a size such as 80x24 or 200x60")
    return int(match[1]), int(match[2])


def parse_speed(text: str) -> float:
    """Read a speed such as `10x`, `0.5` or `1`; above 0."""
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = math.nan
    if not (math.isfinite(speed) and speed > 0.0):
        raise typer.BadParameter(f"{text!r} is not a speed such as 1, 10x or 0.5")
    return speed


def _page(text: str) -> str:
    from cli.dashboard_options import PAGES  # noqa: PLC0415 - keeps --help fast

    if text in PAGES:
        return text
    raise typer.BadParameter(f"{text!r}: expected one of {', '.join(PAGES)}")


def dashboard(
    *,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: options.Wait = "60s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    page: Annotated[
        str,
        typer.Option(
            "--page", parser=_page, metavar="PAGE", help="Begin with overview, gpus, decisions, requests or log."
        ),
    ] = "overview",
    row_filter: Annotated[
        str, typer.Option("--filter", metavar="TEXT", help="Show only rows with this text (!TEXT: only the others).")
    ] = "",
    once: Annotated[bool, typer.Option("--once", help="Show one picture and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a second (with --once: one).")] = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Draw one picture into this file and exit.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            parser=parse_size,
            metavar="WxH",
            help="Size of --svg and --once (default 120x40, or the terminal's).",
        ),
    ] = None,
    ascii_only: Annotated[bool, typer.Option("--ascii", help="Use no characters beyond ASCII.")] = False,
    replay: Annotated[
        Path | None, typer.Option("--replay", metavar="FILE", help="Show a recording (key r) instead of what runs.")
    ] = None,
    speed: Annotated[
        float,
        typer.Option("--speed", parser=parse_speed, metavar="N", help="How many times as fast to replay, as 10x."),
    ] = "1",  # pyright: ignore[reportArgumentType] - parsed like a flag
    control: Annotated[
        bool,
        typer.Option("--control", help="Offer keys that change the deployment: pause, pin, park. Each asks first."),
    ] = False,
) -> None:
    """Watch a running deployment; q quits, ? tells the keys. Without a terminal: a line every few seconds.

    Examples: clover dashboard; clover dashboard --page gpus --once; clover dashboard --once --json;
    clover dashboard --svg now.svg --size 200x60; clover dashboard --replay clover-demo.jsonl --speed 10x
    """
    from cli.dashboard_options import ViewOptions  # noqa: PLC0415 - keeps --help fast

    look = ViewOptions(deployment=deployment, page=page, filter=row_filter, ascii_only=ascii_only, control=control)
    shown = _Shown(
        look=look, once=once or svg is not None, as_json=as_json, svg=svg, size=cast("tuple[int, int] | None", size)
    )
    if replay is not None:
        asyncio.run(_replay(replay, speed, shown))
        return
    here = options.where(deployment, redis, state_dir, wait)
    asyncio.run(_dashboard(here, shown))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shown:
    """How the command was asked to show what it sees."""

    look: ViewOptions
    once: bool
    as_json: bool
    svg: Path | None
    size: tuple[int, int] | None

    def picture(self, snapshot: Snapshot) -> None:
        """Show one picture, or one JSON object, without holding the terminal."""
        from cli.dashboard_picture import print_picture, save_svg  # noqa: PLC0415 - keeps --help fast

        if self.svg is not None:
            save_svg(self.svg, snapshot, self.look, *(self.size or _SIZE))
            tell(f"wrote {self.svg}")
        if self.as_json:
            _print_snapshot(snapshot, self.look.deployment)
        elif self.svg is None:
            size = self.size or (None if sys.stdout.isatty() else _SIZE)
            print_picture(snapshot, self.look, size)


async def _dashboard(here: options.Where, shown: _Shown) -> None:
    from cli.dashboard_control import DashboardExtras  # noqa: PLC0415 - keeps --help fast
    from cli.dashboard_live import LiveDashboard  # noqa: PLC0415
    from clover.agents.runtime import stop_on_signals  # noqa: PLC0415

    if shown.once:
        await _picture(here, shown)
        return
    stop = stop_on_signals()
    watched = await _Watched.find(here)
    extras = DashboardExtras(here.deployment, (lambda: watched.bus) if shown.look.control else None)
    watched.extras = extras
    async with asyncio.TaskGroup() as group:
        follower = group.create_task(watched.follow(stop))
        if shown.as_json:
            await _print_lines(watched, stop, here.deployment)
        else:
            await LiveDashboard(shown.look, extras=extras).run(lambda: watched.view, stop)
        follower.cancel()
    extras.tap.close()


async def _picture(here: options.Where, shown: _Shown) -> None:
    """Show what is kept of the recent past, once."""
    from cli.following import catch_up  # noqa: PLC0415 - keeps --help fast

    watched = await _Watched.find(here)
    try:
        await catch_up(watched.bus, watched.view)
        shown.picture(watched.view.snapshot(_now_ms()))
    finally:
        await watched.bus.close()


async def _replay(path: Path, speed: float, shown: _Shown) -> None:
    """Show a recording."""
    from cli.dashboard_live import LiveDashboard, can_draw  # noqa: PLC0415 - keeps --help fast
    from cli.dashboard_record import Replay  # noqa: PLC0415
    from clover.agents.runtime import stop_on_signals  # noqa: PLC0415

    replay = Replay(path, speed)
    shown = dataclasses.replace(shown, look=dataclasses.replace(shown.look, deployment=replay.deployment))
    if shown.once or shown.as_json or not can_draw():
        replay.all()
        shown.picture(replay.view.snapshot(replay.now_ms()))
        return
    stop = stop_on_signals()
    dashboard = LiveDashboard(shown.look, now_ms=replay.now_ms, label=lambda: replay.label)
    async with asyncio.TaskGroup() as group:
        player = group.create_task(replay.play(stop))
        await dashboard.run(lambda: replay.view, stop)
        player.cancel()


class _Watched:
    """A deployment that is watched; one that ends and starts again elsewhere is found again, and counted anew."""

    def __init__(self, here: options.Where, bus: Bus) -> None:
        self._here = here
        self.extras: DashboardExtras | None = None
        self._watch(bus)

    def _watch(self, bus: Bus) -> None:
        from clover.analysis.view import DeploymentView  # noqa: PLC0415 - keeps --help fast

        self._url = _url_of(self._here)
        self.bus = bus
        self.view: DeploymentView = DeploymentView()

    @classmethod
    async def find(cls, here: options.Where) -> _Watched:
        """Connect to the deployment, waiting for it as long as was asked for."""
        return cls(here, await connected(here, "dashboard"))

    async def follow(self, stop: asyncio.Event) -> None:
        """Feed the view until `stop` is set."""
        from cli.following import follow_into  # noqa: PLC0415 - keeps --help fast

        tap = self.extras.tap if self.extras is not None else None
        try:
            while not stop.is_set():
                await follow_into(
                    self.bus, self.view, stop, tap=tap, moved=lambda: _url_of(self._here) not in {None, self._url}
                )
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


def _print_snapshot(snapshot: Snapshot, deployment: str, slots: int | None = None) -> None:
    kept = snapshot if slots is None else dataclasses.replace(snapshot, slots=snapshot.slots[-slots:])
    told: dict[str, Any] = dataclasses.asdict(kept)
    print_json({"deployment": deployment, **told})


async def _print_lines(watched: _Watched, stop: asyncio.Event, deployment: str) -> None:
    from clover.agents.lifetime import happens_within  # noqa: PLC0415 - keeps --help fast

    while not await happens_within(stop, _JSON_S):
        _print_snapshot(watched.view.snapshot(_now_ms()), deployment, _JSON_SLOTS)
