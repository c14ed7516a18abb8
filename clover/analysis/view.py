"""What a deployment looks like at present, folded from the messages of its feeds; memory is bounded.

Begins at any time: what has not come yet is None, what happened before is missing and said to be.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from clover.analysis.summary import RunSummary
from clover.analysis.view_decisions import DecisionsFold
from clover.analysis.view_fleet import FleetFold
from clover.analysis.view_grid import GridFold
from clover.analysis.view_history import HistoryFold
from clover.analysis.view_override import override_now
from clover.analysis.view_savings import Savings
from clover.analysis.view_state import (
    AlternativeNow,
    DecisionNow,
    EventNow,
    PerRequest,
    Saved,
    Service,
    Snapshot,
)
from clover.analysis.view_window import SPAN_S, LedgerWindow, RequestWindow, WindowFigures
from clover.bus.messages import (
    Event,
    GpuTarget,
    IntensityForecast,
    IntensityReading,
    LedgerReading,
    LogLine,
    Message,
    NodeTelemetry,
    Override,
    PlanRecord,
    Prediction,
    RequestLog,
)
from clover.bus.repeats import Repeats
from clover.bus.values import QueueStatus
from clover.core.outcome import ProducerOutcome
from clover.core.units import J_PER_KWH, footprint_g

__all__ = ["DeploymentView", "Saved", "Snapshot"]

_EVENTS_KEPT = 500
_BEATEN_SHOWN = 8
#: Below this the measured load says less than the plan's.
_LOAD_LEAST_S = 10.0


class DeploymentView:
    """Folds messages for the dashboard.

    Args:
        summary: Of the run, if somebody wants to share it (it is fed from here); None to keep one inside.
        sla_p95_ms: The promise, until a plan tells.
    """

    def __init__(self, summary: RunSummary | None = None, *, sla_p95_ms: float | None = None) -> None:
        self._sla_p95_ms = sla_p95_ms
        self._savings = Savings(summary)
        self._fleet = FleetFold()
        self._requests = RequestWindow()
        self._repeats = Repeats()
        self._ledger = LedgerWindow()
        self._outcomes: Counter[ProducerOutcome] = Counter()
        self._grid = GridFold()
        self._override: Override | None = None
        self._plan: PlanRecord | None = None
        self._queue: QueueStatus | None = None
        self._events: deque[EventNow] = deque(maxlen=_EVENTS_KEPT)
        self._slots = HistoryFold()
        self._decisions = DecisionsFold()
        self._alive: dict[str, float] = {}
        self._alive_ms = 0.0
        self._heard_ms: float | None = None
        self._trouble = ""

    # --- folding

    def take(self, message: Message, *, now_ms: float) -> None:
        """Take in one message of any feed, received at a moment."""
        self._heard_ms = max(now_ms, self._heard_ms or now_ms)
        self._savings.take(message)
        match message:
            case RequestLog() if self._repeats.seen(message):
                return
            case RequestLog():
                self._requests.take(message)
                self._slots.take_requests(message)
                self._decisions.take_requests(message)
                self._outcomes.update(record.outcome for record in message.records)
            case NodeTelemetry():
                self._fleet.take(message)
            case LedgerReading():
                self._ledger.take(message)
                self._slots.take_ledger(message)
                self._decisions.take_ledger(message)
            case IntensityReading() | IntensityForecast():
                self._grid.take(message)
            case Event():
                self._decisions.take_event(message)
                self._take_event(message.at_ms, message.kind, message.source, message.subject, message.reason)
            case LogLine():
                self._take_event(message.at_ms, f"log.{message.level}", message.source, "", message.text)
            case _:
                return

    def set_plan(self, plan: PlanRecord | None) -> None:
        """Take in the plan in force."""
        self._plan = plan
        self._savings.set_plan(plan)
        self._slots.set_base(plan.base if plan is not None else None)
        self._decisions.set_plan(plan, _wanted(plan) if plan is not None else "")
        if plan is not None:
            targets = [target for gpus in plan.configuration.values() for target in gpus]
            self._fleet.see_variants(instance.variant for target in targets for instance in target.instances)

    def set_queue(self, queue: QueueStatus | None) -> None:
        """Take in the state of the request stream."""
        self._queue = queue

    def set_alive(self, silent_s: Mapping[str, float], *, now_ms: float) -> None:
        """Take in for how long each agent had been silent at a moment."""
        self._alive, self._alive_ms = dict(silent_s), now_ms

    def set_override(self, override: Override | None) -> None:
        """Take in what people have decided over the controller's head."""
        self._override = override

    def set_trouble(self, trouble: str) -> None:
        """Say why nothing comes at present; empty when all is well again."""
        self._trouble = trouble

    def _take_event(self, at_ms: float, kind: str, source: str, subject: str, reason: str) -> None:
        self._events.append(EventNow(at_ms=at_ms, kind=kind, source=source, subject=subject, reason=reason))

    # --- figures

    def snapshot(self, now_ms: float) -> Snapshot:
        """Describe the present."""
        plan, latest, ledger = self._plan, self._fleet.latest, self._ledger.newest
        window, nodes = self._requests.figures(now_ms), self._fleet.nodes(now_ms)
        return Snapshot(
            at_ms=now_ms,
            data_age_s=None if self._heard_ms is None else max(0.0, now_ms - self._heard_ms) / 1e3,
            trouble=self._trouble,
            application=plan.application if plan else latest.application if latest else "",
            gpu_model=latest.gpu_model if latest else plan.gpu_model if plan else "",
            scheme=plan.scheme if plan else "",
            controller=plan.controller if plan else "",
            epoch=plan.epoch if plan else 0,
            state=plan.state if plan else "waiting",
            state_s=max(0.0, now_ms - plan.since_ms) / 1e3 if plan else 0.0,
            energy_source=ledger.energy_source if ledger else latest.energy_source if latest else None,
            intensity=self._grid.now(now_ms),
            per_request=self._per_request(now_ms, window),
            saved=self._savings.figures(now_ms),
            service=self._service(now_ms, window, in_flight=sum(node.in_flight for node in nodes)),
            outcomes={outcome.value: self._outcomes[outcome] for outcome in ProducerOutcome},
            nodes=nodes,
            variants=tuple(self._fleet.variants),
            decision=_decision(plan, now_ms) if plan else None,
            events=tuple(self._events),
            slots=self._slots.slots(),
            decisions=self._decisions.figures(),
            work=window.work,
            recent=window.outcomes,
            by_cause_j=ledger.by_cause_j if ledger else {},
            override=override_now(self._override, now_ms),
            agents={name: s + max(0.0, now_ms - self._alive_ms) / 1e3 for name, s in self._alive.items()},
        )

    def _per_request(self, now_ms: float, window: WindowFigures) -> PerRequest:
        """Compare with the baselines over the same interval: at the intensity that the ledger itself had."""
        end_ms = self._requests.end_ms(now_ms)
        # What was used before the first request is start-up, and stated as such elsewhere.
        from_ms = max(now_ms - SPAN_S * 1e3, self._requests.first_ms or 0.0)
        used = self._ledger.difference(from_ms=from_ms, to_ms=end_ms)
        answered = self._requests.answered_between(used.from_ms, used.to_ms) if used else 0.0
        if used is None or answered <= 0.0 or used.energy_j <= 0.0:
            return self._modelled_now()
        window_s = (used.to_ms - used.from_ms) / 1e3
        measured_rps = answered / window_s if min(window_s, window.window_s) >= _LOAD_LEAST_S else None
        g_per_j = used.footprint_g / used.energy_j
        return PerRequest(
            measured_g=used.footprint_g / answered,
            base_g=_baseline_g(self._plan.base if self._plan else None, g_per_j, measured_rps),
            rightsized_g=_baseline_g(self._plan.base_rightsized if self._plan else None, g_per_j, measured_rps),
            window_s=window_s,
            energy_j=used.energy_j / answered,
        )

    def _modelled_now(self) -> PerRequest:
        reading, plan = self._grid.reading, self._plan
        if reading is None or plan is None:
            return PerRequest()
        g_per_j = footprint_g(J_PER_KWH, reading.g_per_kwh, reading.pue) / J_PER_KWH
        return PerRequest(
            base_g=_baseline_g(plan.base, g_per_j, None),
            rightsized_g=_baseline_g(plan.base_rightsized, g_per_j, None),
        )

    def _service(self, now_ms: float, window: WindowFigures, *, in_flight: int) -> Service:
        plan = self._plan
        sla_ms = plan.sla_p95_ms if plan else self._sla_p95_ms
        headroom = 100.0 * (1.0 - window.p95_ms / sla_ms) if window.p95_ms is not None and sla_ms else None
        return Service(
            window_s=window.window_s,
            finished=window.finished,
            rate_rps=window.rate_rps,
            planned_rps=plan.prediction.rate_rps if plan else None,
            p95_ms=window.p95_ms,
            p95_unbounded=window.p95_unbounded,
            p95_history=self._requests.p95_slots(now_ms),
            sla_p95_ms=sla_ms,
            headroom_pct=headroom,
            p50_ms=window.p50_ms,
            p99_ms=window.p99_ms,
            late_pct=window.late_pct,
            accuracy_pct=window.accuracy_pct,
            largest_accuracy_pct=plan.base.accuracy_pct if plan else None,
            waiting=self._queue.waiting if self._queue else None,
            in_flight=in_flight,
        )


