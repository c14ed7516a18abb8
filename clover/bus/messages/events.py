"""What happened, for people and for analysis."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from clover.bus.messages.base import Message
from clover.bus.messages.control import Alternative, Prediction

_DataT = TypeVar("_DataT")

#: Kinds of events and what they say.
EVENT_KINDS: dict[str, str] = {
    "decision": "the controller has chosen a configuration: trigger, reason, prediction, and what it beat",
    "plan.step": "targets were sent: which GPUs change, and what the fleet is expected to do meanwhile",
    "plan.serving": "a plan is in force on every GPU",
    "plan.aborted": "a roll ended before its time: a GPU was fenced off, or the guard was raised",
    "plan.overdue": "planning takes longer than may be waited for: the present plan stays until it is done",
    "dispatch.corrected": "shares were corrected to what nodes really served; no layout changes",
    "controller.took_over": "another controller acts, on the plan that it found",
    "guard.raised": "too many requests are late: the SLA guard takes its next measure",
    "guard.lowered": "requests have been in time for long enough: the SLA guard takes a measure back",
    "load.known": "the load is known in advance from now on (`--load-profile`), and when its time began",
    "calibration.updated": "measured service times or energy left the table: the table in use follows",
    "live.measured": "a candidate was measured on live traffic (`--evaluate live`), and what that cost",
    "override.changed": "somebody paused, resumed, pinned or unpinned; or that ran out",
    "override.refused": "what somebody asked for cannot be, and why; it is left out",
    "gpu.fenced": "a GPU does not do what it shall: plans are made without it",
    "gpu.rolled_back": "a GPU that failed to change is to be again what it was before",
    "gpu.returned": "a GPU that was fenced off is healthy again and part of the fleet",
    "node.joined": "a node was heard for the first time",
    "node.refused": "a node cannot be planned for: it has another application, board or kind of backend",
    "node.left": "a node was asked to stop and says so: plans are made without it at once",
    "node.lost": "a node has been silent for too long",
    "node.restarted": "a node came back as a new process",
    "node.taken": "a node was taken by hand: the controller leaves it alone from now on",
    "node.released": "a node that was taken by hand is the controller's again",
    "node.by_hand": "somebody has sent a node a target by hand",
    "node.drain_timeout": "a node that was stopped has given up waiting for its last requests",
    "target.refused": "a node cannot do what a target asks for, and why",
    "gpu.serving": "a GPU has reached its target",
    "gpu.parked": "a GPU has no instances, as its target says",
    "gpu.off": "a GPU is switched off, as its target says",
    "gpu.failed": "a change of a GPU failed; it is tried again",
    "worker.died": "a worker ended by itself; it is started again; `stderr` holds its last lines",
    "worker.out_of_memory": "a request did not fit into its instance's memory and has failed; the worker goes on",
    "generator.started": "requests begin to be due",
    "generator.finished": "the last request of a generator has ended",
    "carbon.fallback": "the figure for the grid is not the live one any more, or of another level; and why",
    "carbon.stale": "no live figure has come for longer than the limit: plans stay as they are",
    "carbon.recovered": "the figure for the grid is live again",
    "process.died": "the supervisor starts a process again",
    "archive.failed": "the run is not archived any more, and why; the service goes on",
    "server.restarted": "the supervisor has started the embedded server again",
}


class LogLine(Message, frozen=True):
    """A log line of an agent, from warning up."""

    at_ms: float
    level: Literal["warning", "error", "critical"]
    source: str
    text: str


class Event(Message, frozen=True):
    """Something that happened, for people and for analysis; kinds are listed in docs/wire.md.

    Attributes:
        at_ms: When.
        kind: Dotted name such as `decision`, `plan.step`, `plan.serving`, `gpu.serving`, `worker.died`,
            `generator.started`.
        source: Agent that wrote it, such as `controller` or `node:n1`.
        subject: What it is about, such as `n1/gpu3`.
        reason: One line for people.
        epoch: Plan epoch that it belongs to, 0 if none.
        data: Figures, with units in their names.
    """

    at_ms: float
    kind: str
    source: str
    subject: str = ""
    reason: str = ""
    epoch: int = 0
    data: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class DecisionData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of an event of kind `decision`.

    Attributes:
        decision: Its number.
        scheme, trigger: What decided, and because of what.
        intensity_g_per_kwh, rate_rps: What it was decided for.
        evaluations: Candidates that were evaluated.
        meets_sla: Whether the chosen one keeps the promise.
        prediction: Of the chosen one.
        alternatives: What it beat, best first.
        guard: Level of the SLA guard that it was made under.
    """

    decision: int
    trigger: str
    scheme: str = ""
    intensity_g_per_kwh: float | None = None
    rate_rps: float | None = None
    evaluations: int = 0
    meets_sla: bool = True
    prediction: Prediction | None = None
    alternatives: tuple[Alternative, ...] = ()
    guard: str = "none"


class GuardData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of the events `guard.raised` and `guard.lowered`; None where nothing was answered.

    Attributes:
        level: In force from now on: `none`, `wake`, `dispatch`, `plan`, `shed`.
        late_pct, low_pct, high_pct: P(late) in the window and its one-sided 99 % bounds.
        answered: Requests in the window.
    """

    level: str
    late_pct: float | None = None
    low_pct: float | None = None
    high_pct: float | None = None
    answered: int = 0


class LiveData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of the event `live.measured`: what live traffic said of a candidate, which is also what it cost.

    Attributes:
        requests, late: That were due in the window, and that were not answered within the SLA.
        p95_ms: Of all of them; None if that many were never answered.
        accuracy_pct: Mean over the answered ones.
        energy_j: Of all GPUs in the window.
        seconds: Its length.
        meets_sla: Whether at most 5 % were late.
    """

    requests: int
    late: int
    p95_ms: float | None
    accuracy_pct: float
    energy_j: float
    seconds: float
    meets_sla: bool


class CalibrationData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of the event `calibration.updated`: measured / given table, by `variant/profile` and by variant."""

    service: dict[str, float]
    energy: dict[str, float]


class PlanData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of the events `plan.step` (targets were sent) and `plan.serving` (they are in force everywhere).

    Attributes:
        prediction: Of the fleet under the newest targets.
        base, base_rightsized: Of the two baselines at the same load.
        decision: That they carry out; 0 if not known.
        changed: GPUs that this step moves.
        last: Whether the roll ends with this step.
        done, total: GPUs that have changed when this step is through, and that the roll changes in all.
        late_pct: Predicted P(late) while this step's GPUs change; None if nothing that serves stops.
    """

    prediction: Prediction
    base: Prediction
    base_rightsized: Prediction
    decision: int = 0
    changed: tuple[str, ...] = ()
    last: bool = True
    done: int = 0
    total: int = 0
    late_pct: float | None = None


def data_of(event: Event, kind: type[_DataT]) -> _DataT | None:
    """Read an event's data; None if it is not of that form: an event is for showing, whoever wrote it."""
    try:
        return msgspec.convert(event.data, kind)
    except msgspec.ValidationError:
        return None
