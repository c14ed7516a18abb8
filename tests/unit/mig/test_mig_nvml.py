"""NvmlGpu over the fake driver: discovery, adoption, the original's codes and what the port does not say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from mig_boards import PATIENCE, run
from nvml_fake import UNKNOWN_ERROR, FakeNvml

from mig.apply import apply
from mig.codes import CODES, layout_of_code, multiset_of_code
from mig.device import GpuInstance
from mig.errors import (
    DriverError,
    ForeignInstanceError,
    GpuLostError,
    MigNotSupportedError,
    PartitionRejectedError,
)
from mig.nvml import NvmlDriver, NvmlGpu
from mig.partition import Partition, parse_multiset
from mig.placement import place
from mig.profiles import GPU_MODELS, gpu_model
from mig.store import MemoryStore

A100, A30 = gpu_model("a100-40gb"), gpu_model("a30")


@asynccontextmanager
async def opened(fake: FakeNvml) -> AsyncIterator[tuple[NvmlGpu, ...]]:
    async with NvmlDriver(patience=PATIENCE, sleep=fake.sleep) as driver:
        yield await driver.gpus()


async def create(gpu: NvmlGpu, size: str, start: int) -> GpuInstance:
    placed = place(gpu.model.profile(size), start)
    return await gpu.create(placed.profile, placed.placement)


def test_all_19_codes_of_the_original_are_applied_on_an_a100(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A100)
        store = MemoryStore()
        async with opened(fake_nvml) as (gpu,):
            for code in range(len(CODES)):
                report = await apply(gpu, parse_multiset(gpu.model, str(code)), store)
                assert report.ok
                living = Partition(placed=tuple(each.placed for each in await gpu.instances()))
                assert living.multiset == multiset_of_code(A100, code)
                exact = Partition(placed=layout_of_code(gpu.model, code))
                assert (await apply(gpu, exact, store)).ok
                assert Partition(placed=tuple(each.placed for each in await gpu.instances())) == exact

    run(body)


def test_on_an_a30_the_codes_are_refused_and_ids_14_and_5_never_make_the_wrong_thing(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A30)
        async with opened(fake_nvml) as (gpu,):
            for code in range(len(CODES)):
                with pytest.raises(
                    PartitionRejectedError, match=f"code {code} on a30: expected a board with 7"
                ) as caught:
                    parse_multiset(gpu.model, str(code))
                assert "2g+1g" in caught.value.hint
            fake_nvml.fail(0)
            for size, wrong_id in (("2g", 14), ("4g", 5)):
                profile = A100.profile(size)
                assert profile.nvml_id == wrong_id
                with pytest.raises(PartitionRejectedError, match=rf"\(id {wrong_id}\): expected one of a30"):
                    await gpu.create(profile, place(profile, 0).placement)
            assert fake_nvml.changes() == 0
            # By size each is what it says, whatever its id.
            for size, right_id in (("1g", 14), ("2g", 5)):
                instance = await create(gpu, size, 0)
                assert (instance.profile.size, instance.profile.nvml_id) == (size, right_id)
                await gpu.destroy(instance.id)

    run(body)


def test_several_gpus_of_different_kinds_are_read_with_their_own_tables(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        names = [fake_nvml.add_gpu(model) for model in GPU_MODELS.values()]
        async with opened(fake_nvml) as gpus:
            assert [gpu.uuid for gpu in gpus] == names
            assert [gpu.model.name for gpu in gpus] == list(GPU_MODELS)
            # All at once; one thread serves them.
            reports = await asyncio.gather(*(apply(gpu, ["2g", "1g"], MemoryStore()) for gpu in gpus))
            assert [report.state for report in reports] == ["applied"] * 4
            names_of_all = [each.uuid for gpu in gpus for each in await gpu.instances()]
            assert len(set(names_of_all)) == 8

    run(body)


def test_a_gpu_without_mig_is_listed_and_says_so(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A100, supports_mig=False)
        fake_nvml.add_gpu(A100)
        async with opened(fake_nvml) as (plain, able):
            with pytest.raises(MigNotSupportedError, match=r"GPU 0 \(NVIDIA A100 40GB\): it offers no profiles"):
                _ = plain.model
            for refused in (plain.mode(), plain.instances(), plain.set_mode(enabled=True)):
                with pytest.raises(MigNotSupportedError, match="GPU 0"):
                    await refused
            assert await plain.devices() == ()
            assert (await able.mode()).current

    run(body)


def test_a_lost_gpu_does_not_hide_the_others(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A100)
        fake_nvml.add_gpu(A30)
        fake_nvml.set_lost(0)
        async with NvmlDriver() as driver:
            (gpu,) = await driver.gpus()
            assert (gpu.index, gpu.model.name) == (1, "a30")
            assert len(driver.notes) == 1
            assert driver.notes[0].startswith("GPU 0: reading it")
            fake_nvml.set_lost(1)
            with pytest.raises(GpuLostError, match="GPU 0: reading it"):
                await driver.gpus()

    run(body)


def test_profiles_of_a_newer_driver_are_left_out_with_a_note_and_their_instances_seen(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A100)
        fake_nvml.add_profile(0, 0x12, 99, "1g.5gb+new", slices=1, places=[(start, 1) for start in range(7)])
        fake_nvml.add_profile(0, 0xA, 47, "1g.5gb+gfx", slices=1, places=[(0, 1)])
        fake_nvml.add_profile(0, 0xD, 65, "1g.5gb-me", slices=1, places=[(0, 1)])
        fake_nvml.add_profile(0, 0xB, 48, "odd name", slices=2, places=[(0, 2)])
        fake_nvml.add_profile(0, 0xC, 49, "4g.20gb+gfx", slices=4, places=[(0, 4), (4, 3)])
        fake_nvml.add_profile(0, 0x8, 50, "1g.5gb+me", slices=1, places=[(0, 1)])
        async with opened(fake_nvml) as (gpu,):
            assert gpu.notes == (
                "profile 1g.5gb+new left out: the driver is newer than what is known here",
                "profile 1g.5gb+me left out: 1g.5gb+me has the short name 1g+me already",
                "profile odd name left out: its name is not of a known form",
                "profile 4g.20gb+gfx left out: its placements have 2 lengths, expected 1",
            )
            assert {each.size for each in gpu.model.profiles} == {
                *(each.size for each in A100.profiles),
                "1g+gfx",
                "1g-me",
            }
            assert [each.size for each in gpu.model.basic_profiles] == ["7g", "4g", "3g", "2g", "1g"]
            # Somebody else made one of a kind that is not known here: it is seen, and in the way.
            fake_nvml.create_foreign(0, 99, 4, 1)
            (living,) = await gpu.instances()
            assert (living.profile.name, living.placement.start, living.is_whole) == ("1g.5gb+new", 4, False)
            with pytest.raises(ForeignInstanceError):
                await apply(gpu, ["3g"], MemoryStore())

    run(body)


def test_a_board_that_is_not_bundled_is_managed_by_its_own_table(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A30, supports_mig=False)
        other = fake_nvml.add_empty_gpu("NVIDIA Imaginary 96GB")
        for enumerator, (slices, places) in enumerate([(1, [0, 1, 2, 3]), (2, [0, 2]), (4, [0])]):
            fake_nvml.add_profile(
                1,
                (0, 1, 3)[enumerator],
                100 + slices,
                f"{slices}g.{24 * slices}gb",
                slices=slices,
                places=[(start, slices) for start in places],
                count=4 // slices,
                mib=24000 * slices,
            )
        async with opened(fake_nvml) as (_, gpu):
            assert (gpu.uuid, gpu.model.name) == (other, "nvidia-imaginary-96gb")
            assert (gpu.model.compute_slices, gpu.model.memory_slices) == (4, 4)
            assert gpu.model.source == "driver 580.65.06"
            assert (await apply(gpu, ["2g", "1g", "1g"], MemoryStore())).ok
            assert [each.profile.nvml_id for each in await gpu.instances()] in ([102, 101, 101], [101, 101, 102])

    run(body)


def test_existing_instances_are_read_kept_and_left_alone(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A100)
        async with opened(fake_nvml) as (gpu,):
            made = {await create(gpu, "4g", 0), await create(gpu, "1g", 6)}
        async with opened(fake_nvml) as (gpu,):
            assert set(await gpu.instances()) == made
            assert (await apply(gpu, ["4g", "2g", "1g"], MemoryStore())).ok
            assert made < set(await gpu.instances())

    run(body)


def test_a_half_made_or_split_instance_is_no_device_and_only_ours_are_taken_away(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A100)
        store = MemoryStore()
        async with opened(fake_nvml) as (gpu,):
            fake_nvml.create_foreign(0, A100.profile("3g").nvml_id, 4, 4)
            (half,) = await gpu.instances()
            assert not half.is_whole
            assert await gpu.devices() == ()
            # It is somebody's: it counts as the 3g that it is.
            report = await apply(gpu, ["4g", "3g"], store)
            assert report.ok
            assert half in await gpu.instances()
            # Allowed by its id, it is replaced by a whole one.
            report = await apply(gpu, ["4g", "3g"], store, allowed=frozenset({half.id}))
            assert report.ok
            assert all(each.is_whole for each in await gpu.instances())

    run(body)


def test_a_creation_that_fails_at_any_of_its_calls_leaves_nothing(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A100)
        async with opened(fake_nvml) as (gpu,):
            # The first creation of a kind also asks for the compute profiles of that kind.
            for _ in range(2):
                fake_nvml.fail(0)
                instance = await create(gpu, "3g", 4)
                calls = fake_nvml.calls()
                await gpu.destroy(instance.id)
            for n in range(1, calls + 1):
                fake_nvml.fail(n, code=UNKNOWN_ERROR)
                with pytest.raises(DriverError, match="GPU 0"):
                    await create(gpu, "3g", 4)
                fake_nvml.fail(0)
                assert await gpu.instances() == ()

    run(body)


def test_energy_is_the_whole_gpus_counter(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A100)
        async with opened(fake_nvml) as (gpu,):
            assert await gpu.energy_mj() is None
            fake_nvml.set_energy(0, 123_456_789_012)
            await create(gpu, "3g", 0)
            await create(gpu, "3g", 4)
            assert await gpu.energy_mj() == 123_456_789_012

    run(body)


def test_there_is_one_session_in_a_process_and_it_ends(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A100)
        async with NvmlDriver() as driver:
            assert await driver.version() == "580.65.06"
            with pytest.raises(RuntimeError, match="a second NvmlDriver in one process"):
                await NvmlDriver().__aenter__()
        with pytest.raises(RuntimeError, match="outside of its `async with` block"):
            await driver.gpus()
        async with NvmlDriver() as again:
            assert len(await again.gpus()) == 1

    run(body)
