"""The account of a load test: outcomes and latencies as sums that several generators can add up. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from clover.core.histogram import LatencyHistogram
from clover.core.outcome import ProducerOutcome

#: Of the agreement: a generator that is later than this with 1 % of its requests cannot judge a service.
MAX_LAG_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One request of a load test that has ended.

    Attributes:
        due_ms: When it was to be sent.
        made_ms: When the generator came to it.
        sent_ms: When it was first handed to the bus; None if it never was.
        received_ms: When its answer came.
        outcome: How it ended.
        accuracy_pct, energy_j: Of the answer, provisional.
    """

    due_ms: float
    made_ms: float
    sent_ms: float | None
    received_ms: float | None
    outcome: ProducerOutcome
    accuracy_pct: float | None = None
    energy_j: float | None = None


@dataclass(slots=True)
class Tally:
    """Sums over requests; memory does not grow with their number.

    Attributes:
        outcomes: How they ended; disjoint.
        duplicates: Replies beyond the first.
        latencies: Due time to receipt; the unanswered count as infinitely late.
        send_latencies: Handing over to receipt; the same ones.
        lags: How late the generator itself came to each request.
        send_delays: Due time to handing over.
        max_lag_ms: Exact.
        accuracy_sum_pct, energy_sum_j: Over answered requests; the energy is the provisional one of the replies.
        first_due_ms, last_due_ms: Of the requests that are counted.
        warmup: Requests that were left out because they were due in the warm-up.
        resent: Requests that were sent again because the server had lost them.
    """

    outcomes: Counter[str] = field(default_factory=Counter[str])
    duplicates: int = 0
    latencies: LatencyHistogram = field(default_factory=LatencyHistogram)
    send_latencies: LatencyHistogram = field(default_factory=LatencyHistogram)
    lags: LatencyHistogram = field(default_factory=LatencyHistogram)
    send_delays: LatencyHistogram = field(default_factory=LatencyHistogram)
    max_lag_ms: float = 0.0
    accuracy_sum_pct: float = 0.0
    energy_sum_j: float = 0.0
    first_due_ms: float | None = None
    last_due_ms: float | None = None
    warmup: int = 0
    resent: int = 0

    def add(self, ended: Ended) -> None:
        """Add one request."""
        self.outcomes[ended.outcome.value] += 1
        answered = ended.outcome.answered and ended.received_ms is not None
        self.latencies.add(ended.received_ms - ended.due_ms if answered and ended.received_ms else None)
        if ended.sent_ms is not None:
            self.send_latencies.add(ended.received_ms - ended.sent_ms if answered and ended.received_ms else None)
            self.send_delays.add(ended.sent_ms - ended.due_ms)
        lag_ms = max(0.0, ended.made_ms - ended.due_ms)
        self.lags.add(lag_ms)
        self.max_lag_ms = max(self.max_lag_ms, lag_ms)
        if answered:
            self.accuracy_sum_pct += ended.accuracy_pct or 0.0
            self.energy_sum_j += ended.energy_j or 0.0
        self._span(ended.due_ms, ended.due_ms)

    def _span(self, first_ms: float | None, last_ms: float | None) -> None:
        firsts = [x for x in (self.first_due_ms, first_ms) if x is not None]
        lasts = [x for x in (self.last_due_ms, last_ms) if x is not None]
        self.first_due_ms, self.last_due_ms = min(firsts, default=None), max(lasts, default=None)

    @property
    def sent(self) -> int:
        """Requests that have ended, however."""
        return sum(self.outcomes.values())

    @property
    def answered(self) -> int:
        """Requests with an answer, in time or late."""
        return self.outcomes[ProducerOutcome.OK] + self.outcomes[ProducerOutcome.LATE]

    @property
    def bad(self) -> int:
        """Requests without an answer in time."""
        return self.sent - self.outcomes[ProducerOutcome.OK]

    @property
    def rate_rps(self) -> float | None:
        """Rate at which requests really were due; None for fewer than two."""
        if self.first_due_ms is None or self.last_due_ms is None or self.last_due_ms <= self.first_due_ms:
            return None
        return (self.sent - 1) / (self.last_due_ms - self.first_due_ms) * 1e3

    def lag_refuses(self, sla_ms: float) -> bool:
        """Return whether the generator was too late to judge: p99 of its lag above 5 % of the agreement."""
        lag_ms = self.lags.quantile_ms(0.99)
        return lag_ms is not None and lag_ms > MAX_LAG_SHARE * sla_ms

    # --- several generators

    def plus(self, others: Iterable[Tally]) -> Tally:
        """Return the sum of this account and others."""
        kept = list(others)
        total = Tally(
            outcomes=Counter(self.outcomes),
            duplicates=self.duplicates + sum(other.duplicates for other in kept),
            latencies=self.latencies.merge(other.latencies for other in kept),
            send_latencies=self.send_latencies.merge(other.send_latencies for other in kept),
            lags=self.lags.merge(other.lags for other in kept),
            send_delays=self.send_delays.merge(other.send_delays for other in kept),
            max_lag_ms=max([self.max_lag_ms, *(other.max_lag_ms for other in kept)]),
            accuracy_sum_pct=self.accuracy_sum_pct + sum(other.accuracy_sum_pct for other in kept),
            energy_sum_j=self.energy_sum_j + sum(other.energy_sum_j for other in kept),
            first_due_ms=self.first_due_ms,
            last_due_ms=self.last_due_ms,
            warmup=self.warmup + sum(other.warmup for other in kept),
            resent=self.resent + sum(other.resent for other in kept),
        )
        for other in kept:
            total.outcomes.update(other.outcomes)
            total._span(other.first_due_ms, other.last_due_ms)
        return total

    def as_data(self) -> dict[str, Any]:
        """Return what another process needs to add this up (JSON types)."""
        plain = {name: getattr(self, name) for name in _NUMBERS}
        return {**plain, "outcomes": dict(self.outcomes)} | {name: _data(getattr(self, name)) for name in _HISTOGRAMS}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Tally:
        """Read what `as_data` gave."""
        plain = {name: data[name] for name in _NUMBERS}
        return cls(
            outcomes=Counter(data["outcomes"]), **plain, **{name: _histogram(data[name]) for name in _HISTOGRAMS}
        )


_NUMBERS = (
    "duplicates",
    "max_lag_ms",
    "accuracy_sum_pct",
    "energy_sum_j",
    "first_due_ms",
    "last_due_ms",
    "warmup",
    "resent",
)
_HISTOGRAMS = ("latencies", "send_latencies", "lags", "send_delays")


def _data(histogram: LatencyHistogram) -> dict[str, Any]:
    return {
        "buckets": {str(bucket): count for bucket, count in sorted(histogram.buckets.items())},
        "unanswered": histogram.unanswered,
    }


def _histogram(data: dict[str, Any]) -> LatencyHistogram:
    buckets = Counter({int(bucket): count for bucket, count in data["buckets"].items()})
    return LatencyHistogram(buckets, data["unanswered"], sum(buckets.values()) + data["unanswered"])
