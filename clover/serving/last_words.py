"""What is known of a process that ended: what it wrote to stderr last, and what its exit code means."""

from __future__ import annotations

import signal
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

_KEPT_LINES: Final = 20
_MAX_LINE_BYTES: Final = 1000


class LastWords:
    """The last 20 lines of a stream, each cut at 1000 bytes; as text, the last one, fit to follow a reason."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

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
