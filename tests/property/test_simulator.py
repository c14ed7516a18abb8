"""The simulator against `choose` itself, against the closed form and against the live simulated servicer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from dataclasses import replace
from random import Random
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_simulator import Arrival, Reference

from clover.agents.instance import Instance
from clover.agents.pool import InstancePool
from clover.catalog import load_service
from clover.core.application import ServiceModel
from clover.core.closed_form import Floats
from clover.core.configuration import Configuration, FleetCounts, GpuConfiguration, GpuId, InstanceKind
from clover.core.dispatch import Demand, DispatchRule
from clover.core.queueing import FleetSearch, evaluate
from clover.plan.certify import LEAST_BATCHES, LEAST_REQUESTS, certify, student_t_quantile
from clover.plan.engines import Requests
from clover.plan.instances import InstanceArrays, make_engine
from clover.plan.replications import AgentsMatrix, Replications, preferences
from clover.plan.simulator import Simulator, log_normal, simulate
from clover.plan.space import all_gpu_configurations, uniform_fleets
from clover.plan.sweep import SweepRule, sweep
from clover.plan.traffic import AgentFleet, RequestClass, Traffic, agents_of, one_agent
from clover.serving.port import InstanceSpec, ServableRequest, Served
from clover.serving.simulated import SimulatedServicer, SimulatedWorker
from clover.sim.clock import VirtualClock, run_virtual
from mig.device import GpuInstance
from mig.partition import layouts_of, maximal_multisets
from mig.profiles import gpu_model

A100 = gpu_model("a100-40gb")
MULTISETS = maximal_multisets(A100)
MODELS = {name: load_service(name, "a100-40gb") for name in ("albert", "efficientnet", "yolov5")}
SPACES = {name: uniform_fleets(all_gpu_configurations(model, MULTISETS), 2) for name, model in MODELS.items()}
KINDS = {name: space.kinds for name, space in SPACES.items()}


def _capacity(model: ServiceModel, fleet: FleetCounts) -> float:
    return sum(n * 1e3 / model.mean_ms(k.variant, k.profile, 1.0) for k, n in fleet.kinds)


# --- dispatch: every engine does what `choose` says -----------------------------------------------------------------


@st.composite
def _agents(draw: st.DrawFn, kinds: tuple[InstanceKind, ...]) -> list[AgentFleet]:
    name = draw(st.sampled_from(["longest_idle", "fastest", "fastest hold", "accurate", "shares"]))
    agents: list[AgentFleet] = []
    for _ in range(draw(st.integers(1, 3))):
        chosen = draw(st.dictionaries(st.sampled_from(kinds), st.integers(1, 3), min_size=1, max_size=4))
        weights = [draw(st.integers(1, 9)) for _ in chosen]
        shares = {kind: weight / sum(weights) for kind, weight in zip(chosen, weights, strict=True)}
        rule = DispatchRule(name=name.split()[0], hold_back=name.endswith("hold"), shares=shares)
        agents.append(AgentFleet(kinds=tuple(sorted(chosen.items())), rule=rule))
    return agents


@settings(max_examples=120, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000), load=st.floats(0.2, 1.4), mixed=st.booleans())
def test_engines_follow_choose_request_by_request(data: st.DataObject, seed: int, load: float, mixed: bool) -> None:
    model = MODELS["yolov5"]
    agents = data.draw(_agents(KINDS["yolov5"]))
    best = max(model.application.variant(k.variant).accuracy_pct for agent in agents for k, _ in agent.kinds)
    classes = (RequestClass(),)
    if mixed:
        classes = (
            RequestClass(fraction=0.3, min_accuracy_pct=best),
            RequestClass(fraction=0.2, high_priority=True),
            RequestClass(fraction=0.5),
        )
    capacity = sum(_capacity(model, FleetCounts(kinds=agent.kinds, active=1)) for agent in agents)
    traffic = Traffic(rate_rps=load * capacity, classes=classes)
    rng = np.random.default_rng(seed)
    length = 250
    requests = Requests(
        first=0,
        arrival_s=np.cumsum(rng.exponential(1.0 / traffic.rate_rps, length)),
        host=log_normal(rng, 0.3, length),
        gpu=log_normal(rng, 0.1, length),
        part=rng.integers(0, len(classes), length),
    )
    rho = [0.2 + 0.3 * index for index in range(len(agents))]
    instances = InstanceArrays.of(model, agents)
    engine = make_engine(instances, agents, traffic)
    engine.set_times(instances.host_s(np.array(rho)).tolist(), instances.gpu_s().tolist())
    pieces = [engine.run(_part(requests, 0, 100)), engine.run(_part(requests, 100, length)), engine.drain()]
    found = {
        int(number): (float(finish), int(instance))
        for piece in pieces
        for number, finish, instance in zip(piece.number, piece.finish_s, piece.instance, strict=True)
    }
    arrivals = [
        Arrival(at_s=a, host=h, gpu=g, part=p)
        for a, h, g, p in zip(
            requests.arrival_s.tolist(),
            requests.host.tolist(),
            requests.gpu.tolist(),
            requests.part.tolist(),
            strict=True,
        )
    ]
    expected = Reference(model, agents, classes, rho).run(arrivals)
    assert found.keys() == expected.keys()
    for number, (finish, instance) in expected.items():
        assert found[number][1] == instance
        assert found[number][0] == pytest.approx(finish, abs=1e-9)


@pytest.mark.parametrize("agents", [1, 2, 3])
@pytest.mark.parametrize("rule", ["longest_idle", "accurate", "fastest"])
def test_replications_side_by_side_follow_the_engine_request_by_request(agents: int, rule: str) -> None:
    """Same draws, same finishes: instances of a kind stand for each other."""
    model, rng, columns = MODELS["yolov5"], np.random.default_rng(agents), 5
    fleets = [
        AgentFleet(
            kinds=((InstanceKind("1g", "yolov5l"), 1 + n), (InstanceKind("3g", "yolov5x"), 2)),
            rule=DispatchRule(name=rule),
        )
        for n in range(agents)
    ]
    traffic = Traffic(rate_rps=0.8 * sum(_capacity(model, FleetCounts(kinds=a.kinds, active=1)) for a in fleets))
    instances, rho = InstanceArrays.of(model, fleets), np.full(agents, 0.5)
    rows = preferences(instances, fleets, rho)
    matrix = AgentsMatrix([a.instances for a in fleets], [rule != "longest_idle"] * agents, columns)
    shape = (len(rows), columns)
    matrix.set_times(
        np.broadcast_to(instances.host_s(rho)[rows, None], shape), np.broadcast_to(instances.gpu_s()[rows, None], shape)
    )
    arrival_s = np.cumsum(rng.exponential(1.0 / traffic.rate_rps, (400, columns)), axis=0)
    host, gpu = log_normal(rng, 0.3, (400, columns)), log_normal(rng, 0.1, (400, columns))
    finish_s, row = matrix.serve(arrival_s, host, gpu)
    for column in range(columns):
        engine = make_engine(instances, fleets, traffic)
        engine.set_times(instances.host_s(rho).tolist(), instances.gpu_s().tolist())
        part = np.zeros(400, dtype=np.intp)
        seen = engine.run(Requests(0, arrival_s[:, column], host[:, column], gpu[:, column], part))
        assert finish_s[:, column] == pytest.approx(seen.finish_s, abs=1e-6)
        served = rows[row[:, column]]
        assert np.array_equal(instances.kind[served], instances.kind[seen.instance])
        assert np.array_equal(instances.agent[served], instances.agent[seen.instance])


@pytest.mark.parametrize("rule", ["longest_idle", "accurate"])
def test_replications_agree_with_one_long_run(rule: str) -> None:
    fleet = AgentFleet(kinds=FLEET.kinds, rule=DispatchRule(name=rule))
    traffic = Traffic(rate_rps=1.4 * _capacity(YOLO, FLEET))
    side = Replications(YOLO, [fleet, fleet], traffic, seed=4)
    assert side.quick
    side.run(400_000)
    found = side.result(sla_ms=430.0).evaluation
    long = simulate(YOLO, [fleet, fleet], traffic, sla_ms=430.0, requests=400_000, seed=5).evaluation
    assert found.late_fraction == pytest.approx(long.late_fraction, abs=0.004)
    assert found.accuracy_pct == pytest.approx(long.accuracy_pct, abs=0.03)
    assert found.dynamic_j == pytest.approx(long.dynamic_j, rel=0.005)


@pytest.mark.parametrize("kind", [Simulator, Replications])
def test_what_a_request_takes_beside_its_service_is_in_every_latency(kind: type[Simulator]) -> None:
    fleet = AgentFleet(kinds=FLEET.kinds)
    traffic = Traffic(rate_rps=0.5 * _capacity(YOLO, FLEET))
    far = replace(YOLO, table=replace(YOLO.table, transport_ms=7.0))
    near_ms, far_ms = (_latencies(kind(model, [fleet], traffic, seed=3)) for model in (YOLO, far))
    assert len(near_ms) >= 2_000
    assert far_ms == pytest.approx(near_ms + 7.0, abs=1e-6)


def _latencies(simulator: Simulator) -> Floats:
    simulator.run(2_000)
    simulator.finish()
    return simulator.latency_ms()


def test_what_forgets_slowly_or_is_large_is_simulated_in_one_run() -> None:
    fleet = AgentFleet(kinds=FLEET.kinds)
    capacity = _capacity(YOLO, FLEET)
    assert Replications(YOLO, [fleet], Traffic(rate_rps=0.5 * capacity)).quick
    assert not Replications(YOLO, [fleet], Traffic(rate_rps=0.98 * capacity)).quick
    large = AgentFleet(kinds=((InstanceKind("1g", "yolov5l"), 200),))
    assert not Replications(YOLO, [large], Traffic(rate_rps=50.0)).quick


def _part(requests: Requests, first: int, end: int) -> Requests:
    part = slice(first, end)
    return Requests(
        first=first,
        arrival_s=requests.arrival_s[part],
        host=requests.host[part],
        gpu=requests.gpu[part],
        part=requests.part[part],
    )


@pytest.mark.parametrize("rule", ["longest_idle", "fastest", "accurate"])
def test_a_sweep_is_what_single_simulations_say(rule: SweepRule) -> None:
    model, space = MODELS["yolov5"], SPACES["yolov5"]
    sla_ms = model.table.sla_p95_ms
    rows = [3, 40, 77, 120, 160, 200]
    rates = np.array([0.7 * _capacity(model, space.fleet(row)) for row in rows])
    found = sweep(model, space.kinds, space.counts[rows], rates, sla_ms=sla_ms, rule=rule, requests=60_000, seed=3)
    for index, row in enumerate(rows):
        agents = one_agent(space.fleet(row), DispatchRule(name=rule))
        one = simulate(model, agents, Traffic(rate_rps=float(rates[index])), sla_ms=sla_ms, requests=60_000).evaluation
        assert found.late_fraction[index] == pytest.approx(one.late_fraction, abs=0.02)
        assert found.p95_ms[index] == pytest.approx(one.p95_ms, rel=0.04)
        assert found.rho[index] == pytest.approx(one.utilisation, abs=0.015)
        assert found.accuracy_pct[index] == pytest.approx(one.accuracy_pct, abs=0.06)
        assert found.dynamic_j[index] == pytest.approx(one.dynamic_j, rel=0.02)


# --- closed form ----------------------------------------------------------------------------------------------------

#: Largest errors of the closed form by rho, p95 in %, accuracy in points, dynamic J in %: those of the planning study
#: on 450 random fleets, but for accuracy at .3 (.16) and p95 at .85 (8), which the present tables and formulas change.
BANDS = {
    0.15: (5.0, 0.16, 5.0),
    0.3: (9.0, 0.22, 6.2),
    0.5: (7.0, 0.19, 7.0),
    0.7: (7.0, 0.08, 4.0),
    0.85: (4.0, 0.05, 3.0),
}
#: What 80 000 simulated requests leave open, in the same units.
NOISE = (2.0, 0.03, 0.5)


@pytest.mark.parametrize("name", MODELS)
def test_the_closed_form_is_within_its_error_bands(name: str) -> None:
    model, kinds = MODELS[name], KINDS[name]
    sla_ms = model.table.sla_p95_ms
    one = SPACES[name].counts / 2.0
    rng = np.random.default_rng(17)
    rhos = np.repeat(list(BANDS), 30)
    bands = np.array([BANDS[rho] for rho in rhos.tolist()]) + NOISE
    counts = one[rng.choice(len(one), len(rhos))] * np.resize([1.0, 2.0, 10.0], len(rhos))[:, None]
    search = FleetSearch(model, kinds, sla_ms)
    rates = _rate_at(search, counts, rhos)
    expected = search.evaluate(counts, rates)
    assert expected.points.rho == pytest.approx(rhos, abs=1e-6)
    found = sweep(model, kinds, counts, rates, sla_ms=sla_ms, requests=80_000, warm_up=8_000, seed=5)
    p95_ms = np.array([_p95_ms(model, kinds, row, rate, sla_ms) for row, rate in zip(counts, rates, strict=True)])
    errors = np.column_stack(
        [
            100.0 * (p95_ms / found.p95_ms - 1.0),
            expected.accuracy_pct - found.accuracy_pct,
            100.0 * (expected.dynamic_j / found.dynamic_j - 1.0),
        ]
    )
    assert np.all(np.abs(errors) <= bands), errors[np.abs(errors) > bands]
    # Near the limit of 5 % the verdict counts: a small fleet may be judged too kindly, a large one hardly at all.
    borderline = (found.late_fraction > 0.03) & (found.late_fraction < 0.07)
    too_kind = found.late_fraction[borderline] - expected.late_fraction[borderline]
    large = counts[borderline].sum(axis=1) >= 20
    assert np.all(too_kind <= np.where(large, 0.0015, 0.006) + 3.0 * found.late_error[borderline])


def _rate_at(search: FleetSearch, counts: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Return the rates at which fleets are this busy."""
    low, high = np.full(len(counts), 1e-6), counts.sum(axis=1) / search.arrays.host_s.min()
    for _ in range(40):
        rates = (low + high) / 2.0
        busier = search.operating(counts, rates).rho > rho
        low, high = np.where(busier, low, rates), np.where(busier, rates, high)
    return (low + high) / 2.0


