"""The closed form: one fleet against many at once, monotonicity, probabilities against sampling, and bad input."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clover.catalog import load_service
from clover.core.application import ServiceModel, VariantPerformance
from clover.core.closed_form import Floats, KindArrays, erlang_c, service_tail
from clover.core.configuration import FleetCounts, GpuConfiguration, InstanceKind
from clover.core.queueing import FleetSearch, evaluate, idle_power_w
from clover.plan.simulator import simulate
from clover.plan.space import all_gpu_configurations, mixed_fleets, uniform_fleets
from clover.plan.sweep import sweep
from clover.plan.traffic import Traffic, one_agent
from mig.partition import maximal_multisets
from mig.profiles import gpu_model

MULTISETS = maximal_multisets(gpu_model("a100-40gb"))
APPLICATIONS = {"albert": 2.5, "efficientnet": 1.0, "yolov5": 1.0}
MODELS = {name: load_service(name, "a100-40gb") for name in APPLICATIONS}


def _search(model: ServiceModel) -> tuple[FleetSearch, Floats]:
    """Return a search at the table's SLA, and the counts of every configuration of one GPU."""
    space = uniform_fleets(all_gpu_configurations(model, MULTISETS), 1)
    return FleetSearch(model, space.kinds, model.table.sla_p95_ms), space.counts


SEARCHES = {name: _search(model) for name, model in MODELS.items()}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_many_fleets_at_once_are_what_each_is_alone(name: str) -> None:
    model = MODELS[name]
    sla_ms = model.table.sla_p95_ms
    space = mixed_fleets(all_gpu_configurations(model, MULTISETS, modes=("parked", "off")), 2)
    rows = np.random.default_rng(4).choice(len(space), 60, replace=False)
    counts = space.counts[rows]
    rates = np.random.default_rng(5).uniform(0.2, 5.0, len(rows)) * APPLICATIONS[name]
    many = FleetSearch(model, space.kinds, sla_ms).evaluate(counts, rates)
    energy = many.energy_j_per_request(space.idle_power_w(model)[rows])
    for row, fleet_row in enumerate(rows):
        one = evaluate(model, space.fleet(int(fleet_row)), float(rates[row]), sla_ms)
        assert many.late_fraction[row] == pytest.approx(one.late_fraction, abs=1e-5)
        assert many.points.rho[row] == pytest.approx(one.utilisation, abs=1e-9)
        assert many.accuracy_pct[row] == pytest.approx(one.accuracy_pct, rel=1e-9)
        assert many.served_rate_rps[row] == pytest.approx(one.served_rate_rps, rel=1e-9)
        assert bool(many.stable[row]) == one.stable
        assert energy[row] == pytest.approx(one.energy_j_per_request, rel=1e-9)


def test_p95_is_where_five_in_a_hundred_are_later() -> None:
    model = MODELS["yolov5"]
    space = uniform_fleets(all_gpu_configurations(model, MULTISETS), 2)
    for row in range(0, len(space), 23):
        found = evaluate(model, space.fleet(row), 4.0, 400.0)
        if found.stable:
            assert evaluate(model, space.fleet(row), 4.0, found.p95_ms).late_fraction == pytest.approx(0.05, abs=1e-6)
        else:
            assert found.late_fraction == 1.0


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(APPLICATIONS)),
    row=st.integers(0, 10_000),
    gpus=st.integers(1, 12),
    loads=st.lists(st.floats(0.02, 1.3), min_size=2, max_size=6, unique=True),
)
def test_more_load_makes_instances_busier_and_each_busy_instance_cheaper(
    name: str, row: int, gpus: int, loads: list[float]
) -> None:
    search, one = SEARCHES[name]
    counts = gpus * one[row % len(one)]
    capacity = float((counts / search.arrays.mean_s(np.ones(1))[0]).sum())
    found = search.evaluate(np.tile(counts, (len(loads), 1)), capacity * np.sort(loads))
    assert np.all(np.diff(found.points.rho) >= -1e-9)
    assert np.all(np.diff(found.served_rate_rps) >= -1e-9)
    assert np.allclose(found.points.shares.sum(axis=1), 1.0)
    assert np.all((found.late_fraction >= 0.0) & (found.late_fraction <= 1.0))
    # Longest-idle gives slow instances less the busier all are, so the mean of a mixed fleet may fall with the load;
    # instances of one kind have no such choice.
    if np.count_nonzero(counts) == 1:
        assert np.all(np.diff(found.late_fraction) >= -1e-9)
        assert np.all(np.diff(found.dynamic_j) <= 1e-9)


