"""Making a CPU core look like a slice of a GPU: compute, then wait, so that each takes its share of time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Most time that a worker may be ahead, s: enough to even out a late wake-up, too little for a burst.
_MAX_CREDIT_S: Final = 0.05


class DutyCycle:
    """Holds a thread back so that processor time / elapsed time of its metered sections is `fraction`.

    What one wait gets wrong (a timer that is late, a core that was busy with others) is carried to the next,
    so that the share is right on average and not only per call.

    Args:
        fraction: Share of one core, above 0 and at most 1.
        sleep: Waits for so many seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        fraction: float,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
        self._fraction = fraction
        self._sleep = sleep
        self._clock = clock
        self._debt_s = 0.0

    def throttle(self, *, cpu_s: float, elapsed_s: float) -> None:
        """Wait for what a section that used `cpu_s` of processor time in `elapsed_s` still owes."""
        owed_s = self._debt_s + cpu_s / self._fraction - elapsed_s
        if owed_s > 0:
            began = self._clock()
            self._sleep(owed_s)
            owed_s -= self._clock() - began
        self._debt_s = max(owed_s, -_MAX_CREDIT_S)
