"""Any sequence of planned moves, applied to a simulated GPU, does what was planned."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from mig.change import plan_change
from mig.partition import Partition, format_multiset, layouts, multisets, parse_multiset
from mig.profiles import GPU_MODELS, GpuModel
from mig.simulated import SimulatedGpu, UuidPolicy

if TYPE_CHECKING:
    from mig.device import Gpu, GpuInstance

models = st.sampled_from(list(GPU_MODELS.values()))


async def no_wait(_delay_s: float) -> None:
    await asyncio.sleep(0)


async def apply(gpu: Gpu, wanted: tuple[str, ...], costs: dict[int, float]) -> None:
    before = await gpu.instances()
    change = plan_change(gpu.model, before, wanted, drain_cost=costs)
    for instance in change.destroy:
        await gpu.destroy(instance.id)
    for each in change.create:
        await gpu.create(each.profile, each.placement)
    after = await gpu.instances()
    assert partition_of(after) == change.layout
    assert change.layout.multiset == wanted
    # The very same living things, id and UUID included: they were never touched.
    assert set(change.keep) == {each for each in after if each in before and each not in change.destroy}
    assert len(change.keep) + len(change.create) == len(after)


def partition_of(instances: tuple[GpuInstance, ...]) -> Partition:
    """Also proves that nothing overlaps: a partition refuses to exist otherwise."""
    return Partition(placed=tuple(instance.placed for instance in instances))


@given(data=st.data(), model=models, seed=st.integers(), policy=st.sampled_from(["stable", "fresh"]))
@settings(deadline=None, max_examples=100)
def test_any_sequence_of_moves_ends_in_what_was_wanted(
    data: st.DataObject, model: GpuModel, seed: int, policy: UuidPolicy
) -> None:
    choices = [(), *multisets(model, all_profiles=data.draw(st.booleans()))]
    moves = data.draw(st.lists(st.sampled_from(choices), min_size=1, max_size=8))
    costs = data.draw(st.dictionaries(st.integers(1, 16), st.floats(0, 100), max_size=8))

    async def run() -> None:
        gpu = SimulatedGpu(model, 0, seed=seed, sleep=no_wait, uuid_policy=policy)
        for wanted in moves:
            await apply(gpu, wanted, costs)

    asyncio.run(run())


@given(data=st.data(), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=100)
def test_a_move_broken_off_anywhere_can_be_planned_again_and_finished(data: st.DataObject, seed: int) -> None:
    model = GPU_MODELS["a100-40gb"]
    first, second = (data.draw(st.sampled_from(multisets(model))) for _ in range(2))
    steps = data.draw(st.integers(0, 30))

    async def run() -> None:
        gpu = SimulatedGpu(model, 0, seed=seed, sleep=no_wait)
        await apply(gpu, first, {})
        moving = asyncio.ensure_future(apply(gpu, second, {}))
        for _ in range(steps):
            await asyncio.sleep(0)
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
        partition_of(await gpu.instances())
        await apply(gpu, second, {})

    asyncio.run(run())


@given(data=st.data(), model=models)
@settings(deadline=None, max_examples=50)
def test_a_layout_is_maximal_exactly_if_nothing_can_be_added(data: st.DataObject, model: GpuModel) -> None:
    every = layouts(model)
    layout = data.draw(st.sampled_from(every))
    known = set(every)
    for each in layout.room(model):
        assert Partition(placed=(*layout.placed, each)) in known
    larger = [other for other in every if set(layout.placed) < set(other.placed)]
    assert bool(larger) == bool(layout.room(model))


@given(data=st.data(), model=models)
@settings(deadline=None, max_examples=100)
def test_sizes_are_read_in_any_order_with_any_separator(data: st.DataObject, model: GpuModel) -> None:
    multiset = data.draw(st.sampled_from(multisets(model, all_profiles=True)))
    shuffled = data.draw(st.permutations(multiset))
    separator = data.draw(st.sampled_from(["+", ",", " ", " + ", ", "]))
    assert parse_multiset(model, separator.join(shuffled)) == multiset
    assert parse_multiset(model, format_multiset(multiset).upper()) == multiset
