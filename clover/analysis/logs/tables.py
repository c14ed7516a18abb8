"""The tables of a run: names, columns with units, and what they mean; one version for all of them.

A row's origin is `stream_id` (the entry on the bus) and `part` (its number within that entry and table); the pair is
unique in a table. Times are milliseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Raised when a column changes its meaning or goes; a new column alone does not raise it.
TABLES_VERSION = 1

Kind = Literal["text", "integer", "real", "flag", "texts", "shares", "alternatives"]
"""`shares` and `alternatives` are lists of records, see `NESTED`."""

#: Fields of the nested kinds.
NESTED: dict[str, dict[str, Kind]] = {
    "shares": {"variant": "text", "energy_j": "real", "answered": "integer"},
    "alternatives": {
        "configuration": "text",
        "p95_ms": "real",
        "accuracy_pct": "real",
        "energy_j_per_request": "real",
        "objective": "real",
        "meets_sla": "flag",
    },
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    name: str
    kind: Kind
    what: str


@dataclass(frozen=True, slots=True)
class Table:
    """One table; `time` is the column by which it is cut."""

    name: str
    what: str
    time: str
    columns: tuple[Column, ...]


_ORIGIN = (
    Column("stream_id", "text", "entry on the bus that the row is from"),
    Column("part", "integer", "number of the row within its entry"),
)
_PREDICTION = {
    "rate_rps": "arrival rate it was made for",
    "p95_ms": "due time to receipt; empty if the load cannot be carried",
    "late_pct": "requests past the SLA",
    "accuracy_pct": "mean over requests",
    "dynamic_j": "dynamic energy per request",
    "idle_power_w": "idle, unallocated and parked power of the fleet",
    "energy_j_per_request": "dynamic_j + idle_power_w / rate",
    "objective": "value of the objective at the intensity of the decision",
}


def _predicted(prefix: str) -> tuple[Column, ...]:
    return tuple(Column(f"{prefix}_{name}", "real", what) for name, what in _PREDICTION.items())


def _table(name: str, what: str, time: str, *columns: tuple[str, Kind, str] | Column) -> Table:
    own = [column if isinstance(column, Column) else Column(*column) for column in columns]
    return Table(name, what, time, (*_ORIGIN, *own))


_AT = Column("at_ms", "real", "when")
_NODE = Column("node", "text", "node")
_BOOT = Column("boot_id", "text", "start of the node's agent; its counters restart with it")
_GPU = Column("gpu", "integer", "index on the node")
_REASON = Column("reason", "text", "one line for people")
_HOST_SOURCE = Column("host_source", "text", "meter of host_j")


def _joules(whole: str) -> tuple[Column, ...]:
    """Return the columns of GPU energy by cause, whose sum is `energy_j`."""
    causes = {
        "requests": "of requests",
        "idle": "of instances without work",
        "unallocated": "of slices that nobody occupies",
        "parked": "while parked",
        "transition": "while being changed",
    }
    parts = (Column(f"{cause}_j", "real", f"part of energy_j: {what}") for cause, what in causes.items())
    return (Column("energy_j", "real", whole), *parts)


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        _table(
            "requests",
            "one row per request that has ended for its producer",
            "due_ms",
            ("producer", "text", "generator or client that asked"),
            ("id", "text", "UUIDv7 of the request"),
            ("due_ms", "real", "when it was to be sent; latency runs from here"),
            ("received_ms", "real", "when the reply came; empty if none did"),
            ("outcome", "text", "ok, late, expired, overloaded, failed or lost"),
            ("latency_ms", "real", "due time to receipt; empty if it was not answered"),
            ("queue_ms", "real", "due time to the start of work"),
            ("service_ms", "real", "start to end of work"),
            ("node", "text", "where it ran; empty if it never ran"),
            ("gpu", "integer", "index on the node, -1 if it never ran"),
            ("profile", "text", "size of the instance, such as 3g"),
            ("variant", "text", "which model answered"),
            ("accuracy_pct", "real", "published accuracy of that variant"),
            ("epoch", "integer", "epoch of the target in force when work began"),
            ("energy_j", "real", "dynamic energy, provisional: never to be summed with the ledger"),
            ("reason", "text", "why there is no result"),
            ("lag_ms", "real", "how late the producer itself came to it"),
            ("sent_ms", "real", "when it was first handed to the bus; empty if it never was"),
            ("priority", "text", "normal or high"),
            ("min_accuracy_pct", "real", "least accuracy that it asked for; empty if any"),
            ("producer_sent", "integer", "requests that its producer had made due so far"),
            ("producer_duplicates", "integer", "second replies that its producer had seen so far"),
        ),
        _table(
            "decisions",
            "one row per decision of the controller",
            "at_ms",
            _AT,
            ("source", "text", "who decided"),
            ("epoch", "integer", "plan epoch at that time"),
            _REASON,
            ("decision", "integer", "its number"),
            ("trigger", "text", "start, intensity, load or fleet"),
            ("scheme", "text", "planning scheme"),
            ("intensity_g_per_kwh", "real", "it was decided for"),
            ("rate_rps", "real", "it was decided for"),
            ("evaluations", "integer", "candidates that were evaluated"),
            ("meets_sla", "flag", "whether the chosen one keeps the promise (modelled)"),
            *_predicted("predicted"),
            ("alternatives", "alternatives", "what it beat, best first"),
        ),
        _table(
            "plans",
            "one row per step of a roll (targets were sent) and per plan that came into force",
            "at_ms",
            _AT,
            ("state", "text", "step or serving"),
            ("epoch", "integer", "of the targets"),
            ("decision", "integer", "that they carry out; 0 if not known"),
            _REASON,
            ("changed", "texts", "GPUs that this step moves"),
            ("last", "flag", "whether the roll ends with this step"),
            *_predicted("predicted"),
            *_predicted("base"),
            *_predicted("rightsized"),
        ),
        _table(
            "intensity",
            "one row per figure for the grid",
            "at_ms",
            ("at_ms", "real", "when it was published, and came into force"),
            ("g_per_kwh", "real", "gCO2e per kWh"),
            ("pue", "real", "power usage effectiveness applied to all energy"),
            ("zone", "text", "grid zone"),
            ("from_ms", "real", "begin of the interval for which it holds"),
            ("to_ms", "real", "end of that interval"),
            ("kind", "text", "average or marginal"),
            ("factor", "text", "direct, lifecycle or unknown"),
            ("status", "text", "measured, estimated, forecast, trace or assumed"),
            ("source", "text", "where it came from"),
            ("fallback_level", "integer", "0 live, 1 cached, 2 forecast, 3 same hour yesterday, 4 fixed"),
            ("stale", "flag", "no live figure for longer than the limit"),
            ("trace_index", "integer", "row of the trace"),
            ("note", "text", "why it is not a plain live figure"),
        ),
        _table(
            "ledger",
            "one row per reading of the ledger: cumulative joules and grams of the whole deployment",
            "at_ms",
            ("at_ms", "real", "newest telemetry taken in"),
            *_joules("GPU energy, all causes"),
            ("footprint_g", "real", "gCO2e of energy_j, PUE included"),
            ("host_j", "real", "host energy, apart"),
            ("host_g", "real", "gCO2e of host_j"),
            ("unresolved_j", "real", "estimated energy while no telemetry came, apart"),
            ("energy_source", "text", "meters of energy_j"),
            _HOST_SOURCE,
            ("began_ms", "real", "when its energy began to count"),
            ("gpu_s", "real", "seconds of GPUs that it covers"),
            ("answered", "integer", "requests answered in that time, as nodes count"),
        ),
        _table(
            "power",
            "one row per GPU and telemetry interval: cumulative joules since the agent's boot",
            "at_ms",
            ("at_ms", "real", "until when the joules count"),
            _NODE,
            _BOOT,
            _GPU,
            ("gpu_uuid", "text", "its UUID"),
            ("phase", "text", "empty, changing, serving, parked, off or failed"),
            ("applied_epoch", "integer", "target it has reached"),
            *_joules("all parts together, since the agent's boot"),
            ("unresolved_j", "real", "without a cause, not one of the parts"),
            ("answered", "integer", "requests answered"),
            ("by_variant", "shares", "energy of requests and answers by variant"),
            ("energy_source", "text", "meter"),
        ),
        _table(
            "instances",
            "one row per instance and telemetry interval",
            "at_ms",
            _AT,
            _NODE,
            _BOOT,
            _GPU,
            ("profile", "text", "size, such as 3g"),
            ("start_slice", "integer", "first memory slice"),
            ("size_slices", "integer", "memory slices"),
            ("uuid", "text", "of the MIG device"),
            ("variant", "text", "what it serves"),
            ("phase", "text", "starting, idle, busy, draining or failed"),
            ("served", "integer", "since its worker started"),
            ("busy_s", "real", "since its worker started"),
            ("fallback", "text", "why it computes on the CPU though a MIG device was meant"),
        ),
        _table(
            "health",
            "one row per node and telemetry interval",
            "at_ms",
            _AT,
            _NODE,
            _BOOT,
            ("booted_at_ms", "real", "when its counters began"),
            ("interval_s", "real", "telemetry interval"),
            ("backend", "text", "sim, cpu or nvml"),
            ("gpu_model", "text", "board"),
            ("application", "text", "what it serves"),
            ("epoch", "integer", "newest target received"),
            ("applied_epoch", "integer", "newest target reached by every GPU"),
            ("gpus", "integer", "GPUs"),
            ("gpus_serving", "integer", "of them in phase serving"),
            ("gpus_failed", "integer", "of them in phase failed"),
            ("in_flight", "integer", "requests in work"),
            ("host_j", "real", "host energy since boot"),
            _HOST_SOURCE,
            ("mig_changes", "integer", "GPU instances created plus destroyed since boot"),
            ("change_s", "real", "seconds of GPUs spent changing since boot"),
            ("suppressed", "integer", "finished after somebody else had answered"),
            ("claimed", "integer", "taken over from silent consumers"),
            ("handed_back", "integer", "given up without having been begun"),
        ),
        _table(
            "events",
            "one row per event and per log line from warning up (kind log.warning, log.error, log.critical)",
            "at_ms",
            _AT,
            ("kind", "text", "dotted name, listed in docs/wire.md"),
            ("source", "text", "who says it"),
            ("subject", "text", "what it is about"),
            _REASON,
            ("epoch", "integer", "plan epoch, 0 if none"),
            ("data", "text", "figures as JSON"),
        ),
    )
}
