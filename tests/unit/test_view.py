"""The fold behind the dashboard: what it says of hand-made messages, from the start, in mid-run, and of nothing."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from view_messages import (
    BASE,
    RIGHTSIZED,
    SLA_MS,
    a_forecast,
    a_gpu,
    a_ledger,
    a_log,
    a_node,
    a_plan,
    a_record,
    a_running_view,
    an_event,
    an_instance,
    an_intensity,
    an_override,
    at,
    feed,
)

from clover.analysis.summary import RunSummary
from clover.analysis.view import DeploymentView
from clover.analysis.view_state import OverrideNow
from clover.bus.messages import Event, GpuTarget, LogLine, Pin
from clover.bus.values import QueueStatus
from clover.core.outcome import ProducerOutcome


def steady(view: DeploymentView, first: int, last: int, *, joules: float = 700.0) -> None:
    """Ten answers a second and so many joules a second."""
    for second in range(first, last + 1):
        records = [a_record(second - 0.95 + 0.1 * i, 100.0) for i in range(10)]
        feed(view, a_log(*records), a_ledger(second, joules * second), seconds=second)


def test_nothing_has_come_yet() -> None:
    snapshot = DeploymentView(sla_p95_ms=SLA_MS).snapshot(at(0.0))

    assert snapshot.data_age_s is None
    assert snapshot.state == "waiting"
    assert snapshot.intensity is None
    assert snapshot.saved is None
    assert snapshot.per_request.measured_g is None
    assert snapshot.service.sla_p95_ms == SLA_MS
    assert (snapshot.nodes, snapshot.events, snapshot.decision) == ((), (), None)


def test_footprint_per_request_is_ledger_difference_over_answers() -> None:
    view = DeploymentView()
    view.set_plan(a_plan())
    feed(view, an_intensity(g_per_kwh=200.0), a_ledger(0.0, 0.0), an_event(0.0, "generator.started"))
    steady(view, 1, 60)

    per = view.snapshot(at(60.2)).per_request

    # 700 J/s over 10 requests/s at 200 g/kWh x 1.5.
    assert per.measured_g == pytest.approx(70.0 / 3.6e6 * 300.0, rel=0.01)
    assert per.energy_j == pytest.approx(70.0, rel=0.01)
    assert per.base_g == pytest.approx((BASE.dynamic_j + BASE.idle_power_w / 10.0) / 3.6e6 * 300.0, rel=0.01)
    assert per.rightsized_g == pytest.approx(
        (RIGHTSIZED.dynamic_j + RIGHTSIZED.idle_power_w / 10.0) / 3.6e6 * 300.0, rel=0.01
    )


def test_before_any_request_baselines_are_at_the_present_intensity_and_planned_load() -> None:
    view = DeploymentView()
    view.set_plan(a_plan())
    feed(view, an_intensity(g_per_kwh=100.0))

    per = view.snapshot(at(1.0)).per_request

    assert per.measured_g is None
    assert per.base_g == pytest.approx(100.0 / 3.6e6 * 150.0)


def test_energy_before_the_first_request_is_not_shared_by_requests() -> None:
    view = DeploymentView()
    feed(view, *(a_ledger(second, 700.0 * second) for second in range(31)), seconds=30)
    steady(view, 31, 50)

    assert view.snapshot(at(50.0)).per_request.energy_j == pytest.approx(70.0, rel=0.01)


def test_saved_since_the_start_agrees_with_the_summary_of_the_run() -> None:
    view, summary = DeploymentView(), RunSummary(sla_p95_ms=SLA_MS)
    shared = DeploymentView(summary)
    for each in (view, shared):
        each.set_plan(a_plan())
        feed(each, a_ledger(0.0, 0.0), an_intensity(), _serving(0.0), an_event(0.0, "generator.started"))
        steady(each, 1, 30)

    saved, same = view.snapshot(at(30.0)).saved, shared.snapshot(at(30.0)).saved

    assert saved == same
    assert saved is not None
    assert not saved.joined
    assert saved.base_pct == pytest.approx(summary.result()["saved_pct"])
    assert saved.base_pct == pytest.approx(30.0, abs=1.0)
    assert saved.base_g == pytest.approx(0.3 / 0.7 * saved.footprint_g, rel=0.05)
    assert saved.rightsized_pct == pytest.approx(12.5, abs=1.5)


def test_joined_in_mid_run_counts_from_then_on() -> None:
    view = DeploymentView()
    view.set_plan(a_plan())
    feed(view, an_intensity(900.0), seconds=900.0)
    steady(view, 1000, 1040)

    saved = view.snapshot(at(1040.0)).saved

    assert saved is not None
    assert saved.joined
    assert saved.since_ms == at(1001.0)
    assert saved.footprint_g == pytest.approx(39 * 700.0 / 3.6e6 * 300.0)
    assert saved.base_pct == pytest.approx(30.0, abs=1.0)


def test_joined_before_the_plan_is_known() -> None:
    view = DeploymentView()
    feed(view, an_intensity())
    steady(view, 1, 10)
    assert (saved := view.snapshot(at(10.0)).saved) is not None
    assert saved.base_pct is None

    view.set_plan(a_plan())

    assert (saved := view.snapshot(at(12.0)).saved) is not None
    assert saved.base_pct == pytest.approx(30.0, abs=3.0)


def test_a_start_that_is_read_after_its_first_requests_is_still_the_start() -> None:
    view = DeploymentView()
    feed(view, a_ledger(0.0, 0.0), a_log(a_record(0.5, 100.0)), an_event(0.0, "generator.started"))

    assert (saved := view.snapshot(at(1.0)).saved) is not None
    assert (saved.since_ms, saved.joined) == (at(0.0), False)


def test_a_second_load_is_counted_for_itself() -> None:
    view = DeploymentView()
    view.set_plan(a_plan())
    feed(view, an_intensity(), a_ledger(0.0, 0.0), an_event(0.0, "generator.started"))
    steady(view, 1, 20)
    feed(view, an_event(20.0, "generator.finished"), a_ledger(100.0, 70000.0), an_event(100.0, "generator.started"))
    steady(view, 101, 120)

    assert (saved := view.snapshot(at(120.0)).saved) is not None
    assert saved.since_ms == at(100.0)
    assert saved.footprint_g == pytest.approx(20 * 700.0 / 3.6e6 * 300.0, rel=0.01)
    assert saved.base_pct == pytest.approx(30.0, abs=2.0)


def test_an_event_without_the_figures_of_its_kind_is_only_shown() -> None:
    view = DeploymentView()
    feed(view, an_event(0.0, "decision"), an_event(0.0, "plan.step"), an_event(0.0, "plan.serving"))

    assert [event.kind for event in view.snapshot(at(0.0)).events] == ["decision", "plan.step", "plan.serving"]


def test_p95_late_and_accuracy_are_of_the_last_minute() -> None:
    view = DeploymentView()
    view.set_plan(a_plan())
    old = [a_record(1.0, 5000.0, ProducerOutcome.LATE, accuracy_pct=50.0)] * 100
    fresh = [a_record(100.0, 100.0)] * 95 + [a_record(100.0, 300.0, ProducerOutcome.LATE)] * 5
    feed(view, a_log(*old), seconds=1.0)
    feed(view, a_log(*fresh), seconds=100.0)

    service = view.snapshot(at(100.5)).service

    assert service.finished == 100
    assert service.p95_ms == pytest.approx(100.0, rel=0.002)
    assert service.headroom_pct == pytest.approx(50.0, abs=0.2)
    assert service.late_pct == pytest.approx(5.0)
    assert service.accuracy_pct == pytest.approx(85.2)
    assert service.largest_accuracy_pct == 89.1


def test_too_many_without_an_answer_make_p95_unbounded() -> None:
    view = DeploymentView()
    lost = [a_record(9.0, None, ProducerOutcome.LOST, due_ms=at(-40.0))] * 10
    feed(view, a_log(*[a_record(9.0, 100.0)] * 90, *lost), seconds=9.0)

    snapshot = view.snapshot(at(9.5))

    assert snapshot.service.p95_ms is None
    assert snapshot.service.p95_unbounded
    assert snapshot.outcomes["lost"] == 10


def test_figures_of_a_load_that_stopped_fade() -> None:
    view = DeploymentView()
    steady(view, 1, 20)

    assert view.snapshot(at(50.0)).service.finished == 200
    service = view.snapshot(at(200.0)).service
    assert (service.finished, service.p95_ms, service.late_pct) == (0, None, None)


def test_busy_fraction_comes_from_differences_of_one_worker() -> None:
    view = DeploymentView()
    for second in range(5):
        busy = an_instance(0, 4, "large", "3g", busy_s=100.0 + 0.5 * second)
        fresh = an_instance(4, 4, "base", "3g", busy_s=0.25 * second)
        feed(view, a_node("n1", a_gpu(0, busy, fresh), seconds=second), seconds=second)
    restarted = a_gpu(0, an_instance(0, 4, "large", "3g", busy_s=0.0), an_instance(4, 4, "base", "3g", busy_s=1.25))
    feed(view, a_node("n1", restarted, seconds=5.0), seconds=5.0)

    gpu = view.snapshot(at(5.0)).nodes[0].gpus[0]

    # The first worker was started again, so nothing is known of the new one yet.
    assert [instance.busy for instance in gpu.instances] == [None, pytest.approx(0.25)]


def test_a_node_that_has_said_that_it_goes_is_shown_no_longer_than_a_moment() -> None:
    view = DeploymentView()
    left = msgspec.structs.replace(a_node("n1", seconds=9.0), leaving=True)
    feed(view, left, a_node("n2", seconds=9.0), seconds=9.0)
    assert [node.name for node in view.snapshot(at(10.0)).nodes] == ["n1", "n2"]
    assert [node.name for node in view.snapshot(at(15.0)).nodes] == ["n2"]


def test_nodes_sort_by_number_and_silence_is_said() -> None:
    view = DeploymentView()
    feed(view, a_node("n10", seconds=9.0), a_node("n2", a_gpu(0, phase="parked"), seconds=0.0), seconds=9.0)

    nodes = view.snapshot(at(10.0)).nodes

    assert [(node.name, node.silent_s) for node in nodes] == [("n2", 10.0), ("n10", 0.0)]
    assert nodes[0].gpus[0].phase == "parked"
    assert nodes[0].gpus[0].since_s == 10.0
    assert nodes[0].memory_slices == 8
    assert view.snapshot(at(10_000.0)).nodes == ()


def test_older_telemetry_changes_nothing() -> None:
    view = DeploymentView()
    feed(view, a_node("n1", seconds=5.0, epoch=8), a_node("n1", seconds=4.0, epoch=7))

    assert view.snapshot(at(5.0)).nodes[0].epoch == 8


def test_intensity_keeps_its_history_and_grows_stale() -> None:
    view = DeploymentView()
    feed(view, *(an_intensity(20.0 * i, 100.0 + i) for i in range(3)), an_intensity(0.0, 999.0))

    fresh, stale = view.snapshot(at(45.0)).intensity, view.snapshot(at(72.0)).intensity

    assert fresh is not None
    assert stale is not None
    assert fresh.history == (100.0, 101.0, 102.0)
    assert (fresh.age_s, fresh.stale_s) == (5.0, 0.0)
    assert stale.stale_s == 12.0


def test_what_is_expected_of_the_grid_is_what_lies_ahead_with_its_basis_age_and_band() -> None:
    view = DeploymentView()
    feed(view, an_intensity(0.0, 200.0), a_forecast(0.0, 210.0, 220.0, 230.0, band=0.1))
    now = view.snapshot(at(25.0)).intensity
    assert now is not None
    assert (now.ahead, now.ahead_basis) == ((220.0, 230.0), "published")
    assert now.ahead_high == pytest.approx((242.0, 253.0))
    assert (now.ahead_issued_s, now.ahead_step_s) == (25.0, 20.0)
    # An older one that comes late changes nothing; one that is over is not shown.
    feed(view, a_forecast(-60.0, 999.0, 999.0, 999.0, 999.0, 999.0))
    assert view.snapshot(at(25.0)).intensity == now
    gone = view.snapshot(at(90.0)).intensity
    assert gone is not None
    assert (gone.ahead, gone.ahead_basis, gone.ahead_issued_s) == ((), "", None)


def test_overrides_are_shown_until_they_run_out() -> None:
    view = DeploymentView()
    assert view.snapshot(at(0.0)).override == OverrideNow()
    pins = tuple(Pin(node="n1", gpu=GpuTarget(index=index, mode="parked"), until_ms=at(60.0)) for index in (0, 3))
    view.set_override(an_override(paused=True, paused_until_ms=at(30.0), pins=pins, nodes=("n2",)))
    now = view.snapshot(at(10.0)).override
    assert (now.paused, now.paused_left_s) == (True, 20.0)
    assert (now.pinned, now.pinned_left_s) == (("n1/gpu0", "n1/gpu3"), 50.0)
    assert (now.by_hand, now.by, now.reason) == (("n2",), "alice", "measuring")
    later = view.snapshot(at(61.0)).override
    assert (later.paused, later.pinned, later.by_hand) == (False, (), ("n2",))
    view.set_override(an_override(pins=(*pins, Pin(node="n1", gpu=GpuTarget(index=4, mode="parked")))))
    assert view.snapshot(at(10.0)).override.pinned_left_s is None


def test_plan_queue_trouble_and_log_lines() -> None:
    view = DeploymentView()
    view.set_plan(a_plan())
    view.set_queue(QueueStatus(waiting=3, pending=2, admitted=100, oldest_age_s=0.1))
    view.set_trouble("connection refused")
    feed(view, LogLine(at_ms=at(1.0), level="warning", source="node:n1", text="slow"), seconds=1.0)

    snapshot = view.snapshot(at(3.0))

    assert (snapshot.epoch, snapshot.state, snapshot.state_s) == (7, "serving", 3.0)
    assert snapshot.service.waiting == 3
    assert snapshot.trouble == "connection refused"
    assert snapshot.data_age_s == 2.0
    assert snapshot.events[0].kind == "log.warning"
    assert snapshot.decision is not None
    assert snapshot.decision.wanted == "1 x [2x3g:large], 1 x [parked]"
    assert snapshot.decision.alternatives == 1
    assert snapshot.variants == ("large",)


def test_memory_does_not_grow_with_the_run() -> None:
    view = DeploymentView()
    steady(view, 1, 2000)
    feed(view, *(an_event(second, "gpu.serving") for second in range(600)))

    assert len(view._requests._seconds) <= 92
    assert len(view._ledger._readings) <= 92
    assert len(view.snapshot(at(2000.0)).events) == 500
    steady(view, 2001, 4000)
    assert len(view.snapshot(at(4000.0)).slots) == 720


def test_a_snapshot_is_plain_data() -> None:
    told = dataclasses.asdict(a_running_view().snapshot(at(60.0)))

    assert told["nodes"][0]["gpus"][0]["instances"][0]["variant"] == "xxlarge"
    assert told["outcomes"]["ok"] == 600


def _serving(seconds: float) -> Event:
    plan = a_plan()
    data = {"prediction": plan.prediction, "base": plan.base, "base_rightsized": plan.base_rightsized}
    told = {name: msgspec.to_builtins(value) for name, value in data.items()}
    return an_event(seconds, "plan.serving", epoch=7, data=told)
