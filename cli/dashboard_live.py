"""Draws the dashboard on a terminal and leaves the terminal as it was; without one, writes a line now and then."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from cli.output import tell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from cli.dashboard_text import Frame
    from clover.analysis.view import DeploymentView

FRAME_S = 0.5
LINE_S = 5.0

_LOCAL_FLAGS = 3
_CONTROL_CHARACTERS = 6


class LiveDashboard:
    """Draws a view twice a second on a terminal, or writes a line every five seconds where there is none.

    Args:
        deployment: For the header.
        show: False for lines even on a terminal.
        line_s: Seconds between lines.
    """

    def __init__(self, *, deployment: str, show: bool = True, line_s: float = LINE_S) -> None:
        self._deployment = deployment
        self._line_s = line_s
        usable = sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown", ""}
        self._show = show and usable

    async def run(self, view: Callable[[], DeploymentView], stop: asyncio.Event) -> None:
        """Show until `stop` is set; `q` sets it.

        Args:
            view: Gives what is watched at present: it may move to another server.
            stop: Ends it.
        """
        with _ended_by_signals(stop):
            if self._show:
                await self._draw(view, stop)
            else:
                await self._write_lines(view, stop)

    async def _write_lines(self, view: Callable[[], DeploymentView], stop: asyncio.Event) -> None:
        from cli.dashboard import status_line  # noqa: PLC0415 - keeps --help fast
        from clover.agents.lifetime import happens_within  # noqa: PLC0415

        while not await happens_within(stop, self._line_s):
            tell(status_line(view().snapshot(_now_ms())))

    async def _draw(self, view: Callable[[], DeploymentView], stop: asyncio.Event) -> None:
        from rich.console import Console  # noqa: PLC0415 - keeps --help fast

        from clover.agents.lifetime import happens_within  # noqa: PLC0415

        console = Console()
        drawn: Frame | None = None
        with _held_talk(), _keys({"q": stop.set}), _screen(console) as screen:
            while not stop.is_set():
                frame = self._frame(view(), console)
                if frame != drawn:
                    screen.update(frame, refresh=True)
                    drawn = frame
                await happens_within(stop, FRAME_S)

    def _frame(self, view: DeploymentView, console: Console) -> Frame:
        from cli.dashboard import render  # noqa: PLC0415 - keeps --help fast

        snapshot = view.snapshot(_now_ms())
        return render(
            snapshot,
            console.width,
            console.height,
            deployment=self._deployment,
            variants=known_variants(snapshot.application),
            ascii_only=ascii_of(console),
            colour=not console.no_color,
        )


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


# --- terminal


@contextlib.contextmanager
def _screen(console: Console) -> Iterator[Live]:
    """Use the alternate screen; it is left whatever happens."""
    from rich.live import Live  # noqa: PLC0415 - keeps --help fast

    # What is printed meanwhile must not get between the lines: see `_held_talk`.
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield live


@contextlib.contextmanager
def _held_talk() -> Iterator[None]:
    """Keep what is said on standard error from spoiling the picture, and say it when the screen is back."""
    held = io.StringIO()
    try:
        with contextlib.redirect_stderr(held):
            yield
    finally:
        sys.stderr.write(held.getvalue())
        sys.stderr.flush()


@contextlib.contextmanager
def _ended_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the picture in order, unless somebody else takes care of them."""
    loop = asyncio.get_running_loop()
    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in ours:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _keys(actions: dict[str, Callable[[], None]]) -> Iterator[None]:
    """Read single keys without echo; the terminal's settings come back whatever happens."""
    if not _owns_input():
        yield
        return
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()

    def on_key() -> None:
        keys = os.read(descriptor, 64).decode(errors="ignore").lower()
        if not keys:
            # End of input: nobody will press a key any more, and the descriptor would be ready for ever.
            loop.remove_reader(descriptor)
        for key in keys:
            actions.get(key, lambda: None)()

    before = termios.tcgetattr(descriptor)
    termios.tcsetattr(descriptor, termios.TCSANOW, _key_by_key(before))
    loop.add_reader(descriptor, on_key)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _owns_input() -> bool:
    """Return whether keys come to us: a job in the background would be stopped for touching the terminal."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return False


def _key_by_key(settings: list[int | list[bytes | int]]) -> list[int | list[bytes | int]]:
    """Return settings without echo and lines; Ctrl-C stays, Ctrl-Z goes: it would leave a shell on the wrong screen."""
    changed = [list(part) if isinstance(part, list) else part for part in settings]
    flags, characters = changed[_LOCAL_FLAGS], changed[_CONTROL_CHARACTERS]
    if isinstance(flags, int) and isinstance(characters, list):
        changed[_LOCAL_FLAGS] = flags & ~(termios.ECHO | termios.ICANON)
        characters[termios.VMIN], characters[termios.VTIME], characters[termios.VSUSP] = 1, 0, b"\0"
    return changed
