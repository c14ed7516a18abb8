"""What was saved so far, from the summary of the run; also for one who began to watch in the middle of it."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from clover.analysis.summary import RunSummary
from clover.analysis.view_state import Saved
from clover.bus.messages import (
    Event,
    IntensityReading,
    LedgerReading,
    Message,
    PlanData,
    PlanRecord,
    RequestLog,
    data_of,
)

#: Counting is worth showing after this long.
_LEAST_S = 3.0
#: The summary of a run of so many seconds is made anew once a second, of a longer one in proportion more rarely.
_CHEAP_S = 1000.0
#: Requests that end while no start was seen are held for so many readings of the ledger: the start may be behind them,
#: because each feed is read for itself.
_PATIENCE_READINGS = 2


class Savings:
    """Counts from the generator's start, or from now on if that was missed.

    Args:
        summary: Of somebody who watches the whole run and shares it; None to keep one here.
    """

    def __init__(self, summary: RunSummary | None) -> None:
        self._shared = summary is not None
        self._summary = summary or _new_summary()
        self._plan: PlanRecord | None = None
        self._intensity: IntensityReading | None = None
        self._ledger: LedgerReading | None = None
        self._held: deque[RequestLog] = deque(maxlen=1000)
        self._readings_held = 0
        self._plans_seen = False
        self._since_ms: float | None = None
        self._joined = False
        self._finished = False
        self._result: dict[str, Any] | None = None
        self._result_ms = float("-inf")

    def set_plan(self, plan: PlanRecord | None) -> None:
        """Take in the plan in force, whose announcement may have been missed."""
        self._plan = plan
        if self._summary.started and not self._plans_seen:
            self._announce_plan()

    def take(self, message: Message) -> None:
        """Take in one message of any feed."""
        match message:
            case Event(kind="generator.started"):
                self._start(message)
            case RequestLog() if not (self._shared or self._summary.started):
                self._held.append(message)
            case LedgerReading():
                self._ledger = message
                self._summary.take(message)
                self._join_if_missed(message)
            case IntensityReading():
                self._intensity = message
                self._summary.take(message)
            case _:
                self._note(message)
                self._summary.take(message)

    def figures(self, now_ms: float) -> Saved | None:
        """Return what was saved; None while nothing is counted."""
        if self._since_ms is None:
            return None
        every_s = max(1.0, (self._result or {}).get("run_s", 0.0) / _CHEAP_S)
        if now_ms - self._result_ms >= every_s * 1e3:
            self._result, self._result_ms = self._summary.result(), now_ms
        result = self._result or {}
        counted = result.get("run_s", 0.0) >= _LEAST_S
        grams = result.get("footprint_g", 0.0)
        base_pct = result["saved_pct"] if counted else None
        rightsized_pct = result["saved_pct_rightsized"] if counted else None
        return Saved(
            since_ms=self._since_ms,
            joined=self._joined,
            footprint_g=grams,
            base_g=_grams_saved(grams, base_pct),
            base_pct=base_pct,
            rightsized_g=_grams_saved(grams, rightsized_pct),
            rightsized_pct=rightsized_pct,
            base_feasible=result.get("baseline_feasible"),
        )

    # --- beginning

    def _note(self, message: Message) -> None:
        if isinstance(message, Event):
            self._plans_seen |= message.kind in {"plan.step", "plan.serving"} and data_of(message, PlanData) is not None
            self._finished |= message.kind == "generator.finished"

    def _start(self, event: Event) -> None:
        if self._finished and not self._shared:
            # A second load on the same deployment: count it for itself.
            self._summary, self._plans_seen, self._finished = _new_summary(), False, False
            for last in (self._intensity, self._ledger):
                if last is not None:
                    self._summary.take(last)
        if not self._summary.started:
            self._begin(event, joined=False)
        else:
            # Another one beside it: the run lasts until both have finished.
            self._summary.take(event)
        for log in self._held:
            self._summary.take(log)
        self._held.clear()

    def _join_if_missed(self, reading: LedgerReading) -> None:
        if not self._held or self._summary.started:
            return
        self._readings_held += 1
        if self._readings_held >= _PATIENCE_READINGS:
            # What ended before this reading belongs to energy that is not counted either.
            self._held.clear()
            self._begin(Event(at_ms=reading.at_ms, kind="generator.started", source="dashboard"), joined=True)

    def _begin(self, event: Event, *, joined: bool) -> None:
        self._summary.take(event)
        self._since_ms, self._joined = event.at_ms, joined
        if not self._plans_seen:
            self._announce_plan()

    def _announce_plan(self) -> None:
        plan, since_ms = self._plan, self._since_ms
        if plan is None or since_ms is None or self._shared:
            return
        self._plans_seen = True
        now = plan.step_prediction if plan.state == "rolling" else plan.prediction
        data = PlanData(prediction=now, base=plan.base, base_rightsized=plan.base_rightsized)
        self._summary.take(
            Event(
                at_ms=since_ms,
                kind="plan.serving",
                source="dashboard",
                epoch=plan.epoch,
                data=msgspec.to_builtins(data),
            )
        )


def _new_summary() -> RunSummary:
    # Its SLA is only repeated in the result, which is not shown here.
    return RunSummary(sla_p95_ms=0.0)


def _grams_saved(used_g: float, saved_pct: float | None) -> float | None:
    """Return how many grams a saving of so many percent is: baseline - used, baseline = used / (1 - saved)."""
    if saved_pct is None or saved_pct >= 100.0:
        return None
    return used_g / (1.0 - saved_pct / 100.0) - used_g
