"""The clock of live runs."""

from __future__ import annotations

import time
from collections.abc import Callable

#: A step of the wall clock is made up for at most at this rate: seconds per second.
SLEW = 0.1


def _steady_s() -> float:
    # Where there is such a clock, one that goes on while the machine sleeps.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SystemClock:
    """Wall time of the machine, which hosts of one deployment keep in step by NTP, without its jumps.

    Deadlines are compared with this clock; a wall clock that is set forward by a minute must not make everything
    overdue at once, and one that is set back must not keep everybody waiting. So a step is followed slowly: this clock
    never goes back, and differs from a steady one by at most a tenth.

    Args:
        wall_s: Seconds since the Unix epoch, as the machine has them.
        steady_s: Seconds that only pass.
    """

    def __init__(self, *, wall_s: Callable[[], float] = time.time, steady_s: Callable[[], float] = _steady_s) -> None:
        self._wall_s = wall_s
        self._steady_s = steady_s
        self._seen_s, self._seen_steady_s = wall_s(), steady_s()

    def now_s(self) -> float:
        """Return seconds since the Unix epoch."""
        steady_s = self._steady_s()
        passed_s = max(0.0, steady_s - self._seen_steady_s)
        step_s = self._wall_s() - self._seen_s - passed_s
        most_s = SLEW * passed_s
        self._seen_steady_s = steady_s
        self._seen_s += passed_s + min(most_s, max(-most_s, step_s))
        return self._seen_s

    def now_ms(self) -> float:
        """Return milliseconds since the Unix epoch."""
        return self.now_s() * 1e3
