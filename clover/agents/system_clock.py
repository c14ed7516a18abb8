"""The clock of live runs."""

from __future__ import annotations

import time


class SystemClock:
    """Wall time of the machine, which hosts of one deployment keep in step by NTP."""

    def now_s(self) -> float:
        """Return seconds since the Unix epoch."""
        return time.time()

    def now_ms(self) -> float:
        """Return milliseconds since the Unix epoch."""
        return time.time() * 1e3
