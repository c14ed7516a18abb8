"""Measures what is in force on live traffic, and what that costs: for `--evaluate live` only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from clover.bus.messages import LiveData, NodeTelemetry, RequestLog, RequestRecord
from clover.bus.port import Bus
from clover.bus.repeats import Repeats
from clover.bus.values import Feed
from clover.core.application import ServiceModel
from clover.core.configuration import Configuration, InstanceKind
from clover.core.objective import LATE_LIMIT
from clover.core.queueing import Evaluation, idle_power_w


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    began_s: float
    until_s: float
    cursor: str
    energy_j: float


class LiveWindow:
    """One measurement at a time.

    Args:
        bus: Where producers log what became of their requests.
        model: For the idle power, which is not measured apart.
        sla_ms: Beyond it a request is late.
    """

    def __init__(self, bus: Bus, model: ServiceModel, sla_ms: float) -> None:
        self._bus = bus
        self._model = model
        self._sla_ms = sla_ms
        self._window: _Window | None = None

    @property
    def open(self) -> bool:
        """Whether something is being measured."""
        return self._window is not None

    async def begin(self, nodes: Mapping[str, NodeTelemetry], *, now_s: float, length_s: float) -> None:
        """Begin to measure for so long."""
        cursor = await self._bus.newest_id(Feed.LOG)
        self._window = _Window(began_s=now_s, until_s=now_s + length_s, cursor=cursor, energy_j=_energy_j(nodes))

    def cancel(self) -> None:
        """Give up: something else is in force."""
        self._window = None

    async def result(
        self, nodes: Mapping[str, NodeTelemetry], present: Configuration, *, now_s: float
    ) -> tuple[Evaluation, LiveData] | None:
        """Return what was measured once the time is over; None before, or if nobody asked for anything."""
        window = self._window
        if window is None or now_s < window.until_s:
            return None
        records = await self._records(window)
        if not records:
            return None
        self._window = None
        energy_j = max(0.0, _energy_j(nodes) - window.energy_j)
        evaluation = self._evaluation(records, present, energy_j, now_s - window.began_s)
        late = round(evaluation.late_fraction * len(records))
        data = LiveData(
            requests=len(records),
            late=late,
            p95_ms=evaluation.p95_ms if evaluation.stable else None,
            accuracy_pct=evaluation.accuracy_pct,
            energy_j=energy_j,
            seconds=now_s - window.began_s,
            meets_sla=evaluation.late_fraction <= LATE_LIMIT,
        )
        return evaluation, data

    async def _records(self, window: _Window) -> list[RequestRecord]:
        cursor, found, repeats = window.cursor, list[RequestRecord](), Repeats()
        while entries := await self._bus.follow({Feed.LOG: cursor}, block_s=0.0):
            cursor = entries[-1].id
            for entry in entries:
                if isinstance(entry.message, RequestLog) and not repeats.seen(entry.message):
                    found += [each for each in entry.message.records if each.due_ms >= 1e3 * window.began_s]
        return found

    def _evaluation(
        self, records: list[RequestRecord], present: Configuration, energy_j: float, length_s: float
    ) -> Evaluation:
        latencies = sorted(math.inf if each.latency_ms is None else each.latency_ms for each in records)
        answered = [each for each in records if each.latency_ms is not None]
        accuracies = [each.accuracy_pct for each in answered if each.accuracy_pct is not None]
        kinds = Counter(InstanceKind(each.profile, each.variant) for each in answered)
        idle_w = idle_power_w(self._model, present.fleet)
        served_rps = max(len(answered), 1) / length_s
        return Evaluation(
            rate_rps=len(records) / length_s,
            served_rate_rps=served_rps,
            utilisation=0.0,
            p95_ms=latencies[math.ceil(0.95 * len(latencies)) - 1],
            late_fraction=sum(latency > self._sla_ms for latency in latencies) / len(latencies),
            accuracy_pct=sum(accuracies) / len(accuracies) if accuracies else 0.0,
            dynamic_j=max(0.0, energy_j / max(len(answered), 1) - idle_w / served_rps),
            idle_power_w=idle_w,
            shares={kind: count / len(answered) for kind, count in sorted(kinds.items())},
        )


def _energy_j(nodes: Mapping[str, NodeTelemetry]) -> float:
    """Return the joules of all GPUs that are heard, all causes, cumulative."""
    total = 0.0
    for node in nodes.values():
        for gpu in node.gpus:
            used = gpu.energy
            total += sum(used.requests_j.values()) + used.idle_j + used.unallocated_j + used.parked_j
            total += used.transition_j
    return total
