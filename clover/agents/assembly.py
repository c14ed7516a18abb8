"""Builds agents from settings: the one place that knows which implementation stands behind which port."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from random import Random

from clover.agents.carbon_monitor import CarbonMonitor, CarbonSettings
from clover.agents.controller import ControllerAgent
from clover.agents.controller_settings import ControllerSettings
from clover.agents.decision import Decision, DecisionMaker
from clover.agents.fleet import Fleet
from clover.agents.goals import Goals
from clover.agents.metering import CounterStore, NodeMetering
from clover.agents.node import NodeAgent, NodeSettings
from clover.agents.nvml_node import OpenedGpus, node_gpus
from clover.agents.planner import Compute
from clover.agents.pool import InstancePool
from clover.bus.port import Bus
from clover.carbon.port import IntensityFeed
from clover.core.clock import Clock
from clover.core.identifiers import uuid7
from clover.errors import ConfigurationError
from clover.plan.live import LiveScheme
from clover.plan.problem import Scheme
from clover.plan.schemes import is_fixed, make_scheme
from clover.power.host_estimate import CpuEstimateMeter
from clover.power.nvml import NvmlMeter
from clover.power.rapl import RaplMeter
from clover.serving.port import Servicer
from clover.serving.simulated import SimulatedServicer
from mig.device import Gpu
from mig.patience import Patience
from mig.simulated import SimulatedGpu

#: How schemes judge candidates: by the model, or as the original did on live traffic.
EVALUATE = ("model", "live")

Sleep = Callable[[float], Awaitable[None]]


def make_nvml_node(
    settings: NodeSettings,
    *,
    fleet: Fleet,
    opened: OpenedGpus,
    metering: NodeMetering,
    bus: Bus,
    clock: Clock,
    seed: int,
    servicer: Servicer,
) -> NodeAgent:
    """Build a node agent on real GPUs that are open and locked as long as it runs."""
    return NodeAgent(
        settings,
        model=fleet.model,
        bus=bus,
        clock=clock,
        gpus=opened.gpus,
        servicer=servicer,
        pool=InstancePool(fleet.model, clock),
        rng=Random(f"{seed}/node/{settings.name}"),  # noqa: S311 - ids and jitter
        metering=metering,
        notices=opened.notices,
    )


async def run_nvml_node(
    settings: NodeSettings,
    *,
    fleet: Fleet,
    helper: Path | None,
    gpus: int | None,
    bus: Bus,
    clock: Clock,
    seed: int,
    servicer: Callable[[], Servicer],
    stop: asyncio.Event,
    patience: Patience | None = None,
    state_folder: Path | None = None,
    beside: Callable[[NodeAgent], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> None:
    """Open the GPUs of this host, run a node agent on them until `stop`, and let others manage them afterwards.

    `patience` says how long an instance in use is asked again to go; `state_folder` keeps counters over a restart;
    `beside` is entered while the agent runs.

    Raises:
        NodeError: None of them can be used.
        MigError: There is no driver, or the helper cannot be reached.
    """
    async with node_gpus(helper, board=fleet.board.name, most=gpus, patience=patience) as opened:
        # Joules of counters and of tables are not mixed: without a counter on each GPU all are estimates.
        counted = all([await gpu.energy_mj() is not None for gpu in opened.gpus])
        metering = make_metering(
            "nvml", opened.gpus if counted else (), clock, state_folder=state_folder, node=settings.name
        )
        agent = make_nvml_node(
            settings,
            fleet=fleet,
            opened=opened,
            metering=metering,
            bus=bus,
            clock=clock,
            seed=seed,
            servicer=servicer(),
        )
        with beside(agent):
            await agent.run(stop)


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


def checked_evaluate(evaluate: str, scheme: str, goals: Goals) -> str:
    """Return how candidates are judged if that can be, else raise `ConfigurationError`."""
    if evaluate not in EVALUATE:
        raise ConfigurationError(f"--evaluate = {evaluate!r}: expected {' or '.join(EVALUATE)}")
    if evaluate == "live" and (scheme != "clover" or goals.parking != "none"):
        raise ConfigurationError(
            f"--evaluate live with scheme {scheme}, parking {goals.parking}: expected --scheme clover --parking none"
        )
    return evaluate


def left_alone(settings: ControllerSettings, scheme: str, goals: Goals, *, live: bool) -> ControllerSettings:
    """Return the settings of a controller whose scheme is interfered with by nobody, where that is called for.

    With `live` candidates are measured on live traffic: neither guard nor re-calibration may change what is measured.
    Nor does the guard act under a scheme that is fixed (BASE and CO2OPT of the paper, which have no controller).
    """
    if live:
        return replace(settings, guarded=False, calibrated=False)
    return replace(settings, guarded=False) if is_fixed(scheme, goals.parking) else settings


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
    evaluate: str = "model",
    make: Callable[..., Scheme] = make_scheme,
    boot_id: str = "",
) -> ControllerAgent:
    """Build a controller; `boot_id` tells its process from all others, without it one is made of seed and time.

    With `evaluate` live candidates are measured on live traffic; `left_alone` says where nobody interferes.

    Raises:
        ConfigurationError: The scheme is unknown, or cannot be evaluated live.
    """
    live = checked_evaluate(evaluate, scheme, goals) == "live"
    settings = left_alone(
        replace(settings, gpu_model=fleet.board.name, emulated=fleet.backend == "cpu"), scheme, goals, live=live
    )
    maker = DecisionMaker(
        model=fleet.model,
        multisets=fleet.multisets,
        scheme=LiveScheme(seed=seed, faithful=faithful) if live else make(scheme, seed=seed, faithful=faithful),
        goals=goals,
        controller=settings.name,
        seed=seed,
    )
    rng = Random(f"{seed}/controller")  # noqa: S311 - jitter
    boot_id = boot_id or uuid7(clock.now_ms(), Random(f"{seed}/boot/{settings.name}"))  # noqa: S311 - simulation
    return ControllerAgent(settings, bus=bus, clock=clock, maker=maker, compute=compute, rng=rng, boot_id=boot_id)


def make_carbon_monitor(
    settings: CarbonSettings, *, source: IntensityFeed, bus: Bus, clock: Clock, seed: int
) -> CarbonMonitor:
    """Build a carbon monitor."""
    rng = Random(f"{seed}/carbon")  # noqa: S311 - jitter
    return CarbonMonitor(settings, source=source, bus=bus, clock=clock, rng=rng)
