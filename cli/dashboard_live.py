"""Draws the dashboard on a terminal twice a second; without one, writes a line now and then.

It runs in a process of its own (`clover dashboard`, `cli.dashboard_child`), never in one of an agent or the supervisor:
a picture takes milliseconds in which nothing else happens.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cli.output import tell

if TYPE_CHECKING:
    from rich.console import Console

    from cli.dashboard_keys import Looking
    from cli.dashboard_options import ViewOptions
    from cli.dashboard_screen import Screen
    from cli.dashboard_text import Frame
    from clover.analysis.view import DeploymentView
    from clover.analysis.view_state import Snapshot

FRAME_S = 0.5
LINE_S = 5.0


class Extras(Protocol):
    """What keys may ask for beyond looking."""

    def record(self) -> str:
        """Begin or end recording; return what to say."""
        ...

    @property
    def recording(self) -> bool:
        """Whether messages are being recorded."""
        ...

    async def control(self, what: str) -> str:
        """Change the deployment as confirmed (`pause`, `pin`, `park n1/3`); return what to say."""
        ...


class LiveDashboard:
    """Draws a view twice a second on a terminal, or writes a line every five seconds where there is none.

    Args:
        options: How to look at it at first.
        show: False for lines even on a terminal.
        line_s: Seconds between lines.
        extras: Recording and control, if they are offered.
        now_ms: Clock of what is shown; a replay has its own.
        label: Says for the header that this is not the present.
    """

    def __init__(
        self,
        options: ViewOptions,
        *,
        show: bool = True,
        line_s: float = LINE_S,
        extras: Extras | None = None,
        now_ms: Callable[[], float] | None = None,
        label: Callable[[], str] = lambda: "",
    ) -> None:
        from cli.dashboard_keys import Looking  # noqa: PLC0415 - keeps --help fast

        self._looking: Looking = Looking(options=options)
        self._line_s = line_s
        self._extras = extras
        self._now_ms = now_ms or _now_ms
        self._label = label
        self._show = show and can_draw()
        self._held: Snapshot | None = None
        self._scroll_most = 0

    async def run(self, view: Callable[[], DeploymentView], stop: asyncio.Event) -> None:
        """Show until `stop` is set; `q` sets it.

        Args:
            view: Gives what is watched at present: it may move to another server.
            stop: Ends it.
        """
        from cli.dashboard_screen import ended_by_signals  # noqa: PLC0415 - keeps --help fast

        with ended_by_signals(stop):
            if self._show:
                await self._draw(view, stop)
            else:
                await self._write_lines(view, stop)

    async def _write_lines(self, view: Callable[[], DeploymentView], stop: asyncio.Event) -> None:
        from cli.dashboard import status_line  # noqa: PLC0415 - keeps --help fast
        from clover.agents.lifetime import happens_within  # noqa: PLC0415

        while not await happens_within(stop, self._line_s):
            tell(status_line(view().snapshot(self._now_ms())))

    async def _draw(self, view: Callable[[], DeploymentView], stop: asyncio.Event) -> None:
        from rich.console import Console  # noqa: PLC0415 - keeps --help fast

        from cli.dashboard_screen import Screen, on_screen  # noqa: PLC0415

        # The terminal knows its size; COLUMNS and LINES of the environment stay what they were when it is resized.
        environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        console, wake = Console(_environ=environment), asyncio.Event()
        screen = Screen(console)

        def on_keys(typed: str) -> None:
            self._type(typed)
            wake.set()

        with on_screen(screen, on_keys, wake.set):
            while not stop.is_set():
                wake.clear()
                self._show_frame(view(), console, screen)
                await self._carry_out(console, stop)
                if not wake.is_set():
                    await _first_of(stop, wake, FRAME_S)

    def _type(self, typed: str) -> None:
        from cli.dashboard_keys import keys_of, press  # noqa: PLC0415 - keeps --help fast

        for key in keys_of(typed):
            self._looking = press(self._looking, key, self._scroll_most)

    def _show_frame(self, view: DeploymentView, console: Console, screen: Screen) -> None:
        if not (self._looking.options.paused and self._held is not None):
            self._held = view.snapshot(self._now_ms())
        frame = self._frame(self._held, console)
        self._scroll_most = frame.scroll_most
        screen.draw(frame)

    def _frame(self, snapshot: Snapshot, console: Console) -> Frame:
        from cli.dashboard import view  # noqa: PLC0415 - keeps --help fast

        return view(snapshot, console.width, console.height, self._options(snapshot, console))

    def _options(self, snapshot: Snapshot, console: Console) -> ViewOptions:
        options = self._looking.options
        return replace(
            options,
            variants=known_variants(snapshot.application),
            ascii_only=options.ascii_only or ascii_of(console),
            colour=options.colour and not console.no_color,
            replay=self._label(),
            recording=self._extras is not None and self._extras.recording,
        )

    # --- what keys ask for

    async def _carry_out(self, console: Console, stop: asyncio.Event) -> None:
        actions, self._looking = self._looking.actions, replace(self._looking, actions=())
        for action in actions:
            if action == "quit":
                stop.set()
            else:
                self._say(await self._do(action, console))

    async def _do(self, action: str, console: Console) -> str:
        if action == "save":
            return self._save(console)
        if self._extras is None:
            return "not offered here"
        if action == "record":
            return self._extras.record()
        return await self._extras.control(action)

    def _save(self, console: Console) -> str:
        from cli.dashboard_picture import save_svg  # noqa: PLC0415 - keeps --help fast

        if self._held is None:
            return "nothing to save yet"
        options = replace(self._options(self._held, console), prompt=None, notice="")
        path = Path(f"clover-{options.deployment}-{time.strftime('%Y%m%d-%H%M%S')}.svg")
        try:
            save_svg(path, self._held, options, console.width, console.height)
        except OSError as error:
            return f"could not save {path}: {error.strerror}"
        return f"saved {path}"

    def _say(self, notice: str) -> None:
        self._looking = replace(self._looking, options=replace(self._looking.options, notice=notice))


async def _first_of(stop: asyncio.Event, wake: asyncio.Event, limit_s: float) -> None:
    """Return when one of two events is set, or after some time."""
    waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(wake.wait())]
    try:
        await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def can_draw() -> bool:
    """Return whether standard output is a terminal that can show a picture, and is ours: not of a job behind it."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in {"dumb", "unknown", ""}:
        return False
    try:
        return os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
    except OSError:
        # Not our controlling terminal: there is no shell that could have put us behind it.
        return True


def ascii_of(console: Console) -> bool:
    """Return whether a console can show nothing but ASCII."""
    return console.options.ascii_only


@lru_cache(maxsize=8)
def known_variants(application: str) -> Sequence[str]:
    """Return the variants of an application in the catalogue's order, smallest first; none if it is not there."""
    from clover.catalog import load_application  # noqa: PLC0415 - keeps --help fast
    from clover.errors import ConfigurationError  # noqa: PLC0415

    if not application:
        return ()
    try:
        return tuple(variant.name for variant in load_application(application).variants)
    except ConfigurationError:
        return ()


def _now_ms() -> float:
    return time.time() * 1e3
