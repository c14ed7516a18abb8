"""What a deployment looks like at present, folded from the same messages as the summary; memory is bounded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from clover.analysis.summary import RunSummary
from clover.bus.messages import (
    Event,
    IntensityReading,
    LedgerReading,
    Message,
    NodeTelemetry,
    PlanRecord,
    Prediction,
    RequestLog,
    RequestRecord,
)
from clover.core.histogram import LatencyHistogram
from clover.core.units import footprint_g

#: Seconds over which "now" is averaged.
WINDOW_S = 60.0
_MAX_RECORDS = 200_000
_SUMMARY_EVERY_MS = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that is shown, at one moment.

    Attributes:
        now_ms: The moment.
        intensity: Newest reading, None before the first.
        history: Intensities (gCO2e/kWh), oldest first.
        ledger: Newest totals.
        plan: In force.
        nodes: Newest telemetry by node.
        decision: Last decision event.
        events: Newest events, oldest first.
        answered: Requests answered in the last minute.
        rate_rps: Requests ended per second in the last minute.
        p95_ms: Of the last minute; None if there were none or too many without an answer.
        late_pct, accuracy_pct: Of the last minute.
        grams_per_request: Footprint of the whole deployment per answered request in the last minute.
        base_grams, rightsized_grams: What the baselines would have at this load and intensity (modelled).
        totals: The summary so far, as `clover up --json` prints it.
        silent_s: Seconds since anything was heard; inf if never.
    """

    now_ms: float
    intensity: IntensityReading | None
    history: tuple[float, ...]
    ledger: LedgerReading | None
    plan: PlanRecord | None
    nodes: dict[str, NodeTelemetry]
    decision: Event | None
    events: tuple[Event, ...]
    answered: int
    rate_rps: float
    p95_ms: float | None
    late_pct: float | None
    accuracy_pct: float | None
    grams_per_request: float | None
    base_grams: float | None
    rightsized_grams: float | None
    totals: dict[str, Any]
    silent_s: float


class DeploymentView:
    """Folds messages for the dashboard."""

    def __init__(self, summary: RunSummary) -> None:
        self._summary = summary
        self._intensity: IntensityReading | None = None
        self._history: deque[float] = deque(maxlen=48)
        self._ledgers: deque[LedgerReading] = deque(maxlen=600)
        self._plan: PlanRecord | None = None
        self._nodes: dict[str, NodeTelemetry] = {}
        self._decision: Event | None = None
        self._events: deque[Event] = deque(maxlen=50)
        self._records: deque[RequestRecord] = deque(maxlen=_MAX_RECORDS)
        self._totals: dict[str, Any] = summary.result()
        self._totals_ms = 0.0
        self._heard_ms = float("-inf")

    def take(self, message: Message, *, now_ms: float) -> None:
        """Take in one message of any feed."""
        self._heard_ms = now_ms
        self._summary.take(message)
        match message:
            case RequestLog():
                self._records.extend(message.records)
            case IntensityReading():
                self._intensity = message
                self._history.append(message.g_per_kwh)
            case LedgerReading():
                self._ledgers.append(message)
            case NodeTelemetry():
                self._nodes[message.node] = message
            case Event():
                self._events.append(message)
                self._decision = message if message.kind == "decision" else self._decision
                if message.kind == "node.lost":
                    self._nodes.pop(message.subject, None)
            case _:
                return

    def set_plan(self, plan: PlanRecord | None) -> None:
        """Take in the plan in force."""
        self._plan = plan

    def snapshot(self, now_ms: float) -> Snapshot:
        """Describe the present."""
        if now_ms - self._totals_ms >= _SUMMARY_EVERY_MS:
            self._totals, self._totals_ms = self._summary.result(), now_ms
        since_ms = now_ms - WINDOW_S * 1e3
        while self._records and (self._records[0].received_ms or self._records[0].due_ms) < since_ms:
            self._records.popleft()
        latencies = LatencyHistogram()
        for record in self._records:
            latencies.add(record.latency_ms)
        answered = [record for record in self._records if record.outcome.answered]
        in_time = sum(record.outcome.value == "ok" for record in self._records)
        ended = len(self._records)
        return Snapshot(
            now_ms=now_ms,
            intensity=self._intensity,
            history=tuple(self._history),
            ledger=self._ledgers[-1] if self._ledgers else None,
            plan=self._plan,
            nodes=dict(sorted(self._nodes.items())),
            decision=self._decision,
            events=tuple(self._events),
            answered=len(answered),
            rate_rps=ended / WINDOW_S,
            p95_ms=latencies.quantile_ms(0.95),
            late_pct=100.0 * (ended - in_time) / ended if ended else None,
            accuracy_pct=sum(r.accuracy_pct or 0.0 for r in answered) / len(answered) if answered else None,
            grams_per_request=self._grams(since_ms, len(answered)),
            base_grams=self._baseline(self._plan.base if self._plan else None),
            rightsized_grams=self._baseline(self._plan.base_rightsized if self._plan else None),
            totals=self._totals,
            silent_s=(now_ms - self._heard_ms) / 1e3,
        )

    def _grams(self, since_ms: float, answered: int) -> float | None:
        """Return the footprint per answered request over the window, scaled to the time that readings cover."""
        window = [reading for reading in self._ledgers if reading.at_ms >= since_ms]
        if len(window) < 2 or not answered:
            return None
        covered_ms = window[-1].at_ms - window[0].at_ms
        in_window = sum(
            window[0].at_ms <= (r.received_ms or 0.0) <= window[-1].at_ms for r in self._records if r.outcome.answered
        )
        if covered_ms <= 0.0 or not in_window:
            return None
        return (window[-1].footprint_g - window[0].footprint_g) / in_window

    def _baseline(self, prediction: Prediction | None) -> float | None:
        if prediction is None or self._intensity is None:
            return None
        return footprint_g(prediction.energy_j_per_request, self._intensity.g_per_kwh, self._intensity.pue)