def _baseline_g(prediction: Prediction | None, g_per_j: float, rate_rps: float | None) -> float | None:
    """Return a baseline's gCO2e per request: dynamic energy, and idle power shared by the requests that came."""
    if prediction is None:
        return None
    return g_per_j * (prediction.dynamic_j + prediction.idle_power_w / (rate_rps or prediction.rate_rps))


def _decision(plan: PlanRecord, now_ms: float) -> DecisionNow:
    return DecisionNow(
        number=plan.decision,
        scheme=plan.scheme,
        trigger=plan.trigger,
        reason=plan.reason,
        age_s=max(0.0, now_ms - plan.decided_at_ms) / 1e3,
        evaluations=plan.evaluations,
        alternatives=len(plan.alternatives),
        beaten=tuple(
            AlternativeNow(
                configuration=other.configuration,
                p95_ms=other.p95_ms,
                accuracy_pct=other.accuracy_pct,
                energy_j_per_request=other.energy_j_per_request,
                meets_sla=other.meets_sla,
            )
            for other in plan.alternatives[:_BEATEN_SHOWN]
        ),
        p95_ms=plan.prediction.p95_ms,
        accuracy_pct=plan.prediction.accuracy_pct,
        energy_j_per_request=plan.prediction.energy_j_per_request,
        wanted=_wanted(plan),
    )


def _wanted(plan: PlanRecord) -> str:
    """Return the wanted configuration of the fleet in a few words: `9 x [7g:base], 1 x [parked]`."""
    counts = Counter(_gpu_text(target) for gpus in plan.configuration.values() for target in gpus)
    return ", ".join(f"{n} x [{text}]" for text, n in counts.most_common())


def _gpu_text(target: GpuTarget) -> str:
    if target.mode != "serving":
        return target.mode
    counts = Counter(f"{instance.profile}:{instance.variant}" for instance in target.instances)
    return " ".join(f"{n}x{text}" if n > 1 else text for text, n in counts.items())
