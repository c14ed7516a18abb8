"""The simulated GPU behaves as a board does."""

from __future__ import annotations

import asyncio
import re

import pytest

from mig.errors import DeviceBusyError, PartitionRejectedError
from mig.placement import Placement, place
from mig.profiles import gpu_model
from mig.simulated import SimulatedGpu, UuidPolicy

A100 = gpu_model("a100-40gb")
MIG_UUID = re.compile(r"MIG-[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Waits:
    """A sleep that takes no time, yields once and remembers how long it was asked to wait."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, delay_s: float) -> None:
        self.seconds.append(delay_s)
        await asyncio.sleep(0)


def board(*, seed: int = 1, policy: UuidPolicy = "stable", waits: Waits | None = None) -> SimulatedGpu:
    return SimulatedGpu(A100, 0, seed=seed, sleep=waits or Waits(), uuid_policy=policy)


async def add(gpu: SimulatedGpu, size: str, start: int) -> int:
    placed = place(gpu.model.profile(size), start)
    return (await gpu.create(placed.profile, placed.placement)).id


def test_what_was_created_is_read_back_in_order_of_start() -> None:
    async def run() -> None:
        gpu = board()
        await add(gpu, "3g", 4)
        await add(gpu, "4g", 0)
        found = await gpu.instances()
        assert [str(instance.placed) for instance in found] == ["4g@0", "3g@4"]
        assert len({instance.uuid for instance in found}) == 2
        assert all(MIG_UUID.fullmatch(instance.uuid) for instance in found)
        assert await gpu.energy_mj() is None
        assert (gpu.index, gpu.model) == (0, A100)
        assert gpu.uuid.startswith("GPU-")

    asyncio.run(run())


def test_creating_on_taken_slices_is_rejected_and_changes_nothing() -> None:
    async def run() -> None:
        waits = Waits()
        gpu = board(waits=waits)
        await add(gpu, "3g", 0)
        with pytest.raises(PartitionRejectedError, match=r"GPU 0: insufficient resources: .* overlaps 3g.20gb"):
            await add(gpu, "4g", 0)
        assert len(await gpu.instances()) == 1
        assert waits.seconds == [0.5]

    asyncio.run(run())


def test_a_profile_can_be_used_up() -> None:
    async def run() -> None:
        gpu = board()
        await add(gpu, "1g+me", 0)
        with pytest.raises(PartitionRejectedError, match="would be there 2 times: expected at most 1"):
            await add(gpu, "1g+me", 1)

    asyncio.run(run())


def test_illegal_places_and_foreign_profiles_are_rejected() -> None:
    async def run() -> None:
        gpu = board()
        with pytest.raises(PartitionRejectedError, match="starts at 2: expected one of 0, 4"):
            await gpu.create(A100.profile("3g"), Placement(start=2, size=4))
        foreign = gpu_model("a30").profile("1g")
        with pytest.raises(PartitionRejectedError, match=r"profile 1g.6gb \(id 14\): expected one of a100-40gb"):
            await gpu.create(foreign, Placement(start=0, size=1))

    asyncio.run(run())


def test_destroying_what_is_gone_is_done_already() -> None:
    async def run() -> None:
        waits = Waits()
        gpu = board(waits=waits)
        instance_id = await add(gpu, "7g", 0)
        await gpu.destroy(instance_id)
        await gpu.destroy(instance_id)
        assert await gpu.instances() == ()
        assert waits.seconds == [0.5, 0.5]

    asyncio.run(run())


def test_a_busy_instance_stays_until_its_process_ends() -> None:
    async def run() -> None:
        gpu = board()
        instance_id = await add(gpu, "7g", 0)
        gpu.busy[instance_id] = 4711
        with pytest.raises(DeviceBusyError, match=f"GPU 0: instance {instance_id} is in use") as caught:
            await gpu.destroy(instance_id)
        assert caught.value.hint
        assert len(await gpu.instances()) == 1
        gpu.busy.clear()
        await gpu.destroy(instance_id)
        assert await gpu.instances() == ()

    asyncio.run(run())


def test_a_process_that_comes_during_a_destroy_still_stops_it() -> None:
    async def run() -> None:
        gpu = board()
        instance_id = await add(gpu, "7g", 0)
        destroying = asyncio.ensure_future(gpu.destroy(instance_id))
        await asyncio.sleep(0)
        gpu.busy[instance_id] = 4711
        with pytest.raises(DeviceBusyError):
            await destroying
        assert len(await gpu.instances()) == 1

    asyncio.run(run())


def test_operations_on_one_gpu_run_one_after_the_other() -> None:
    async def run() -> None:
        gpu = board()
        both = await asyncio.gather(add(gpu, "4g", 0), add(gpu, "3g", 0), return_exceptions=True)
        assert isinstance(both[0], int)
        assert isinstance(both[1], PartitionRejectedError)

    asyncio.run(run())


def test_a_reader_waits_for_the_operation_under_way() -> None:
    async def run() -> None:
        gpu = board()
        creating = asyncio.ensure_future(add(gpu, "4g", 0))
        await asyncio.sleep(0)
        assert len(await gpu.instances()) == 1
        await creating

    asyncio.run(run())


def test_a_cancelled_operation_never_was_and_the_next_one_works() -> None:
    async def run() -> None:
        gpu = board()
        creating = asyncio.ensure_future(add(gpu, "4g", 0))
        await asyncio.sleep(0)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert await gpu.instances() == ()
        instance_id = await add(gpu, "7g", 0)
        destroying = asyncio.ensure_future(gpu.destroy(instance_id))
        await asyncio.sleep(0)
        destroying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await destroying
        assert [instance.id for instance in await gpu.instances()] == [instance_id]
        await gpu.destroy(instance_id)

    asyncio.run(run())


def test_latencies_are_waited_for_with_the_injected_sleep() -> None:
    async def run() -> None:
        waits = Waits()
        gpu = SimulatedGpu(A100, 3, seed=1, sleep=waits, create_s=0.25, destroy_s=0.75)
        await gpu.destroy(await add(gpu, "2g", 2))
        assert waits.seconds == [0.25, 0.75]

    asyncio.run(run())


def history(seed: int, policy: UuidPolicy = "stable") -> list[tuple[int, str, str]]:
    """Ids, UUIDs and sizes over many creations and destroys of alternating size."""

    async def run() -> list[tuple[int, str, str]]:
        gpu = board(seed=seed, policy=policy)
        seen: list[tuple[int, str, str]] = []
        for turn in range(40):
            await add(gpu, "1g" if turn % 2 else "2g", 0)
            (instance,) = await gpu.instances()
            seen.append((instance.id, instance.uuid, instance.profile.size))
            await gpu.destroy(instance.id)
        return seen

    return asyncio.run(run())


def test_the_same_seed_gives_the_same_history_and_another_seed_another() -> None:
    assert history(1) == history(1)
    assert history(1) != history(2)


def test_a_stable_uuid_depends_on_the_id_only_and_may_come_to_name_another_size() -> None:
    seen = history(1)
    assert len({uuid for _, uuid, _ in seen}) == len({instance_id for instance_id, _, _ in seen})
    assert len({(uuid, size) for _, uuid, size in seen}) > len({uuid for _, uuid, _ in seen})


def test_a_fresh_uuid_never_comes_back() -> None:
    seen = history(1, "fresh")
    assert len({uuid for _, uuid, _ in seen}) == len(seen)
    assert all(MIG_UUID.fullmatch(uuid) for _, uuid, _ in seen)


def test_two_gpus_of_one_host_share_no_uuid() -> None:
    first, second = (SimulatedGpu(A100, index, seed=1) for index in (0, 1))
    assert first.uuid != second.uuid


@pytest.mark.parametrize("field", ["create_s", "destroy_s"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_latency_that_cannot_be_waited_for_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}: expected a finite number"):
        SimulatedGpu(A100, 0, seed=1, **{field: value})