def _p95_ms(model: ServiceModel, kinds: tuple[InstanceKind, ...], row: np.ndarray, rate: float, sla_ms: float) -> float:
    fleet = FleetCounts(kinds=tuple((k, int(n)) for k, n in zip(kinds, row, strict=True) if n), active=1)
    return evaluate(model, fleet, float(rate), sla_ms).p95_ms


# --- live simulated serving -----------------------------------------------------------------------------------------


class _Nobody:
    """A request without content: simulated answers do not depend on it."""

    id, content_type, payload = "", "", b""


async def _serve_live(
    model: ServiceModel, fleet: FleetCounts, rate_rps: float, requests: int, seed: int
) -> tuple[list[float], list[Served], list[str], float]:
    """Run the node agent's own pool and servicer in virtual time; return latencies, answers, variants and mean rho."""
    loop = asyncio.get_running_loop()
    pool = InstancePool(model, VirtualClock(loop))
    rng = Random(seed)
    servicer = SimulatedServicer(model=model, rng=rng, contention=pool.contention)
    for kind, count in fleet.kinds:
        placed = layouts_of(A100, (kind.profile,))[0].placed[0]
        for number in range(count):
            spec = InstanceSpec(
                application=model.application.name,
                variant=kind.variant,
                profile=kind.profile,
                compute_slices=placed.profile.compute_slices,
                total_slices=7,
                device="",
                name=f"{kind}#{number}",
            )
            device = GpuInstance(id=number, profile=placed.profile, placement=placed.placement, uuid="")
            pool.add(0, device, kind, await servicer.start(spec))
    queue: deque[float] = deque()
    latencies: list[float] = []
    answers: list[Served] = []
    variants: list[str] = []
    rhos: list[float] = []

    async def serve(instance: Instance, due: float) -> None:
        answer = await cast("SimulatedWorker", instance.worker).serve(cast("ServableRequest", _Nobody()))
        pool.end(instance, answer.busy_s)
        latencies.append(loop.time() - due)
        answers.append(answer)
        variants.append(instance.kind.variant)
        dispatch()

    def dispatch() -> None:
        while queue and (instance := pool.choose(Demand())) is not None:
            due = queue.popleft()
            pool.begin(instance)
            rhos.append(pool.contention())
            group.create_task(serve(instance, due))

    async with asyncio.TaskGroup() as group:
        for _ in range(requests):
            await cast("Awaitable[None]", asyncio.sleep(rng.expovariate(rate_rps)))
            queue.append(loop.time())
            dispatch()
    skip = requests // 10
    return latencies[skip:], answers[skip:], variants[skip:], float(np.mean(rhos[skip:]))


