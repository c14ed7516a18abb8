"""What may go wrong while a GPU is being changed: each ends in a named state, and the same can be applied again.

All run on `NvmlGpu` over the fake driver and the unmodified `pynvml`.
"""

from __future__ import annotations

import asyncio

import pytest
from changed_gpu import AFTER, AFTER_SHAPE, BEFORE, BEFORE_SHAPE, calls_of_one_apply, create, prepared, shape
from mig_boards import PATIENCE, run
from nvml_fake import FakeNvml

from mig.apply import Hooks, apply
from mig.apply_plan import ApplyReport, Step
from mig.change import Wanted
from mig.device import GpuInstance
from mig.errors import (
    DeviceBusyError,
    DriverError,
    GpuLostError,
    InsufficientResourcesError,
    MigError,
    Shortage,
)
from mig.nvml import NvmlGpu
from mig.store import MemoryStore


def test_an_instance_that_is_busy_for_ever_is_reported_with_its_holder(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            before = await gpu.instances()
            fake_nvml.use(0, before[1].id, pid=4711)
            report = await apply(gpu, AFTER, store)
            assert report.state == "rolled_back"
            assert isinstance(report.error, DeviceBusyError)
            assert "in use by process 4711" in str(report.error)
            assert await gpu.instances() == before
            fake_nvml.leave(0, before[1].id)
            assert (await apply(gpu, AFTER, store)).state == "applied"
            assert await shape(gpu) == AFTER_SHAPE

    run(body)


def test_an_instance_that_is_busy_for_2_s_is_waited_for(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            fake_nvml.use(0, (await gpu.instances())[1].id, seconds=2.0)
            assert (await apply(gpu, AFTER, store)).state == "applied"

    run(body)


def test_an_instance_that_loses_its_device_and_cannot_go_gets_it_back(fake_nvml: FakeNvml) -> None:
    """The compute instance is destroyed, then the GPU instance is in use until patience is over."""

    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            attempts = len(list(PATIENCE.pauses())) + 1
            fake_nvml.fail(2, times=attempts, code=19, only_changes=True)
            report = await apply(gpu, AFTER, store)
            assert (report.state, type(report.error)) == ("rolled_back", DeviceBusyError)
            assert fake_nvml.changes() == attempts + 2
            assert await shape(gpu) == BEFORE_SHAPE
            assert all(each.is_whole for each in await gpu.instances())
            assert not store.read(gpu.uuid).foreign(await gpu.instances())

    run(body)


async def try_apply(gpu: NvmlGpu, wanted: Wanted, store: MemoryStore) -> ApplyReport | MigError:
    try:
        return await apply(gpu, wanted, store)
    except MigError as error:
        return error


@pytest.mark.parametrize("times", [1, 3, 1000])
@pytest.mark.parametrize("code", [999, 2, 6, 23], ids=["unknown", "invalid", "not-found", "no-resources"])
def test_a_driver_call_that_fails_at_every_n_ends_in_a_named_state(fake_nvml: FakeNvml, code: int, times: int) -> None:
    """The n-th call fails, three from the n-th on, and all from the n-th on."""
    ends: dict[str, int] = {}

    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            theirs_kept = {(await gpu.instances())[0], (await gpu.instances())[2]}
            for first in range(1, await calls_of_one_apply(gpu, fake_nvml, store) + 1):
                fake_nvml.fail(first, times=times, code=code)
                ended = await try_apply(gpu, AFTER, store)
                fake_nvml.fail(0)
                living = await gpu.instances()
                # Whatever happened: what the plan keeps is untouched, and all that lives is known as ours.
                assert theirs_kept <= set(living)
                assert not store.read(gpu.uuid).foreign(living)
                if isinstance(ended, ApplyReport):
                    ends[ended.state] = ends.get(ended.state, 0) + 1
                    _check(ended, living)
                else:
                    ends["refused"] = ends.get("refused", 0) + 1
                    assert await shape(gpu) == BEFORE_SHAPE
                assert (await apply(gpu, AFTER, store)).ok
                assert await shape(gpu) == AFTER_SHAPE
                assert (await apply(gpu, BEFORE, store)).ok

    run(body)
    # Early calls only read; one failure can be gone back from; going back takes a driver that answers.
    assert ends["refused"]
    assert ends[{1: "rolled_back", 3: "partial", 1000: "unknown"}[times]]


def _check(report: ApplyReport, living: tuple[GpuInstance, ...]) -> None:
    found = " ".join(str(each.placed) for each in living)
    if report.ok:
        assert found == AFTER_SHAPE
    else:
        assert isinstance(report.error, MigError)
    if report.state == "rolled_back":
        assert found == BEFORE_SHAPE
    if report.instances is not None:
        assert report.instances == living


def test_a_driver_lost_in_the_middle_of_an_apply_ends_unknown_and_the_next_apply_finishes(
    fake_nvml: FakeNvml,
) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            report = await apply(gpu, AFTER, store, hooks=Hooks(done=lambda _: fake_nvml.set_lost(0)))
            assert (report.state, report.instances) == ("unknown", None)
            assert isinstance(report.error, GpuLostError)
            assert isinstance(report.rollback_error, GpuLostError)
            with pytest.raises(GpuLostError, match="GPU 0"):
                await apply(gpu, AFTER, store)
            fake_nvml.set_lost(0, lost=False)
            assert (await apply(gpu, AFTER, store)).state == "applied"

    run(body)


def test_a_driver_lost_at_every_call_ends_in_a_named_state(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            for first in range(1, await calls_of_one_apply(gpu, fake_nvml, store) + 1):
                fake_nvml.fail(first, action="lose")
                ended = await try_apply(gpu, AFTER, store)
                assert isinstance(ended, GpuLostError) or (isinstance(ended, ApplyReport) and ended.state == "unknown")
                fake_nvml.fail(0)
                fake_nvml.set_lost(0, lost=False)
                assert (await apply(gpu, AFTER, store)).ok
                assert (await apply(gpu, BEFORE, store)).ok

    run(body)


def test_a_destroy_that_reports_success_and_leaves_the_instance_is_noticed(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            fake_nvml.set_remnants(True)
            report = await apply(gpu, AFTER, store)
            assert report.state == "partial"
            assert isinstance(report.error, DriverError)
            assert "reports success and still lists it" in str(report.error)
            fake_nvml.set_remnants(False)
            assert (await apply(gpu, AFTER, store)).ok
            assert await shape(gpu) == AFTER_SHAPE

    run(body)


@pytest.mark.parametrize(
    ("size", "shortage", "state"), [("2g", "taken", "rolled_back"), ("1g", "already_there", "partial")]
)
def test_somebody_else_who_takes_the_slices_meanwhile_is_left_alone(
    fake_nvml: FakeNvml, size: str, shortage: Shortage, state: str
) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu, asyncio.TaskGroup() as group:
            intruders: list[asyncio.Task[GpuInstance]] = []

            def intrude(step: Step) -> None:
                if step.instance is not None and not intruders:
                    intruders.append(group.create_task(create(gpu, size, 4)))

            report = await apply(gpu, AFTER, store, hooks=Hooks(done=intrude))
            assert isinstance(report.error, InsufficientResourcesError)
            assert report.error.shortage == shortage
            # A 2g of theirs lies just where ours was, so the GPU is cut as before; a 1g stands in the way of that.
            assert report.state == state
            assert store.read(gpu.uuid).foreign(await gpu.instances()) == (await intruders[0],)

    run(body)
