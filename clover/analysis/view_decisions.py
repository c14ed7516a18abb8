"""Past decisions, with what was measured while each was in force beside what it had predicted."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

from clover.analysis.view_past import AlternativePast, DecisionPast, Measured
from clover.bus.messages import DecisionData, Event, LedgerReading, PlanData, PlanRecord, RequestLog, data_of
from clover.bus.messages.control import Alternative
from clover.core.histogram import LatencyHistogram
from clover.core.outcome import ProducerOutcome

_KEPT = 50
_ALTERNATIVES_KEPT = 8
_EPOCHS_KEPT = 1000


@dataclass(slots=True)
class _Work:
    latencies: LatencyHistogram = field(default_factory=LatencyHistogram)
    finished: int = 0
    answered: int = 0
    in_time: int = 0
    accuracy_sum: float = 0.0
    energy_j: float = 0.0
    from_ms: float = float("inf")
    to_ms: float = float("-inf")

    def figures(self) -> Measured | None:
        if not self.finished:
            return None
        seconds = max(0.0, self.to_ms - self.from_ms) / 1e3
        return Measured(
            answered=self.answered,
            finished=self.finished,
            seconds=seconds,
            rate_rps=self.finished / seconds if seconds >= 1.0 else None,
            p95_ms=self.latencies.quantile_ms(0.95),
            late_pct=100.0 * (self.finished - self.in_time) / self.finished,
            accuracy_pct=self.accuracy_sum / self.answered if self.answered else None,
            energy_j_per_request=self.energy_j / self.answered if self.answered and self.energy_j else None,
        )


class DecisionsFold:
    """Folds decisions and what came of them; the newest fifty are kept."""

    def __init__(self) -> None:
        self._decisions: OrderedDict[int, DecisionPast] = OrderedDict()
        self._work: dict[int, _Work] = {}
        self._of_epoch: OrderedDict[int, int] = OrderedDict()
        self._in_force: int | None = None
        self._energy_j: float | None = None

    def take_event(self, event: Event) -> None:
        """Take in an event; those that are not about decisions or plans say nothing here."""
        if event.kind == "decision":
            self._decided(event)
        elif event.kind in {"plan.step", "plan.serving"}:
            data = data_of(event, PlanData)
            if data is not None and data.decision:
                self._see_epoch(event.epoch, data.decision)

    def set_plan(self, plan: PlanRecord | None, configuration: str) -> None:
        """Take in the plan in force, whose decision may have been missed."""
        if plan is None:
            return
        self._see_epoch(plan.epoch, plan.decision)
        if plan.decision not in self._decisions:
            self._keep(_of_plan(plan, configuration))

    def take_requests(self, log: RequestLog) -> None:
        """Take in a batch: each request belongs to the decision whose epoch it was answered under."""
        newest_ms = max((record.received_ms or record.due_ms for record in log.records), default=0.0)
        for record in log.records:
            number = self._of_epoch.get(record.epoch, self._in_force)
            if number is None:
                continue
            work, ended_ms = self._work.setdefault(number, _Work()), record.received_ms or newest_ms
            work.latencies.add(record.latency_ms)
            work.finished += 1
            work.in_time += record.outcome is ProducerOutcome.OK
            work.from_ms, work.to_ms = min(work.from_ms, ended_ms), max(work.to_ms, ended_ms)
            if record.outcome.answered:
                work.answered += 1
                work.accuracy_sum += record.accuracy_pct or 0.0

    def take_ledger(self, reading: LedgerReading) -> None:
        """Take in a reading of the ledger; what was used since the last one belongs to the decision in force."""
        before, self._energy_j = self._energy_j, reading.energy_j
        # Before the first request it is start-up, and after a restart of the ledger nobody knows.
        if before is not None and self._in_force in self._work and reading.energy_j >= before:
            self._work[self._in_force].energy_j += reading.energy_j - before

    def figures(self) -> tuple[DecisionPast, ...]:
        """Return the decisions, oldest first."""
        return tuple(
            replace(decision, measured=self._work[number].figures() if number in self._work else None)
            for number, decision in self._decisions.items()
        )

    def _decided(self, event: Event) -> None:
        data = data_of(event, DecisionData)
        if data is None:
            return
        expected = data.prediction
        self._keep(
            DecisionPast(
                number=data.decision,
                at_ms=event.at_ms,
                trigger=data.trigger,
                reason=event.reason,
                scheme=data.scheme,
                configuration=event.subject,
                intensity_g_per_kwh=data.intensity_g_per_kwh,
                rate_rps=data.rate_rps,
                evaluations=data.evaluations,
                meets_sla=data.meets_sla,
                p95_ms=expected.p95_ms if expected else None,
                accuracy_pct=expected.accuracy_pct if expected else None,
                energy_j_per_request=expected.energy_j_per_request if expected else None,
                alternatives=_past(data.alternatives),
                measured=None,
            )
        )

    def _keep(self, decision: DecisionPast) -> None:
        self._decisions[decision.number] = decision
        while len(self._decisions) > _KEPT:
            old, _ = self._decisions.popitem(last=False)
            self._work.pop(old, None)

    def _see_epoch(self, epoch: int, decision: int) -> None:
        self._of_epoch[epoch] = decision
        self._in_force = self._of_epoch[max(self._of_epoch)]
        while len(self._of_epoch) > _EPOCHS_KEPT:
            self._of_epoch.popitem(last=False)


def _of_plan(plan: PlanRecord, configuration: str) -> DecisionPast:
    return DecisionPast(
        number=plan.decision,
        at_ms=plan.decided_at_ms,
        trigger=plan.trigger,
        reason=plan.reason,
        scheme=plan.scheme,
        configuration=configuration,
        intensity_g_per_kwh=plan.intensity_g_per_kwh,
        rate_rps=plan.prediction.rate_rps,
        evaluations=plan.evaluations,
        meets_sla=plan.prediction.p95_ms is not None and plan.prediction.p95_ms <= plan.sla_p95_ms,
        p95_ms=plan.prediction.p95_ms,
        accuracy_pct=plan.prediction.accuracy_pct,
        energy_j_per_request=plan.prediction.energy_j_per_request,
        alternatives=_past(plan.alternatives),
        measured=None,
    )


def _past(alternatives: tuple[Alternative, ...]) -> tuple[AlternativePast, ...]:
    return tuple(
        AlternativePast(
            configuration=other.configuration,
            p95_ms=other.p95_ms,
            accuracy_pct=other.accuracy_pct,
            energy_j_per_request=other.energy_j_per_request,
            objective=other.objective,
            meets_sla=other.meets_sla,
        )
        for other in alternatives[:_ALTERNATIVES_KEPT]
    )
