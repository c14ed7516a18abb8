"""Figures of the last minute, in buckets of a second: memory grows neither with the run nor with the rate."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from clover.analysis.view_past import VariantWork
from clover.bus.messages import LedgerReading, RequestLog, RequestRecord
from clover.core.histogram import LatencyHistogram
from clover.core.outcome import ProducerOutcome

#: Figures of "now" cover this long.
SPAN_S = 60.0
#: Seconds kept, more than the span so that the ledger's interval is covered too.
_KEPT_S = 90
#: Records are written in batches, so the newest may be this much older than the present.
_LAG_S = 5.0
#: A shorter interval between two readings of the ledger says nothing.
_LEAST_S = 2.0
_SLOT_S = 10


@dataclass(slots=True)
class _Kind:
    answered: int = 0
    accuracy_sum: float = 0.0
    service_ms: float = 0.0
    energy_j: float = 0.0
    energies: int = 0

    def add(self, record: RequestRecord) -> None:
        self.answered += 1
        self.accuracy_sum += record.accuracy_pct or 0.0
        self.service_ms += record.service_ms
        if record.energy_j is not None:
            self.energy_j += record.energy_j
            self.energies += 1

    def merge(self, other: _Kind) -> None:
        self.answered += other.answered
        self.accuracy_sum += other.accuracy_sum
        self.service_ms += other.service_ms
        self.energy_j += other.energy_j
        self.energies += other.energies


@dataclass(slots=True)
class _Second:
    latencies: LatencyHistogram = field(default_factory=LatencyHistogram)
    outcomes: Counter[ProducerOutcome] = field(default_factory=Counter[ProducerOutcome])
    answered: int = 0
    accuracy_sum: float = 0.0
    kinds: dict[str, _Kind] = field(default_factory=dict[str, _Kind])

    def add(self, record: RequestRecord) -> None:
        self.latencies.add(record.latency_ms)
        self.outcomes[record.outcome] += 1
        if record.outcome.answered:
            self.answered += 1
            self.accuracy_sum += record.accuracy_pct or 0.0
            self.kinds.setdefault(record.variant or "?", _Kind()).add(record)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFigures:
    """Requests that ended within the window, see `clover.analysis.view_state.Service`."""

    window_s: float
    finished: int
    rate_rps: float | None
    p95_ms: float | None
    p95_unbounded: bool
    p50_ms: float | None
    p99_ms: float | None
    late_pct: float | None
    accuracy_pct: float | None
    outcomes: dict[str, int]
    work: tuple[VariantWork, ...]


class RequestWindow:
    """The requests of the last minute and a half."""

    def __init__(self) -> None:
        self._seconds: dict[int, _Second] = {}
        self.first_ms: float | None = None
        self.newest_ms: float | None = None

    def take(self, log: RequestLog) -> None:
        """Take in a batch; a request without an answer counts at the time of its batch."""
        if not log.records:
            return
        newest = max(record.received_ms or record.due_ms for record in log.records)
        self.newest_ms = newest = max(newest, self.newest_ms or newest)
        for record in log.records:
            ended_ms = record.received_ms or newest
            self.first_ms = min(ended_ms, self.first_ms or ended_ms)
            self._seconds.setdefault(int(ended_ms // 1e3), _Second()).add(record)
        for second in [s for s in self._seconds if s < newest / 1e3 - _KEPT_S]:
            del self._seconds[second]

    def figures(self, now_ms: float) -> WindowFigures:
        """Return the figures of the last minute; the window ends with the newest batch while that is fresh."""
        end_s = self.end_ms(now_ms) / 1e3
        seconds = [
            bucket for second, bucket in self._seconds.items() if end_s - SPAN_S < second + 1 and second <= end_s
        ]
        latencies = LatencyHistogram().merge(bucket.latencies for bucket in seconds)
        outcomes: Counter[ProducerOutcome] = Counter()
        for bucket in seconds:
            outcomes.update(bucket.outcomes)
        answered, finished = sum(bucket.answered for bucket in seconds), outcomes.total()
        window_s = min(SPAN_S, max(0.0, end_s - self.first_ms / 1e3)) if self.first_ms is not None else 0.0
        return WindowFigures(
            window_s=window_s,
            finished=finished,
            rate_rps=finished / window_s if window_s >= 1.0 else None,
            p95_ms=latencies.quantile_ms(0.95),
            p95_unbounded=latencies.unbounded(0.95),
            p50_ms=latencies.quantile_ms(0.5),
            p99_ms=latencies.quantile_ms(0.99),
            late_pct=100.0 * (finished - outcomes[ProducerOutcome.OK]) / finished if finished else None,
            accuracy_pct=sum(b.accuracy_sum for b in seconds) / answered if answered else None,
            outcomes={outcome.value: outcomes[outcome] for outcome in ProducerOutcome},
            work=_work(seconds),
        )

    def end_ms(self, now_ms: float) -> float:
        """Return up to when the requests that ended are known."""
        if self.newest_ms is None or now_ms - self.newest_ms > _LAG_S * 1e3:
            return now_ms
        return self.newest_ms

    def answered_between(self, from_ms: float, to_ms: float) -> float:
        """Return how many answers came within an interval, those of its first and last second in proportion."""
        from_s, to_s = from_ms / 1e3, to_ms / 1e3
        return sum(
            bucket.answered * max(0.0, min(to_s, second + 1.0) - max(from_s, second))
            for second, bucket in self._seconds.items()
        )

    def p95_slots(self, now_ms: float) -> tuple[float | None, ...]:
        """Return the p95 of each ten seconds of the last minute, oldest first."""
        end = int(self.end_ms(now_ms) / 1e3) + 1
        starts = range(end - int(SPAN_S), end, _SLOT_S)
        return tuple(self._p95(range(start, start + _SLOT_S)) for start in starts)

    def _p95(self, seconds: Iterable[int]) -> float | None:
        found = [self._seconds[second].latencies for second in seconds if second in self._seconds]
        return LatencyHistogram().merge(found).quantile_ms(0.95)


def _work(seconds: Iterable[_Second]) -> tuple[VariantWork, ...]:
    """Return the answers of some seconds by variant, most first."""
    total: dict[str, _Kind] = {}
    for second in seconds:
        for variant, kind in second.kinds.items():
            total.setdefault(variant, _Kind()).merge(kind)
    answered = sum(kind.answered for kind in total.values())
    found = (
        VariantWork(
            variant=variant,
            answered=kind.answered,
            share_pct=100.0 * kind.answered / answered,
            accuracy_pct=kind.accuracy_sum / kind.answered,
            service_ms=kind.service_ms / kind.answered,
            energy_j=kind.energy_j / kind.energies if kind.energies else None,
        )
        for variant, kind in total.items()
    )
    return tuple(sorted(found, key=lambda work: (-work.answered, work.variant)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerDifference:
    """What the deployment used between two readings of the ledger."""

    from_ms: float
    to_ms: float
    energy_j: float
    footprint_g: float


class LedgerWindow:
    """The readings of the ledger of the last minute and a half."""

    def __init__(self) -> None:
        self._readings: deque[LedgerReading] = deque(maxlen=1000)

    @property
    def newest(self) -> LedgerReading | None:
        """The newest reading."""
        return self._readings[-1] if self._readings else None

    def take(self, reading: LedgerReading) -> None:
        """Take in a reading; a ledger that has begun anew forgets the old one."""
        newest = self.newest
        if newest is not None and reading.energy_j < newest.energy_j:
            self._readings.clear()
        elif newest is not None and reading.at_ms <= newest.at_ms:
            return
        self._readings.append(reading)
        while reading.at_ms - self._readings[0].at_ms > _KEPT_S * 1e3:
            self._readings.popleft()

    def difference(self, *, from_ms: float, to_ms: float) -> LedgerDifference | None:
        """Return what was used between the readings nearest inside an interval; None if there are no two."""
        inside = [r for r in self._readings if from_ms <= r.at_ms <= to_ms]
        if len(inside) < 2 or inside[-1].at_ms - inside[0].at_ms < _LEAST_S * 1e3:
            return None
        first, last = inside[0], inside[-1]
        return LedgerDifference(
            from_ms=first.at_ms,
            to_ms=last.at_ms,
            energy_j=last.energy_j - first.energy_j,
            footprint_g=last.footprint_g - first.footprint_g,
        )
