"""How many requests are late, with bounds that allow for lateness in bursts. Pure.

Near the SLA one long queue makes a whole row of requests late, so that a minute with 6 % of them late proves less than
independent requests would. The design effect says how much less: the variance of a count over that of independent
requests (L. Kish, "Survey Sampling", 1965, section 5.4), estimated from batches. Bounds are Wilson's (E. B. Wilson,
"Probable inference", JASA 22, 1927) for as many independent requests as the count is worth.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

#: One-sided 99 %.
_Z = 2.326


def wilson(late: float, answered: float) -> tuple[float, float]:
    """Return the one-sided 99 % lower and upper bounds of P(late) after so many independent requests."""
    if answered == 0:
        return 0.0, 1.0
    p, z2 = late / answered, _Z * _Z
    centre = p + z2 / (2 * answered)
    half = _Z * math.sqrt(p * (1.0 - p) / answered + z2 / (4.0 * answered * answered))
    scale = 1.0 + z2 / answered
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


@dataclass(slots=True, kw_only=True)
class DesignEffect:
    """Estimates how much the count of late requests varies beyond chance.

    Attributes:
        batch_s: Length of a batch: longer than a queue near the SLA lasts.
        batches: So many are remembered.
        prior, prior_batches: What is expected of how many batches before there are any.
        most: Never more: a breach that begins is no burst, and must be seen.
    """

    batch_s: float = 30.0
    batches: int = 40
    prior: float = 4.0
    prior_batches: int = 5
    most: float = 10.0
    _done: deque[tuple[int, int]] = field(default_factory=deque[tuple[int, int]])
    _open: tuple[int, int] = (0, 0)
    _opened_s: float = -math.inf
    _value: float | None = None

    def observe(self, now_s: float, answered: int, late: int) -> None:
        """Take in how many requests were answered since the last call, and how many late."""
        if now_s - self._opened_s >= self.batch_s:
            if self._open[0]:
                self._done.append(self._open)
                self._value = None
            while len(self._done) > self.batches:
                self._done.popleft()
            self._open, self._opened_s = (0, 0), now_s
        self._open = (self._open[0] + answered, self._open[1] + late)

    @property
    def value(self) -> float:
        """Between 1 and `most`."""
        if self._value is None:
            self._value = self._estimate()
        return self._value

    def _estimate(self) -> float:
        answered, late = sum(n for n, _ in self._done), sum(k for _, k in self._done)
        p = late / answered if answered else 0.0
        if p in (0.0, 1.0):
            return self.prior
        found = sum((k - p * n) ** 2 / (n * p * (1.0 - p)) for n, k in self._done)
        mean = (found + self.prior * self.prior_batches) / (len(self._done) + self.prior_batches)
        return min(self.most, max(1.0, mean))


@dataclass(frozen=True, slots=True)
class Lateness:
    """What a window shows.

    Attributes:
        answered, late: Requests.
        low, high: One-sided 99 % bounds of P(late).
        window_s: How long it took to see them.
    """

    answered: int
    late: int
    low: float
    high: float
    window_s: float

    @property
    def share(self) -> float:
        """Late requests among those that were answered."""
        return self.late / self.answered if self.answered else 0.0


@dataclass(slots=True)
class LateWindow:
    """A sliding window of counts.

    Attributes:
        length_s: How far it goes back.
    """

    length_s: float
    _counts: deque[tuple[float, int, int]] = field(default_factory=deque[tuple[float, int, int]])
    _answered: int = 0
    _late: int = 0

    def observe(self, now_s: float, answered: int, late: int) -> None:
        """Take in counts of now, and forget what is too old."""
        if answered:
            self._counts.append((now_s, answered, late))
            self._answered, self._late = self._answered + answered, self._late + late
        while self._counts and now_s - self._counts[0][0] > self.length_s:
            _, old, old_late = self._counts.popleft()
            self._answered, self._late = self._answered - old, self._late - old_late

    def clear(self) -> None:
        """Forget all: what was seen says nothing about what comes."""
        self._counts.clear()
        self._answered = self._late = 0

    def seen(self, design_effect: float) -> Lateness:
        """Return what the window shows."""
        low, high = wilson(self._late / design_effect, self._answered / design_effect)
        span_s = self._counts[-1][0] - self._counts[0][0] if self._counts else 0.0
        return Lateness(self._answered, self._late, low, high, span_s)
