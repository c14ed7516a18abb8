"""What tests share: running coroutines with a limit, waiting for conditions, and sample messages of the bus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from clover.bus.messages import (
    DispatchRule,
    EnergyCounters,
    Event,
    GpuTarget,
    GpuTelemetry,
    InstanceTarget,
    IntensityReading,
    LedgerCheckpoint,
    LedgerReading,
    NodeTelemetry,
    PlanRecord,
    Prediction,
    Reply,
    Request,
    Target,
)
from clover.bus.values import Completion, Delivery
from clover.core.outcome import Outcome
from clover.errors import BusUnavailableError

T = TypeVar("T")
FAR_MS = 4_000_000_000_000.0


def run(coroutine: Coroutine[Any, Any, T], *, limit_s: float = 30.0) -> T:
    """Run a test's coroutine; a hang is a failure after `limit_s`."""

    async def bounded() -> T:
        async with asyncio.timeout(limit_s):
            return await coroutine

    return asyncio.run(bounded())


async def persistently(call: Callable[[], Awaitable[T]], *, limit_s: float = 10.0) -> T:
    """Return what a call gives as soon as the server answers."""
    async with asyncio.timeout(limit_s):
        while True:
            try:
                return await call()
            except BusUnavailableError:
                await asyncio.sleep(0.01)


async def eventually(condition: Callable[[], Awaitable[Any]], *, limit_s: float = 10.0) -> None:
    """Return as soon as an awaited condition is true."""
    async with asyncio.timeout(limit_s):
        while not await condition():  # noqa: ASYNC110 - the other side is a real process
            await asyncio.sleep(0.01)


def a_request(request_id: str, /, **changes: Any) -> Request:
    request = Request(
        id=request_id,
        application="albert",
        due_ms=1_700_000_000_000.5,
        deadline_ms=FAR_MS,
        reply_to="generator",
        payload=b"\x00input\xff",
    )
    return msgspec.structs.replace(request, **changes)


def a_reply(request_id: str, /, **changes: Any) -> Reply:
    reply = Reply(id=request_id, outcome=Outcome.OK, node="n1", gpu=0, profile="7g", variant="base", payload=b"result")
    return msgspec.structs.replace(reply, **changes)


def done(delivery: Delivery, dead_reason: str = "", **changes: Any) -> Completion:
    return Completion(delivery=delivery, reply=a_reply(delivery.request.id, **changes), dead_reason=dead_reason)


def an_event(number: int = 0) -> Event:
    return Event(at_ms=float(number), kind="test", source="test", data={"number": number})


def telemetry(node: str = "n1") -> NodeTelemetry:
    gpu = GpuTelemetry(
        index=0, uuid="GPU-1", phase="serving", reason="", since_ms=1.0, applied_epoch=1, instances=(),
        energy=EnergyCounters(requests_j={"base": 1.5}, idle_j=2.0),
    )  # fmt: skip
    return NodeTelemetry(
        node=node, boot_id="b1", booted_at_ms=1.0, at_ms=2.0, interval_s=1.0, backend="sim", gpu_model="a100-40gb",
        application="albert", epoch=1, applied_epoch=1, gpus=(gpu,), begun={"base/7g": 3}, in_flight=0,
    )  # fmt: skip


def intensity(g_per_kwh: float = 250.0) -> IntensityReading:
    return IntensityReading(
        g_per_kwh=g_per_kwh, zone="US-CAL-CISO", from_ms=0.0, to_ms=1.0, kind="average", factor="lifecycle",
        status="trace", source="trace:test", fallback_level=0, published_at_ms=0.0, pue=1.5,
    )  # fmt: skip


def ledger(energy_j: float = 1.0) -> LedgerReading:
    return LedgerReading(at_ms=1.0, energy_j=energy_j, footprint_g=0.5, by_cause_j={"idle": energy_j})


def a_checkpoint() -> LedgerCheckpoint:
    return LedgerCheckpoint(
        ledger=ledger(), trace_started_ms=1.0, telemetry_cursor="1-0", counters={"n1/b1/0": {"idle": 1.0}},
        counters_at_ms={"n1/b1": 1.0},
    )  # fmt: skip


def a_target(node: str = "n1", **changes: Any) -> Target:
    gpus = (GpuTarget(index=0, mode="serving", instances=(InstanceTarget(profile="7g", variant="base"),)),)
    target = Target(epoch=0, node=node, application="albert", gpus=gpus, dispatch=DispatchRule(), reason="test")
    return msgspec.structs.replace(target, **changes)


def a_plan(**changes: Any) -> PlanRecord:
    prediction = Prediction(
        rate_rps=1.0, p95_ms=None, late_pct=0.0, accuracy_pct=80.0, dynamic_j=1.0, idle_power_w=50.0,
        energy_j_per_request=51.0, objective=0.0,
    )  # fmt: skip
    plan = PlanRecord(
        epoch=0, decision=1, scheme="clover", trigger="start", reason="test", application="albert",
        gpu_model="a100-40gb", lambda_=0.5, sla_p95_ms=100.0, intensity_g_per_kwh=250.0, pue=1.5, deadline_s=30.0,
        admission_bound=100, configuration={"n1": a_target().gpus}, prediction=prediction, step_prediction=prediction,
        base=prediction, base_rightsized=prediction, base_feasible=True, alternatives=(), evaluations=1,
        state="rolling", decided_at_ms=1.0, since_ms=1.0, controller="c1",
    )  # fmt: skip
    return msgspec.structs.replace(plan, **changes)
