"""From entries of the bus to rows of tables. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import orjson

from clover.bus.messages import (
    DecisionData,
    EnergyCounters,
    Event,
    GpuTelemetry,
    IntensityReading,
    LedgerReading,
    LogLine,
    Message,
    NodeTelemetry,
    PlanData,
    Prediction,
    RequestLog,
    data_of,
)

Row = dict[str, Any]
_CAUSES = ("idle", "unallocated", "parked", "transition")


def rows_of(entry_id: str, message: Message) -> Iterator[tuple[str, Row]]:
    """Return (table, row) of everything that one entry says; nothing for a kind that no table holds."""
    make = cast("Callable[[Any], Iterator[tuple[str, Row]]] | None", _MAKERS.get(type(message)))
    if make is None:
        return
    parts: dict[str, int] = {}
    for table, row in make(message):
        part = parts.get(table, 0)
        parts[table] = part + 1
        yield table, {"stream_id": entry_id, "part": part, **row}


def _requests(log: RequestLog) -> Iterator[tuple[str, Row]]:
    for record in log.records:
        yield (
            "requests",
            {
                "producer": log.producer,
                "id": record.id,
                "due_ms": record.due_ms,
                "received_ms": record.received_ms,
                "outcome": record.outcome.value,
                "latency_ms": record.latency_ms,
                "queue_ms": record.queue_ms,
                "service_ms": record.service_ms,
                "node": record.node,
                "gpu": record.gpu,
                "profile": record.profile,
                "variant": record.variant,
                "accuracy_pct": record.accuracy_pct,
                "epoch": record.epoch,
                "energy_j": record.energy_j,
                "reason": record.reason,
                "lag_ms": record.lag_ms,
                "sent_ms": record.sent_ms,
                "priority": record.priority,
                "min_accuracy_pct": record.min_accuracy,
                "producer_sent": log.sent,
                "producer_duplicates": log.duplicates,
            },
        )


def _log_line(line: LogLine) -> Iterator[tuple[str, Row]]:
    yield (
        "events",
        {
            "at_ms": line.at_ms,
            "kind": f"log.{line.level}",
            "source": line.source,
            "subject": "",
            "reason": line.text,
            "epoch": 0,
            "data": "{}",
        },
    )


def _event(event: Event) -> Iterator[tuple[str, Row]]:
    yield (
        "events",
        {
            "at_ms": event.at_ms,
            "kind": event.kind,
            "source": event.source,
            "subject": event.subject,
            "reason": event.reason,
            "epoch": event.epoch,
            "data": orjson.dumps(event.data).decode(),
        },
    )
    if event.kind == "decision" and (decided := data_of(event, DecisionData)):
        yield "decisions", _decision(event, decided)
    elif event.kind in {"plan.step", "plan.serving"} and (planned := data_of(event, PlanData)):
        yield "plans", _plan(event, planned)


def _decision(event: Event, data: DecisionData) -> Row:
    return {
        "at_ms": event.at_ms,
        "source": event.source,
        "epoch": event.epoch,
        "reason": event.reason,
        "decision": data.decision,
        "trigger": data.trigger,
        "scheme": data.scheme,
        "intensity_g_per_kwh": data.intensity_g_per_kwh,
        "rate_rps": data.rate_rps,
        "evaluations": data.evaluations,
        "meets_sla": data.meets_sla,
        **_prediction("predicted", data.prediction),
        "alternatives": [msgspec.to_builtins(alternative) for alternative in data.alternatives],
    }


def _plan(event: Event, data: PlanData) -> Row:
    return {
        "at_ms": event.at_ms,
        "state": event.kind.removeprefix("plan."),
        "epoch": event.epoch,
        "decision": data.decision,
        "reason": event.reason,
        "changed": list(data.changed),
        "last": data.last,
        **_prediction("predicted", data.prediction),
        **_prediction("base", data.base),
        **_prediction("rightsized", data.base_rightsized),
    }


def _prediction(prefix: str, prediction: Prediction | None) -> Row:
    return {
        f"{prefix}_{name}": None if prediction is None else getattr(prediction, name)
        for name in Prediction.__struct_fields__
    }


def _intensity(reading: IntensityReading) -> Iterator[tuple[str, Row]]:
    yield (
        "intensity",
        {
            "at_ms": reading.published_at_ms,
            "g_per_kwh": reading.g_per_kwh,
            "pue": reading.pue,
            "zone": reading.zone,
            "from_ms": reading.from_ms,
            "to_ms": reading.to_ms,
            "kind": reading.kind,
            "factor": reading.factor,
            "status": reading.status,
            "source": reading.source,
            "fallback_level": reading.fallback_level,
            "stale": reading.stale,
            "trace_index": reading.trace_index,
            "note": reading.note,
        },
    )


def _ledger(reading: LedgerReading) -> Iterator[tuple[str, Row]]:
    parts = {f"{cause}_j": reading.by_cause_j.get(cause, 0.0) for cause in ("requests", *_CAUSES)}
    yield (
        "ledger",
        {
            "at_ms": reading.at_ms,
            "energy_j": reading.energy_j,
            **parts,
            "footprint_g": reading.footprint_g,
            "host_j": reading.host_j,
            "host_g": reading.host_g,
            "unresolved_j": reading.unresolved_j,
            "energy_source": reading.energy_source,
            "host_source": reading.host_source,
            "began_ms": reading.began_ms,
            "gpu_s": reading.gpu_s,
            "answered": reading.answered,
        },
    )


def _telemetry(node: NodeTelemetry) -> Iterator[tuple[str, Row]]:
    yield "health", _health(node)
    for gpu in node.gpus:
        yield "power", _power(node, gpu)
        for instance in gpu.instances:
            yield (
                "instances",
                {
                    "at_ms": node.at_ms,
                    "node": node.node,
                    "boot_id": node.boot_id,
                    "gpu": gpu.index,
                    "profile": instance.profile,
                    "start_slice": instance.start,
                    "size_slices": instance.size,
                    "uuid": instance.uuid,
                    "variant": instance.variant,
                    "phase": instance.phase,
                    "served": instance.served,
                    "busy_s": instance.busy_s,
                    "fallback": instance.fallback,
                },
            )


def _power(node: NodeTelemetry, gpu: GpuTelemetry) -> Row:
    energy = gpu.energy
    parts = {"requests_j": sum(energy.requests_j.values())}
    parts |= {f"{cause}_j": getattr(energy, f"{cause}_j") for cause in _CAUSES}
    return {
        "at_ms": node.at_ms if gpu.energy_at_ms is None else gpu.energy_at_ms,
        "node": node.node,
        "boot_id": node.boot_id,
        "gpu": gpu.index,
        "gpu_uuid": gpu.uuid,
        "phase": gpu.phase,
        "applied_epoch": gpu.applied_epoch,
        "energy_j": sum(parts.values()),
        **parts,
        "unresolved_j": energy.unresolved_j,
        "answered": sum(energy.answered.values()),
        "by_variant": _shares(energy),
        "energy_source": node.energy_source,
    }


def _shares(energy: EnergyCounters) -> list[Row]:
    return [
        {"variant": name, "energy_j": energy.requests_j.get(name, 0.0), "answered": energy.answered.get(name, 0)}
        for name in sorted({*energy.requests_j, *energy.answered})
    ]


def _health(node: NodeTelemetry) -> Row:
    phases = [gpu.phase for gpu in node.gpus]
    return {
        "at_ms": node.at_ms,
        "node": node.node,
        "boot_id": node.boot_id,
        "booted_at_ms": node.booted_at_ms,
        "interval_s": node.interval_s,
        "backend": node.backend,
        "gpu_model": node.gpu_model,
        "application": node.application,
        "epoch": node.epoch,
        "applied_epoch": node.applied_epoch,
        "gpus": len(phases),
        "gpus_serving": phases.count("serving"),
        "gpus_failed": phases.count("failed"),
        "in_flight": node.in_flight,
        "host_j": node.host_j,
        "host_source": node.host_source,
        "mig_changes": node.mig_changes,
        "change_s": node.change_s,
        "suppressed": node.suppressed,
        "claimed": node.claimed,
        "handed_back": node.handed_back,
    }


_MAKERS: dict[type[Message], Any] = {
    RequestLog: _requests,
    LogLine: _log_line,
    Event: _event,
    IntensityReading: _intensity,
    LedgerReading: _ledger,
    NodeTelemetry: _telemetry,
}
