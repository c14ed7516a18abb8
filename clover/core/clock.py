"""Wall time as a port, so that the same agents run live and in virtual time."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Gives wall time; waiting is the event loop's business."""

    def now_s(self) -> float:
        """Return seconds since the Unix epoch."""
        ...

    def now_ms(self) -> float:
        """Return milliseconds since the Unix epoch."""
        ...
