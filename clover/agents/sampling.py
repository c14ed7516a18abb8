"""From cumulative counters in telemetry to what happened since: late answers, service times, energy."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from clover.bus.messages import NodeTelemetry
from clover.core.application import ServiceModel
from clover.core.calibration import Calibrator, Sample
from clover.core.configuration import InstanceKind
from clover.core.contention import CONTENTION_TIME_CONSTANT_S

#: Requests of a kind that make a sample.
SAMPLE_REQUESTS = 50
#: Telemetry counts as no older than this, in s: clocks of hosts may differ.
AGE_MOST_S = 60.0


@dataclass(slots=True)
class _Sum:
    requests: int = 0
    measured: float = 0.0
    expected: float = 0.0

    def add(self, requests: int, measured: float, expected: float) -> Sample | None:
        """Add requests with their sums; return a sample once there are enough."""
        self.requests += requests
        self.measured += measured
        self.expected += expected
        if self.requests < SAMPLE_REQUESTS:
            return None
        n = self.requests
        sample = Sample(requests=n, measured=self.measured / n, expected=self.expected / n)
        self.requests, self.measured, self.expected = 0, 0.0, 0.0
        return sample


class Sampler:
    """Compares what nodes measure with a table, and counts answers.

    Args:
        model: The table as it was given.
        calibrator: Takes the samples.
    """

    def __init__(self, model: ServiceModel, calibrator: Calibrator) -> None:
        self._model = model
        self._calibrator = calibrator
        self._last: dict[str, NodeTelemetry] = {}
        self._service: dict[InstanceKind, _Sum] = defaultdict(_Sum)
        self._energy: dict[str, _Sum] = defaultdict(_Sum)
        self._answered = self._late = 0
        #: When the oldest telemetry with answers was written, ms since the Unix epoch, and its interval.
        self._as_of: tuple[float, float] | None = None
        #: Running mean of each node's busy fraction.
        self._rho: dict[str, float] = {}

    def take(self, telemetry: NodeTelemetry) -> None:
        """Take in a node's telemetry."""
        last = self._last.get(telemetry.node)
        self._last[telemetry.node] = telemetry
        if last is None or last.boot_id != telemetry.boot_id or telemetry.at_ms <= last.at_ms:
            return
        self._answered += max(0, telemetry.answered - last.answered)
        self._late += max(0, telemetry.late - last.late)
        if telemetry.answered > last.answered:
            as_of = telemetry.at_ms, telemetry.interval_s
            self._as_of = as_of if self._as_of is None else min(self._as_of, as_of)
        self._take_times(last, telemetry)

    def age_s(self, now_ms: float, *, every_s: float) -> float:
        """Return how old the next `answers` are if telemetry comes late; 0 if it does not.

        Args:
            now_ms: Now.
            every_s: How often `answers` are asked for.
        """
        if self._as_of is None:
            return 0.0
        at_ms, interval_s = self._as_of
        age_s = (now_ms - at_ms) / 1e3
        # A node whose clock is far behind is not as late as that.
        return min(age_s, AGE_MOST_S) if age_s > every_s + 2.0 * interval_s else 0.0

    def answers(self) -> tuple[int, int]:
        """Return how many requests were answered, and how many late, since the last call."""
        counts = self._answered, self._late
        self._answered = self._late = 0
        self._as_of = None
        return counts

    def _take_times(self, last: NodeTelemetry, now: NodeTelemetry) -> None:
        before = {key: (served, busy_s) for key, _, served, busy_s in _instances(last)}
        live, busy_total_s = 0, 0.0
        found: list[tuple[InstanceKind, int, float]] = []
        for key, kind, served, busy_s in _instances(now):
            served_before, busy_before = before.get(key, (0, 0.0))
            if served < served_before:
                served_before, busy_before = 0, 0.0
            live += 1
            busy_total_s += busy_s - busy_before
            if served > served_before:
                found.append((kind, served - served_before, busy_s - busy_before))
        if not live:
            return
        rho = self._contention(now.node, busy_total_s / live, (now.at_ms - last.at_ms) / 1e3)
        for kind, requests, busy_s in found:
            # Together they take longer than the table's single request, or less each.
            if self._model.fits(kind.variant, kind.profile) and not now.batching:
                expected = requests * self._model.mean_ms(kind.variant, kind.profile, rho)
                if sample := self._service[kind].add(requests, 1e3 * busy_s, expected):
                    self._calibrator.take_service(kind, sample)
        self._take_energy(last, now, rho)

    def _contention(self, node: str, busy_s: float, length_s: float) -> float:
        # A running mean as the node itself keeps (`clover.agents.pool`): the table is asked for the same contention.
        keep = math.exp(-length_s / CONTENTION_TIME_CONSTANT_S)
        before = self._rho.get(node, 0.0)
        self._rho[node] = before * keep + min(1.0, busy_s / length_s) * (1.0 - keep)
        # Over a long interval the mean is near its end for most of it.
        return (before * keep + self._rho[node]) / (1.0 + keep)

    def _take_energy(self, last: NodeTelemetry, now: NodeTelemetry, rho: float) -> None:
        before = {gpu.index: gpu.energy for gpu in last.gpus}
        for gpu in now.gpus:
            old = before.get(gpu.index)
            for variant, answered in gpu.energy.answered.items():
                requests = answered - (old.answered.get(variant, 0) if old else 0)
                joules = gpu.energy.requests_j.get(variant, 0.0) - (old.requests_j.get(variant, 0.0) if old else 0.0)
                if requests > 0 and joules > 0.0 and variant in self._model.table.variants:
                    expected = requests * self._model.dynamic_j(variant, rho)
                    if sample := self._energy[variant].add(requests, joules, expected):
                        self._calibrator.take_energy(variant, sample)


def _instances(telemetry: NodeTelemetry) -> list[tuple[tuple[int, int, str, str], InstanceKind, int, float]]:
    """Return the instances that serve, by where and what they are; those that fell back to the CPU prove nothing."""
    return [
        (
            (gpu.index, instance.start, instance.profile, instance.variant),
            InstanceKind(instance.profile, instance.variant),
            instance.served,
            instance.busy_s,
        )
        for gpu in telemetry.gpus
        for instance in gpu.instances
        if instance.phase in {"idle", "busy", "draining"} and not instance.fallback
    ]
