"""Measures what one GPU draws when nothing runs, state by state; it is left as it was found.

The states, in the order in which they are taken:

    mig_off     MIG mode off, no process on the GPU
    mig_on      MIG mode on, no instances
    instances   cut into instances, nobody on them
    loaded      a worker with its model (a CUDA context) on every instance, idle: the table's `idle_power_w`
    parked      workers ended and instances destroyed again: the table's `parked_power_w`
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from clover.core.clock import Clock
from clover.core.configuration import GpuConfiguration
from clover.core.transition import plan_transition
from clover.errors import CloverError, NodeError
from clover.power.measure import MeanPower, Window, mean_power
from clover.power.nvml import NvmlMeter
from clover.serving.port import InstanceSpec, Servicer, ServingError, Worker
from mig.device import Gpu, GpuInstance
from mig.errors import MigError

PowerStateName = Literal["mig_off", "mig_on", "instances", "loaded", "parked"]
STATES: tuple[PowerStateName, ...] = get_args(PowerStateName)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePower:
    """What a GPU drew in one state.

    Attributes:
        gpu: Its index.
        state: See the module.
        measured: The figure; None if the state could not be had.
        reason: Why not.
        detail: What the state was exactly, such as the instances.
    """

    gpu: int
    state: PowerStateName
    measured: MeanPower | None
    reason: str = ""
    detail: str = ""


class PowerBench:
    """Measures one GPU.

    Args:
        gpu: The GPU, held by its one manager (`mig.managed`).
        servicer: Starts workers; None leaves `loaded` out.
        application: What they serve.
        cell: How the GPU is cut, and the variant on each instance.
        clock, sleep: Time.
        window: How long each state is measured.
        allow_reset: Switch MIG mode for `mig_off`, although the board may reset itself for it.
    """

    def __init__(
        self,
        gpu: Gpu,
        *,
        servicer: Servicer | None,
        application: str,
        cell: GpuConfiguration,
        clock: Clock,
        window: Window,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        allow_reset: bool = False,
    ) -> None:
        self._gpu = gpu
        self._servicer = servicer
        self._application = application
        self._cell = cell
        self._clock = clock
        self._window = window
        self._sleep = sleep
        self._allow_reset = allow_reset

    async def run(self) -> AsyncIterator[StatePower]:
        """Give each state's figure as it is known.

        Raises:
            NodeError: The GPU has no energy counter, or instances are on it.
            MigError: The driver refuses a change that cannot be done without.
        """
        if await self._gpu.energy_mj() is None:
            raise NodeError(f"GPU {self._gpu.index}: no energy counter: expected one (Volta or later)")
        before = await self._gpu.mode()
        if before.current and (left := await self._gpu.instances()):
            raise NodeError(
                f"GPU {self._gpu.index}: instances {', '.join(map(str, left))}: expected none",
                hint="`clover mig reset` removes them",
            )
        try:
            yield await self._without_mig(enabled=before.current)
            if not (await self._with_mig()):
                return
            yield await self._measured("mig_on", "no instances")
            async with self._cut() as instances:
                yield await self._measured("instances", str(self._cell))
                yield await self._loaded(instances)
            yield await self._measured("parked", "after workers")
        finally:
            if (await self._gpu.mode()).current != before.current:
                await self._gpu.set_mode(enabled=before.current, allow_reset=True)

    async def _without_mig(self, *, enabled: bool) -> StatePower:
        if enabled and not self._allow_reset:
            return self._missing("mig_off", "MIG mode is on, and --allow-reset was not given")
        try:
            if enabled:
                await self._gpu.set_mode(enabled=False, allow_reset=True)
            return await self._measured("mig_off", "no process")
        except MigError as error:
            return self._missing("mig_off", str(error))

    async def _with_mig(self) -> bool:
        if (await self._gpu.mode()).current:
            return True
        if not self._allow_reset:
            return False
        return (await self._gpu.set_mode(enabled=True, allow_reset=True)).current

    async def _loaded(self, instances: list[GpuInstance]) -> StatePower:
        if self._servicer is None:
            return self._missing("loaded", "no model was to be loaded")
        workers: list[Worker] = []
        try:
            for device, kind in zip(instances, self._cell.instances, strict=True):
                workers.append(await self._servicer.start(self._spec(device, kind.variant)))
            if fallback := next((worker.fallback for worker in workers if worker.fallback), ""):
                return self._missing("loaded", f"no context on the GPU: {fallback}")
            return await self._measured("loaded", str(self._cell))
        except ServingError as error:
            return self._missing("loaded", str(error))
        finally:
            async with asyncio.TaskGroup() as group:
                for worker in workers:
                    group.create_task(worker.stop())

    def _spec(self, device: GpuInstance, variant: str) -> InstanceSpec:
        return InstanceSpec(
            application=self._application,
            variant=variant,
            profile=device.profile.size,
            compute_slices=device.profile.compute_slices,
            total_slices=self._gpu.model.compute_slices,
            device=device.uuid,
            name=f"power/gpu{self._gpu.index}/{device.profile.size}@{device.placement.start}",
            gpu=self._gpu.index,
            memory_mib=device.profile.memory_mib,
            multiprocessors=device.profile.multiprocessors,
        )

    @asynccontextmanager
    async def _cut(self) -> AsyncIterator[list[GpuInstance]]:
        """Cut the GPU; instances come in the order of the cell's, and are gone afterwards."""
        made: list[GpuInstance] = []
        try:
            for placed, _ in plan_transition(self._gpu.model, [], self._cell).create:
                made.append(await self._gpu.create(placed.profile, placed.placement))
            sizes = [kind.profile for kind in self._cell.instances]
            yield sorted(made, key=lambda each: sizes.index(each.profile.size))
        finally:
            for instance in made:
                await self._gpu.destroy(instance.id)

    async def _measured(self, state: PowerStateName, detail: str) -> StatePower:
        try:
            power = await mean_power(NvmlMeter(self._gpu), self._clock, self._window, sleep=self._sleep)
        except CloverError as error:
            return self._missing(state, str(error))
        return StatePower(gpu=self._gpu.index, state=state, measured=power, detail=detail)

    def _missing(self, state: PowerStateName, reason: str) -> StatePower:
        return StatePower(gpu=self._gpu.index, state=state, measured=None, reason=reason)
