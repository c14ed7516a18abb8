"""The summary of a run, folded from the streams while it goes on; memory does not grow with the number of requests.

The run lasts from the first generator's start (the service is ready then: loading the first plan is the stated
start-up) to the end of the last one's last request. Energy and footprint are the whole deployment's, from the ledger,
at those two moments.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from clover.analysis.grid import GridHistory
from clover.analysis.plan_history import PlanHistory, Span
from clover.bus.messages import (
    DecisionData,
    Event,
    IntensityReading,
    LedgerReading,
    LiveData,
    Message,
    NodeTelemetry,
    PlanData,
    RequestLog,
    RequestRecord,
    data_of,
)
from clover.bus.repeats import Repeats
from clover.core.histogram import LatencyHistogram
from clover.core.outcome import ProducerOutcome


@dataclass(slots=True)
class _Change:
    """MIG changes and seconds of change, as counted by the nodes."""

    latest: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    at_start: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])

    def take(self, telemetry: NodeTelemetry, *, started: bool) -> None:
        boot = f"{telemetry.node}/{telemetry.boot_id}"
        self.latest[boot] = (telemetry.mig_changes, telemetry.change_s)
        if not started:
            self.at_start[boot] = self.latest[boot]

    def since_start(self) -> tuple[int, float]:
        none = (0, 0.0)
        changes = sum(now[0] - self.at_start.get(boot, none)[0] for boot, now in self.latest.items())
        seconds = sum(now[1] - self.at_start.get(boot, none)[1] for boot, now in self.latest.items())
        return changes, seconds


class RunSummary:
    """Folds messages; `result` gives the figures so far."""

    def __init__(self, *, sla_p95_ms: float) -> None:
        self._sla_p95_ms = sla_p95_ms
        self._started_ms: float | None = None
        self._ended_ms: float | None = None
        self._generating: set[str] = set()
        #: What loads there were, each of which says whether its loop was open or closed.
        self._arrivals: dict[str, None] = {}
        self._repeats = Repeats()
        self._outcomes: Counter[ProducerOutcome] = Counter()
        self._latencies = LatencyHistogram()
        self._accuracy_sum = 0.0
        self._sent: dict[str, tuple[int, int]] = {}
        self._grid = GridHistory()
        self._plans = PlanHistory(self._grid)
        self._ledgers: deque[LedgerReading] = deque(maxlen=4)
        self._ledger_at_start: LedgerReading | None = None
        self._decisions: dict[int, str] = {}
        self._rolled: set[int] = set()
        self._change = _Change()
        self._tried: list[LiveData] = []

    # --- folding

    def take(self, message: Message) -> None:
        """Take in one message of any feed."""
        match message:
            case RequestLog():
                self._take_requests(message)
            case IntensityReading():
                self._grid.take(message)
            case LedgerReading():
                self._take_ledger(message)
            case NodeTelemetry():
                self._change.take(message, started=self._started_ms is not None)
            case Event():
                self._take_event(message)
            case _:
                return

    @property
    def started(self) -> bool:
        """Whether a generator has begun."""
        return self._started_ms is not None

    @property
    def complete(self) -> bool:
        """Whether every generator has finished and the ledger has caught up with its last request."""
        return self._ended_ms is not None and bool(self._ledgers) and self._ledgers[-1].at_ms >= self._ended_ms

    def _take_requests(self, log: RequestLog) -> None:
        if self._repeats.seen(log):
            return
        self._sent[log.producer] = (log.sent, log.duplicates)
        for record in log.records:
            self._outcomes[record.outcome] += 1
            self._latencies.add(record.latency_ms)
            if record.outcome.answered:
                self._take_answer(record)

    def _take_answer(self, record: RequestRecord) -> None:
        self._accuracy_sum += record.accuracy_pct or 0.0
        self._plans.answered(record.epoch, record.received_ms or record.due_ms)

    def _take_ledger(self, reading: LedgerReading) -> None:
        self._ledgers.append(reading)
        if self._started_ms is None or reading.at_ms <= self._started_ms:
            self._ledger_at_start = reading

    def _take_event(self, event: Event) -> None:
        match event.kind:
            case "generator.started":
                self._started_ms = event.at_ms if self._started_ms is None else self._started_ms
                self._generating.add(event.subject)
                self._arrivals[str(event.data.get("arrivals", "not said"))] = None
                self._ended_ms = None
            case "generator.finished":
                self._generating.discard(event.subject)
                self._ended_ms = event.at_ms if not self._generating else None
            case "process.died" if event.subject == "generator":
                # It will not say any more that it has finished; the one that takes its place will.
                self._generating.clear()
            case "decision" if data := data_of(event, DecisionData):
                self._decisions[data.decision] = data.trigger
            case "live.measured" if measured := data_of(event, LiveData):
                self._tried.append(measured)
            case "plan.step" | "plan.serving" if data := data_of(event, PlanData):
                self._take_plan(event, data)
            case _:
                return

    def _take_plan(self, event: Event, data: PlanData) -> None:
        self._plans.take(event, data)
        if event.kind == "plan.step" and data.changed:
            self._rolled.add(data.decision)

    # --- figures

    def result(self) -> dict[str, Any]:
        """Return the figures so far, as `clover up --json` prints them."""
        answered = self._outcomes[ProducerOutcome.OK] + self._outcomes[ProducerOutcome.LATE]
        finished = sum(self._outcomes.values())
        bad = finished - self._outcomes[ProducerOutcome.OK]
        energy_j, grams = self._used()
        changes, change_s = self._change.since_start()
        span = self._span()
        base_late_pct = self._plans.base_late_pct(span)
        return {
            "arrivals": "; ".join(self._arrivals) or None,
            "requests": {
                "sent": finished,
                **{outcome.value: self._outcomes[outcome] for outcome in ProducerOutcome},
                "duplicate": sum(duplicates for _, duplicates in self._sent.values()),
            },
            "late_pct": _ratio(100.0 * bad, finished),
            "goodput_pct": _ratio(100.0 * self._outcomes[ProducerOutcome.OK], finished),
            "p95_ms": self._latencies.quantile_ms(0.95),
            "p95_unbounded": self._latencies.unbounded(0.95),
            "p50_ms": self._latencies.quantile_ms(0.50),
            "sla_p95_ms": self._sla_p95_ms,
            "accuracy_pct": _ratio(self._accuracy_sum, answered),
            "energy_j": energy_j,
            "energy_j_per_request": _ratio(energy_j, answered),
            "footprint_g": grams,
            "saved_pct": self._plans.saved_pct(grams, "base", span),
            "saved_pct_rightsized": self._plans.saved_pct(grams, "rightsized", span),
            "baseline": "modelled",
            "baseline_late_pct": base_late_pct,
            "baseline_feasible": None if base_late_pct is None else base_late_pct <= 5.0,
            "predicted": self._plans.predicted(answered, span, sla_ms=self._sla_p95_ms),
            "replans": sum(trigger != "start" for trigger in self._decisions.values()),
            "reconfigurations": sum(self._decisions.get(d, "start") != "start" for d in self._rolled),
            "mig_changes": changes,
            "change_s_total": change_s,
            "tried_live": self._tried_live(),
            "run_s": self._run_s(),
            "unresolved_j": self._ledgers[-1].unresolved_j if self._ledgers else 0.0,
            "energy_source": self._ledgers[-1].energy_source if self._ledgers else None,
        }

    def _tried_live(self) -> dict[str, Any] | None:
        """Return what candidates cost that were measured on live traffic; None if none was."""
        if not self._tried:
            return None
        return {
            "candidates": len(self._tried),
            "broke_sla": sum(not each.meets_sla for each in self._tried),
            "requests": sum(each.requests for each in self._tried),
            "late": sum(each.late for each in self._tried),
            "energy_j": sum(each.energy_j for each in self._tried),
            "seconds": sum(each.seconds for each in self._tried),
        }

    def _used(self) -> tuple[float, float]:
        """Return GPU energy in J and footprint in g between the start and the end of the run."""
        if not self._ledgers or self._started_ms is None:
            return 0.0, 0.0
        end_j, end_g = self._ledger_at(self._end_ms())
        start_j, start_g = self._ledger_at(self._started_ms)
        return end_j - start_j, end_g - start_g

    def _ledger_at(self, at_ms: float) -> tuple[float, float]:
        """Interpolate the ledger; outside the kept readings the nearest one's rate goes on."""
        kept = [r for r in (self._ledger_at_start, *self._ledgers) if r is not None]
        readings = sorted({r.at_ms: r for r in kept}.values(), key=lambda r: r.at_ms)
        if len(readings) == 1:
            return readings[0].energy_j, readings[0].footprint_g
        later = next((i for i, r in enumerate(readings) if r.at_ms >= at_ms and i > 0), len(readings) - 1)
        before, after = readings[later - 1], readings[later]
        part = (at_ms - before.at_ms) / (after.at_ms - before.at_ms)
        energy = before.energy_j + part * (after.energy_j - before.energy_j)
        return energy, before.footprint_g + part * (after.footprint_g - before.footprint_g)

    def _end_ms(self) -> float:
        if self._ended_ms is not None:
            return self._ended_ms
        return self._ledgers[-1].at_ms if self._ledgers else (self._started_ms or 0.0)

    def _span(self) -> Span | None:
        return (self._started_ms, self._end_ms()) if self._started_ms is not None else None

    def _run_s(self) -> float:
        return (self._end_ms() - self._started_ms) / 1e3 if self._started_ms is not None else 0.0


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