@pytest.mark.parametrize("name", MODELS)
def test_closed_form_simulator_and_live_serving_agree(name: str) -> None:
    model, space = MODELS[name], SPACES[name]
    sla_ms = model.table.sla_p95_ms
    rng = np.random.default_rng(23)
    for row, load in zip(rng.choice(len(space), 4, replace=False), (0.25, 0.4, 0.55, 0.7), strict=True):
        fleet = space.fleet(int(row))
        rate = float(load * _capacity(model, fleet))
        closed = evaluate(model, fleet, rate, sla_ms)
        simulated = simulate(model, one_agent(fleet), Traffic(rate_rps=rate), sla_ms=sla_ms, requests=100_000)
        latencies, answers, variants, rho = run_virtual(_serve_live(model, fleet, rate, 8_000, int(row)))
        accuracy = np.mean([model.application.variant(variant).accuracy_pct for variant in variants])
        for one in (closed, simulated.evaluation):
            assert rho == pytest.approx(one.utilisation, abs=0.03)
            assert np.mean([answer.energy_j for answer in answers]) == pytest.approx(one.dynamic_j, rel=0.05)
            assert accuracy == pytest.approx(one.accuracy_pct, abs=0.25)
            assert np.quantile(latencies, 0.95) * 1e3 == pytest.approx(one.p95_ms, rel=0.10)
            assert np.mean(np.array(latencies) * 1e3 > sla_ms) == pytest.approx(one.late_fraction, abs=0.025)


