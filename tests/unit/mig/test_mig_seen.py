"""What devices alone tell about a partition."""

from __future__ import annotations

import asyncio

import pytest

from mig.apply import apply
from mig.device import MigDevice
from mig.partition import maximal_multisets
from mig.profiles import GPU_MODELS, GpuModel, gpu_model
from mig.seen import seen_difference, seen_multiset
from mig.simulated import SimulatedGpu
from mig.store import MemoryStore


async def at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("model", GPU_MODELS.values(), ids=str)
def test_the_devices_of_every_partition_tell_its_sizes(model: GpuModel) -> None:
    async def run() -> None:
        gpu, store = SimulatedGpu(model, 0, seed=1, sleep=at_once), MemoryStore()
        for multiset in maximal_multisets(model):
            await apply(gpu, multiset, store)
            devices = await gpu.devices()
            assert seen_multiset(model, devices) == multiset
            assert seen_difference(model, devices, multiset) == ""
            assert "expected none" in seen_difference(model, devices, ())

    asyncio.run(run())


def test_media_engines_are_not_seen_and_a_split_instance_is_of_no_profile() -> None:
    a100 = gpu_model("a100-40gb")
    device = MigDevice(uuid="MIG-1", gpu_instance_id=1, compute_instance_id=0, compute_slices=1, memory_mib=4864)
    assert seen_multiset(a100, [device]) == ("1g",)
    split = MigDevice(uuid="MIG-1", gpu_instance_id=1, compute_instance_id=0, compute_slices=1, memory_mib=19968)
    assert seen_multiset(a100, [split]) is None
    assert "of no profile" in seen_difference(a100, [split], ("3g",))
