"""The past in slots of five seconds for an hour: what charts are drawn from; memory does not grow with the run."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from clover.analysis.view_past import Slot
from clover.bus.messages import LedgerReading, Prediction, RequestLog
from clover.core.histogram import LatencyHistogram
from clover.core.outcome import ProducerOutcome

SLOT_S = 5.0
_KEPT = 720
#: Records are written in batches: a slot is closed so long after its end.
_LAG_S = 5.0


@dataclass(slots=True)
class _Open:
    latencies: LatencyHistogram = field(default_factory=LatencyHistogram)
    finished: int = 0
    answered: int = 0
    in_time: int = 0
    accuracy_sum: float = 0.0


class HistoryFold:
    """Folds requests and ledger readings into slots."""

    def __init__(self) -> None:
        self._closed: deque[Slot] = deque(maxlen=_KEPT)
        self._open: dict[int, _Open] = {}
        self._next: int | None = None
        self._ledger: deque[tuple[float, float, float]] = deque(maxlen=64)
        self._base: Prediction | None = None

    def set_base(self, base: Prediction | None) -> None:
        """Take in the prediction of BASE that holds from now on."""
        self._base = base

    def take_requests(self, log: RequestLog) -> None:
        """Take in a batch; a request without an answer counts at the time of its batch."""
        if not log.records:
            return
        newest_ms = max(record.received_ms or record.due_ms for record in log.records)
        for record in log.records:
            number = _number(record.received_ms or newest_ms)
            if self._next is not None and number < self._next:
                continue
            self._next = number if self._next is None else self._next
            slot = self._open.setdefault(number, _Open())
            slot.latencies.add(record.latency_ms)
            slot.finished += 1
            slot.in_time += record.outcome is ProducerOutcome.OK
            if record.outcome.answered:
                slot.answered += 1
                slot.accuracy_sum += record.accuracy_pct or 0.0
        self._close_until(newest_ms)

    def take_ledger(self, reading: LedgerReading) -> None:
        """Take in a reading of the ledger, which is also the clock of an idle deployment."""
        if self._ledger and reading.energy_j < self._ledger[-1][1]:
            self._ledger.clear()
        if not self._ledger or reading.at_ms > self._ledger[-1][0]:
            self._ledger.append((reading.at_ms, reading.energy_j, reading.footprint_g))
        self._close_until(reading.at_ms)

    def slots(self) -> tuple[Slot, ...]:
        """Return the closed slots, oldest first."""
        return tuple(self._closed)

    def _close_until(self, now_ms: float) -> None:
        if self._next is None:
            return
        end = _number(now_ms - _LAG_S * 1e3)
        # After a pause longer than what is kept nothing is left to fill in.
        self._next = max(self._next, end - _KEPT)
        while self._next < end:
            self._closed.append(self._close(self._next, self._open.pop(self._next, None) or _Open()))
            self._next += 1
        for old in [number for number in self._open if number < self._next]:
            del self._open[old]

    def _close(self, number: int, slot: _Open) -> Slot:
        from_ms, to_ms = number * SLOT_S * 1e3, (number + 1) * SLOT_S * 1e3
        used = self._used(from_ms, to_ms)
        energy_j, grams = used or (None, None)
        g_per_j = grams / energy_j if grams is not None and energy_j else None
        finished, answered = slot.finished, slot.answered
        return Slot(
            at_ms=to_ms,
            length_s=SLOT_S,
            rate_rps=finished / SLOT_S,
            p95_ms=slot.latencies.quantile_ms(0.95),
            p95_unbounded=slot.latencies.unbounded(0.95),
            late_pct=100.0 * (finished - slot.in_time) / finished if finished else None,
            accuracy_pct=slot.accuracy_sum / answered if answered else None,
            footprint_g=grams / answered if grams is not None and answered else None,
            base_g=_base_g(self._base, g_per_j, answered / SLOT_S),
            power_w=None if energy_j is None else energy_j / SLOT_S,
        )

    def _used(self, from_ms: float, to_ms: float) -> tuple[float, float] | None:
        """Return joules and grams of an interval, between readings in proportion; None if it is not covered."""
        first, last = self._at(from_ms), self._at(to_ms)
        return None if first is None or last is None else (last[0] - first[0], last[1] - first[1])

    def _at(self, at_ms: float) -> tuple[float, float] | None:
        before: tuple[float, float, float] | None = None
        for reading in self._ledger:
            if reading[0] >= at_ms:
                if before is None:
                    return (reading[1], reading[2]) if reading[0] == at_ms else None
                part = (at_ms - before[0]) / (reading[0] - before[0])
                return before[1] + part * (reading[1] - before[1]), before[2] + part * (reading[2] - before[2])
            before = reading
        return None


def _number(at_ms: float) -> int:
    return math.floor(at_ms / (SLOT_S * 1e3))


def _base_g(base: Prediction | None, g_per_j: float | None, rate_rps: float) -> float | None:
    if base is None or g_per_j is None or rate_rps <= 0.0:
        return None
    return g_per_j * (base.dynamic_j + base.idle_power_w / rate_rps)
