"""Definitions of the core against published figures and against each other."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clover.catalog import application_names, load_service, load_trace
from clover.core.configuration import ConfigurationGraph, FleetCounts, GpuConfiguration, InstanceKind
from clover.core.dispatch import DispatchRule, IdleInstance, choose
from clover.core.histogram import LatencyHistogram
from clover.core.intensity_trace import constant_trace, parse_trace
from clover.core.load import LoadEstimator
from clover.core.objective import Objective, base_gpu, baseline, rightsized
from clover.core.outcome import Outcome, ProducerOutcome, default_deadline_s, producer_outcome
from clover.core.queueing import evaluate
from clover.core.transition import LiveInstance, plan_transition
from clover.core.units import footprint_g
from clover.errors import ConfigurationError, TraceError
from mig.placement import place
from mig.profiles import gpu_model

A100 = gpu_model("a100-40gb")
ALBERT = load_service("albert", "a100-40gb")

#: Measured on two A100-40GB (SC'23 logs): application, variants on 3g and 4g (None: BASE), rate, p95 ms, J, accuracy.
MEASURED = [
    ("albert", None, 2.5, 165.28, 52.96, 89.1),
    ("albert", None, 6.25, 176.11, 34.59, 89.1),
    ("albert", ("base", "large"), 2.5, 105.04, 30.84, 84.19),
    ("albert", ("base", "large"), 12.5, 109.91, 6.79, 84.16),
    ("efficientnet", None, 1.0, 510.30, 116.72, 84.58),
    ("efficientnet", ("b3", "b3"), 1.0, 283.62, 75.38, 81.53),
    ("efficientnet", ("b3", "b3"), 5.0, 342.55, 15.43, 81.53),
    ("yolov5", None, 1.0, 428.86, 120.67, 55.0),
    ("yolov5", ("yolov5l", "yolov5x"), 1.0, 258.77, 78.55, 49.85),
    ("yolov5", ("yolov5l", "yolov5x"), 2.5, 271.41, 34.42, 49.85),
]


@pytest.mark.parametrize(("name", "mix", "rate", "p95_ms", "energy_j", "accuracy"), MEASURED)
def test_the_closed_form_is_near_the_published_measurements(
    name: str, mix: tuple[str, str] | None, rate: float, p95_ms: float, energy_j: float, accuracy: float
) -> None:
    model = load_service(name, "a100-40gb")
    gpu = GpuConfiguration((InstanceKind("3g", mix[0]), InstanceKind("4g", mix[1]))) if mix else base_gpu(model, "7g")
    found = evaluate(model, FleetCounts.uniform(gpu, 2), rate, model.table.sla_p95_ms)
    assert found.p95_ms == pytest.approx(p95_ms, rel=0.10)
    assert found.energy_j_per_request == pytest.approx(energy_j, rel=0.10)
    assert found.accuracy_pct == pytest.approx(accuracy, abs=0.05)


def test_a_saturated_fleet_serves_what_it_can() -> None:
    model = load_service("efficientnet", "a100-40gb")
    found = evaluate(model, FleetCounts.uniform(base_gpu(model, "7g"), 2), 5.0, model.table.sla_p95_ms)
    assert not found.stable
    assert found.late_fraction == 1.0
    assert found.served_rate_rps == pytest.approx(4.46, rel=0.03)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.dictionaries(
        st.sampled_from([InstanceKind(p, v) for p in ("7g", "4g", "3g", "2g") for v in ("base", "large", "xxlarge")]),
        st.integers(1, 5),
        min_size=1,
        max_size=4,
    ),
    load=st.floats(0.05, 0.9),
)
def test_shares_sum_to_one_and_the_load_is_served(counts: dict[InstanceKind, int], load: float) -> None:
    fleet = FleetCounts(kinds=tuple(sorted(counts.items())), active=3)
    capacity = sum(n * 1e3 / ALBERT.mean_ms(k.variant, k.profile, 1.0) for k, n in counts.items())
    less = evaluate(ALBERT, fleet, 0.5 * load * capacity, 165.0)
    more = evaluate(ALBERT, fleet, load * capacity, 165.0)
    assert math.fsum(more.shares.values()) == pytest.approx(1.0)
    assert more.utilisation >= less.utilisation
    assert more.served_rate_rps == pytest.approx(load * capacity, rel=1e-6)


def test_more_load_on_equal_instances_never_helps() -> None:
    fleet = FleetCounts.uniform(base_gpu(ALBERT, "7g"), 4)
    late = [evaluate(ALBERT, fleet, rate, 165.0).late_fraction for rate in (1.0, 5.0, 15.0, 25.0, 35.0)]
    assert late == sorted(late)


def test_nonsense_is_refused_by_name() -> None:
    fleet = FleetCounts.uniform(base_gpu(ALBERT, "7g"), 2)
    with pytest.raises(ValueError, match="rate_rps = 0"):
        evaluate(ALBERT, fleet, 0.0, 165.0)
    with pytest.raises(ValueError, match="no instance"):
        evaluate(ALBERT, FleetCounts(kinds=(), active=0, parked=2), 1.0, 165.0)
    with pytest.raises(ValueError, match="lambda = 2"):
        Objective(lambda_=2.0, baseline=baseline(ALBERT, "7g", 2, 1.0, 165.0), intensity_g_per_kwh=1, pue=1)
    with pytest.raises(ValueError, match="does not fit"):
        model = load_service("yolov5", "a100-40gb")
        evaluate(model, FleetCounts(kinds=((InstanceKind("1g", "yolov5x6"), 1),), active=1), 0.1, 400.0)


def test_base_has_objective_zero_at_the_reference_and_less_when_the_grid_is_dirtier() -> None:
    base = baseline(ALBERT, "7g", 10, 12.5, 165.28)
    at_reference = Objective(lambda_=0.5, baseline=base, intensity_g_per_kwh=250.0, pue=1.5)
    dirty = Objective(lambda_=0.5, baseline=base, intensity_g_per_kwh=500.0, pue=1.5)
    assert at_reference.value(base.evaluation) == pytest.approx(0.0)
    assert dirty.value(base.evaluation) == pytest.approx(-0.5)


def test_rightsizing_uses_fewer_gpus_and_keeps_the_promise() -> None:
    small = rightsized(ALBERT, "7g", 10, 12.5, 165.28)
    whole = baseline(ALBERT, "7g", 10, 12.5, 165.28)
    assert small.late_fraction <= 0.05
    assert small.energy_j_per_request < whole.energy_j_per_request


def test_a_kilowatt_hour_at_the_reference() -> None:
    assert footprint_g(3.6e6, 250.0, 1.5) == pytest.approx(375.0)


# --- configurations -------------------------------------------------------------------------------------------------


def test_equal_graphs_are_the_same_configuration_and_a_move_is_two_apart() -> None:
    one = GpuConfiguration((InstanceKind("3g", "base"), InstanceKind("4g", "large")))
    other = GpuConfiguration((InstanceKind("4g", "large"), InstanceKind("3g", "base")))
    moved = GpuConfiguration((InstanceKind("4g", "base"), InstanceKind("3g", "base")))
    assert one == other
    assert one.graph.distance(moved.graph) == 2
    assert one.graph.distance(ConfigurationGraph.of([])) == 2


def test_a_transition_keeps_workers_whose_variant_stays() -> None:
    current = [
        LiveInstance(
            id=1, profile=A100.profile("4g"), placement=place(A100.profile("4g"), 0).placement, variant="base"
        ),
        LiveInstance(
            id=2, profile=A100.profile("3g"), placement=place(A100.profile("3g"), 4).placement, variant="base"
        ),
    ]
    wanted = GpuConfiguration((InstanceKind("4g", "large"), InstanceKind("3g", "base")))
    plan = plan_transition(A100, current, wanted)
    assert [i.id for i in plan.keep] == [2]
    assert [(i.id, variant) for i, variant in plan.restart] == [(1, "large")]
    assert plan.mig_changes == 0
    assert plan_transition(A100, current, GpuConfiguration(mode="parked")).mig_changes == 2


# --- dispatch -------------------------------------------------------------------------------------------------------


def _idle(key: int, variant: str, *, since: float = 0.0, ms: float = 50.0, accuracy: float = 80.0) -> IdleInstance:
    return IdleInstance(
        key=key, kind=InstanceKind("3g", variant), idle_since_s=since, mean_service_ms=ms, accuracy_pct=accuracy
    )


def test_each_rule_chooses_as_its_name_says() -> None:
    idle = [
        _idle(1, "a", since=5.0, ms=90.0, accuracy=90.0),
        _idle(2, "b", since=3.0),
        _idle(3, "c", since=9.0, ms=20.0),
    ]
    assert choose(idle, {}, DispatchRule(name="longest_idle")) is idle[1]
    assert choose(idle, {}, DispatchRule(name="accurate")) is idle[0]
    assert choose(idle, {}, DispatchRule(name="fastest")) is idle[2]
    assert choose([], {}, DispatchRule()) is None


def test_shares_are_kept_within_two_points() -> None:
    kinds = {InstanceKind("3g", "a"): 0.7, InstanceKind("3g", "b"): 0.2, InstanceKind("3g", "c"): 0.1}
    rule = DispatchRule(name="shares", shares=kinds)
    served: dict[InstanceKind, int] = {}
    for _ in range(1000):
        chosen = choose([_idle(1, "a"), _idle(2, "b"), _idle(3, "c")], served, rule)
        assert chosen is not None
        served[chosen.kind] = served.get(chosen.kind, 0) + 1
    for kind, share in kinds.items():
        assert served[kind] / 1000 == pytest.approx(share, abs=0.02)


# --- outcomes, load, latency ----------------------------------------------------------------------------------------


def test_an_answer_past_the_sla_is_late() -> None:
    assert producer_outcome(Outcome.OK, 100.0, 165.0) is ProducerOutcome.OK
    assert producer_outcome(Outcome.OK, 165.1, 165.0) is ProducerOutcome.LATE
    assert producer_outcome(Outcome.EXPIRED, 1.0, 165.0) is ProducerOutcome.EXPIRED
    assert default_deadline_s(165.28) == 30.0
    assert default_deadline_s(2000.0) == 40.0


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=300), st.floats(0.01, 1.0))
def test_a_quantile_is_exact_within_a_thousandth(latencies: list[float], q: float) -> None:
    histogram = LatencyHistogram()
    for latency in latencies:
        histogram.add(latency)
    exact = sorted(latencies)[math.ceil(q * len(latencies)) - 1]
    assert histogram.quantile_ms(q) == pytest.approx(exact, rel=1.1e-3)


def test_the_unanswered_are_infinitely_late() -> None:
    histogram = LatencyHistogram()
    for latency in [10.0] * 90 + [None] * 10:
        histogram.add(latency)
    assert histogram.quantile_ms(0.95) is None
    assert histogram.unbounded(0.95)
    assert histogram.quantile_ms(0.5) == pytest.approx(10.0, rel=1e-3)


def test_load_is_not_told_before_it_is_known() -> None:
    load = LoadEstimator()
    assert all(load.observe(float(t), 0, expected_rps=10.0) is None for t in range(100))
    rates = [load.observe(100.0 + t, 20 * t, expected_rps=10.0) for t in range(60)]
    assert rates[10] is None
    last = rates[-1]
    assert last is not None
    assert (last.rate_rps, last.ahead_rps) == (pytest.approx(20.0), pytest.approx(20.0))
    assert last.low_rps < 20.0 < last.high_rps


# --- traces and tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("0,100\n2,100", "line 3: hour = 2, expected 1"),
        ("0,100\n1,nan", "line 3: intensity_g_per_kwh = nan"),
        ("0,-5", "line 2: intensity_g_per_kwh = -5"),
        ("0,5000", "line 2: intensity_g_per_kwh = 5000"),
        ("0,abc", "is not two numbers"),
        ("0", "1 columns"),
        ("", "no rows"),
    ],
)
def test_a_broken_trace_names_its_line(rows: str, told: str) -> None:
    with pytest.raises(TraceError, match=told):
        parse_trace(f"hour,intensity_g_per_kwh\n{rows}\n", name="broken")


def test_the_shipped_traces_hold_49_hours_and_begin_again() -> None:
    trace = load_trace("ciso-march")
    assert len(trace.values_g_per_kwh) == 49
    assert trace.at(10.0, started_s=0.0, hour_s=20.0).g_per_kwh == 124.57
    assert trace.at(20.0, started_s=0.0, hour_s=20.0).trace_index == 1
    assert trace.at(49 * 20.0, started_s=0.0, hour_s=20.0).trace_index == 0
    assert load_trace("constant:250").values_g_per_kwh == (250.0,)
    assert constant_trace(0.0).at(5.0, started_s=0.0, hour_s=1.0).g_per_kwh == 0.0


@pytest.mark.parametrize("name", ["nonsense", "constant:x", "constant:-1", "missing.csv"])
def test_an_unknown_trace_is_a_clear_error(name: str) -> None:
    with pytest.raises(ConfigurationError):
        load_trace(name)


def test_unknown_names_list_what_there_is() -> None:
    assert {"albert", "efficientnet", "yolov5", "efficientnet_lite"} <= set(application_names())
    with pytest.raises(ConfigurationError, match="expected one of albert"):
        load_service("bert", "a100-40gb")
    with pytest.raises(ConfigurationError, match="no performance table"):
        load_service("albert", "h100-80gb")
