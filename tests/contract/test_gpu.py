"""What every GPU must do, simulated or behind NVIDIA's binding, and through a helper: the same suite over all."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helper_support import helped_board
from mig_boards import OFF, ON, OpenBoard, fake_board, run, simulated_board
from nvml_fake import FakeNvml

from mig.apply import apply
from mig.device import Gpu, GpuInstance
from mig.errors import (
    DeviceBusyError,
    GpuLostError,
    InsufficientResourcesError,
    MigDisabledError,
    PartitionRejectedError,
    ResetRequiredError,
    Shortage,
)
from mig.partition import Partition, maximal_layouts, maximal_multisets
from mig.placement import Placement, place
from mig.profiles import GPU_MODELS, GpuModel, gpu_model
from mig.store import MemoryStore

A100 = gpu_model("a100-40gb")
MIG_UUID = re.compile(r"MIG-[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture(params=["simulated", "nvml", "simulated-helper", "nvml-helper"])
def board(request: pytest.FixtureRequest, tmp_path: Path) -> OpenBoard:
    """Opens a GPU of each kind."""
    kind, _, helper = request.param.partition("-")
    opened: OpenBoard = simulated_board
    if kind == "nvml":
        libraries: Callable[[int], Path] = request.getfixturevalue("nvml_libraries")
        opened = fake_board(
            lambda seed, fresh: FakeNvml(libraries(0), tmp_path / "nvml-state", seed=seed, fresh_uuids=fresh)
        )
    return helped_board(opened, tmp_path / "helper.sock") if helper else opened


async def add(gpu: Gpu, size: str, start: int) -> GpuInstance:
    placed = place(gpu.model.profile(size), start)
    return await gpu.create(placed.profile, placed.placement)


async def shape(gpu: Gpu) -> str:
    return " ".join(str(each.placed) for each in await gpu.instances())


@pytest.mark.parametrize("model", GPU_MODELS.values(), ids=str)
def test_its_model_has_the_geometry_of_the_board(board: OpenBoard, model: GpuModel) -> None:
    async def body() -> None:
        async with board(model) as opened:
            found = opened.gpu.model
            assert (found.name, found.profiles) == (model.name, model.profiles)
            assert (found.compute_slices, found.memory_slices) == (model.compute_slices, model.memory_slices)
            assert opened.gpu.index == 0
            assert opened.gpu.uuid.startswith("GPU-")
            assert model.title in opened.gpu.title

    run(body)


def test_what_was_created_is_read_back_in_order_of_start(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(A100) as opened:
            gpu = opened.gpu
            assert await gpu.instances() == ()
            three = await add(gpu, "3g", 4)
            four = await add(gpu, "4g", 0)
            assert await gpu.instances() == (four, three)
            assert all(MIG_UUID.fullmatch(each.uuid) and each.is_whole for each in (three, four))
            assert len({three.uuid, four.uuid}) == len({three.id, four.id}) == 2

    run(body)


def test_every_user_sees_its_devices(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(A100) as opened:
            assert await opened.gpu.devices() == ()
            living = [await add(opened.gpu, "3g", 4), await add(opened.gpu, "2g", 0), await add(opened.gpu, "1g", 2)]
            found = {each.gpu_instance_id: each for each in await opened.gpu.devices()}
            assert list(found) == sorted(each.id for each in living)
            for each in living:
                device = found[each.id]
                assert (device.uuid, device.compute_instance_id) == (each.uuid, 0)
                assert (device.compute_slices, device.memory_mib) == (
                    each.profile.compute_slices,
                    each.profile.memory_mib,
                )

    run(body)


@pytest.mark.parametrize(
    ("there", "wanted", "shortage"),
    [
        ([("3g", 0)], ("3g", 0), "already_there"),
        ([("2g", 0)], ("2g", 0), "already_there"),
        ([("2g", 0)], ("1g", 1), "taken"),
        ([("2g", 0)], ("3g", 0), "taken"),
        ([("4g", 0), ("2g", 4)], ("3g", 4), "taken"),
        ([("1g", 2), ("1g", 5)], ("3g", 0), "fragmented"),
        ([("1g+me", 0)], ("1g+me", 3), "used_up"),
        ([("3g", 0), ("3g", 4)], ("3g", 0), "already_there"),
    ],
)
def test_no_room_is_told_apart_and_changes_nothing(
    board: OpenBoard, there: list[tuple[str, int]], wanted: tuple[str, int], shortage: Shortage
) -> None:
    async def body() -> None:
        async with board(A100) as opened:
            before = [await add(opened.gpu, *each) for each in there]
            with pytest.raises(InsufficientResourcesError, match="GPU 0: insufficient resources") as caught:
                await add(opened.gpu, *wanted)
            assert caught.value.shortage == shortage
            assert set(await opened.gpu.instances()) == set(before)

    run(body)


def test_illegal_places_and_profiles_of_other_boards_are_rejected(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(gpu_model("a30")) as opened:
            with pytest.raises(PartitionRejectedError, match="starts at 1: expected one of 0, 2"):
                await opened.gpu.create(opened.gpu.model.profile("2g"), Placement(start=1, size=2))
            # On an A30 the ids of the A100's 2g and 4g name a 1g and a 2g.
            for size in ("2g", "4g"):
                with pytest.raises(PartitionRejectedError, match=r"\(id (14|5)\): expected one of a30"):
                    await opened.gpu.create(A100.profile(size), Placement(start=0, size=2))
            assert await opened.gpu.instances() == ()

    run(body)


def test_destroying_what_is_gone_is_done_already(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(A100) as opened:
            instance = await add(opened.gpu, "7g", 0)
            await opened.gpu.destroy(instance.id)
            await opened.gpu.destroy(instance.id)
            assert await opened.gpu.instances() == ()
            assert await opened.gpu.devices() == ()

    run(body)


def test_a_busy_instance_stays_and_names_its_holder(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(A100) as opened:
            idle, busy = await add(opened.gpu, "3g", 0), await add(opened.gpu, "3g", 4)
            opened.play.use(busy.id, pid=4711)
            assert [each.pid for each in await opened.gpu.holders(busy.id)] == [4711]
            assert await opened.gpu.holders(idle.id) == ()
            with pytest.raises(DeviceBusyError, match=f"instance {busy.id} is in use by process 4711") as caught:
                await opened.gpu.destroy(busy.id)
            assert [each.pid for each in caught.value.holders] == [4711]
            assert await opened.gpu.instances() == (idle, busy)
            # Others come and go beside a busy one.
            await opened.gpu.destroy(idle.id)
            await add(opened.gpu, "4g", 0)
            opened.play.leave(busy.id)
            await opened.gpu.destroy(busy.id)
            assert await shape(opened.gpu) == "4g@0"

    run(body)


def test_an_instance_that_becomes_idle_within_patience_goes(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(A100) as opened:
            instance = await add(opened.gpu, "7g", 0)
            opened.play.use(instance.id, pid=1, seconds=2.0)
            await opened.gpu.destroy(instance.id)
            assert await opened.gpu.instances() == ()

    run(body)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_uuid_may_or_may_not_come_back(board: OpenBoard, fresh: bool) -> None:
    async def body() -> None:
        async with board(A100, fresh_uuids=fresh) as opened:
            seen: list[GpuInstance] = []
            for turn in range(60):
                instance = await add(opened.gpu, "1g" if turn % 2 else "2g", 0)
                seen.append(instance)
                await opened.gpu.destroy(instance.id)
            names, ids = {each.uuid for each in seen}, {each.id for each in seen}
            assert len(ids) < len(seen)
            assert len(names) == (len(seen) if fresh else len(ids))
            # The dangerous case: the same name for another size.
            assert (len({(each.uuid, each.profile.size) for each in seen}) > len(names)) is not fresh

    run(body)


def test_ids_are_not_derived_from_the_place(board: OpenBoard) -> None:
    async def body() -> None:
        seen: set[tuple[int, ...]] = set()
        for seed in range(4):
            async with board(A100, seed=seed) as opened:
                for start in (0, 2, 4):
                    await add(opened.gpu, "2g", start)
                seen.add(tuple(each.id for each in await opened.gpu.instances()))
        assert len(seen) == 4

    run(body)


def test_mode_is_switched_at_once_where_no_reset_is_needed(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(A100, mode=OFF) as opened:
            gpu = opened.gpu
            assert await gpu.mode() == OFF
            assert await gpu.devices() == ()
            assert gpu.model.profiles == A100.profiles
            for refused in (gpu.instances(), add(gpu, "7g", 0), gpu.destroy(1)):
                with pytest.raises(MigDisabledError, match="GPU 0: MIG mode is off: expected on"):
                    await refused
            assert await gpu.set_mode(enabled=True) == ON
            assert await gpu.set_mode(enabled=True) == ON
            instance = await add(gpu, "7g", 0)
            with pytest.raises(DeviceBusyError, match="it holds 1 instances: expected none when its mode changes"):
                await gpu.set_mode(enabled=False)
            assert await gpu.mode() == ON
            await gpu.destroy(instance.id)
            assert await gpu.set_mode(enabled=False) == OFF

    run(body)


def test_a_board_that_resets_itself_for_its_mode_does_so_only_if_allowed(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(A100, mode=OFF, resets=True) as opened:
            with pytest.raises(ResetRequiredError, match="a change of MIG mode resets this board"):
                await opened.gpu.set_mode(enabled=True)
            assert await opened.gpu.mode() == OFF
            assert await opened.gpu.set_mode(enabled=True, allow_reset=True) == ON

    run(body)


def test_a_mode_that_waits_for_a_reset_is_told_and_not_taken_for_done(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(A100, mode=OFF) as opened:
            opened.play.defer_mode()
            with pytest.raises(ResetRequiredError, match=r"off \(on after a reset\).*: expected it in force"):
                await opened.gpu.set_mode(enabled=True)
            mode = await opened.gpu.mode()
            assert (mode.current, mode.pending, mode.waits_for_reset) == (False, True, True)
            with pytest.raises(ResetRequiredError):
                await opened.gpu.instances()
            opened.play.reset()

    run(body)


def test_a_pending_change_of_mode_can_be_taken_back(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(A100, mode=OFF, resets=True) as opened:
            opened.play.defer_mode()
            with pytest.raises(ResetRequiredError):
                await opened.gpu.set_mode(enabled=True, allow_reset=True)
            assert await opened.gpu.set_mode(enabled=False) == OFF

    run(body)


def test_a_lost_gpu_says_so(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(A100) as opened:
            gpu = opened.gpu
            instance = await add(gpu, "7g", 0)
            opened.play.lose()
            for each in (gpu.instances(), gpu.devices(), gpu.mode(), gpu.destroy(instance.id), add(gpu, "1g", 0)):
                with pytest.raises(GpuLostError, match="GPU 0"):
                    await each

    run(body)


def test_operations_on_one_gpu_run_one_after_the_other(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(A100) as opened:
            first, second = await asyncio.gather(
                add(opened.gpu, "4g", 0), add(opened.gpu, "3g", 0), return_exceptions=True
            )
            assert isinstance(first, GpuInstance)
            assert isinstance(second, InsufficientResourcesError)

    run(body)


def test_a_cancelled_operation_leaves_nothing_half_done(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(A100) as opened:
            for steps in range(6):
                creating = asyncio.ensure_future(add(opened.gpu, "4g", 0))
                for _ in range(steps):
                    await asyncio.sleep(0)
                creating.cancel()
                await asyncio.gather(creating, return_exceptions=True)
                living = await opened.gpu.instances()
                assert [str(each.placed) for each in living if each.is_whole] in ([], ["4g@0"])
                for each in living:
                    await opened.gpu.destroy(each.id)

    run(body)


def test_every_maximal_layout_of_every_board_can_be_made(board: OpenBoard) -> None:
    async def body() -> None:
        for model in GPU_MODELS.values():
            async with board(model) as opened:
                store = MemoryStore()
                for layout in maximal_layouts(opened.gpu.model):
                    report = await apply(opened.gpu, layout, store)
                    assert report.ok
                    assert _partition(await opened.gpu.instances()) == layout

    run(body)


def test_what_the_plan_keeps_is_never_touched(board: OpenBoard) -> None:
    async def body() -> None:
        async with board(A100) as opened:
            store = MemoryStore()
            for wanted in (*maximal_multisets(A100), *reversed(maximal_multisets(A100))):
                before = await opened.gpu.instances()
                report = await apply(opened.gpu, wanted, store)
                after = await opened.gpu.instances()
                assert report.instances == after
                assert set(report.plan.keep) <= set(before) & set(after)
                assert _partition(after).multiset == wanted

    run(body)


def _partition(instances: tuple[GpuInstance, ...]) -> Partition:
    """Also proves that nothing overlaps: a partition refuses to exist otherwise."""
    return Partition(placed=tuple(instance.placed for instance in instances))
