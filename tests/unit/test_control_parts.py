"""The pure parts of control: transitions, news, fence, steps of a roll, measures, live evaluation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clover.catalog import load_service
from clover.core.admission import admission_bound
from clover.core.calibration import Factors, calibrated
from clover.core.configuration import PARKED, Configuration, FleetCounts, GpuConfiguration, GpuId, InstanceKind
from clover.core.control import PlanReady
from clover.core.fencing import CHANGE_PATIENCE_S, FAILED_PATIENCE_S, HEALTHY_FIRST_S, Fence
from clover.core.news import News
from clover.core.queueing import evaluate
from clover.core.rolling import ROLL_LATE_LIMIT, Step, next_step
from clover.core.transitions import STATES, TRANSITIONS, Story, state_diagram, target_of
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


# --- transitions ------------------------------------------------------------------------------------------------------


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


# --- news -------------------------------------------------------------------------------------------------------------


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


# --- fence ------------------------------------------------------------------------------------------------------------


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


# --- steps of a roll --------------------------------------------------------------------------------------------------


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


# --- measures ---------------------------------------------------------------------------------------------------------


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


# --- live evaluation --------------------------------------------------------------------------------------------------


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