# --- the simulator itself -------------------------------------------------------------------------------------------

FLEET = FleetCounts(kinds=((InstanceKind("3g", "yolov5l"), 3), (InstanceKind("4g", "yolov5x"), 3)), active=3)
YOLO = MODELS["yolov5"]


@pytest.mark.parametrize("rule", ["longest_idle", "fastest", "accurate", "shares"])
def test_the_same_seed_gives_the_same_run_and_another_one_does_not(rule: str) -> None:
    shares = {kind: 0.5 for kind, _ in FLEET.kinds}
    agents = one_agent(FLEET, DispatchRule(name=rule, shares=shares if rule == "shares" else {}))
    runs = [simulate(YOLO, agents, Traffic(rate_rps=15.0), sla_ms=430.0, requests=5_000, seed=s) for s in (1, 1, 2)]
    assert np.array_equal(runs[0].latency_ms, runs[1].latency_ms)
    assert runs[0].evaluation == runs[1].evaluation
    assert not np.array_equal(runs[0].latency_ms, runs[2].latency_ms)
    assert sum(runs[0].evaluation.shares.values()) == pytest.approx(1.0)
    space = SPACES["yolov5"]
    sweeps = [
        sweep(YOLO, space.kinds, space.counts[:9], 3.0, sla_ms=430.0, requests=500, warm_up=500, seed=s)
        for s in (1, 1, 2)
    ]
    assert np.array_equal(sweeps[0].p95_ms, sweeps[1].p95_ms)
    assert not np.array_equal(sweeps[0].p95_ms, sweeps[2].p95_ms)