def test_busy_and_idle_time_fill_the_life_of_every_instance() -> None:
    model = MODELS["albert"]
    kinds = (InstanceKind("3g", "base"), InstanceKind("4g", "xxlarge"), InstanceKind("1g", "large"))
    search = FleetSearch(model, kinds, 165.0)
    points = search.operating(np.array([[2.0, 3.0, 5.0], [1.0, 0.0, 1.0]]), np.array([30.0, 9.0]))
    busy = points.rates * search.arrays.mean_s(points.rho)
    assert busy.sum(axis=1) / points.counts.sum(axis=1) == pytest.approx(points.rho, abs=1e-9)
    assert points.served_rps == pytest.approx([30.0, 9.0], rel=1e-9)
    served = points.counts > 0
    idle = np.where(served, points.counts / np.where(served, points.rates, 1.0), 0) - search.arrays.mean_s(points.rho)
    for row in range(2):
        assert np.ptp(idle[row][served[row]]) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("kind", ["7g:xxlarge", "1g:xxlarge", "1g:large", "3g:base"])
def test_service_times_are_late_as_often_as_drawn_ones(kind: str) -> None:
    model = MODELS["albert"]
    arrays = KindArrays.of(model, [InstanceKind(*kind.split(":"))])
    rng, draws = np.random.default_rng(11), 400_000
    rho = 0.6
    host = (
        arrays.host_s[0]
        * (1 + arrays.kappa * rho)
        * np.exp(rng.normal(-(arrays.host_sigma**2) / 2, arrays.host_sigma, draws))
    )
    gpu = arrays.gpu_s[0] * np.exp(rng.normal(-(arrays.gpu_sigma**2) / 2, arrays.gpu_sigma, draws))
    times = np.quantile(host + gpu, [0.1, 0.5, 0.9, 0.95, 0.99])
    found = service_tail(arrays, np.array([0]), np.array([rho]), times[None, :])[0]
    assert found == pytest.approx([0.9, 0.5, 0.1, 0.05, 0.01], abs=0.003)


@pytest.mark.parametrize(
    ("servers", "offered", "waits"),
    # Tables of Erlang's C: one server waits with its utilisation; the others from the sum of the definition.
    [(1, 0.7, 0.7), (2, 1.0, 1 / 3), (10, 8.0, 0.40918), (1000, 900.0, None), (7000, 100.0, 0.0)],
)
def test_erlang_c(servers: int, offered: float, waits: float | None) -> None:
    found = float(erlang_c(np.array([float(servers)]), np.array([offered]))[0])
    if waits is None:
        blocking = 1.0
        for n in range(1, servers + 1):
            blocking = offered * blocking / (n + offered * blocking)
        waits = blocking / (1.0 - offered / servers * (1.0 - blocking))
    assert found == pytest.approx(waits, abs=1e-5)


def test_parked_and_switched_off_gpus_draw_their_own_power() -> None:
    table = MODELS["albert"].table
    fleet = FleetCounts(kinds=((InstanceKind("7g", "base"), 2),), active=2, parked=3, off=4)
    assert idle_power_w(MODELS["albert"], fleet) == pytest.approx(
        2 * table.idle_power_w + 3 * table.parked_power_w + 4 * table.off_power_w
    )


