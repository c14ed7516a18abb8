"""The table of UUIDs by code, and files that are replaced wholly."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mig.apply import apply_managed
from mig.codes import CODES, layout_of_code
from mig.device import GpuInstance
from mig.errors import DeviceBusyError, DriverError, ForeignInstanceError, PartitionRejectedError
from mig.files import replace_file
from mig.lookup import Walk, full_table, in_code_order, original_table, walk_codes
from mig.managed import ManagedGpu
from mig.placement import Placement, place
from mig.profiles import Profile, gpu_model
from mig.simulated import SimulatedGpu, UuidPolicy
from mig.store import MemoryStore

A100 = gpu_model("a100-40gb")
EVERY = range(len(CODES))


async def at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


def board(policy: UuidPolicy = "stable") -> SimulatedGpu:
    return SimulatedGpu(A100, 0, seed=3, sleep=at_once, uuid_policy=policy)


def ignore(_code: int) -> None:
    pass


def living(gpu: SimulatedGpu) -> list[str]:
    return [str(each.placed) for each in asyncio.run(gpu.instances())]


def walked(gpu: SimulatedGpu, *, before: tuple[str, ...] = ()) -> Walk:
    async def run() -> Walk:
        with ManagedGpu(gpu, MemoryStore()) as managed:
            await apply_managed(managed, before)
            return await walk_codes(managed, EVERY, done=ignore)

    return asyncio.run(run())


@pytest.mark.parametrize("code", EVERY)
def test_instances_stand_in_the_order_in_which_their_code_is_created(code: int) -> None:
    placed = layout_of_code(A100, code)
    instances = [
        GpuInstance(id=number, profile=each.profile, placement=each.placement, uuid="MIG-x")
        for number, each in enumerate(placed)
    ]
    ordered = in_code_order(code, instances)
    assert tuple(each.profile.size for each in ordered) == CODES[code]
    assert {each.id for each in ordered} == set(range(len(placed)))
    for size in set(CODES[code]):
        starts = [each.placement.start for each in ordered if each.profile.size == size]
        assert starts == sorted(starts, reverse=True)


def test_every_code_is_walked_and_the_gpu_is_cut_as_before() -> None:
    gpu = board()
    walk = walked(gpu, before=("3g", "2g"))
    assert set(walk.codes) == set(EVERY)
    for code, instances in walk.codes.items():
        assert tuple(each.profile.size for each in instances) == CODES[code]
        assert len({each.uuid for each in instances}) == len(instances)
    assert living(gpu) == ["2g@0", "3g@4"]
    table = original_table("host-a", [walk])
    assert list(table) == ["host-a"]
    assert [len(table["host-a"]["0"][str(code)]) for code in EVERY] == [len(code) for code in CODES]
    full = full_table("host-a", [walk])["gpus"][0]
    assert (full["uuid"], full["board"]) == (gpu.uuid, "a100-40gb")
    assert full["codes"]["1"][0]["profile"] == "3g.20gb"
    assert full["codes"]["1"][0]["uuid"] == table["host-a"]["0"]["1"][0]


def test_uuids_that_do_not_come_back_are_noticed() -> None:
    assert walked(board("fresh")).repeatable is False


def test_a_gpu_that_is_used_or_holds_something_foreign_is_refused() -> None:
    async def used() -> None:
        gpu = board()
        with ManagedGpu(gpu, MemoryStore()) as managed:
            (instance,) = (await apply_managed(managed, ("7g",))).instances or ()
            gpu.busy[instance.id] = 4711
            with pytest.raises(DeviceBusyError, match="in use by process 4711: expected a free GPU"):
                await walk_codes(managed, EVERY, done=ignore)
            assert await gpu.instances() == (instance,)

    async def foreign() -> None:
        gpu = board()
        placed = place(A100.profile("2g"), 0)
        instance = await gpu.create(placed.profile, placed.placement)
        with (
            ManagedGpu(gpu, MemoryStore()) as managed,
            pytest.raises(ForeignInstanceError, match="expected a free GPU"),
        ):
            await walk_codes(managed, EVERY, done=ignore)
        assert await gpu.instances() == (instance,)

    asyncio.run(used())
    asyncio.run(foreign())


def test_a_board_without_codes_is_refused_and_left_alone() -> None:
    async def run() -> None:
        gpu = SimulatedGpu(gpu_model("a30"), 0, seed=1, sleep=at_once)
        wanted = pytest.raises(PartitionRejectedError, match="expected a board with 7 compute slices")
        with ManagedGpu(gpu, MemoryStore()) as managed, wanted:
            await walk_codes(managed, EVERY, done=ignore)

    asyncio.run(run())


class FailsOnce(SimulatedGpu):
    """Fails one creation, the `nth`."""

    nth = 0

    async def create(self, profile: Profile, placement: Placement) -> GpuInstance:
        self.nth -= 1
        if self.nth == 0:
            raise DriverError("a fault")
        return await super().create(profile, placement)


@pytest.mark.parametrize("nth", [1, 4, 9])
def test_a_walk_that_fails_leaves_the_gpu_as_it_was(nth: int) -> None:
    gpu = FailsOnce(A100, 0, seed=3, sleep=at_once)

    async def run() -> None:
        with ManagedGpu(gpu, MemoryStore()) as managed:
            await apply_managed(managed, ("4g", "2g"))
            gpu.nth = nth
            with pytest.raises(DriverError, match="a fault"):
                await walk_codes(managed, EVERY, done=ignore)

    asyncio.run(run())
    assert [text.partition("@")[0] for text in living(gpu)] == ["4g", "2g"]


def test_a_cancelled_walk_leaves_the_gpu_as_it_was() -> None:
    async def run() -> list[str]:
        gpu = board()
        with ManagedGpu(gpu, MemoryStore()) as managed:
            await apply_managed(managed, ("4g", "2g"))
            seen = asyncio.Event()
            walking = asyncio.ensure_future(walk_codes(managed, EVERY, done=lambda code: code == 3 and seen.set()))
            await seen.wait()
            walking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await walking
        return [each.profile.size for each in await gpu.instances()]

    assert asyncio.run(run()) == ["4g", "2g"]


def test_a_file_is_replaced_wholly_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    replace_file(path, b"one")
    replace_file(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="No such file"):
        replace_file(tmp_path / "none" / "table.json", b"three")
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path, b"three")
    assert [each.name for each in tmp_path.iterdir()] == ["table.json"]
    assert path.read_bytes() == b"two"