def test_contention_is_that_of_the_rule_in_force() -> None:
    small, large = InstanceKind("1g", "yolov5l"), InstanceKind("3g", "yolov5x6")
    fleet = FleetCounts(kinds=((small, 4), (large, 4)), active=3)
    rhos = {}
    for rule in ("longest_idle", "fastest", "accurate"):
        seen = simulate(YOLO, one_agent(fleet, DispatchRule(name=rule)), Traffic(rate_rps=9.0), sla_ms=430.0)
        assert seen.agent_rho == pytest.approx(seen.realised_rho, abs=0.01)
        rhos[rule] = float(seen.agent_rho[0])
    assert rhos["fastest"] < rhos["longest_idle"] < rhos["accurate"]


def test_each_agent_has_the_contention_of_its_own_instances() -> None:
    fast = AgentFleet(kinds=((InstanceKind("7g", "yolov5l"), 4),))
    slow = AgentFleet(kinds=((InstanceKind("2g", "yolov5x6"), 4),))
    seen = simulate(YOLO, [fast, slow], Traffic(rate_rps=12.0), sla_ms=430.0, requests=50_000)
    assert seen.agent_rho[1] > 1.3 * seen.agent_rho[0]
    assert seen.agent_rho == pytest.approx(seen.realised_rho, abs=0.015)


