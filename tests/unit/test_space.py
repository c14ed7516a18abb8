"""Sizes of the spaces of configurations, against the counts of the planning study and against brute force."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest

from clover.catalog import load_service
from clover.core.application import ServiceModel
from clover.core.configuration import FleetCounts, GpuConfiguration, InstanceKind
from clover.core.queueing import idle_power_w
from clover.plan.space import (
    all_gpu_configurations,
    count_matrix,
    kinds_of,
    mixed_fleets,
    original_assignments,
    uniform_fleets,
)
from mig.partition import maximal_multisets
from mig.profiles import gpu_model

MULTISETS = maximal_multisets(gpu_model("a100-40gb"))


def _model(variants: int, *, largest_on_1g: bool) -> ServiceModel:
    """Albert (4 variants) or yolov5 (3), with or without memory for the largest on the smallest slice."""
    model = load_service("albert" if variants == 4 else "yolov5", "a100-40gb")
    table = model.table
    name = model.application.largest.name
    barred = frozenset() if largest_on_1g else frozenset({"1g"})
    largest = replace(table.variants[name], out_of_memory_on=barred)
    return ServiceModel(application=model.application, table=replace(table, variants={**table.variants, name: largest}))


@pytest.mark.parametrize(("variants", "fitting", "free"), [(3, 208, 438), (4, 682, 1282)])
def test_one_gpu_has_as_many_graphs_as_the_study_counted(variants: int, fitting: int, free: int) -> None:
    assert len(all_gpu_configurations(_model(variants, largest_on_1g=True), MULTISETS)) == free
    barred = _model(variants, largest_on_1g=False)
    found = all_gpu_configurations(barred, MULTISETS)
    assert len(found) == fitting
    assert all(barred.fits(kind.variant, kind.profile) for gpu in found for kind in gpu.instances)
    assert len(all_gpu_configurations(barred, MULTISETS, ignore_memory=True)) == free


@pytest.mark.parametrize(("variants", "count"), [(3, 774), (4, 2093)])
def test_instances_may_stay_empty(variants: int, count: int) -> None:
    model = _model(variants, largest_on_1g=True)
    assert len(all_gpu_configurations(model, MULTISETS, empty_instances=True)) == count


@pytest.mark.parametrize(("variants", "count"), [(3, 4071), (4, 24_804)])
def test_the_original_draws_from_this_many_pairs(variants: int, count: int) -> None:
    model = _model(variants, largest_on_1g=True)
    pairs = list(original_assignments([variant.name for variant in model.application.variants]))
    assert len(pairs) == count
    graphs = {GpuConfiguration(instances).graph for instances in pairs}
    assert graphs == {gpu.graph for gpu in all_gpu_configurations(model, MULTISETS)}


@pytest.mark.parametrize(
    ("variants", "largest_on_1g", "count"),
    [(3, True, 18_688), (3, False, 6552), (4, True, 107_825), (4, False, 44_345)],
)
def test_two_gpus_that_differ(variants: int, largest_on_1g: bool, count: int) -> None:
    model = _model(variants, largest_on_1g=largest_on_1g)
    assert len(mixed_fleets(all_gpu_configurations(model, MULTISETS), 2)) == count


def test_mixed_fleets_are_what_brute_force_finds() -> None:
    model = _model(3, largest_on_1g=False)
    gpus = all_gpu_configurations(model, MULTISETS, modes=("parked", "off"))[-24:]
    space = mixed_fleets(gpus, 3)
    expected = set()
    for members in combinations_with_replacement(gpus, 3):
        modes = [gpu.mode for gpu in members]
        if "serving" in modes:
            kinds = sorted(kind for gpu in members for kind in gpu.instances)
            expected.add((tuple(kinds), modes.count("serving"), modes.count("parked"), modes.count("off")))
    found = {
        (
            tuple(sorted(kind for gpu in space.members_of(row) for kind in gpu.instances)),
            int(space.active[row]),
            int(space.parked[row]),
            int(space.off[row]),
        )
        for row in range(len(space))
    }
    assert found == expected
    assert len(space) == len(expected)


def test_counts_members_and_power_belong_together() -> None:
    model = _model(3, largest_on_1g=False)
    space = mixed_fleets(all_gpu_configurations(model, MULTISETS, modes=("parked", "off")), 2)
    power = space.idle_power_w(model)
    for row in range(0, len(space), 997):
        members = space.members_of(row)
        assert np.array_equal(count_matrix(members, space.kinds).sum(axis=0), space.counts[row])
        assert power[row] == pytest.approx(idle_power_w(model, space.fleet(row)))
        assert sum(gpu.mode == "serving" for gpu in members) == space.active[row]


def test_uniform_fleets_repeat_one_configuration() -> None:
    model = _model(4, largest_on_1g=True)
    gpus = all_gpu_configurations(model, MULTISETS, modes=("parked",))
    space = uniform_fleets(gpus, 10)
    assert len(space) == 1282
    assert space.fleet(7) == FleetCounts.uniform(gpus[7], 10)
    assert kinds_of(gpus) == space.kinds


def test_a_fleet_of_none_is_refused() -> None:
    gpu = GpuConfiguration((InstanceKind("7g", "xxlarge"),))
    with pytest.raises(ValueError, match="fleet of 0 GPUs"):
        mixed_fleets([gpu], 0)
    with pytest.raises(ValueError, match="no configuration serves"):
        uniform_fleets([GpuConfiguration(mode="parked")], 2)
    with pytest.raises(ValueError, match="to list"):
        mixed_fleets(all_gpu_configurations(_model(4, largest_on_1g=False), MULTISETS), 3)
