"""Hand-made messages of a small deployment, for the tests of the view and of the dashboard."""

from __future__ import annotations

from typing import Any

import msgspec

from clover.analysis.view import DeploymentView
from clover.bus.messages import (
    Alternative,
    EnergyCounters,
    Event,
    ForecastInterval,
    GpuTarget,
    GpuTelemetry,
    InstanceTarget,
    InstanceTelemetry,
    IntensityForecast,
    IntensityReading,
    LedgerReading,
    NodeTelemetry,
    Override,
    PlanRecord,
    Prediction,
    RequestLog,
    RequestRecord,
)
from clover.core.outcome import ProducerOutcome

START_MS = 1_790_000_000_000.0
SLA_MS = 200.0


def at(seconds: float) -> float:
    return START_MS + 1e3 * seconds


def a_prediction(dynamic_j: float, idle_power_w: float, **changes: Any) -> Prediction:
    made = Prediction(
        rate_rps=10.0, p95_ms=150.0, late_pct=1.0, accuracy_pct=89.1, dynamic_j=dynamic_j, idle_power_w=idle_power_w,
        energy_j_per_request=dynamic_j + idle_power_w / 10.0, objective=0.0,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


BASE = a_prediction(50.0, 500.0)
RIGHTSIZED = a_prediction(50.0, 300.0)
WANTED = a_prediction(20.0, 500.0, accuracy_pct=85.2)


def a_plan(**changes: Any) -> PlanRecord:
    beaten = Alternative(
        configuration="7g:xxlarge", p95_ms=161.0, accuracy_pct=89.1, energy_j_per_request=52.4, objective=-1.0,
        meets_sla=False,
    )  # fmt: skip
    halves = (InstanceTarget(profile="3g", variant="large"), InstanceTarget(profile="3g", variant="large"))
    plan = PlanRecord(
        epoch=7, decision=3, scheme="clover", trigger="intensity", reason="intensity x PUE went from 187 to 223 g/kWh",
        application="albert", gpu_model="a100-40gb", lambda_=0.5, sla_p95_ms=SLA_MS, intensity_g_per_kwh=200.0, pue=1.5,
        deadline_s=30.0, admission_bound=100, prediction=WANTED, step_prediction=WANTED, base=BASE,
        base_rightsized=RIGHTSIZED, base_feasible=True, alternatives=(beaten,), evaluations=12, state="serving",
        configuration={"n1": (GpuTarget(index=0, mode="serving", instances=halves), GpuTarget(index=1, mode="parked"))},
        decided_at_ms=at(0.0), since_ms=at(0.0), controller="c1",
    )  # fmt: skip
    return msgspec.structs.replace(plan, **changes)


def an_intensity(seconds: float = 0.0, g_per_kwh: float = 200.0, **changes: Any) -> IntensityReading:
    made = IntensityReading(
        g_per_kwh=g_per_kwh, zone="US-CAL-CISO", from_ms=at(seconds), to_ms=at(seconds + 20.0), kind="average",
        factor="unknown", status="trace", source="trace:ciso-march", fallback_level=0, published_at_ms=at(seconds),
        pue=1.5, trace_index=4,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def a_forecast(seconds: float = 0.0, *values: float, basis: Any = "published", band: float = 0.0) -> IntensityForecast:
    """Return a forecast of intervals of 20 s from the next on, with a band of so large a part to both sides."""
    intervals = [
        ForecastInterval(
            from_ms=at(seconds + 20.0 * (step + 1)), g_per_kwh=value,
            low_g_per_kwh=value * (1.0 - band) if band else None, high_g_per_kwh=value * (1.0 + band) if band else None,
        )
        for step, value in enumerate(values)
    ]  # fmt: skip
    return IntensityForecast(
        basis=basis, source="neso", zone="GB", published_at_ms=at(seconds), step_ms=20_000.0,
        intervals=tuple(intervals), issued_at_ms=at(seconds) if basis != "trace" else None,
    )  # fmt: skip


def an_override(**changes: Any) -> Override:
    return msgspec.structs.replace(Override(by="alice", reason="measuring", at_ms=at(0.0)), **changes)


def a_ledger(seconds: float, energy_j: float, g_per_kwh: float = 300.0) -> LedgerReading:
    return LedgerReading(
        at_ms=at(seconds), energy_j=energy_j, footprint_g=energy_j / 3.6e6 * g_per_kwh, by_cause_j={"idle": energy_j}
    )


def an_instance(start: int, size: int, variant: str, profile: str = "", **changes: Any) -> InstanceTelemetry:
    made = InstanceTelemetry(
        profile=profile or f"{size}g", start=start, size=size, uuid=f"MIG-{start}-{variant}", variant=variant,
        phase="idle", served=0, busy_s=0.0,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def a_gpu(index: int, *instances: InstanceTelemetry, phase: Any = "serving", reason: str = "epoch 7", since_s: float = 0.0, now_s: float = 0.0) -> GpuTelemetry:  # fmt: skip  # noqa: E501
    return GpuTelemetry(
        index=index, uuid=f"GPU-{index}", phase=phase, reason=reason, since_ms=at(since_s), applied_epoch=7,
        instances=instances, energy=EnergyCounters(idle_j=(40.0 + 20.0 * (index % 9)) * max(0.0, now_s)),
    )  # fmt: skip


def a_node(name: str, *gpus: GpuTelemetry, seconds: float = 0.0, **changes: Any) -> NodeTelemetry:
    made = NodeTelemetry(
        node=name, boot_id="b1", booted_at_ms=at(-10.0), at_ms=at(seconds), interval_s=1.0, backend="sim",
        gpu_model="a100-40gb", application="albert", epoch=7, applied_epoch=7, gpus=gpus, begun={}, in_flight=2,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def a_record(seconds: float, latency_ms: float | None, outcome: ProducerOutcome = ProducerOutcome.OK, **changes: Any) -> RequestRecord:  # fmt: skip  # noqa: E501
    received = None if latency_ms is None else at(seconds)
    made = RequestRecord(
        id=f"{seconds}", due_ms=at(seconds) - (latency_ms or 0.0), received_ms=received, outcome=outcome,
        latency_ms=latency_ms, accuracy_pct=85.2 if outcome.answered else None, epoch=7,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def a_log(*records: RequestRecord) -> RequestLog:
    return RequestLog(producer="g1", sent=len(records), duplicates=0, records=records)


def an_event(seconds: float, kind: str, reason: str = "", **changes: Any) -> Event:
    return msgspec.structs.replace(Event(at_ms=at(seconds), kind=kind, source="controller", reason=reason), **changes)


def mixed_gpus(count: int, *, first: int = 0, seconds: float = 0.0) -> tuple[GpuTelemetry, ...]:
    """GPUs in all states there are, a while after their start."""
    kinds = [
        (an_instance(0, 8, "xxlarge", "7g", phase="busy"),),
        (an_instance(0, 4, "xlarge", "3g"), an_instance(4, 4, "large", "3g", phase="draining")),
        (an_instance(0, 4, "xlarge", "4g"), an_instance(4, 2, "large", "2g"), an_instance(6, 1, "base", "1g")),
        tuple(an_instance(start, 1, name, "1g") for start, name in enumerate(["base", "large", "xlarge", "xxlarge"])),
        (an_instance(0, 4, "base", "3g", phase="starting"), an_instance(4, 1, "xxlarge", "1g", phase="failed")),
    ]
    phases = ["serving", "serving", "serving", "serving", "changing", "parked", "off", "failed", "empty"]
    return tuple(
        a_gpu(
            first + index,
            *(_worked(kinds[index % 9], seconds) if index % 9 < len(kinds) else ()),
            now_s=seconds,
            phase=phases[index % 9],
            reason="worker of 3g:large died: killed" if phases[index % 9] == "failed" else "epoch 7",
        )
        for index in range(count)
    )


def _worked(instances: tuple[InstanceTelemetry, ...], seconds: float) -> list[InstanceTelemetry]:
    """Return instances that were busy for a part of the time, the larger the more."""
    return [msgspec.structs.replace(each, busy_s=(0.2 + 0.07 * each.size) * seconds) for each in instances]


def feed(view: DeploymentView, *messages: Any, seconds: float = 0.0) -> None:
    for message in messages:
        view.take(message, now_ms=at(seconds))


def a_running_view(*, gpus: int = 10, seconds: int = 60) -> DeploymentView:
    """Ten requests a second for some time, answered after 100 ms, on GPUs in all states."""
    view = DeploymentView()
    view.set_plan(a_plan())
    feed(view, a_ledger(0.0, 0.0), an_intensity(0.0, 180.0), an_event(0.0, "generator.started", "10 requests/s"))
    for second in range(1, seconds + 1):
        if second % 20 == 0:
            feed(view, an_intensity(second, 180.0 + 3 * second))
        records = [
            a_record(second - 0.95 + 0.1 * i, 100.0 + second % 7, variant=("large", "xxlarge")[i > 6], profile="3g",
                     service_ms=80.0 + i, energy_j=20.0 + i)
            for i in range(10)
        ]  # fmt: skip
        half = gpus // 2
        nodes = [
            a_node("n1", *mixed_gpus(half, seconds=second), seconds=second),
            a_node("n2", *mixed_gpus(gpus - half, seconds=second), seconds=second),
        ]
        feed(view, a_log(*records), a_ledger(second, 700.0 * second), *nodes, seconds=second)
    feed(view, a_forecast(seconds, 350.0, 330.0, 290.0, 240.0, 210.0, band=0.15), seconds=seconds)
    feed(
        view,
        an_event(seconds, "decision", "intensity x PUE went from 187 to 223 g/kWh", subject="9 x [2x3g:large]"),
        an_event(seconds, "gpu.failed", "worker of 3g:large died: killed", subject="n1/gpu7"),
        seconds=seconds,
    )
    return view