def test_bad_input_is_refused_by_name() -> None:
    model = MODELS["yolov5"]
    kinds = (InstanceKind("7g", "yolov5l"),)
    one = FleetCounts(kinds=((kinds[0], 1),), active=1)
    search = FleetSearch(model, kinds, 400.0)
    for rate in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="rate_rps"):
            evaluate(model, one, rate, 400.0)
        with pytest.raises(ValueError, match="rate_rps"):
            search.evaluate(np.ones((1, 1)), rate)
    with pytest.raises(ValueError, match="sla_ms = 0"):
        evaluate(model, one, 1.0, 0.0)
    with pytest.raises(ValueError, match="sla_ms = -1"):
        FleetSearch(model, kinds, -1.0)
    with pytest.raises(ValueError, match="unknown, expected one of"):
        FleetSearch(model, [InstanceKind("7g", "yolov9")], 400.0)
    with pytest.raises(ValueError, match="does not fit"):
        FleetSearch(model, [InstanceKind("1g", "yolov5x6")], 400.0)
    with pytest.raises(ValueError, match="only once"):
        FleetSearch(model, kinds * 2, 400.0)
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        search.evaluate(np.ones((1, 2)), 1.0)
    with pytest.raises(ValueError, match="at least one instance"):
        search.evaluate(np.zeros((1, 1)), 1.0)
    with pytest.raises(ValueError, match="-1 instances"):
        evaluate(model, FleetCounts(kinds=((kinds[0], 2), (InstanceKind("4g", "yolov5l"), -1)), active=1), 1.0, 400.0)
    assert len(search.evaluate(np.zeros((0, 1)), 1.0).late_fraction) == 0


@pytest.mark.parametrize("changes", [{"transport_ms": 7.0}, {"batch_size": 4}, {"transport_ms": 7.0, "batch_size": 4}])
def test_what_a_request_takes_beside_its_service_is_in_every_prediction(changes: dict[str, float]) -> None:
    """Closed form, search, simulator and sweep say the same; an instance is busy for no longer than it serves."""
    kind = InstanceKind("7g", "xxlarge")
    given = MODELS["albert"]
    model = replace(given, table=replace(given.table, **changes))
    size = int(changes.get("batch_size", 1))
    whole_ms = given.mean_ms(kind.variant, kind.profile, 0.0)
    assert model.mean_ms(kind.variant, kind.profile, 0.0) == pytest.approx(whole_ms / size)
    beside_ms = changes.get("transport_ms", 0.0) + 2.0 * whole_ms * (1.0 - 1.0 / size)
    assert model.beside_ms(kind.variant, kind.profile) == pytest.approx(beside_ms)
    fleet = FleetCounts.uniform(GpuConfiguration((kind,)), 2)
    rate_rps, sla_ms = 0.6 * 2e3 / model.mean_ms(kind.variant, kind.profile, 1.0), 3.0 * whole_ms
    closed = evaluate(model, fleet, rate_rps, sla_ms)
    # The same instances without it, at a time that is shorter by it.
    served = replace(given, table=replace(model.table, transport_ms=0.0, batch_size=1, variants=_parts(given, size)))
    bare = evaluate(served, fleet, rate_rps, sla_ms - beside_ms)
    assert closed.utilisation == pytest.approx(bare.utilisation, rel=1e-9)
    assert closed.p95_ms == pytest.approx(bare.p95_ms + beside_ms, rel=1e-3)
    assert closed.late_fraction == pytest.approx(bare.late_fraction, rel=0.02, abs=1e-4)
    found = FleetSearch(model, [kind], sla_ms).evaluate(np.array([[2.0]]), rate_rps)
    assert found.late_fraction[0] == pytest.approx(closed.late_fraction, abs=1e-4)
    seen = simulate(model, one_agent(fleet), Traffic(rate_rps=rate_rps), sla_ms=sla_ms, requests=50_000).evaluation
    same = simulate(served, one_agent(fleet), Traffic(rate_rps=rate_rps), sla_ms=sla_ms, requests=50_000).evaluation
    assert seen.p95_ms == pytest.approx(same.p95_ms + beside_ms, rel=1e-9)
    swept = [
        sweep(each, [kind], np.array([[2.0]]), rate_rps, sla_ms=sla_ms, requests=5_000) for each in (model, served)
    ]
    assert swept[0].p95_ms[0] == pytest.approx(swept[1].p95_ms[0] + beside_ms, rel=1e-9)


def _parts(model: ServiceModel, size: int) -> dict[str, VariantPerformance]:
    """Return what one of `size` requests takes that are served together."""
    return {
        name: replace(v, host_ms=v.host_ms / size, service_ms={p: ms / size for p, ms in v.service_ms.items()})
        for name, v in model.table.variants.items()
    }
