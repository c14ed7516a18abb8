"""The summary of a run: when it begins and ends, and what it makes of events that are not what they should be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from support import a_plan

from clover.analysis.summary import RunSummary
from clover.bus.messages import Event, LedgerReading, PlanData


def _event(at_ms: float, kind: str, subject: str = "", **data: Any) -> Event:
    return Event(at_ms=at_ms, kind=kind, source="test", subject=subject, data=data)


def _ledger(at_ms: float) -> LedgerReading:
    return LedgerReading(at_ms=at_ms, energy_j=at_ms, footprint_g=at_ms, by_cause_j={"idle": at_ms})


def test_a_run_of_two_generators_lasts_from_the_first_start_to_the_last_end() -> None:
    summary = RunSummary(sla_p95_ms=100.0)
    for message in (
        _event(1000.0, "generator.started", "a"),
        _event(2000.0, "generator.started", "b"),
        _event(3000.0, "generator.finished", "a"),
        _ledger(4000.0),
    ):
        summary.take(message)
    assert summary.started
    assert not summary.complete
    summary.take(_event(5000.0, "generator.finished", "b"))
    assert not summary.complete  # the ledger is behind
    summary.take(_ledger(5500.0))
    assert summary.complete
    assert summary.result()["run_s"] == pytest.approx(4.0)


def test_a_generator_that_died_is_not_waited_for() -> None:
    summary = RunSummary(sla_p95_ms=100.0)
    summary.take(_event(0.0, "generator.started", "generator-1"))
    summary.take(_event(1000.0, "process.died", "generator"))
    summary.take(_ledger(2000.0))
    assert not summary.complete  # its successor is on the way
    summary.take(_event(2000.0, "generator.started", "generator-2"))
    summary.take(_event(3000.0, "generator.finished", "generator-2"))
    summary.take(_ledger(3000.0))
    assert summary.complete


@pytest.mark.parametrize("kind", ["decision", "plan.step", "plan.serving"])
@pytest.mark.parametrize(
    "data", [{}, {"decision": [1]}, {"prediction": 1, "base": {}, "base_rightsized": None}, {"trigger": None}]
)
def test_events_of_another_form_are_left_out(kind: str, data: dict[str, Any]) -> None:
    summary = RunSummary(sla_p95_ms=100.0)
    summary.take(_event(0.0, "generator.started", "a"))
    summary.take(_event(1.0, kind, **data))
    result = summary.result()
    assert (result["replans"], result["reconfigurations"]) == (0, 0)
    assert result["predicted"]["accuracy_pct"] is None


def test_a_plan_that_a_newer_writer_has_added_to_is_understood() -> None:
    plan = a_plan()
    data = PlanData(prediction=plan.prediction, base=plan.base, base_rightsized=plan.base_rightsized, decision=2)
    summary = RunSummary(sla_p95_ms=100.0)
    summary.take(_event(0.0, "plan.serving", **msgspec.to_builtins(data), news="of a later version"))
    assert summary.result()["baseline_late_pct"] == plan.base.late_pct


def test_what_candidates_cost_that_were_tried_on_live_traffic_is_added_up() -> None:
    summary = RunSummary(sla_p95_ms=100.0)
    assert summary.result()["tried_live"] is None
    figures = {"requests": 1000, "p95_ms": 90.0, "accuracy_pct": 80.0, "energy_j": 500.0, "seconds": 10.0}
    summary.take(_event(0.0, "live.measured", late=20, meets_sla=True, **figures))
    summary.take(_event(1.0, "live.measured", late=200, meets_sla=False, **figures | {"p95_ms": None}))
    assert summary.result()["tried_live"] == {
        "candidates": 2, "broke_sla": 1, "requests": 2000, "late": 220, "energy_j": 1000.0, "seconds": 20.0,
    }  # fmt: skip
