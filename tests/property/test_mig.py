"""Any sequence of wanted partitions does what was planned, on a simulated GPU and on one behind the fake driver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mig_boards import Board, OpenBoard, fake_board, run, simulated_board
from nvml_fake import FakeNvml

from mig.apply import apply
from mig.apply_plan import ApplyReport, assertion
from mig.device import Gpu, GpuInstance
from mig.errors import DeviceBusyError, ForeignInstanceError
from mig.partition import Multiset, Partition, format_multiset, layouts, multisets, parse_multiset
from mig.profiles import GPU_MODELS, GpuModel
from mig.store import MemoryStore

models = st.sampled_from(list(GPU_MODELS.values()))


@pytest.fixture(params=["simulated", "nvml"], scope="module")
def board(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenBoard:
    """Opens a GPU of either kind."""
    if request.param == "simulated":
        return simulated_board
    libraries: Callable[[int], Path] = request.getfixturevalue("nvml_libraries")
    state = tmp_path_factory.mktemp("fake") / "state"
    return fake_board(lambda seed, fresh: FakeNvml(libraries(0), state, seed=seed, fresh_uuids=fresh))


async def checked_apply(gpu: Gpu, wanted: Multiset, store: MemoryStore, costs: dict[int, float]) -> ApplyReport:
    before = await gpu.instances()
    report = await apply(gpu, wanted, store, drain_cost=costs)
    after = await gpu.instances()
    assert report.ok
    assert partition_of(after) == report.plan.change.layout
    assert report.plan.change.layout.multiset == wanted
    assert assertion(after, gpu.model, wanted) == ""
    # The very same living things, id and UUID included: they were never touched.
    kept = set(report.plan.keep)
    assert kept == {each for each in after if each in before and each not in report.plan.destroy}
    assert len(kept) + len(report.plan.create) == len(after)
    return report


def partition_of(instances: Sequence[GpuInstance]) -> Partition:
    """Also proves that nothing overlaps: a partition refuses to exist otherwise."""
    return Partition(placed=tuple(instance.placed for instance in instances))


@given(data=st.data(), model=models, seed=st.integers(0, 2**31), fresh=st.booleans())
@settings(deadline=None, max_examples=100)
def test_any_sequence_of_moves_ends_in_what_was_wanted(
    board: OpenBoard, data: st.DataObject, model: GpuModel, seed: int, fresh: bool
) -> None:
    choices = [(), *multisets(model, all_profiles=data.draw(st.booleans()))]
    moves = data.draw(st.lists(st.sampled_from(choices), min_size=1, max_size=6))
    costs = data.draw(st.dictionaries(st.integers(1, 32), st.floats(0, 100), max_size=8))

    async def body() -> None:
        store = MemoryStore()
        async with board(model, seed=seed, fresh_uuids=fresh) as opened:
            for wanted in moves:
                await checked_apply(opened.gpu, wanted, store, costs)

    run(body)


@given(data=st.data(), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=100)
def test_foreign_and_busy_instances_survive_any_sequence_of_moves(
    board: OpenBoard, data: st.DataObject, seed: int
) -> None:
    model = GPU_MODELS["a100-40gb"]
    theirs = data.draw(st.sampled_from([layout for layout in layouts(model) if len(layout.placed) <= 2]))
    moves = data.draw(st.lists(st.sampled_from(multisets(model)), min_size=1, max_size=6))
    busy_turns = data.draw(st.sets(st.integers(0, 5)))

    async def body() -> None:
        store = MemoryStore()
        async with board(model, seed=seed) as opened:
            foreign = {await opened.gpu.create(each.profile, each.placement) for each in theirs.placed}
            for turn, wanted in enumerate(moves):
                await _move_around(opened, wanted, store, foreign, busy=turn in busy_turns)

    run(body)


async def _move_around(
    opened: Board, wanted: Multiset, store: MemoryStore, foreign: set[GpuInstance], *, busy: bool
) -> None:
    gpu = opened.gpu
    before = await gpu.instances()
    used = next((each for each in before if each not in foreign), None) if busy else None
    if used is not None:
        opened.play.use(used.id, pid=7)
    try:
        report = await apply(gpu, wanted, store)
    except ForeignInstanceError:
        assert await gpu.instances() == before
    else:
        after = await gpu.instances()
        assert set(report.plan.keep) <= set(before) & set(after)
        if report.ok:
            assert partition_of(after).multiset == wanted
        else:
            # Only because of the one in use; then the GPU is cut as before.
            assert isinstance(report.error, DeviceBusyError)
            assert report.state == "rolled_back"
            assert partition_of(after) == partition_of(before)
    living = set(await gpu.instances())
    assert foreign <= living
    if used is not None:
        assert used in living
        opened.play.leave(used.id)


@given(data=st.data(), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=100)
def test_a_move_broken_off_anywhere_can_be_applied_again(board: OpenBoard, data: st.DataObject, seed: int) -> None:
    model = GPU_MODELS["a100-40gb"]
    first, second = (data.draw(st.sampled_from(multisets(model))) for _ in range(2))
    steps = data.draw(st.integers(0, 60))

    async def body() -> None:
        store = MemoryStore()
        async with board(model, seed=seed) as opened:
            await checked_apply(opened.gpu, first, store, {})
            moving = asyncio.ensure_future(apply(opened.gpu, second, store))
            for _ in range(steps):
                await asyncio.sleep(0)
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)
            assert not store.read(opened.gpu.uuid).foreign(await opened.gpu.instances())
            await checked_apply(opened.gpu, second, store, {})

    run(body)


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
