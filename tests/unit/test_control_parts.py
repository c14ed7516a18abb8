"""The pure parts of control: news, load, fence, steps of a roll, triggers, calibration, shares, measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from clover.catalog import load_service
from clover.core.admission import admission_bound
from clover.core.arrivals import RateProfile
from clover.core.calibration import Calibrator, DriftEstimate, Factors, Sample, calibrated
from clover.core.configuration import PARKED, Configuration, FleetCounts, GpuConfiguration, GpuId, InstanceKind
from clover.core.control import PlanReady
from clover.core.fencing import CHANGE_PATIENCE_S, FAILED_PATIENCE_S, HEALTHY_FIRST_S, Fence
from clover.core.holds import Holds
from clover.core.load import (
    GRID_RATIO,
    LoadEstimate,
    LoadEstimator,
    exceeds,
    rate_to_plan,
    undercuts,
)
from clover.core.load_profile import LoadProfile
from clover.core.news import News
from clover.core.queueing import evaluate
from clover.core.rolling import ROLL_LATE_LIMIT, Step, next_step
from clover.core.transitions import STATES, TRANSITIONS, Story, state_diagram, target_of
from clover.core.triggers import INTENSITY_TRIGGER, Pace, PaceSettings, Situation, Triggers
from clover.core.weights import MEMORY_REQUESTS, SETTLE_S, ShareCorrector, fitted, matters
from clover.errors import InvalidTransitionError
from clover.plan.live import LiveScheme
from clover.plan.measures import awake, unfit
from clover.plan.problem import Problem
from clover.plan.search import SearchScheme
from mig.partition import maximal_multisets
from mig.profiles import gpu_model

WHOLE = GpuConfiguration((InstanceKind("7g", "xxlarge"),))
SMALL = GpuConfiguration(tuple(InstanceKind("1g", "base") for _ in range(7)))
BIG, LITTLE = InstanceKind("7g", "xxlarge"), InstanceKind("1g", "base")


def gpus(count: int, node: str = "n1") -> list[GpuId]:
    return [GpuId(node, index) for index in range(count)]


# --- transitions ----------------------------------------------------------------------------------------------------


def test_every_state_can_be_reached_and_left_and_every_cause_is_told_apart() -> None:
    assert {each.target for each in TRANSITIONS} | {"waiting"} == set(STATES)
    assert {each.source for each in TRANSITIONS} == set(STATES)
    assert len({(each.source, each.cause) for each in TRANSITIONS}) == len(TRANSITIONS)
    assert target_of("serving", "through") is None
    diagram = state_diagram()
    assert all(f"{each.source} --> {each.target} : {each.cause}" in diagram for each in TRANSITIONS)


def test_a_way_that_is_not_in_the_table_is_an_error_that_tells_the_story() -> None:
    story = Story()
    story.enter("ready", "all are there")
    with pytest.raises(InvalidTransitionError, match="through in state deciding.*waiting -> deciding: all are there"):
        story.enter("through", "never")


# --- news -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("news", "at_once", "ends_roll"),
    [
        (News(), None, None),
        (News(drift="slower", override="pinned"), None, None),
        (News(guard="late", raised=True), ("sla", "late"), ("sla", "late")),
        (News(guard="in time again"), ("sla", "in time again"), None),
        (News(ready=PlanReady(trigger="load", reason="more")), ("load", "more"), None),
        (
            News(guard="late", raised=True, ready=PlanReady(trigger="load", reason="more")),
            ("sla", "late"),
            ("sla", "late"),
        ),
    ],
)
def test_what_is_not_held_back(news: News, at_once: object, ends_roll: object) -> None:
    assert (news.at_once(), news.ends_roll()) == (at_once, ends_roll)
    news.decided()
    assert (news.at_once(), news.ends_roll(), news.drift, news.override) == (None, None, "", "")


# --- load -----------------------------------------------------------------------------------------------------------


def arrivals(rate_at: Callable[[float], float], until_s: int, seed: int = 1) -> list[LoadEstimate | None]:
    """Feed an estimator with Poisson arrivals, read once a second."""
    rng, load, admitted, found = Random(seed), LoadEstimator(horizon_s=60.0), 0, []
    for second in range(until_s):
        mean = rate_at(float(second))
        admitted += max(0, round(rng.gauss(mean, math.sqrt(mean))))
        found.append(load.observe(float(second), admitted, expected_rps=20.0))
    return found


def test_the_load_is_looked_at_further_ahead_where_waking_takes_longer() -> None:
    load = LoadEstimator(horizon_s=60.0, profile=LoadProfile(RateProfile((0.0, 150.0, 390.0), (10.0, 30.0, 50.0), 1e4)))
    found: list[float] = []
    for second in range(100):
        load.waking_s = 0.0 if second < 99 else 240.0
        estimate = load.observe(float(second), second * 20, expected_rps=20.0)
        found += [] if estimate is None else [estimate.ahead_rps]
    assert found[-2:] == [30.0, 50.0]


def test_a_steady_load_causes_nothing_whatever_its_noise() -> None:
    for seed in range(5):
        told = [each for each in arrivals(lambda _: 20.0, 3600, seed) if each is not None]
        assert sum(exceeds(each, 20.0 * GRID_RATIO) for each in told) == 0
        assert sum(undercuts(each, 20.0) for each in told) == 0


def test_a_surge_is_seen_within_a_minute() -> None:
    told = arrivals(lambda second: 20.0 if second < 600 else 40.0, 700)
    first = next(second for second in range(600, 700) if (each := told[second]) and exceeds(each, 20.0 * GRID_RATIO))
    assert first <= 660


@pytest.mark.parametrize(("before", "after"), [(6.0, 30.0), (20.0, 60.0), (60.0, 15.0)])
def test_a_step_is_believed_within_three_buckets(before: float, after: float) -> None:
    for seed in range(5):
        told = arrivals(lambda second: before if second < 600 else after, 700, seed)
        for each in told[645:]:
            assert each is not None
            assert each.rate_rps == pytest.approx(after, rel=0.2)


def test_one_burst_is_no_step() -> None:
    told = arrivals(lambda second: 60.0 if 600 <= second < 610 else 20.0, 700)
    assert max(each.rate_rps for each in told if each) < 20.0 + 0.3 * (60.0 - 20.0)


def test_a_ramp_is_planned_for_ahead() -> None:
    told = arrivals(lambda second: 20.0 + 0.1 * max(0.0, second - 600.0), 1200)
    last = told[-1]
    assert last is not None
    assert last.ahead_rps > 20.0 + 0.1 * 600.0


@pytest.mark.parametrize("rest", [1.0, 3.0])
def test_what_is_left_after_a_steep_fall_is_seen(rest: float) -> None:
    told = arrivals(lambda second: 2.0 if second < 60 else 120.0 if second < 180 else rest, 1500)
    for each in told[900:]:
        assert each is not None
        assert 0.7 * rest < each.rate_rps < 1.4 * rest


def test_a_load_that_ends_is_seen() -> None:
    told = arrivals(lambda second: 20.0 if second < 600 else 0.0, 1200)
    last = told[-1]
    assert last is not None
    assert undercuts(last, 20.0)


def test_a_known_load_is_told_before_anything_is_measured_and_ahead_of_its_time() -> None:
    rates = RateProfile((0.0, 100.0, 200.0), (10.0, 50.0, 20.0), 300.0, repeats=False)
    load = LoadEstimator(horizon_s=30.0, profile=LoadProfile(rates, 1000.0))
    moments = (900.0, 980.0, 1060.0, 1080.0, 1250.0, 1290.0, 1400.0)
    told = [load.observe(now_s, 0, expected_rps=10.0) for now_s in moments]
    assert [(each.rate_rps, each.ahead_rps) for each in told if each] == [
        (0.0, 0.0), (0.0, 10.0), (10.0, 10.0), (10.0, 50.0), (20.0, 20.0), (20.0, 20.0), (0.0, 0.0),
    ]  # fmt: skip
    assert [exceeds(each, 12.0) for each in told if each] == [False, False, False, True, True, True, False]


def test_what_is_measured_counts_beside_what_is_known() -> None:
    """More than is known in advance is planned for as ever; less is not planned for than is known."""
    for rate, above, below in ((40.0, True, False), (5.0, False, False), (20.0, False, False)):
        load = LoadEstimator(profile=LoadProfile(RateProfile((0.0,), (20.0,), 60.0)))
        admitted, last = 0.0, None
        for second in range(600):
            admitted += rate
            last = load.observe(float(second), round(admitted), expected_rps=20.0)
        assert last is not None
        assert last.rate_rps == pytest.approx(rate, rel=0.01)
        planned = 20.0 * GRID_RATIO
        assert (exceeds(last, planned), undercuts(last, planned)) == (above, below)


@pytest.mark.parametrize("rate", [0.5, 6.25, 12.5, 62.5])
def test_what_is_planned_for_is_on_a_grid_a_little_above_the_load(rate: float) -> None:
    planned = rate_to_plan(LoadEstimate.sure(rate))
    assert rate < planned <= rate * 1.05 * GRID_RATIO * 1.0001
    # Neither raised nor lowered again by itself.
    assert not exceeds(LoadEstimate.sure(rate), planned)
    assert not undercuts(LoadEstimate.sure(rate), planned)


# --- fence ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phases", "fenced"),
    [
        ([(0, "failed"), (FAILED_PATIENCE_S + 1, "failed")], True),
        ([(0, "failed"), (5, "changing"), (8, "serving"), (FAILED_PATIENCE_S + 1, "serving")], False),
        ([(0, "changing"), (CHANGE_PATIENCE_S + 1, "changing")], True),
        ([(0, "changing"), (60, "serving"), (61, "changing"), (CHANGE_PATIENCE_S + 1, "changing")], False),
        ([(t, phase) for i in range(3) for t, phase in ((10 * i, "failed"), (10 * i + 5, "serving"))], True),
        ([(0, "empty"), (1000, "empty")], False),
    ],
)
def test_a_gpu_that_stays_broken_or_breaks_again_and_again_is_fenced_off(
    phases: list[tuple[float, str]], fenced: bool
) -> None:
    fence, gpu = Fence(), GpuId("n1", 0)
    for at_s, phase in phases:
        fence.see(gpu, phase, "why", at_s)
        fence.judge(at_s, heard=5)
    assert (gpu in fence.fenced) is fenced


def test_a_fenced_gpu_comes_back_when_it_is_healthy_and_later_each_time() -> None:
    fence, gpu, now, holds = Fence(), GpuId("n1", 0), 0.0, []
    for _ in range(3):
        fence.refuse(gpu, "does not do what it shall")
        began = now
        while gpu in fence.fenced:
            now += 1.0
            fence.see(gpu, "serving", "", now)
            fence.judge(now, heard=5)
        holds.append(now - began - 1.0)
    assert holds == [HEALTHY_FIRST_S, 2 * HEALTHY_FIRST_S, 4 * HEALTHY_FIRST_S]


def test_a_gpu_may_take_as_much_longer_as_its_power_command_may() -> None:
    for limit_s, fenced_s in ((0.0, CHANGE_PATIENCE_S), (300.0, CHANGE_PATIENCE_S + 300.0)):
        fence, gpu, now = Fence(), GpuId("n1", 0), 0.0
        while not fence.fenced:
            fence.see(gpu, "changing", "powering on", now, allowed_s=limit_s)
            fence.judge(now, heard=2)
            now += 1.0
        assert now - 2.0 == pytest.approx(fenced_s)


def test_the_last_gpu_is_never_fenced_off() -> None:
    fence = Fence()
    for gpu in gpus(2):
        fence.see(gpu, "failed", "", 0.0)
    for gpu in gpus(2):
        fence.see(gpu, "failed", "", 60.0)
    assert len(fence.judge(60.0, heard=2)) == 1
    assert fence.judge(60.0, heard=2) == []


# --- steps of a roll ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("serve_at_least", "moved"),
    [(0, 4), (18, 2), (19, 1), (20, 1)],
)
def test_as_many_gpus_change_as_the_rest_can_do_without(serve_at_least: int, moved: int) -> None:
    fleet = gpus(20)

    def late_of(left: FleetCounts) -> float:
        return 0.0 if left.active >= serve_at_least else 0.5

    step = next_step(dict.fromkeys(fleet, WHOLE), dict.fromkeys(fleet, SMALL), dict.fromkeys(fleet, "serving"), late_of)
    assert len(step.gpus) == moved
    assert step.late is not None
    assert (step.late <= ROLL_LATE_LIMIT) is (serve_at_least < 20)


def test_what_wakes_serves_before_anything_stops() -> None:
    fleet = gpus(5)
    assigned = {gpu: PARKED if gpu.index == 4 else WHOLE for gpu in fleet}
    phases = {gpu: "parked" if gpu.index == 4 else "serving" for gpu in fleet}
    assert next_step(assigned, dict.fromkeys(fleet, SMALL), phases, lambda _: 0.0) == Step((fleet[4],))


@pytest.mark.parametrize(
    ("broken", "live", "at_once", "most"),
    [
        # Of three GPUs one worker each has died: they serve with what is left, and are among the one in five.
        (3, True, 0, 2),
        # Their workers are all gone: nobody misses them.
        (3, False, 3, 5),
        (10, True, 0, 2),
        (0, True, 0, 2),
    ],
)
def test_gpus_in_failure_that_serve_somebody_are_among_the_one_in_five(
    broken: int, live: bool, at_once: int, most: int
) -> None:
    fleet, left = gpus(10), GpuConfiguration(SMALL.instances[1:])
    phases = {gpu: "failed" if gpu.index < broken else "serving" for gpu in fleet}
    seen: list[FleetCounts] = []

    def late_of(counts: FleetCounts) -> float:
        seen.append(counts)
        return 0.0

    partly = {gpu: left for gpu in fleet if gpu.index < broken} if live else {}
    step = next_step(dict.fromkeys(fleet, SMALL), dict.fromkeys(fleet, PARKED), phases, late_of, partly)
    assert sum(gpu.index < broken for gpu in step.gpus if gpu not in partly) == at_once
    assert len(step.gpus) == most
    # What is left is what lives, not what was asked for.
    served = 10 * 7 - broken * (1 if live else 7)
    assert max(counts.instances for counts in seen) <= served - (6 if broken and live else 7)


def test_what_is_to_serve_in_the_end_changes_before_anything_is_parked() -> None:
    fleet = gpus(10)
    assigned = dict.fromkeys(fleet, WHOLE)
    wanted = {gpu: SMALL if gpu.index >= 8 else PARKED for gpu in fleet}
    phases = dict.fromkeys(fleet, "serving")
    steps: list[tuple[int, ...]] = []
    while assigned != wanted:
        step = next_step(assigned, wanted, phases, lambda _: 0.0)
        steps.append(tuple(gpu.index for gpu in step.gpus))
        assigned |= {gpu: wanted[gpu] for gpu in step.gpus}
        phases |= {gpu: "parked" for gpu in step.gpus if wanted[gpu] == PARKED}
    assert steps[0] == (8, 9)
    assert sorted(index for step in steps[1:] for index in step) == list(range(8))


def test_if_none_can_be_missed_the_one_that_is_missed_least_changes() -> None:
    fleet = gpus(5)
    assigned = {gpu: SMALL if gpu.index == 3 else WHOLE for gpu in fleet}
    wanted = dict.fromkeys(fleet, GpuConfiguration((InstanceKind("7g", "base"),)))
    step = next_step(assigned, wanted, dict.fromkeys(fleet, "serving"), lambda left: 0.9 if left.instances > 9 else 0.3)
    assert step.gpus == (fleet[3],)


@pytest.mark.parametrize(("changed", "shed"), [((), False), ((0, 1), False), ((), True)])
def test_fewer_may_wait_while_gpus_change_and_fewest_when_requests_are_shed(
    changed: tuple[int, ...], shed: bool
) -> None:
    model, fleet = load_service("albert", "a100-40gb"), gpus(4)
    configuration = Configuration.uniform(fleet, WHOLE)
    sla_ms = model.table.sla_p95_ms
    bound = admission_bound(model, configuration, sla_ms=sla_ms, changed=[fleet[i] for i in changed], shed=shed)
    all_of_them = admission_bound(model, configuration, sla_ms=sla_ms)
    assert 1 <= bound <= all_of_them
    assert (bound < all_of_them) is bool(changed or shed)
    assert not shed or bound <= 4 * sla_ms / model.mean_ms("xxlarge", "7g", 1.0)


# --- triggers -------------------------------------------------------------------------------------------------------


def situation(**changes: object) -> Situation:
    values: dict[str, object] = {
        "joined": 0,
        "left": 0,
        "effective": 300.0,
        "decided_effective": 300.0,
        "load": LoadEstimate.sure(10.0),
        "planned_rps": 11.0,
    }
    return Situation(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "trigger"),
    [
        ({}, None),
        ({"effective": 300.0 + INTENSITY_TRIGGER + 0.1}, "intensity"),
        ({"effective": None}, None),
        ({"joined": 1}, "fleet"),
        ({"left": 2, "override": "pinned"}, "override"),
        ({"load": LoadEstimate.sure(12.0)}, "load"),
        ({"load": LoadEstimate(rate_rps=10.0, low_rps=9.5, high_rps=10.5, ahead_rps=12.0)}, "load"),
        ({"drift": "service time"}, "drift"),
    ],
)
def test_what_triggers_a_decision(changes: dict[str, object], trigger: str | None) -> None:
    found = Triggers(Pace(PaceSettings())).judge(situation(**changes), 100.0)
    assert (found.trigger if found else None) == trigger


def test_less_load_must_last_and_a_cool_down_is_kept() -> None:
    pace = Pace(PaceSettings())
    triggers = Triggers(pace)
    low = situation(load=LoadEstimate.sure(3.0))
    assert triggers.judge(low, 0.0) is None
    assert triggers.judge(low, 119.0) is None
    pace.decided("intensity", 110.0)
    assert triggers.judge(low, 125.0) is None
    found = triggers.judge(low, 171.0)
    assert found is not None
    assert found.rate_rps == rate_to_plan(LoadEstimate.sure(3.0))


def test_plans_per_hour_are_bounded_for_what_might_flap_but_not_for_the_guard_and_people() -> None:
    pace = Pace(PaceSettings(plans_per_hour=5))
    for second in range(5):
        assert pace.allows("load", float(second), urgent=True)
        pace.decided("load", float(second))
    assert not pace.allows("load", 10.0, urgent=True)
    assert not pace.allows("drift", 10.0)
    assert pace.allows("sla", 10.0)
    assert pace.allows("override", 10.0)
    assert pace.allows("load", 3600.0, urgent=True)


@pytest.mark.parametrize(
    ("joined", "left", "joined_before_s", "decided"),
    [
        (0, 0, None, False),
        (1, 0, None, True),
        (0, 1, None, True),
        # A loss never waits, another one that joins not for long.
        (0, 1, 1.0, True),
        (2, 1, 1.0, True),
        (1, 0, 1.0, False),
        (1, 0, 29.0, False),
        (1, 0, 30.0, True),
    ],
)
def test_gpus_that_are_lost_never_wait_and_those_that_join_not_for_long(
    joined: int, left: int, joined_before_s: float | None, *, decided: bool
) -> None:
    triggers, now_s = Triggers(Pace(PaceSettings())), 10_000.0
    # The budget of the hour is used up, and the cool-down has begun.
    for back_s in range(20):
        triggers.pace.decided("load", now_s - back_s)
    if joined_before_s is not None:
        found = triggers.judge(situation(joined=1), now_s - joined_before_s)
        assert found is not None
        assert found.trigger == "fleet"
    found = triggers.judge(situation(joined=joined, left=left), now_s)
    assert ((found.trigger if found else None) == "fleet") is decided


@pytest.mark.parametrize(
    ("free", "times", "hold_s"),
    [(0, 1, 30.0), (0, 3, 120.0), (2, 1, 0.0), (2, 2, 0.0), (2, 3, 30.0), (2, 2000, 1800.0)],
)
def test_what_happens_again_and_again_is_held_back_longer_each_time_up_to_the_most(
    free: int, times: int, hold_s: float
) -> None:
    holds = Holds[str](free=free, first_s=30.0, most_s=1800.0, forget_s=3600.0)
    found = [holds.again("n1", float(second)) for second in range(times)]
    last_s = times - 1.0
    assert found[-1] == hold_s
    assert holds.held("n1", last_s) is (hold_s > 0.0)
    assert not holds.held("n1", last_s + hold_s)
    assert not holds.held("n2", last_s)
    # Long ago is forgotten.
    assert holds.again("n1", last_s + 3601.0) == found[0]


# --- calibration ----------------------------------------------------------------------------------------------------


def test_an_outlier_is_left_out_and_three_of_them_are_believed() -> None:
    estimate = DriftEstimate()
    for _ in range(20):
        estimate.take(Sample(requests=100, measured=10.0, expected=10.0))
    estimate.take(Sample(requests=100, measured=30.0, expected=10.0))
    assert estimate.ratio == pytest.approx(1.0)
    for _ in range(3):
        estimate.take(Sample(requests=100, measured=20.0, expected=10.0))
    assert estimate.ratio == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize(("factor", "drifts"), [(1.05, False), (1.2, True), (0.8, True), (2.0, True)])
def test_the_table_follows_what_drifts_by_more_than_a_tenth(factor: float, drifts: bool) -> None:
    calibrator = Calibrator()
    for _ in range(20):
        calibrator.take_service(BIG, Sample(requests=100, measured=100.0 * factor, expected=100.0))
    found = calibrator.drift()
    assert (found is not None) is drifts
    if found is not None:
        assert found[0].service[BIG] == pytest.approx(factor)
        assert "7g:xxlarge" in found[1]
        # What was taken over is not said again.
        assert calibrator.drift() is None


def test_a_calibrated_table_says_what_was_measured_and_the_like_of_what_was_not() -> None:
    model = load_service("albert", "a100-40gb")
    factors = Factors(service={BIG: 2.0, LITTLE: 0.5}, energy={"xxlarge": 1.5})
    found = calibrated(model, factors)
    assert found.mean_ms("xxlarge", "7g", 0.0) == pytest.approx(2.0 * model.mean_ms("xxlarge", "7g", 0.0))
    assert found.mean_ms("base", "1g", 0.0) == pytest.approx(0.5 * model.mean_ms("base", "1g", 0.0))
    # Not measured: another profile like the variant's, another variant like all (here 2 x 0.5, so 1).
    assert found.mean_ms("xxlarge", "3g", 0.0) == pytest.approx(2.0 * model.mean_ms("xxlarge", "3g", 0.0))
    assert found.mean_ms("large", "3g", 0.0) == pytest.approx(model.mean_ms("large", "3g", 0.0))
    assert found.dynamic_j("base", 0.0) == pytest.approx(1.5 * model.dynamic_j("base", 0.0))
    assert calibrated(model, Factors()) is model


# --- shares ---------------------------------------------------------------------------------------------------------


def test_fitting_reaches_totals_by_node_and_kind() -> None:
    flows = {("n1", BIG): 0.25, ("n1", LITTLE): 0.25, ("n2", BIG): 0.25, ("n2", LITTLE): 0.25}
    found = fitted(flows, {"n1": 0.7, "n2": 0.3}, {BIG: 0.4, LITTLE: 0.6})
    assert found["n1", BIG] + found["n1", LITTLE] == pytest.approx(0.7)
    assert found["n1", BIG] + found["n2", BIG] == pytest.approx(0.4)


def test_shares_are_corrected_until_the_fleet_serves_what_was_planned() -> None:
    # Node 1 takes 70 % of the requests where 50 % were planned, and holds four times as much of one kind.
    corrector = ShareCorrector({BIG: 0.5, LITTLE: 0.5})
    shares = {"n1": {BIG: 0.8, LITTLE: 0.2}, "n2": {BIG: 0.2, LITTLE: 0.8}}
    sent = 0
    for second in range(120):
        begun = {
            (node, kind): round(1000 * weight * share)
            for node, weight in (("n1", 0.7), ("n2", 0.3))
            for kind, share in shares[node].items()
        }
        corrector.take(begun, float(second))
        told = {(node, kind): share for node, own in shares.items() for kind, share in own.items()}
        if (found := corrector.corrected(told)) is not None:
            shares, sent = found, sent + 1
            corrector.forget()
    last = 0.7 * shares["n1"][BIG] + 0.3 * shares["n2"][BIG]
    assert sent == 1
    assert max(map(abs, corrector.deviations().values())) <= 0.005
    assert last == pytest.approx(0.5, abs=0.005)


def test_what_nodes_are_told_is_not_what_they_then_serve_and_only_the_difference_is_corrected() -> None:
    # One kind is asked for four fifths and can take two fifths, which is what is planned.
    told = {("n1", BIG): 0.2, ("n1", LITTLE): 0.8}
    corrector = ShareCorrector({BIG: 0.6, LITTLE: 0.4})
    for second in range(120):
        corrector.take({("n1", BIG): 60, ("n1", LITTLE): 40}, float(second))
    assert corrector.corrected(told) is None
    # It takes less than that: it is asked for still more.
    for second in range(120, 400):
        corrector.take({("n1", BIG): 66, ("n1", LITTLE): 34}, float(second))
    found = corrector.corrected(told)
    assert found is not None
    assert found["n1"][LITTLE] == pytest.approx(0.8 * 0.4 / 0.34 / (0.8 * 0.4 / 0.34 + 0.2 * 0.6 / 0.66), abs=0.02)


def test_what_had_waited_when_a_plan_came_into_force_does_not_count() -> None:
    corrector = ShareCorrector({BIG: 0.5, LITTLE: 0.5})
    for second in range(int(SETTLE_S)):
        corrector.take({("n1", BIG): 100}, float(second))
    assert corrector.deviations() == {}
    corrector.take({("n1", BIG): 100}, SETTLE_S)
    assert corrector.deviations() == {BIG: 0.5, LITTLE: -0.5}


@pytest.mark.parametrize(
    ("served", "planned", "effective", "expected"),
    [
        # Off by 3 points: three standard errors are 15 points on 100 requests, 3.4 on 2000, 1.5 on 10 000.
        (0.53, 0.50, 100.0, False),
        (0.53, 0.50, 2_000.0, False),
        (0.53, 0.50, 10_000.0, True),
        (0.47, 0.50, 10_000.0, True),
        # However certain: within the floor.
        (0.509, 0.50, 1e9, False),
        (0.511, 0.50, 1e9, True),
        # However large: too few to tell.
        (1.00, 0.50, 199.0, False),
        (1.00, 0.50, 200.0, True),
        # A rare kind has less chance to be off.
        (0.045, 0.02, 500.0, True),
        (0.525, 0.50, 500.0, False),
        # What is not planned at all, or is all that is planned, is not off by chance.
        (0.02, 0.0, 300.0, True),
        (0.98, 1.0, 300.0, True),
    ],
)
def test_a_share_matters_that_is_off_by_more_than_chance_and_a_floor(
    served: float, planned: float, effective: float, *, expected: bool
) -> None:
    assert matters(served, planned, effective) is expected


@pytest.mark.parametrize("rate", [1, 5, 50])
def test_chance_is_not_corrected(rate: int) -> None:
    """Requests that go where they like with the planned probabilities: an hour of ticks, and nothing to correct."""
    planned = {("n1", BIG): 0.4, ("n1", LITTLE): 0.1, ("n2", BIG): 0.1, ("n2", LITTLE): 0.4}
    told = {("n1", BIG): 0.8, ("n1", LITTLE): 0.2, ("n2", BIG): 0.2, ("n2", LITTLE): 0.8}
    corrector, rng = ShareCorrector({BIG: 0.5, LITTLE: 0.5}), Random(f"chance/{rate}")
    corrections = 0
    for second in range(3600):
        drawn = rng.choices(list(planned), weights=list(planned.values()), k=rate)
        corrector.take({cell: drawn.count(cell) for cell in planned}, float(second))
        corrections += corrector.corrected(told) is not None
    # Three standard errors are passed by chance now and then; each time for a few ticks in a row.
    assert corrections <= 36


def test_at_a_low_rate_enough_is_remembered_and_what_was_served_under_other_shares_is_not() -> None:
    told = {("n1", BIG): 0.5, ("n1", LITTLE): 0.5}
    corrector = ShareCorrector({BIG: 0.5, LITTLE: 0.5})
    for second in range(1200):
        corrector.take({("n1", BIG): 2, ("n1", LITTLE): 1}, float(second))
    assert sum(corrector._served.values()) == pytest.approx(MEMORY_REQUESTS)
    assert corrector.deviations() == pytest.approx({LITTLE: 1 / 3 - 0.5, BIG: 2 / 3 - 0.5})
    assert corrector.corrected(told) is not None
    corrector.forget()
    assert corrector.deviations() == {}
    assert corrector.corrected(told) is None


# --- measures -------------------------------------------------------------------------------------------------------


def test_waking_gives_parked_gpus_what_most_have() -> None:
    fleet = gpus(4)
    before = Configuration.of({fleet[0]: WHOLE, fleet[1]: WHOLE, fleet[2]: SMALL, fleet[3]: PARKED})
    assert awake(before).as_dict()[fleet[3]] == WHOLE


@pytest.mark.parametrize(
    ("gpu", "told"),
    [
        (WHOLE, ""),
        (GpuConfiguration((InstanceKind("3g", "base"),)), ""),
        (PARKED, ""),
        (GpuConfiguration((InstanceKind("7g", "huge"),)), "variant 'huge': unknown"),
        (GpuConfiguration((BIG, LITTLE)), "the board does not allow it"),
    ],
)
def test_what_a_gpu_is_pinned_to_is_checked(gpu: GpuConfiguration, told: str) -> None:
    model = load_service("albert", "a100-40gb")
    found = unfit(gpu, model, maximal_multisets(gpu_model("a100-40gb")))
    assert (told in found) if told else found == ""


def test_a_doubled_table_makes_the_model_later() -> None:
    model = load_service("albert", "a100-40gb")
    slow = calibrated(model, Factors(service={BIG: 2.0}))
    fleet = FleetCounts.uniform(WHOLE, 4)
    sla_ms = model.table.sla_p95_ms
    assert evaluate(slow, fleet, 10.0, sla_ms).late_fraction > evaluate(model, fleet, 10.0, sla_ms).late_fraction


# --- live evaluation ------------------------------------------------------------------------------------------------


def test_a_live_search_asks_for_one_candidate_after_the_other_and_ends_where_the_modelled_one_does() -> None:
    model = load_service("albert", "a100-40gb")
    problem = Problem(
        model=model,
        multisets=maximal_multisets(gpu_model("a100-40gb")),
        gpus=tuple(gpus(4)),
        rate_rps=5.0,
        sla_ms=model.table.sla_p95_ms,
        lambda_=0.5,
        intensity_g_per_kwh=250.0,
        pue=1.5,
    )
    live, modelled = LiveScheme(seed=3), SearchScheme("clover", seed=3)
    tried: list[GpuConfiguration] = []
    answer = live.plan(problem)
    while (gpu := live.measuring) is not None:
        assert answer.configuration == Configuration.uniform(problem.gpus, gpu)
        tried.append(gpu)
        # What is measured is what the model says: the searches must then agree in everything.
        live.measured(evaluate(model, FleetCounts.uniform(gpu, 4), 5.0, problem.sla_ms), 1000)
        answer = live.plan(replace(problem, current=gpu, intensity_g_per_kwh=250.0))
    expected = modelled.plan(problem)
    assert len(tried) == len(set(tried)) == len(answer.explored) > 3
    assert answer.configuration == expected.configuration
    assert "explored on live traffic" in answer.reason
