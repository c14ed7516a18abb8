"""Growing pauses between tries of something that fails again and again. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Pauses after a failed change or a dead worker: first, and at most.
RETRY_FIRST_S, RETRY_MOST_S = 0.5, 30.0

#: After this long without a failure the next one counts as the first.
HEALTHY_AFTER_S = 60.0


@dataclass(slots=True)
class RetryPause:
    """How long to wait before the next try.

    Attributes:
        pause_s: After the last failure.
    """

    pause_s: float = RETRY_FIRST_S
    _failed_at_s: float = -math.inf

    def failed(self, now_s: float) -> None:
        """Take in a failure: twice the pause, unless all was well for long enough."""
        healthy = now_s - self._failed_at_s > HEALTHY_AFTER_S
        self.pause_s = RETRY_FIRST_S if healthy else min(RETRY_MOST_S, self.pause_s * 2.0)
        self._failed_at_s = now_s
