"""Builds agents from settings: the one place that knows which implementation stands behind which port."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from clover.agents.carbon_monitor import CarbonMonitor, CarbonSettings
from clover.agents.controller import Compute, ControllerAgent, ControllerSettings
from clover.agents.decision import Decision, DecisionMaker, Goals
from clover.agents.metering import CounterStore, NodeMetering
from clover.agents.node import NodeAgent, NodeSettings
from clover.agents.pool import InstancePool
from clover.bus.port import Bus
from clover.carbon.port import IntensityFeed
from clover.core.application import ServiceModel
from clover.core.clock import Clock
from clover.errors import ConfigurationError
from clover.plan.schemes import make_scheme
from clover.power.host_estimate import CpuEstimateMeter
from clover.power.nvml import NvmlMeter
from clover.power.rapl import RaplMeter
from clover.serving.port import Servicer
from clover.serving.simulated import SimulatedServicer
from mig.device import Gpu
from mig.partition import maximal_multisets
from mig.profiles import GpuModel, gpu_model
from mig.simulated import SimulatedGpu

#: Backends that are built; `nvml` (real MIG) is refused until it is.
BACKENDS = ("sim", "cpu")

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What kind of GPUs a deployment has.

    Attributes:
        backend: `sim` (times from tables) or `cpu` (real models on slices of a core).
        board: Whose MIG geometry is used.
        model: Application and table.
    """

    backend: str
    board: GpuModel
    model: ServiceModel

    @property
    def multisets(self) -> tuple[tuple[str, ...], ...]:
        """Partitions worth trying: the maximal ones."""
        return maximal_multisets(self.board)


def table_model(backend: str, board: str) -> str:
    """Return the GPU model whose performance table a backend needs."""
    if backend not in BACKENDS:
        raise ConfigurationError(f"backend {backend!r} is unknown or not built, expected one of {', '.join(BACKENDS)}")
    return "cpu" if backend == "cpu" else board


def make_fleet(*, backend: str, board: str, model: ServiceModel) -> Fleet:
    """Check that backend, board and application fit together."""
    if backend == "cpu" and model.application.servicer == "table":
        raise ConfigurationError(
            f"application {model.application.name} has figures but no weights: the backend must be sim, not {backend}"
        )
    return Fleet(backend=backend, board=gpu_model(board), model=model)


def make_node(
    settings: NodeSettings,
    *,
    fleet: Fleet,
    gpus: int,
    bus: Bus,
    clock: Clock,
    seed: int,
    servicer: Callable[[], Servicer] | None = None,
    sleep: Sleep = asyncio.sleep,
    state_folder: Path | None = None,
) -> NodeAgent:
    """Build a node agent with `gpus` GPUs.

    `servicer` makes the servicer of a backend that runs real models; `state_folder` keeps counters over a restart.
    """
    rng = Random(f"{seed}/node/{settings.name}")  # noqa: S311 - simulation
    pool = InstancePool(fleet.model, clock)
    change = fleet.model.table.change
    boards: Sequence[Gpu] = [
        SimulatedGpu(
            fleet.board,
            index,
            seed=seed * 1000 + index,
            sleep=sleep,
            create_s=change.create_s,
            destroy_s=change.destroy_s,
        )
        for index in range(gpus)
    ]
    made = (
        servicer()
        if servicer is not None
        else SimulatedServicer(model=fleet.model, rng=rng, contention=pool.contention, sleep=sleep)
    )
    return NodeAgent(
        settings,
        model=fleet.model,
        bus=bus,
        clock=clock,
        gpus=boards,
        servicer=made,
        pool=pool,
        rng=rng,
        metering=make_metering(settings.backend, boards, clock, state_folder=state_folder, node=settings.name),
    )


def make_metering(
    backend: str, gpus: Sequence[Gpu], clock: Clock, *, state_folder: Path | None, node: str
) -> NodeMetering:
    """Build the meters of a node: real counters on real GPUs, and of a host that really works for it."""
    if backend != "nvml":
        # Simulated GPUs use no power of this host, and slices of its processor would be counted twice.
        return NodeMetering(clock)
    host = RaplMeter.find() or CpuEstimateMeter(clock)
    store = CounterStore(state_folder / f"counters-{node}.json") if state_folder is not None else None
    return NodeMetering(clock, gpus={gpu.uuid: NvmlMeter(gpu) for gpu in gpus}, host=host, store=store)


def make_controller(
    settings: ControllerSettings,
    *,
    fleet: Fleet,
    scheme: str,
    goals: Goals,
    faithful: bool,
    bus: Bus,
    clock: Clock,
    seed: int,
    compute: Compute[Decision],
) -> ControllerAgent:
    """Build a controller."""
    maker = DecisionMaker(
        model=fleet.model,
        multisets=fleet.multisets,
        scheme=make_scheme(scheme, seed=seed, faithful=faithful),
        goals=goals,
        controller=settings.name,
    )
    rng = Random(f"{seed}/controller")  # noqa: S311 - jitter
    return ControllerAgent(settings, bus=bus, clock=clock, maker=maker, compute=compute, rng=rng)


def make_carbon_monitor(
    settings: CarbonSettings, *, source: IntensityFeed, bus: Bus, clock: Clock, seed: int
) -> CarbonMonitor:
    """Build a carbon monitor."""
    rng = Random(f"{seed}/carbon")  # noqa: S311 - jitter
    return CarbonMonitor(settings, source=source, bus=bus, clock=clock, rng=rng)
