"""What a controller's process tells Prometheus: the plan in force, what it promises, and the queue.

Read from the server once a second, so that a standby tells the same as the controller that acts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from clover.agents.metrics import counter, gauge
from clover.bus.messages import Override, PlanRecord, Prediction
from clover.bus.port import Bus
from clover.bus.values import QueueStatus
from clover.errors import BusUnavailableError

PERIOD_S = 1.0


class PlanWatch:
    """Looks at the plan once per period.

    Args:
        bus: Where it is.
        holder: What holds the lease while the controller in this process acts.
    """

    def __init__(self, bus: Bus, holder: str) -> None:
        self._bus = bus
        self._ours = holder
        self._holder = ""
        self._plan: PlanRecord | None = None
        self._queue: QueueStatus | None = None
        self._override = Override()
        self._reconfigurations: Counter[str] = Counter()

    async def beside(self, work: Awaitable[None]) -> None:
        """Watch while `work` runs."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(), name="plan metrics")
            await work
            watching.cancel()

    async def _watch(self) -> None:
        while True:
            # Without an answer the last look stays.
            with contextlib.suppress(BusUnavailableError):
                await self.look()
            await asyncio.sleep(PERIOD_S)

    async def look(self) -> None:
        """Read everything once."""
        self._holder = await self._bus.lease_holder()
        self._queue = await self._bus.queue()
        self._override = await self._bus.override()
        plan, before = await self._bus.plan(), self._plan
        self._plan = plan
        if plan is not None and before is not None and plan.configuration != before.configuration:
            self._reconfigurations[plan.trigger] += 1

    def metrics(self) -> list[Metric]:
        """Return them."""
        found = [
            gauge("clover_controller_acting", "1 if this controller holds the lease", self._holder == self._ours),
            gauge("clover_controller_paused", "1 if people have paused planning", self._override.paused),
            gauge("clover_nodes_by_hand", "Nodes that were taken from the controller", len(self._override.nodes)),
            self._changes(),
        ]
        if self._queue is not None:
            found += _queue_metrics(self._queue)
        return found if self._plan is None else found + _plan_metrics(self._plan)

    def _changes(self) -> Metric:
        changes = CounterMetricFamily(
            "clover_reconfigurations", "Plans that moved GPUs since this process began", labels=["reason"]
        )
        for reason, number in list(self._reconfigurations.items()):
            changes.add_metric([reason], number)
        return changes


def _queue_metrics(queue: QueueStatus) -> list[Metric]:
    return [
        gauge("clover_queue_depth", "Requests that wait", queue.waiting),
        gauge("clover_queue_in_work", "Requests that are being worked on", queue.pending),
        gauge("clover_queue_oldest_seconds", "Age of the oldest request that waits", queue.oldest_age_s),
        counter("clover_requests_admitted", "Requests admitted by this server", queue.admitted),
    ]


def _plan_metrics(plan: PlanRecord) -> list[Metric]:
    info = GaugeMetricFamily(
        "clover_plan_info", "1, with what the plan is", labels=["application", "scheme", "trigger", "gpu_model"]
    )
    info.add_metric([plan.application, plan.scheme, plan.trigger, plan.gpu_model], 1.0)
    modes = Counter(gpu.mode for gpus in plan.configuration.values() for gpu in gpus)
    fleet = GaugeMetricFamily("clover_gpus", "GPUs of the plan by what they shall be", labels=["mode"])
    for mode in ("serving", "parked", "off"):
        fleet.add_metric([mode], modes[mode])
    return [
        info,
        fleet,
        gauge("clover_plan_epoch", "Newest epoch of targets for the plan", plan.epoch),
        gauge("clover_plan_in_force", "1 when every node has applied it", plan.state == "serving"),
        gauge("clover_plan_rate_requests_per_second", "Load that it was made for", plan.prediction.rate_rps),
        gauge("clover_plan_lambda_ratio", "Weight of carbon against accuracy", plan.lambda_),
        gauge("clover_sla_seconds", "Promised 95th percentile of latency", plan.sla_p95_ms / 1e3),
        counter("clover_plan_decisions", "Decisions, over restarts", plan.decision),
        *_prediction_metrics(plan.step_prediction),
    ]


def _prediction_metrics(predicted: Prediction) -> list[Metric]:
    found = [
        gauge("clover_predicted_late_ratio", "Requests past the promise, modelled", predicted.late_pct / 100.0),
        gauge("clover_predicted_accuracy_ratio", "Mean accuracy, modelled", predicted.accuracy_pct / 100.0),
        gauge("clover_predicted_request_energy_joules", "Idle included, modelled", predicted.energy_j_per_request),
        gauge("clover_predicted_objective", "Value of the objective, modelled", predicted.objective),
    ]
    if predicted.p95_ms is not None:
        found.append(gauge("clover_predicted_p95_seconds", "95th percentile, modelled", predicted.p95_ms / 1e3))
    return found
