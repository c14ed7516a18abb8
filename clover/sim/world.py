"""A whole deployment in virtual time: the real agents on the in-process bus, with simulated GPUs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from clover.agents.assembly import make_carbon_monitor, make_controller, make_node
from clover.agents.carbon_monitor import CarbonSettings
from clover.agents.controller_settings import ControllerSettings
from clover.agents.fleet import Fleet
from clover.agents.generator import Generator
from clover.agents.generator_settings import GeneratorSettings
from clover.agents.goals import Goals
from clover.agents.node import NodeSettings
from clover.agents.request_parts import RequestSettings
from clover.analysis.logs.archiver import Archiver
from clover.analysis.logs.files import ArchiveFiles
from clover.analysis.logs.manifest import read_manifest
from clover.analysis.summary import RunSummary
from clover.bus.memory import MemoryBus
from clover.bus.messages import Message
from clover.bus.values import Feed
from clover.carbon.port import IntensityFeed
from clover.carbon.replay import TraceReplay
from clover.core.arrivals import RateProfile, unit_gaps
from clover.core.clock import Clock
from clover.core.intensity_trace import IntensityTrace
from clover.errors import ConfigurationError
from clover.sim.clock import VirtualClock, run_virtual

_T = TypeVar("_T")

#: In virtual time nothing is gained by short waits; only silence thresholds depend on them.
_BLOCK_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSettings:
    """A deployment to be simulated.

    Attributes:
        fleet: What the GPUs are.
        gpus: How many GPUs each node has.
        scheme: Planning scheme.
        goals: What to achieve.
        faithful: Judge candidates that miss the SLA as the original does.
        trace: Grid.
        hour_s: Virtual seconds per hour of the trace.
        pue: Of the building.
        rate_rps: Poisson arrival rate.
        duration_s: How long requests become due.
        telemetry_s: Telemetry interval.
        seed: Of everything random.
        evaluate: How scheme `clover` judges candidates: `model`, or `live` on the traffic of this world.
        source: Makes what is asked for the intensity instead of the trace.
        load: Arrival rate over time, from the first request on; None for `rate_rps` throughout.
        load_known: Whether the controller knows `load` in advance.
    """

    fleet: Fleet
    gpus: tuple[int, ...]
    scheme: str
    goals: Goals
    trace: IntensityTrace
    hour_s: float
    rate_rps: float
    duration_s: float
    pue: float = 1.5
    faithful: bool = False
    telemetry_s: float = 1.0
    seed: int = 0
    evaluate: str = "model"
    source: Callable[[Clock], IntensityFeed] | None = None
    load: RateProfile | None = None
    load_known: bool = False


class World:
    """The agents of one simulated deployment, to be run inside a virtual loop.

    Tests may stop single agents, start them again, and look at the bus.
    """

    def __init__(self, settings: WorldSettings) -> None:
        self.settings = settings
        self.clock = VirtualClock(asyncio.get_running_loop())
        self.bus = MemoryBus("world", self.clock.now_ms)
        self.stop = asyncio.Event()
        self.summary = RunSummary(sla_p95_ms=settings.goals.sla_ms)
        #: Are given everything that the summary is given.
        self.watchers: list[Callable[[Message], None]] = []
        arrivals = Random(f"{settings.seed}/arrivals")  # noqa: S311 - simulation
        self.generator = Generator(
            GeneratorSettings(
                name="generator",
                application=settings.fleet.model.application.name,
                rate_rps=settings.rate_rps,
                duration_s=settings.duration_s,
                block_s=_BLOCK_S,
                flush_s=settings.telemetry_s,
                watch_s=settings.telemetry_s,
            ),
            bus=self.bus,
            clock=self.clock,
            rng=Random(f"{settings.seed}/generator"),  # noqa: S311 - simulation
            times_s=settings.load.times_s(unit_gaps("poisson", arrivals)) if settings.load else None,
        )

    async def run(self) -> dict[str, Any]:
        """Run until every request has ended and the ledger has caught up; return the summary."""
        async with asyncio.TaskGroup() as group:
            agents = [group.create_task(self.node(index)) for index in range(len(self.settings.gpus))]
            agents += [group.create_task(self.controller()), group.create_task(self.carbon_monitor())]
            group.create_task(self.generator.run(self.stop))
            await self._observe()
            self.stop.set()
        return self.summary.result()

    async def run_archived(self, folder: Path) -> dict[str, Any]:
        """Run, and archive the run's tables into a folder; return the summary.

        Raises:
            ConfigurationError: The folder holds an archive already.
        """
        if read_manifest(folder) is not None:
            raise ConfigurationError(f"archive {folder}: it holds a run already", hint="Choose another folder.")
        with ArchiveFiles(folder, deployment=self.bus.deployment, now_ms=self.clock.now_ms()) as files:
            period_s = self.settings.telemetry_s
            archiver = Archiver(self.bus, files, self.clock.now_ms, pause_s=period_s, block_s=_BLOCK_S, aside=_at_once)
            over = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(archiver.run(over))
                result = await self.run()
                over.set()
        return result

    async def node(self, index: int, stop: asyncio.Event | None = None) -> None:
        """Run one node agent."""
        settings = self.settings
        agent = make_node(
            NodeSettings(
                name=f"n{index + 1}",
                backend=settings.fleet.backend,
                telemetry_s=settings.telemetry_s,
                target_block_s=_BLOCK_S,
                requests=RequestSettings(block_s=_BLOCK_S, lease_s=30.0, sweep_s=settings.telemetry_s),
            ),
            fleet=settings.fleet,
            gpus=settings.gpus[index],
            bus=self.bus,
            clock=self.clock,
            seed=settings.seed * 100 + index,
        )
        await agent.run(stop or self.stop)

    async def controller(self, stop: asyncio.Event | None = None, *, name: str = "controller") -> None:
        """Run a controller."""
        settings = self.settings
        agent = make_controller(
            ControllerSettings(
                name=name,
                rate_rps=settings.rate_rps,
                expected_nodes=len(settings.gpus),
                tick_s=settings.telemetry_s,
                lease_s=6.0 * settings.telemetry_s,
                sweep_s=0.5 * settings.telemetry_s,
                reap_s=60.0 * settings.telemetry_s,
                block_s=_BLOCK_S,
                load_profile=settings.load if settings.load_known else None,
                load_begins="generator",
            ),
            fleet=settings.fleet,
            scheme=settings.scheme,
            goals=settings.goals,
            faithful=settings.faithful,
            bus=self.bus,
            clock=self.clock,
            seed=settings.seed,
            compute=_at_once,
            evaluate=settings.evaluate,
        )
        await agent.run(stop or self.stop)

    async def carbon_monitor(self, stop: asyncio.Event | None = None) -> None:
        """Run the carbon monitor."""
        settings = self.settings
        agent = make_carbon_monitor(
            CarbonSettings(
                pue=settings.pue,
                idle_power_w=settings.fleet.model.table.idle_power_w,
                publish_s=settings.telemetry_s,
            ),
            source=self._source(),
            bus=self.bus,
            clock=self.clock,
            seed=settings.seed,
        )
        await agent.run(stop or self.stop)

    def _source(self) -> IntensityFeed:
        make = self.settings.source
        if make is not None:
            return make(self.clock)
        return TraceReplay(self.settings.trace, hour_s=self.settings.hour_s)

    async def _observe(self) -> None:
        cursors = dict.fromkeys(Feed, "0")
        while not self.summary.complete:
            for entry in await self.bus.follow(cursors, block_s=_BLOCK_S):
                cursors[entry.feed] = entry.id
                self.summary.take(entry.message)
                for watcher in self.watchers:
                    watcher(entry.message)


async def _at_once(function: Callable[[], _T]) -> _T:
    return function()


def simulate(settings: WorldSettings, *, archive: Path | None = None) -> dict[str, Any]:
    """Simulate a deployment in virtual time and return its summary; the same settings give the same summary.

    Args:
        settings: The deployment.
        archive: Folder for the run's tables (`clover.analysis.load` reads them); None writes none.
    """

    async def main() -> dict[str, Any]:
        world = World(settings)
        return await (world.run() if archive is None else world.run_archived(archive))

    return run_virtual(main())
