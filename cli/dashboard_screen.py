"""The terminal while a picture is on it: alternate screen, single keys, and everything as it was afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cli.dashboard_text import Frame

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_LOCAL_FLAGS = 3
_CONTROL_CHARACTERS = 6
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"
#: Gives the screen back.
LEAVE = "\x1b[?25h\x1b[?1049l"


class Screen:
    """Writes pictures to a terminal, only the lines that changed.

    Args:
        console: Knows size and colours, and where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn: tuple[Text, ...] = ()
        self._size = (0, 0)

    def enter(self) -> None:
        """Take the alternate screen; the next picture is drawn whole."""
        self._drawn = ()
        self._write(_ENTER)

    def leave(self) -> None:
        """Give the screen back."""
        self._write(LEAVE)

    def draw(self, frame: Frame) -> bool:
        """Draw a picture; return whether anything had to be written."""
        size = (self._console.width, self._console.height)
        before = self._drawn if size == self._size else ()
        written = "" if before else "\x1b[2J"
        for number, line in enumerate(frame.lines):
            if number >= len(before) or line != before[number]:
                written += f"\x1b[{number + 1};1H\x1b[2K{self._styled(line)}"
        written += "".join(f"\x1b[{number + 1};1H\x1b[2K" for number in range(len(frame.lines), len(before)))
        self._drawn, self._size = frame.lines, size
        if written:
            self._write(written)
        return bool(written)

    def _styled(self, line: Text) -> str:
        with self._console.capture() as captured:
            self._console.print(line, end="", no_wrap=True, overflow="crop", crop=True)
        return captured.get()

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()


@contextlib.contextmanager
def on_screen(screen: Screen, on_keys: Callable[[str], None], redraw: Callable[[], None]) -> Iterator[None]:
    """Hold the terminal while the block runs; it is given back whatever happens, and while we are suspended.

    Args:
        screen: Where pictures go.
        on_keys: Called with what was typed.
        redraw: Called when the picture must be drawn anew: the size has changed, or we are back from suspension.
    """
    keyboard = _Keyboard(on_keys)
    loop = asyncio.get_running_loop()

    def suspend() -> None:
        keyboard.stop()
        screen.leave()
        loop.remove_signal_handler(signal.SIGTSTP)
        # Python's own handler is gone: this stops us here, until somebody says SIGCONT.
        os.kill(os.getpid(), signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, suspend)
        screen.enter()
        keyboard.start()
        redraw()

    with held_talk():
        loop.add_signal_handler(signal.SIGTSTP, suspend)
        loop.add_signal_handler(signal.SIGWINCH, redraw)
        screen.enter()
        keyboard.start()
        try:
            yield
        finally:
            keyboard.stop()
            screen.leave()
            loop.remove_signal_handler(signal.SIGWINCH)
            loop.remove_signal_handler(signal.SIGTSTP)


@contextlib.contextmanager
def held_talk() -> Iterator[None]:
    """Keep what is said on standard error from spoiling the picture, and say it when the screen is back."""
    held = io.StringIO()
    try:
        with contextlib.redirect_stderr(held):
            yield
    finally:
        sys.stderr.write(held.getvalue())
        sys.stderr.flush()


@contextlib.contextmanager
def ended_by_signals(stop: asyncio.Event) -> Iterator[None]:
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


class _Keyboard:
    """Reads single keys without echo; the terminal's settings come back with `stop`."""

    def __init__(self, on_keys: Callable[[str], None]) -> None:
        self._on_keys = on_keys
        self._before: list[int | list[bytes | int]] | None = None

    def start(self) -> None:
        """Begin to read, if keys come to us."""
        if not owns_input():
            return
        descriptor = sys.stdin.fileno()
        self._before = termios.tcgetattr(descriptor)
        termios.tcsetattr(descriptor, termios.TCSANOW, _key_by_key(self._before))
        asyncio.get_running_loop().add_reader(descriptor, self._read, descriptor)

    def stop(self) -> None:
        """Give the terminal back."""
        if self._before is None:
            return
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._before)
        self._before = None

    def _read(self, descriptor: int) -> None:
        try:
            typed = os.read(descriptor, 256).decode(errors="ignore")
        except OSError:
            typed = ""
        if not typed:
            # End of input: nobody will press a key any more, and the descriptor would be ready for ever.
            asyncio.get_running_loop().remove_reader(descriptor)
        else:
            self._on_keys(typed)


def owns_input() -> bool:
    """Return whether keys come to us: a job in the background would be stopped for touching the terminal."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return False


def _key_by_key(settings: list[int | list[bytes | int]]) -> list[int | list[bytes | int]]:
    """Return settings without echo and lines; Ctrl-C and Ctrl-Z stay what they are."""
    changed = [list(part) if isinstance(part, list) else part for part in settings]
    flags, characters = changed[_LOCAL_FLAGS], changed[_CONTROL_CHARACTERS]
    if isinstance(flags, int) and isinstance(characters, list):
        changed[_LOCAL_FLAGS] = flags & ~(termios.ECHO | termios.ICANON)
        characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return changed
