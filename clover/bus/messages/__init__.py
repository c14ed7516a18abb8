"""Every message that crosses the bus, as frozen structs with units in their names.

Times on the wire are milliseconds since the Unix epoch (`*_at_ms`, `due_ms`, `deadline_ms`) as floats; durations
carry their unit (`_ms`, `_s`). Energy is in joules and cumulative since the boot of the node agent named beside it,
unless a name says otherwise. Unknown fields are ignored on decoding so that a newer writer does not break an older
reader; a changed meaning is a new envelope version (`clover.bus.envelope`).
"""

from __future__ import annotations

from clover.bus.messages.base import Message
from clover.bus.messages.carbon import (
    ForecastInterval,
    IntensityForecast,
    IntensityReading,
    LedgerCheckpoint,
    LedgerParts,
    LedgerReading,
    Part,
)
from clover.bus.messages.control import (
    Alternative,
    Calibration,
    DispatchRule,
    GpuTarget,
    InstanceTarget,
    Override,
    Pin,
    PlanRecord,
    Prediction,
    Share,
    Target,
    Tier,
)
from clover.bus.messages.events import (
    EVENT_KINDS,
    CalibrationData,
    DecisionData,
    Event,
    GuardData,
    LiveData,
    LogLine,
    PlanData,
    data_of,
)
from clover.bus.messages.requests import (
    Reply,
    Request,
    RequestLog,
    RequestRecord,
)
from clover.bus.messages.telemetry import (
    EnergyCounters,
    GpuPhase,
    GpuTelemetry,
    InstancePhase,
    InstanceTelemetry,
    NodeTelemetry,
)

__all__ = [
    "EVENT_KINDS",
    "MESSAGE_TYPES",
    "Alternative",
    "Calibration",
    "CalibrationData",
    "DecisionData",
    "DispatchRule",
    "EnergyCounters",
    "Event",
    "ForecastInterval",
    "GpuPhase",
    "GpuTarget",
    "GpuTelemetry",
    "GuardData",
    "InstancePhase",
    "InstanceTarget",
    "InstanceTelemetry",
    "IntensityForecast",
    "IntensityReading",
    "LedgerCheckpoint",
    "LedgerParts",
    "LedgerReading",
    "LiveData",
    "LogLine",
    "Message",
    "NodeTelemetry",
    "Override",
    "Part",
    "Pin",
    "PlanData",
    "PlanRecord",
    "Prediction",
    "Reply",
    "Request",
    "RequestLog",
    "RequestRecord",
    "Share",
    "Target",
    "Tier",
    "data_of",
]

#: Wire name (`t` field) of every message that is written as a stream entry or a value.
MESSAGE_TYPES: dict[str, type[Message]] = {
    "request": Request,
    "reply": Reply,
    "requests": RequestLog,
    "log": LogLine,
    "telemetry": NodeTelemetry,
    "intensity": IntensityReading,
    "forecast": IntensityForecast,
    "ledger": LedgerReading,
    "checkpoint": LedgerCheckpoint,
    "target": Target,
    "plan": PlanRecord,
    "override": Override,
    "event": Event,
}
