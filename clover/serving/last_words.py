"""What is known of a process that ended: what it wrote to stderr last, and what its exit code means."""

from __future__ import annotations

import contextlib
import signal
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

_KEPT_LINES: Final = 20
_MAX_LINE_BYTES: Final = 1000
_MAX_LOG_BYTES: Final = 10_000_000


class LastWords:
    """The last 20 lines of a stream, each cut at 1000 bytes; as text, the last one, fit to follow a reason.

    Args:
        log: File that all lines are appended to, up to 10 MB of one worker; None keeps none.
    """

    def __init__(self, log: Path | None = None) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._log = log
        self._left_bytes = _MAX_LOG_BYTES

    def __str__(self) -> str:
        return f"; it last said: {self._lines[-1]}" if self._lines else ""

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines kept, oldest first, without empty ones."""
        return tuple(self._lines)

    async def collect(self, stream: asyncio.StreamReader) -> None:
        """Read until the stream ends; a line without an end does not fill the memory."""
        rest = b""
        while chunk := await stream.read(4096):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._keep(line)
            rest = rest[:_MAX_LINE_BYTES]
        self._keep(rest)

    def _keep(self, line: bytes) -> None:
        if text := line[:_MAX_LINE_BYTES].decode(errors="replace").strip():
            self._lines.append(text)
            self._write(text)

    def _write(self, text: str) -> None:
        """Append a line to the log; a disk that is full or gone must not harm the worker."""
        if self._log is None or self._left_bytes <= 0:
            return
        self._left_bytes -= len(text) + 1
        with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def describe_ending(returncode: int | None) -> str:
    """Describe an exit code as `subprocess` reports it, negative for a signal; None if the process still runs."""
    if returncode is None:
        return "cannot be ended"
    if returncode >= 0:
        return f"ended with code {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"
