"""Holds that double each time that the same thing happens again, and are forgotten when it has not for long. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)


@dataclass(slots=True, kw_only=True)
class Holds(Generic[_K]):
    """Counts for each subject how often something happened lately, and says until when it is held back for that.

    Attributes:
        free: So many times nothing is held back.
        first_s: Hold of the next time; twice as long each time after it.
        most_s: Never longer.
        forget_s: Not again for so long, and the count begins anew; longer than `most_s`.
    """

    first_s: float
    most_s: float
    forget_s: float
    free: int = 0
    _seen: dict[_K, tuple[int, float]] = field(default_factory=dict[_K, tuple[int, float]])

    def again(self, subject: _K, now_s: float) -> float:
        """Take note that it happened; return for how long the subject is held back."""
        self._seen = {each: seen for each, seen in self._seen.items() if now_s - seen[1] <= self.forget_s}
        times = self._seen.get(subject, (0, now_s))[0] + 1
        self._seen[subject] = (times, now_s)
        return self._hold_s(times)

    def held(self, subject: _K, now_s: float) -> bool:
        """Return whether a subject is held back now."""
        times, at_s = self._seen.get(subject, (0, now_s))
        return now_s - at_s < self._hold_s(times)

    def _hold_s(self, times: int) -> float:
        beyond = times - self.free
        # The exponent is bounded, so that no count makes a number that is too large.
        return min(self.most_s, self.first_s * 2.0 ** min(beyond - 1, 60)) if beyond > 0 else 0.0
