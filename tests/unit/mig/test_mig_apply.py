"""Applying on a simulated GPU: what is done, what is left alone, and how it ends when something fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from mig.apply import Hooks, apply, plan
from mig.apply_plan import Step, assertion
from mig.device import GpuInstance, MigMode
from mig.errors import (
    DeviceBusyError,
    DriverError,
    ForeignInstanceError,
    GpuLockedError,
    GpuLostError,
    MigDisabledError,
    PartitionRejectedError,
    ResetRequiredError,
)
from mig.managed import ManagedGpu
from mig.partition import Partition
from mig.placement import Placement, place
from mig.profiles import Profile, gpu_model
from mig.simulated import SimulatedGpu
from mig.store import MemoryStore

A100 = gpu_model("a100-40gb")
T = TypeVar("T")


async def no_wait(_delay_s: float) -> None:
    await asyncio.sleep(0)


def board(mode: MigMode | None = None) -> SimulatedGpu:
    return SimulatedGpu(A100, 0, seed=1, sleep=no_wait, mode=mode)


def go(body: Callable[[], Awaitable[T]]) -> T:
    async def run() -> T:
        return await body()

    return asyncio.run(run())


def at(*placed: tuple[str, int]) -> Partition:
    return Partition(placed=tuple(place(A100.profile(size), start) for size, start in placed))


async def foreign(gpu: SimulatedGpu, size: str, start: int) -> GpuInstance:
    placed = place(A100.profile(size), start)
    return await gpu.create(placed.profile, placed.placement)


async def shape(gpu: SimulatedGpu) -> str:
    return " ".join(str(each.placed) for each in await gpu.instances())


def test_an_apply_keeps_what_it_can_and_says_each_step() -> None:
    async def body() -> None:
        gpu, store, steps = board(), MemoryStore(), list[Step]()
        await apply(gpu, ["4g", "2g", "1g"], store)
        four, two, one = await gpu.instances()
        made = await plan(gpu, ["4g", "1g", "1g", "1g"], store)
        assert str(made) == (f"keep {four.id} (4g@0), {one.id} (1g@6); destroy {two.id} (2g@4); create 1g@4, 1g@5")
        drained: list[GpuInstance] = []

        async def drain(instance: GpuInstance) -> None:
            drained.append(instance)

        report = await apply(gpu, ["4g", "1g", "1g", "1g"], store, hooks=Hooks(drain=drain, done=steps.append))
        assert (report.state, report.ok, report.plan) == ("applied", True, made)
        assert report.instances == await gpu.instances()
        assert {four, one} <= set(report.instances or ())
        assert drained == [two]
        assert tuple(steps) == made.steps
        again = await apply(gpu, ["1g", "4g", "1g", "1g"], store)
        assert (again.state, again.plan.is_empty) == ("unchanged", True)
        again.raise_if_failed()

    go(body)


def test_an_exact_layout_can_be_wanted() -> None:
    async def body() -> None:
        gpu, store = board(), MemoryStore()
        await apply(gpu, at(("3g", 0), ("1g", 4)), store)
        await apply(gpu, at(("3g", 4), ("1g", 0)), store)
        assert await shape(gpu) == "1g@0 3g@4"

    go(body)


def test_foreign_instances_are_never_touched_unless_allowed_by_id() -> None:
    async def body() -> None:
        gpu, store = board(), MemoryStore()
        theirs = await foreign(gpu, "2g", 2)
        with pytest.raises(ForeignInstanceError, match=rf"instances {theirs.id} \(2g@2\) were not created") as caught:
            await apply(gpu, ["4g", "3g"], store)
        assert caught.value.instance_ids == (theirs.id,)
        assert await gpu.instances() == (theirs,)
        report = await apply(gpu, ["3g", "2g", "1g"], store)
        assert (report.state, await shape(gpu)) == ("applied", "1g@0 2g@2 3g@4")
        assert theirs in await gpu.instances()
        assert report.plan.foreign == (theirs,)
        refusal = pytest.raises(ForeignInstanceError, match=f"instance {theirs.id} was not created by this manager")
        with ManagedGpu(gpu, store) as managed, refusal:
            await managed.destroy(theirs.id)
        await apply(gpu, ["4g", "3g"], store, allowed=frozenset({theirs.id}))
        assert await shape(gpu) == "4g@0 3g@4"

    go(body)


def test_an_allowed_id_that_is_given_again_is_not_allowed_any_more() -> None:
    async def body() -> None:
        gpu, store = board(), MemoryStore()
        theirs = await foreign(gpu, "7g", 0)
        with ManagedGpu(gpu, store, allowed=[theirs.id]) as managed:
            await managed.destroy(theirs.id)
            while (again := await foreign(gpu, "7g", 0)).id != theirs.id:
                await gpu.destroy(again.id)
            with pytest.raises(ForeignInstanceError):
                await managed.destroy(again.id)

    go(body)


def test_what_was_adopted_is_ours() -> None:
    async def body() -> None:
        gpu, store = board(), MemoryStore()
        theirs = await foreign(gpu, "7g", 0)
        with ManagedGpu(gpu, store) as managed:
            assert await managed.adopt([theirs.id]) == (theirs,)
            assert await managed.adopt([theirs.id]) == ()
        assert (await apply(gpu, [], store)).state == "applied"
        assert await gpu.instances() == ()

    go(body)


def test_a_failed_apply_goes_back_to_the_recorded_layout() -> None:
    async def body() -> None:
        gpu, store = board(), MemoryStore()
        await apply(gpu, at(("2g", 0), ("2g", 2), ("3g", 4)), store)
        busy = (await gpu.instances())[1]
        gpu.busy[busy.id] = 77
        report = await apply(gpu, ["4g", "3g"], store)
        assert (report.state, report.ok) == ("rolled_back", False)
        assert isinstance(report.error, DeviceBusyError)
        assert [holder.pid for holder in report.error.holders] == [77]
        assert await shape(gpu) == "2g@0 2g@2 3g@4"
        assert busy in await gpu.instances()
        with pytest.raises(DeviceBusyError) as caught:
            report.raise_if_failed()
        assert caught.value.hint.startswith("The GPU is cut as before")
        gpu.busy.clear()
        assert (await apply(gpu, ["4g", "3g"], store)).state == "applied"

    go(body)


class Failing(SimulatedGpu):
    """A simulated GPU whose creations fail from the n-th on, as often as wanted."""

    failing: range = range(0)
    creations = 0

    async def create(self, profile: Profile, placement: Placement) -> GpuInstance:
        self.creations += 1
        if self.creations in self.failing:
            raise DriverError(f"GPU 0: creation {self.creations} failed: expected success", code=999)
        return await super().create(profile, placement)


@pytest.mark.parametrize(("failing", "state"), [(range(3, 4), "rolled_back"), (range(3, 9), "partial")])
def test_if_going_back_fails_too_what_lives_is_known(failing: range, state: str) -> None:
    async def body() -> None:
        gpu, store = Failing(A100, 0, seed=1, sleep=no_wait), MemoryStore()
        gpu.failing = failing
        await apply(gpu, ["4g", "3g"], store)
        report = await apply(gpu, ["7g"], store)
        assert report.state == state
        assert report.instances == await gpu.instances()
        gpu.failing = range(0)
        assert (await apply(gpu, ["7g"], store)).state == "applied"

    go(body)


def test_an_apply_that_is_repeated_after_a_partial_end_still_goes_back_to_the_first_layout() -> None:
    async def body() -> None:
        gpu, store = Failing(A100, 0, seed=1, sleep=no_wait), MemoryStore()
        await apply(gpu, ["4g", "3g"], store)
        gpu.failing = range(3, 5)
        assert (await apply(gpu, ["7g"], store)).state == "partial"
        gpu.failing = range(5, 6)
        assert (await apply(gpu, ["7g"], store)).state == "rolled_back"
        assert await shape(gpu) == "4g@0 3g@4"
        assert store.read(gpu.uuid).apply is None

    go(body)


def test_a_gpu_that_is_lost_on_the_way_ends_unknown() -> None:
    async def body() -> None:
        gpu, store = board(), MemoryStore()
        await apply(gpu, ["4g", "3g"], store)

        def lose(_step: Step) -> None:
            gpu.lost = True

        report = await apply(gpu, ["7g"], store, hooks=Hooks(done=lose))
        assert (report.state, report.instances) == ("unknown", None)
        assert isinstance(report.error, GpuLostError)
        assert isinstance(report.rollback_error, GpuLostError)

    go(body)


def test_a_cancelled_apply_is_recorded_and_the_next_one_finishes() -> None:
    async def body() -> None:
        gpu, store = board(), MemoryStore()
        await apply(gpu, ["4g", "3g"], store)
        created = asyncio.Event()
        hooks = Hooks(done=lambda step: created.set() if step.placed else None)
        moving = asyncio.ensure_future(apply(gpu, ["1g"] * 7, store, hooks=hooks))
        await created.wait()
        moving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await moving
        assert store.read(gpu.uuid).apply is not None
        assert (await apply(gpu, ["1g"] * 7, store)).state == "applied"
        assert store.read(gpu.uuid).apply is None
        assert not store.read(gpu.uuid).foreign(await gpu.instances())

    go(body)


def test_nothing_is_begun_without_the_mode() -> None:
    async def body() -> None:
        store = MemoryStore()
        with pytest.raises(MigDisabledError, match="GPU 0: MIG mode is off: expected on"):
            await apply(board(MigMode(current=False, pending=False)), ["7g"], store)
        with pytest.raises(ResetRequiredError, match="MIG mode is off and becomes on at the next reset"):
            await plan(board(MigMode(current=False, pending=True)), ["7g"], store)
        with pytest.raises(PartitionRejectedError):
            await apply(board(), ["7g", "1g"], store)

    go(body)


def test_there_is_one_manager_at_a_time() -> None:
    async def body() -> None:
        gpu, store = board(), MemoryStore()
        with ManagedGpu(gpu, store), pytest.raises(GpuLockedError, match="is managed by process"):
            await apply(gpu, ["7g"], store)
        assert (await apply(gpu, ["7g"], store)).ok

    go(body)


def test_an_assertion_says_what_differs() -> None:
    async def body() -> None:
        gpu = board()
        assert assertion((), A100, ["7g"]) == "it holds nothing: expected 7g@0"
        one = await foreign(gpu, "3g", 4)
        assert assertion([one], A100, ["3g"]) == ""
        assert assertion([one], A100, at(("3g", 0))) == "it holds 3g@4: expected 3g@0"

    go(body)
