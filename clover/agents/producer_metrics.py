"""What a producer tells Prometheus: how its requests ended, how long they took, and whether the promise is kept."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from clover.agents.metrics import counter, gauge
from clover.bus.messages import RequestRecord
from clover.core.objective import LATE_LIMIT

#: Upper bounds of latency buckets in s, a factor of about two apart: variants differ by more than that.
LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Upper bounds of energy buckets in J.
ENERGY_J = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0)

#: `clover_sla_ok` looks at requests that were due within this time, s, and at most at so many.
WINDOW_S, WINDOW_MOST = 60.0, 100_000


@dataclass(slots=True)
class _Histogram:
    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list[int])
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        at = next((index for index, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))
        self.counts[at] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by upper bound, as Prometheus wants them."""
        found: list[tuple[str, float]] = []
        seen = 0
        for name, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            seen += count
            found.append((name, float(seen)))
        return found


class ProducerTally:
    """Totals of one producer since its start; fed by its event loop, read by a scrape."""

    def __init__(self) -> None:
        self._ended: Counter[tuple[str, str]] = Counter()
        self._latency = _Histogram(LATENCY_S)
        self._energy: dict[str, _Histogram] = {}
        self._accuracy_sum, self._accurate = 0.0, 0
        #: (due, kept its promise) of the newest requests.
        self._window: deque[tuple[float, bool]] = deque(maxlen=WINDOW_MOST)

    def take(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        self._ended[record.variant, record.outcome.value] += 1
        self._window.append((record.due_ms, record.outcome.value == "ok"))
        if record.latency_ms is None:
            return
        self._latency.add(record.latency_ms / 1e3)
        if record.energy_j is not None:
            self._energy.setdefault(record.variant, _Histogram(ENERGY_J)).add(record.energy_j)
        if record.accuracy_pct is not None:
            self._accuracy_sum += record.accuracy_pct
            self._accurate += 1

    def metrics(
        self, application: str, counts: Mapping[str, int], *, outstanding: int, sla_p95_ms: float | None
    ) -> list[Metric]:
        """Return them.

        Args:
            application: Whom the producer asks.
            counts: Its totals, see `Generator.counts`.
            outstanding: Requests without an outcome.
            sla_p95_ms: The promise; None before there is a plan.
        """
        found = [
            self._requests(application),
            self._latencies(application),
            self._energies(),
            counter("clover_requests_sent", "Requests that became due", counts["sent"]),
            counter("clover_requests_duplicate", "Replies beyond the first", counts["duplicate"]),
            gauge("clover_requests_outstanding", "Requests without an outcome", outstanding),
        ]
        if self._accurate:
            mean = self._accuracy_sum / self._accurate / 100.0
            accuracy = GaugeMetricFamily(
                "clover_accuracy_ratio", "Mean published accuracy of answers since the start", labels=["application"]
            )
            accuracy.add_metric([application], mean)
            found.append(accuracy)
        if sla_p95_ms is not None:
            found += self._promise(sla_p95_ms)
        return found

    def _requests(self, application: str) -> Metric:
        requests = CounterMetricFamily(
            "clover_requests", "Requests by how they ended", labels=["application", "model", "status"]
        )
        for (variant, outcome), number in list(self._ended.items()):
            requests.add_metric([application, variant, outcome], number)
        return requests

    def _latencies(self, application: str) -> Metric:
        latency = HistogramMetricFamily(
            "clover_request_latency_seconds", "Due time to receipt of answered requests", labels=["application"]
        )
        latency.add_metric([application], self._latency.buckets(), self._latency.total)
        return latency

    def _energies(self) -> Metric:
        energy = HistogramMetricFamily(
            "clover_request_energy_joules",
            "Dynamic energy of answered requests as replies say it; provisional, not part of the ledger",
            labels=["model"],
        )
        for variant, histogram in list(self._energy.items()):
            energy.add_metric([variant], histogram.buckets(), histogram.total)
        return energy

    def _promise(self, sla_p95_ms: float) -> list[Metric]:
        window = list(self._window)
        since_ms = max((due for due, _ in window), default=0.0) - WINDOW_S * 1e3
        kept = [ok for due, ok in window if due >= since_ms]
        late = kept.count(False) / len(kept) if kept else 0.0
        return [
            gauge("clover_sla_seconds", "Promised 95th percentile of latency", sla_p95_ms / 1e3),
            gauge("clover_late_ratio", "Requests of the last minute that were not answered in time", late),
            gauge("clover_sla_ok", "1 if at most 5 % of the last minute's requests were", late <= LATE_LIMIT),
        ]