def test_high_priority_waits_less_and_a_stricter_class_gets_what_it_asks_for() -> None:
    classes = (
        RequestClass(fraction=0.2, min_accuracy_pct=50.0),
        RequestClass(fraction=0.2, high_priority=True),
        RequestClass(fraction=0.6),
    )
    seen = simulate(YOLO, one_agent(FLEET), Traffic(rate_rps=22.0, classes=classes), sla_ms=430.0, requests=60_000)
    means = [float(seen.latency_ms[seen.part == part].mean()) for part in range(3)]
    assert means[1] < means[2]
    alone = simulate(
        YOLO,
        one_agent(FLEET),
        Traffic(rate_rps=22.0, classes=(RequestClass(min_accuracy_pct=50.7),)),
        sla_ms=430.0,
        requests=2_000,
    )
    assert alone.evaluation.accuracy_pct == pytest.approx(50.7)
    assert alone.evaluation.shares[InstanceKind("3g", "yolov5l")] == 0.0


def test_shares_are_kept_within_two_points() -> None:
    shares = {FLEET.kinds[0][0]: 0.8, FLEET.kinds[1][0]: 0.2}
    agents = [AgentFleet(kinds=FLEET.kinds, rule=DispatchRule(name="shares", shares=shares))] * 2
    seen = simulate(YOLO, agents, Traffic(rate_rps=18.0), sla_ms=430.0, requests=40_000)
    for kind, share in shares.items():
        assert seen.evaluation.shares[kind] == pytest.approx(share, abs=0.02)


def test_an_overloaded_fleet_is_late_and_serves_what_it_can() -> None:
    seen = simulate(YOLO, one_agent(FLEET), Traffic(rate_rps=1000.0), sla_ms=430.0)
    closed = evaluate(YOLO, FLEET, 1000.0, 430.0)
    assert seen.evaluation.late_fraction == 1.0
    assert not seen.evaluation.stable
    assert seen.evaluation.served_rate_rps == pytest.approx(closed.served_rate_rps)
    assert seen.evaluation.dynamic_j == pytest.approx(closed.dynamic_j)
    assert not certify(YOLO, one_agent(FLEET), Traffic(rate_rps=1000.0), sla_ms=430.0).certified


def test_agents_are_the_nodes_that_serve() -> None:
    gpu = GpuConfiguration((InstanceKind("3g", "yolov5l"), InstanceKind("4g", "yolov5x")))
    configuration = Configuration.of(
        {GpuId("a", 0): gpu, GpuId("a", 1): gpu, GpuId("b", 0): gpu, GpuId("c", 0): GpuConfiguration(mode="parked")}
    )
    fastest = DispatchRule(name="fastest")
    agents = agents_of(configuration, {"b": fastest})
    assert [agent.instances for agent in agents] == [4, 2]
    assert [agent.rule.name for agent in agents] == ["longest_idle", "fastest"]
    assert all(agent.rule is fastest for agent in agents_of(configuration, fastest))


# --- certificates ---------------------------------------------------------------------------------------------------


def test_the_upper_bound_holds_and_is_tight() -> None:
    traffic = Traffic(rate_rps=16.0)
    truth = simulate(
        YOLO, one_agent(FLEET), traffic, sla_ms=350.0, requests=2_000_000, seed=99
    ).evaluation.late_fraction
    found = [certify(YOLO, one_agent(FLEET), traffic, sla_ms=350.0, limit=1.0, seed=seed) for seed in range(25)]
    assert sum(each.late_upper >= truth for each in found) >= 23
    assert np.mean([each.late_upper - each.late_fraction for each in found]) < 0.004
    for each in found:
        assert each.requests >= LEAST_REQUESTS
        assert each.batches >= LEAST_BATCHES


