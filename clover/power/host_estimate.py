"""Host energy where nothing can be measured: processor time times an assumed power; labelled as an estimate."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from clover.core.clock import Clock

#: Assumed, W per busy core and W per core at rest: a server core of some 200 W / 20 cores, half of it at rest.
CORE_W, IDLE_CORE_W = 10.0, 3.0

STAT = Path("/proc/stat")


class CpuEstimateMeter:
    """Joules of this host since the meter was made: busy core seconds x `core_w` + cores x time x `idle_core_w`.

    Args:
        clock: Wall time.
        busy_s: Gives busy core seconds since some fixed moment, None if unknown; from /proc/stat by default.
        cores: Of the host.
        core_w, idle_core_w: Assumed power of a busy core above rest, and of one at rest.
    """

    source = "estimate:cpu"

    def __init__(
        self,
        clock: Clock,
        *,
        busy_s: Callable[[], float | None] | None = None,
        cores: int | None = None,
        core_w: float = CORE_W,
        idle_core_w: float = IDLE_CORE_W,
    ) -> None:
        self._clock = clock
        self._busy_s = busy_s or busy_core_seconds
        self._cores = cores or os.cpu_count() or 1
        self._core_w, self._idle_core_w = core_w, idle_core_w
        self._began_s, self._began_busy_s = clock.now_s(), self._busy_s()

    def read_j(self) -> float | None:
        """Return joules since the meter was made; None if processor time cannot be read."""
        busy_s = self._busy_s()
        if busy_s is None or self._began_busy_s is None:
            return None
        at_rest_j = (self._clock.now_s() - self._began_s) * self._cores * self._idle_core_w
        return at_rest_j + (busy_s - self._began_busy_s) * self._core_w


def busy_core_seconds() -> float | None:
    """Return the seconds that cores of this host were busy since it started; None where there is no /proc/stat."""
    try:
        fields = STAT.read_text().splitlines()[0].split()[1:]
        user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) for field in fields[:8])
    except (OSError, ValueError, IndexError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
