"""One agent as a process that writes its history and can be told to misbehave.

    python -m clover.sim.faults.process '<settings as JSON>'

The agents are the product's own, with the product's own bus and clock; what is wrapped round them only records, or
breaks something when told to. Standard input takes one order a line: `crash <point>`, `jump <seconds>`, and its end
ends the process. Applications are simulated, from a table of short times (`fast_model`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, Literal

import msgspec

from clover.agents.assembly import make_carbon_monitor, make_controller, make_node
from clover.agents.carbon_monitor import CarbonSettings
from clover.agents.controller_settings import ControllerSettings
from clover.agents.fleet import Fleet, make_fleet
from clover.agents.generator import Generator
from clover.agents.generator_settings import GeneratorSettings
from clover.agents.goals import Goals
from clover.agents.node import NodeSettings
from clover.agents.runtime import run_agent
from clover.agents.system_clock import SystemClock
from clover.bus.port import Bus
from clover.bus.redis import connect
from clover.carbon.replay import TraceReplay
from clover.catalog import load_service, load_trace
from clover.core.application import ChangeTimes, ServiceModel, VariantPerformance
from clover.core.clock import Clock
from clover.core.schedule import Mix
from clover.plan.fixed import FixedScheme
from clover.sim.faults.history import HistoryFile
from clover.sim.faults.misbehaviour import CrashingBus, JumpingTime, MisdeliveringBus
from clover.sim.faults.recording import RecordingBus, as_bus

APPLICATION, BOARD = "albert", "a100-40gb"
Role = Literal["node", "carbon", "controller", "generator"]
_Work = Callable[[asyncio.Event], Coroutine[Any, Any, None]]

_log = logging.getLogger("clover.faults")


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What one process is told at its start.

    Attributes:
        role: Which agent.
        name: Unique in the deployment.
        url, deployment: Where the bus is.
        folder: Where its history goes.
        service_ms: Mean service time of every variant on every instance.
        sla_ms: Promised p95; the deadline of a request is 20 times that, at least 30 s.
        nodes: How many the controller waits for.
        rate_rps: Of the generator; what the controller plans for until it has measured.
        duration_s: How long requests become due; None until stopped.
        variant: What every instance serves with; empty for the least accurate one.
        mix: What requests ask for beside an answer.
        misdelivery: Share of deliveries that come twice and of admissions that are asked for twice.
        seed: Of everything random.
        record: Whether a history is written at all (benchmarks want the product alone).
    """

    role: Role
    name: str
    url: str
    deployment: str
    folder: str
    service_ms: float = 100.0
    sla_ms: float = 1000.0
    nodes: int = 1
    rate_rps: float = 1.0
    duration_s: float | None = None
    variant: str = ""
    mix: Mix = Mix()
    misdelivery: float = 0.0
    seed: int = 0
    record: bool = True


def fast_model(service_ms: float, sla_ms: float) -> ServiceModel:
    """Return the shipped application with made-up times: a request takes `service_ms` on any instance, a change 0.2 s.

    Half of the time varies (log-normal, sigma 0.3), so that requests overtake each other.
    """
    model = load_service(APPLICATION, BOARD)
    table = dataclasses.replace(
        model.table,
        provenance="made up for fault tests",
        sla_p95_ms=sla_ms,
        host_lognormal_sigma=0.0,
        gpu_lognormal_sigma=0.3,
        host_contention=0.0,
        change=ChangeTimes(create_s=0.0, destroy_s=0.0, worker_start_s=0.2, provenance="made up for fault tests"),
        variants={
            name: VariantPerformance(
                host_ms=service_ms / 2.0,
                service_ms=dict.fromkeys(variant.service_ms, service_ms / 2.0),
                dynamic_energy_j=variant.dynamic_energy_j,
            )
            for name, variant in model.table.variants.items()
        },
    )
    return dataclasses.replace(model, table=table)