def test_a_plan_is_certified_only_below_the_limit_and_a_clear_failure_ends_early() -> None:
    good = certify(YOLO, one_agent(FLEET), Traffic(rate_rps=12.0), sla_ms=430.0)
    assert good.certified
    assert good.late_fraction < good.late_upper <= 0.05
    bad = certify(YOLO, one_agent(FLEET), Traffic(rate_rps=24.0), sla_ms=430.0)
    assert not bad.certified
    assert bad.requests < LEAST_REQUESTS
    assert bad.late_fraction > 0.05


def test_a_certificate_does_not_share_its_draws_with_a_search() -> None:
    certificate = certify(YOLO, one_agent(FLEET), Traffic(rate_rps=12.0), sla_ms=430.0, seed=7)
    for seed in (7, (7,), (7, 0)):
        search = simulate(YOLO, one_agent(FLEET), Traffic(rate_rps=12.0), sla_ms=430.0, requests=1_000, seed=seed)
        assert not np.array_equal(search.latency_ms, certificate.simulation.latency_ms[:1_000])


@pytest.mark.parametrize(("freedom", "value"), [(10, 2.764), (19, 2.539), (31, 2.453), (120, 2.358)])
def test_student_quantiles_are_those_of_the_tables(freedom: int, value: float) -> None:
    assert student_t_quantile(0.99, freedom) == pytest.approx(value, abs=1.5e-3)


# --- bad input ------------------------------------------------------------------------------------------------------


def test_nonsense_is_refused_by_name() -> None:
    traffic = Traffic(rate_rps=1.0)
    for rate in (0.0, -2.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="rate_rps"):
            Traffic(rate_rps=rate)
    with pytest.raises(ValueError, match="sum to 1"):
        Traffic(rate_rps=1.0, classes=(RequestClass(fraction=0.5),))
    with pytest.raises(ValueError, match="no instance"):
        simulate(YOLO, one_agent(FleetCounts(kinds=(), active=0, parked=2)), traffic, sla_ms=430.0)
    with pytest.raises(ValueError, match="0 instances of 3g:yolov5l"):
        AgentFleet(kinds=((InstanceKind("3g", "yolov5l"), 0),))
    with pytest.raises(ValueError, match="does not fit"):
        simulate(YOLO, [AgentFleet(kinds=((InstanceKind("1g", "yolov5x6"), 1),))], traffic, sla_ms=430.0)
    with pytest.raises(ValueError, match="unknown, expected one of"):
        simulate(YOLO, [AgentFleet(kinds=((InstanceKind("1g", "yolov9"), 1),))], traffic, sla_ms=430.0)
    with pytest.raises(ValueError, match="min_accuracy_pct = 55"):
        strict = Traffic(rate_rps=1.0, classes=(RequestClass(min_accuracy_pct=55.0),))
        simulate(YOLO, one_agent(FLEET), strict, sla_ms=430.0)
    with pytest.raises(ValueError, match="shares"):
        AgentFleet(kinds=FLEET.kinds, rule=DispatchRule(name="shares", shares={FLEET.kinds[0][0]: 0.7}))
    with pytest.raises(ValueError, match="shares of 7g:yolov5l"):
        AgentFleet(kinds=FLEET.kinds, rule=DispatchRule(name="shares", shares={InstanceKind("7g", "yolov5l"): 1.0}))
    with pytest.raises(ValueError, match="sla_ms = 0"):
        simulate(YOLO, one_agent(FLEET), traffic, sla_ms=0.0, requests=10)
    with pytest.raises(ValueError, match="requests = 0"):
        simulate(YOLO, one_agent(FLEET), traffic, sla_ms=430.0, requests=0)
    with pytest.raises(ValueError, match="a certificate needs at least"):
        certify(YOLO, one_agent(FLEET), traffic, sla_ms=430.0, requests=1_000)
    with pytest.raises(ValueError, match="requests = 0"):
        sweep(YOLO, SPACES["yolov5"].kinds, SPACES["yolov5"].counts, 1.0, sla_ms=430.0, requests=0)
    with pytest.raises(ValueError, match="at least one instance"):
        sweep(YOLO, SPACES["yolov5"].kinds, np.zeros((1, len(SPACES["yolov5"].kinds))), 1.0, sla_ms=430.0)
