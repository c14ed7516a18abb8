"""What `exact` leaves out while it plans could not have won, and its short cuts say what the long ways say."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from clover.analysis.cases import Case, own_rate_rps, problem_of
from clover.catalog import load_service
from clover.core.application import ServiceModel
from clover.core.closed_form import service_tail
from clover.core.configuration import FleetCounts, InstanceKind
from clover.core.objective import LATE_LIMIT, PLANNED_LATE_LIMIT
from clover.core.queueing import FleetSearch, evaluate
from clover.plan.asking import Asked
from clover.plan.columns import Columns
from clover.plan.exact import ExactScheme
from clover.plan.flow import FlowModel, FlowSolution
from clover.plan.flow_plans import FlowPlanner, asked_score
from clover.plan.nearby import better_neighbour
from clover.plan.points import Fleetwide, PlanPoint, fleet_of
from clover.plan.pool import Enumeration
from clover.plan.prover import Proof
from clover.plan.quality import best_served, estimate
from clover.plan.rooms import Lateness, Room, sketch
from clover.plan.space import all_gpu_configurations
from clover.plan.sweep import Matrix
from mig.partition import maximal_multisets
from mig.profiles import gpu_model

MULTISETS = maximal_multisets(gpu_model("a100-40gb"))
YOLO = load_service("yolov5", "a100-40gb")
NARROW = 1.0 / 80.0


def flow_of(model: ServiceModel = YOLO, gpus: int = 40) -> tuple[FlowModel, Asked]:
    asked = problem_of(model, Case(gpus=gpus, rate_rps=own_rate_rps(model, gpus, 2.5), lambda_=0.1, parking="parked"))
    flow = FlowModel(
        model,
        MULTISETS,
        gpus,
        rate_rps=asked.rate_rps,
        sla_ms=asked.sla_ms,
        spare_power_w=model.table.parked_power_w,
    )
    return flow, asked.asked(asked.baseline())


# --- rooms


def test_less_is_asked_than_was_used_until_nothing_is_left_to_ask() -> None:
    seen: set[Room] = set()
    new = [Room()]
    while new:
        room = new.pop()
        seen.add(room)
        for less in room.less(room, excess=0.02):
            assert (less.utilisation < room.utilisation) != (less.late < room.late)
            assert less.utilisation >= 0.3
            assert less.late >= 0.004
            new += [] if less in seen else [less]
    assert len(seen) > 20


def test_what_was_used_counts_and_not_what_might_have_been() -> None:
    less = list(Room(utilisation=0.9).less(Room(utilisation=0.71, late=0.04), excess=0.003))
    assert [room.utilisation for room in less] == [0.69, 0.9]
    assert [room.late for room in less] == [LATE_LIMIT, 0.037]


def test_slow_services_are_not_the_cure_where_there_are_few() -> None:
    assert all(room.late == LATE_LIMIT for room in Room().less(Room(utilisation=0.95, late=0.01), excess=0.02))


@pytest.mark.parametrize("room", [Room(), Room(utilisation=0.84), Room(utilisation=0.84, late=0.03)])
def test_a_room_that_is_left_out_for_its_sketch_holds_nothing_better(room: Room) -> None:
    flow, asked = flow_of()
    found = sketch(flow, asked, room, narrow=NARROW, cutoff=-np.inf)
    assert found is not None
    whole = flow.solve(asked, found.interval, late_limit=room.late, utilisation=room.utilisation, absolute_gap=1e-6)
    assert whole is None or whole.bound <= found.bound + 1e-6
    assert sketch(flow, asked, room, narrow=NARROW, cutoff=found.bound + 1e-9) is None


def test_a_program_that_is_solved_again_says_what_a_new_one_says() -> None:
    flow, asked = flow_of()
    rooms = [Room(), Room(utilisation=0.9), Room(utilisation=0.9, late=0.02), Room()]
    again = [sketch(flow, asked, room, narrow=NARROW, cutoff=-np.inf) for room in rooms]
    fresh = [sketch(flow_of()[0], asked, room, narrow=NARROW, cutoff=-np.inf) for room in rooms]
    assert [found and found.bound for found in again] == pytest.approx([found and found.bound for found in fresh])


def test_shares_are_expected_between_one_line_and_a_line_for_each_kind() -> None:
    flow, _ = flow_of()
    kinds = {str(kind): place for place, kind in enumerate(flow.arrays.kinds)}
    counts, flows = np.zeros((2, len(kinds)))
    large, small = kinds["7g:yolov5x6"], kinds["1g:yolov5l"]
    counts[large], counts[small] = 20.0, 40.0
    flows[large], flows[small] = 0.3 * flow.rate_rps, 0.7 * flow.rate_rps
    nothing = np.zeros(len(MULTISETS), dtype=np.intp)
    solution = FlowSolution(bound=0.0, found=True, gpus=nothing, spare=0, counts=counts, flows=flows)
    late = Lateness.of(flow, solution)
    assert late.one_line == pytest.approx(flow.evaluation(solution).late_fraction)
    assert late.one_line < late.expected(0.3) < late.line_each
    assert late.way(late.expected(0.3)) == pytest.approx(0.3)
    assert late.way(0.0) == 0.0


def test_a_plan_of_many_gpus_uses_up_what_its_certificate_left() -> None:
    flow, asked = flow_of(gpus=600)
    proven: list[PlanPoint] = []

    def prove(point: PlanPoint) -> Proof:
        if point.dispatch.name != "shares":
            return Proof(point=None, late_fraction=0.06)
        seen = dataclasses.replace(point.evaluation, p95_ms=500.0)
        proven.append(dataclasses.replace(point, evaluation=seen, late_upper=0.046))
        return Proof(point=proven[-1], late_fraction=0.045)

    point, upper = FlowPlanner(flow, prove, lambda point: point).best(asked)
    score = asked_score(asked)
    assert len(proven) == 2
    assert point is proven[1]
    assert score(proven[0]) < score(proven[1]) <= upper


def test_a_certificate_that_left_nothing_changes_nothing() -> None:
    assert Room(utilisation=0.8, late=0.04).more(0.0) == Room(utilisation=0.8, late=0.04)
    assert Room(utilisation=0.8, late=0.04).more(0.5) == Room(utilisation=0.8)
    assert Room().more(0.01) == Room()


# --- neighbours


def test_a_neighbour_is_better_and_keeps_the_promise_and_what_has_none_stays() -> None:
    model = load_service("albert", "a100-40gb")
    problem = problem_of(model, Case(gpus=40, rate_rps=own_rate_rps(model, 40, 2.5), lambda_=0.5, parking="parked"))
    asked = problem.asked(problem.baseline())
    enumeration = Enumeration(model, all_gpu_configurations(model, MULTISETS), problem.sla_ms)
    pool = enumeration.uniform([6], 40, problem.rate_rps)
    layout = pool.layout(int(np.argmin(pool.accuracy_pct)))
    start = PlanPoint(
        layout=layout,
        dispatch=Fleetwide(),
        evaluation=evaluate(model, fleet_of(layout), problem.rate_rps, problem.sla_ms),
    )
    found = better_neighbour(enumeration, start, asked, problem)
    assert found is not None
    assert asked_score(asked)(found) > asked_score(asked)(start)
    assert found.evaluation.late_fraction <= PLANNED_LATE_LIMIT + 1e-4
    assert sum(n for _, n in found.layout) == 40
    few = dataclasses.replace(problem, gpus=problem.gpus[:16])
    assert better_neighbour(enumeration, start, asked, few) is None


# --- fleets that dispatch by accuracy


@pytest.mark.parametrize("app", ["albert", "efficientnet", "yolov5"])
def test_no_estimate_exceeds_the_bound_for_which_a_fleet_is_left_out(app: str) -> None:
    model = load_service(app, "a100-40gb")
    sla_ms = model.table.sla_p95_ms
    enumeration = Enumeration(model, all_gpu_configurations(model, MULTISETS), sla_ms)
    search, rate = enumeration.search, own_rate_rps(model, 2, 2.5)
    every = enumeration.mixed_fleets(2, 0)
    counts = every.counts[np.random.default_rng(5).choice(len(every.counts), 2_000, replace=False)]
    found = estimate(search, counts, rate)
    able = found.late_fraction < 1.0
    worth = 0.02 * search.arrays.accuracy_pct - 0.001 * search.arrays.dynamic_j * (
        1.0 - search.arrays.energy_contention
    )
    score = 0.02 * found.accuracy_pct - 0.001 * found.dynamic_j
    slow = search.late_service(np.zeros(1))[0]
    for price in (0.0, 0.1, 2.0):
        most = best_served(search.arrays, counts, rate, worth - price * slow) + price * found.late_fraction
        assert able.sum() > 100
        assert (score[able] <= most[able] + 1e-9).all()


@pytest.mark.parametrize("ranked", [True, False])
def test_a_few_fleets_are_served_one_by_one_as_they_are_side_by_side(*, ranked: bool) -> None:
    rng = np.random.default_rng(3)
    instances = np.array([3, 7, 5])
    host, gpu = rng.uniform(0.05, 0.2, (2, 7, 3))
    one, many = Columns(instances, ranked=ranked), Matrix(instances, ranked=ranked)
    for at in (0.0, 100.0):
        arrival = at + np.cumsum(rng.exponential(0.08, 500))[:, None]
        factors = rng.lognormal(0.0, 0.3, (2, 500, 1))
        for way in (one, many):
            way.set_times(host, gpu)
        (ours, served), (theirs, by) = one.serve(arrival, *factors), many.serve(arrival, *factors)
        assert ours == pytest.approx(theirs, rel=1e-9)
        assert (served == by).mean() > 0.999


# --- the closed form


@pytest.mark.parametrize("sigma", [None, 0.004])
def test_tails_from_few_points_of_contention_are_the_tails(sigma: float | None) -> None:
    table = YOLO.table
    if sigma is not None:
        # Services that hardly vary: late or not, all at once, at some contention.
        table = dataclasses.replace(table, host_lognormal_sigma=sigma, gpu_lognormal_sigma=sigma)
    model = dataclasses.replace(YOLO, table=table)
    kinds = [InstanceKind("7g", "yolov5x6"), InstanceKind("3g", "yolov5x"), InstanceKind("1g", "yolov5l")]
    search = FleetSearch(model, kinds, table.sla_p95_ms)
    grid = np.linspace(0.0, 1.0, 257)
    for place in range(len(kinds)):
        times = np.full((len(grid), 1), table.sla_p95_ms / 1e3)
        exact = service_tail(search.arrays, np.full(len(grid), place), grid, times)[:, 0]
        assert search.late_service(grid)[:, place] == pytest.approx(exact, abs=1e-7)


def test_fleets_that_are_not_evaluated_for_their_capacity_are_overloaded() -> None:
    enumeration = Enumeration(YOLO, all_gpu_configurations(YOLO, MULTISETS), YOLO.table.sla_p95_ms)
    counts = enumeration.mixed_fleets(1, 0).counts
    search = enumeration.search
    assert ((search.capacity_rps(counts) <= 12.0) == search.operating(counts, 12.0).overloaded).all()


def test_the_percentile_may_be_left_out_of_candidates_but_not_of_plans() -> None:
    fleet = FleetCounts(kinds=((InstanceKind("7g", "yolov5l"), 3),), active=3)
    short = evaluate(YOLO, fleet, 5.0, 600.0, with_p95=False)
    assert math.isnan(short.p95_ms)
    assert dataclasses.replace(short, p95_ms=0.0) == dataclasses.replace(evaluate(YOLO, fleet, 5.0, 600.0), p95_ms=0.0)
    model = load_service("efficientnet", "a100-40gb")
    rate = own_rate_rps(model, 100, 2.5)
    answer = ExactScheme().plan(problem_of(model, Case(gpus=100, rate_rps=rate, lambda_=0.5, parking="parked")))
    assert answer.evaluation.p95_ms < model.table.sla_p95_ms
    assert answer.gap is not None
    assert answer.gap < 1e-3
