"""A GPU behind the fake driver that is changed from one layout to another, for tests of what may go wrong meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mig_boards import PATIENCE
from nvml_fake import HOPPER, FakeNvml

from mig.apply import apply
from mig.change import Wanted
from mig.device import GpuInstance
from mig.nvml import NvmlDriver, NvmlGpu
from mig.placement import place
from mig.profiles import gpu_model
from mig.store import FileStore, MemoryStore

A100 = gpu_model("a100-40gb")

# From 4g@0 2g@4 1g@6 to 4g@0 1g@4 1g@5 1g@6: one is destroyed, two are created, two stay.
BEFORE: Wanted = ("4g", "2g", "1g")
AFTER: Wanted = ("4g", "1g", "1g", "1g")
BEFORE_SHAPE, AFTER_SHAPE = "4g@0 2g@4 1g@6", "4g@0 1g@4 1g@5 1g@6"


@asynccontextmanager
async def opened(fake: FakeNvml, **options: float) -> AsyncIterator[NvmlGpu]:
    async with NvmlDriver(patience=PATIENCE, sleep=fake.sleep, **options) as driver:
        (gpu,) = await driver.gpus()
        yield gpu


@asynccontextmanager
async def prepared(fake: FakeNvml, store: MemoryStore | FileStore) -> AsyncIterator[NvmlGpu]:
    """A GPU that this manager has cut as `BEFORE`."""
    fake.add_gpu(A100, architecture=HOPPER)
    async with opened(fake) as gpu:
        assert (await apply(gpu, BEFORE, store)).ok
        yield gpu


async def shape(gpu: NvmlGpu) -> str:
    return " ".join(str(each.placed) for each in await gpu.instances())


async def create(gpu: NvmlGpu, size: str, start: int) -> GpuInstance:
    placed = place(gpu.model.profile(size), start)
    return await gpu.create(placed.profile, placed.placement)


async def calls_of_one_apply(gpu: NvmlGpu, fake: FakeNvml, store: MemoryStore | FileStore) -> int:
    """Change the GPU and back; return how many calls of the driver the change takes."""
    fake.fail(0)
    assert (await apply(gpu, AFTER, store)).state == "applied"
    calls = fake.calls()
    assert (await apply(gpu, BEFORE, store)).state == "applied"
    return calls