class AgentMaker:
    """Builds the agent that settings describe, on any bus and clock."""

    def __init__(self, settings: ProcessSettings, bus: Bus, clock: Clock) -> None:
        self._settings = settings
        self._bus = bus
        self._clock = clock
        model = fast_model(settings.service_ms, settings.sla_ms)
        self._fleet: Fleet = make_fleet(backend="sim", board=BOARD, model=model)

    def work(self) -> _Work:
        """Return the agent's `run`."""
        return {
            "node": self._node,
            "carbon": self._carbon,
            "controller": self._controller,
            "generator": self._generator,
        }[self._settings.role]()

    def _node(self) -> _Work:
        settings = NodeSettings(name=self._settings.name, backend="sim")
        return make_node(
            settings, fleet=self._fleet, gpus=1, bus=self._bus, clock=self._clock, seed=self._settings.seed
        ).run

    def _carbon(self) -> _Work:
        idle_power_w = self._fleet.model.table.idle_power_w
        settings = CarbonSettings(pue=1.5, idle_power_w=idle_power_w)
        source = TraceReplay(load_trace("ciso-march"), hour_s=20.0)
        return make_carbon_monitor(
            settings, source=source, bus=self._bus, clock=self._clock, seed=self._settings.seed
        ).run

    def _controller(self) -> _Work:
        settings = self._settings
        return make_controller(
            ControllerSettings(name=settings.name, rate_rps=settings.rate_rps, expected_nodes=settings.nodes),
            fleet=self._fleet,
            scheme="co2opt",
            make=lambda name, **_: FixedScheme(name, variant=settings.variant),
            goals=Goals(lambda_=0.5, sla_ms=settings.sla_ms),
            faithful=False,
            bus=self._bus,
            clock=self._clock,
            seed=settings.seed,
            compute=asyncio.to_thread,
        ).run

    def _generator(self) -> _Work:
        settings = self._settings
        told = GeneratorSettings(
            name=settings.name,
            application=APPLICATION,
            rate_rps=settings.rate_rps,
            duration_s=settings.duration_s,
        )
        rng = Random(f"{settings.seed}/{settings.name}")  # noqa: S311 - arrivals
        chance = Random(f"{settings.seed}/{settings.name}/mix")  # noqa: S311 - what requests ask for
        traits = lambda: settings.mix.draw(chance)  # noqa: E731
        return Generator(told, bus=self._bus, clock=self._clock, rng=rng, traits=traits).run


class _Orders:
    """Carries out what comes by standard input."""

    def __init__(self, bus: CrashingBus, time: JumpingTime) -> None:
        self._bus = bus
        self._time = time

    async def follow(self) -> None:
        """Obey until the end of standard input, then end at once: whoever started this process is gone."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            match line.decode().split():
                case ["crash", point]:
                    self._bus.arm(point)
                case ["jump", seconds]:
                    self._time.jump(float(seconds))
                case words:
                    _log.error("order %r: expected crash <point> or jump <seconds>", " ".join(words))
        os._exit(0)


async def run_process(settings: ProcessSettings) -> None:
    """Run one agent until it ends, is told to stop, or its parent is gone."""
    time = JumpingTime()
    clock = SystemClock(wall_s=time)
    product = connect(settings.url, settings.deployment, settings.name)
    crashing = CrashingBus(product)
    rng = Random(f"{settings.seed}/misdelivery/{settings.name}")  # noqa: S311 - faults
    bus = as_bus(
        MisdeliveringBus(as_bus(crashing), rng, share=settings.misdelivery) if settings.misdelivery else crashing
    )
    if settings.record:
        truth = SystemClock()
        history = HistoryFile(Path(settings.folder), settings.name)
        bus = as_bus(RecordingBus(bus, history, skew_ms=lambda: clock.now_ms() - truth.now_ms()))
    async with asyncio.TaskGroup() as group:
        orders = group.create_task(_Orders(crashing, time).follow())
        source = f"{settings.role}:{settings.name}"
        await run_agent(bus=bus, clock=clock, source=source, work=AgentMaker(settings, bus, clock).work())
        orders.cancel()


def main() -> None:
    """Run the process that the command line describes."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(run_process(msgspec.json.decode(sys.argv[1], type=ProcessSettings)))


if __name__ == "__main__":
    main()
