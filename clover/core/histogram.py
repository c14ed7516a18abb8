"""A histogram of latencies whose memory does not grow with the run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

#: Relative width of a bucket; a quantile is exact within half of it.
RELATIVE_WIDTH = 0.001
_LOG_WIDTH = math.log1p(RELATIVE_WIDTH)
#: Everything at or below this falls into the first bucket, in ms.
_SMALLEST_MS = 1e-3


@dataclass(slots=True)
class LatencyHistogram:
    """Counts in buckets of equal relative width; unanswered requests count as infinitely late."""

    buckets: Counter[int] = field(default_factory=Counter[int])
    unanswered: int = 0
    count: int = 0

    def add(self, latency_ms: float | None) -> None:
        """Add one request; None if it was not answered."""
        self.count += 1
        if latency_ms is None:
            self.unanswered += 1
        else:
            self.buckets[_bucket(latency_ms)] += 1

    def merge(self, others: Iterable[LatencyHistogram]) -> LatencyHistogram:
        """Return the sum of this histogram and others."""
        total = LatencyHistogram(Counter(self.buckets), self.unanswered, self.count)
        for other in others:
            total.buckets.update(other.buckets)
            total.unanswered += other.unanswered
            total.count += other.count
        return total

    def quantile_ms(self, q: float) -> float | None:
        """Return the smallest latency that at least a fraction q of requests stays within.

        None if there are no requests, or if so many were not answered that the quantile has no bound.
        """
        return None if self.count == 0 else self.at_rank_ms(max(1, math.ceil(q * self.count)))

    def at_rank_ms(self, rank: int) -> float | None:
        """Return the latency of the request at a rank (from 1, fastest first); None if it was not answered."""
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return _middle_ms(bucket)
        return None

    def above(self, limit_ms: float) -> int:
        """Return how many requests took longer than a limit, unanswered ones included; exact within a bucket."""
        return self.unanswered + sum(n for bucket, n in self.buckets.items() if _middle_ms(bucket) > limit_ms)

    def steps(self) -> list[tuple[float, int]]:
        """Return (latency in ms, how many requests stayed within it) for every latency that occurs, rising."""
        seen = 0
        found: list[tuple[float, int]] = []
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            found.append((_middle_ms(bucket), seen))
        return found

    def unbounded(self, q: float) -> bool:
        """Return whether the quantile has no bound because too many requests were not answered."""
        return self.count > 0 and self.quantile_ms(q) is None


def _bucket(latency_ms: float) -> int:
    return max(0, math.floor(math.log(max(latency_ms, _SMALLEST_MS) / _SMALLEST_MS) / _LOG_WIDTH))


def _middle_ms(bucket: int) -> float:
    return _SMALLEST_MS * math.exp((bucket + 0.5) * _LOG_WIDTH)
