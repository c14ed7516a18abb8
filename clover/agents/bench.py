"""Measures configurations of a GPU in a closed loop: one client per instance asks back to back.

It needs neither bus nor controller: it makes the GPU instances, starts the workers, asks, and takes everything down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from clover.agents.bench_settings import BenchSettings
from clover.core.application import Application
from clover.core.clock import Clock
from clover.core.configuration import GpuConfiguration
from clover.core.profiling import CellMeasurement, InstanceMeasurement
from clover.core.transition import plan_transition
from clover.serving.port import (
    BatchingWorker,
    InstanceSpec,
    OutOfMemoryError,
    Served,
    Servicer,
    ServingError,
    Worker,
)
from clover.serving.worker import ProcessWorker
from mig.device import Gpu, GpuInstance

#: Fewer answers than this say nothing.
_LEAST_ANSWERS = 5


@dataclass(frozen=True, slots=True)
class _Ask:
    id: str
    content_type: str
    payload: bytes


@dataclass(slots=True, eq=False)
class _Client:
    """One instance and what its client has seen."""

    gpu: int
    device: GpuInstance
    variant: str
    worker: Worker
    start_s: float
    answers: int = 0
    service_ms: list[float] = field(default_factory=list[float])
    instance_ms: list[float] = field(default_factory=list[float])
    energy_j: list[float] = field(default_factory=list[float])


class Bench:
    """Measures one configuration after the other.

    Args:
        gpus: GPUs that all get the same configuration.
        servicer: Starts workers.
        application: What is measured.
        inputs: (content type, payload), asked in turn.
        clock: Wall time.
        settings: How much.
    """

    def __init__(
        self,
        *,
        gpus: Sequence[Gpu],
        servicer: Servicer,
        application: Application,
        inputs: Sequence[tuple[str, bytes]],
        clock: Clock,
        settings: BenchSettings,
    ) -> None:
        self._gpus = gpus
        self._servicer = servicer
        self._application = application
        self._inputs = inputs
        self._clock = clock
        self._settings = settings
        self._rng = Random(settings.seed)  # noqa: S311 - pauses

    async def measure(self, cell: GpuConfiguration) -> CellMeasurement:
        """Measure one configuration; what cannot be served is an outcome, not an error."""
        try:
            async with self._running(cell) as clients:
                began_s = self._clock.now_s()
                await self._drive(clients)
                return self._measurement(cell, clients, self._clock.now_s() - began_s)
        except* ServingError as group:
            error = _first(group)
        # The worker says it in these words where it loads as where it serves.
        exhausted = isinstance(error, OutOfMemoryError) or "out of memory" in str(error)
        return CellMeasurement(cell=str(cell), outcome="out_of_memory" if exhausted else "failed", reason=str(error))

    # --- instances

    @asynccontextmanager
    async def _running(self, cell: GpuConfiguration) -> AsyncIterator[list[_Client]]:
        """Cut the GPUs, start all workers, and take everything down at the end."""
        made: list[tuple[Gpu, GpuInstance, str]] = []
        clients: list[_Client] = []
        try:
            for gpu in self._gpus:
                for placed, variant in plan_transition(gpu.model, [], cell).create:
                    made.append((gpu, await gpu.create(placed.profile, placed.placement), variant))
            async with asyncio.TaskGroup() as group:
                for gpu, device, variant in made:
                    group.create_task(self._start(gpu, device, variant, clients))
            yield clients
        finally:
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(client.worker.stop())
            for gpu, device, _ in made:
                await gpu.destroy(device.id)

    async def _start(self, gpu: Gpu, device: GpuInstance, variant: str, clients: list[_Client]) -> None:
        began_s = self._clock.now_s()
        spec = InstanceSpec(
            application=self._application.name,
            variant=variant,
            profile=device.profile.size,
            compute_slices=device.profile.compute_slices,
            total_slices=gpu.model.compute_slices,
            device=device.uuid,
            name=f"bench/gpu{gpu.index}/{device.profile.size}@{device.placement.start}",
            gpu=gpu.index,
            memory_mib=device.profile.memory_mib,
        )
        worker = await self._servicer.start(spec)
        clients.append(
            _Client(gpu=gpu.index, device=device, variant=variant, worker=worker, start_s=self._clock.now_s() - began_s)
        )

    # --- closed loop

    async def _drive(self, clients: list[_Client]) -> None:
        """Keep all instances busy until each has its answers: a fast one goes on while a slow one still works."""
        end_s = self._clock.now_s() + self._settings.limit_s
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(self._ask_until_enough(client, number, clients, end_s))

    async def _ask_until_enough(self, client: _Client, number: int, clients: list[_Client], end_s: float) -> None:
        think_s = self._settings.think_s
        while not self._enough(clients, end_s):
            if think_s:
                await asyncio.sleep(self._rng.expovariate(1.0 / think_s))
            served = await self._answers(client, number)
            client.answers += 1
            if client.answers > self._settings.warm_up:
                client.service_ms.append(max(one.service_ms for one in served))
                client.instance_ms.append(max(one.instance_ms for one in served))
                client.energy_j.append(sum(one.energy_j for one in served) / len(served))

    async def _answers(self, client: _Client, number: int) -> list[Served]:
        """Ask one client's instance for one inference."""
        size = self._settings.batch_size
        first = number + client.answers * size
        asked = [
            _Ask(f"bench-{number}-{client.answers}-{place}", *self._inputs[(first + place) % len(self._inputs)])
            for place in range(size)
        ]
        if size == 1:
            return [await client.worker.serve(asked[0])]
        if not isinstance(client.worker, BatchingWorker):
            raise ServingError(f"{client.variant} forms no batches", hint="leave --batch-size out")
        if client.worker.batch_ms is None:
            raise OutOfMemoryError(f"a batch of {size} does not fit into the {client.device.profile.memory_mib} MiB")
        answers = await client.worker.serve_together(asked)
        for answer in answers:
            if isinstance(answer, ServingError):
                raise answer
        return [answer for answer in answers if isinstance(answer, Served)]

    def _enough(self, clients: list[_Client], end_s: float) -> bool:
        fewest = min(len(client.service_ms) for client in clients)
        late = self._clock.now_s() >= end_s and fewest >= min(_LEAST_ANSWERS, self._settings.requests)
        return late or fewest >= self._settings.requests

    # --- result

    def _measurement(self, cell: GpuConfiguration, clients: list[_Client], seconds: float) -> CellMeasurement:
        ready = [client.worker.ready for client in clients if isinstance(client.worker, ProcessWorker)]
        return CellMeasurement(
            cell=str(cell),
            outcome="ok",
            seconds=seconds,
            instances=[
                InstanceMeasurement(
                    profile=client.device.profile.size,
                    variant=client.variant,
                    gpu=client.gpu,
                    service_ms=client.service_ms,
                    instance_ms=client.instance_ms,
                    energy_j=client.energy_j,
                    start_s=client.start_s,
                    memory_mib=_memory_mib(client.worker),
                )
                for client in sorted(clients, key=lambda c: (c.gpu, c.device.placement.start))
            ],
            device=ready[0].device if ready else "simulated",
            versions=ready[0].versions if ready else {},
        )


def _memory_mib(worker: Worker) -> float:
    return worker.ready.memory_mib if isinstance(worker, ProcessWorker) else 0.0


def _first(group: BaseExceptionGroup[ServingError]) -> ServingError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, ServingError):
        raise TypeError(f"a ServingError was expected, got {type(error).__name__}")
    return error
