"""A deployment of one instance inside one process: the same agents, on the in-process bus or on a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random
from typing import Any

from clover.agents.assembly import make_carbon_monitor, make_controller, make_node
from clover.agents.backoff import Backoff
from clover.agents.carbon_monitor import CarbonSettings
from clover.agents.controller_settings import ControllerSettings
from clover.agents.fleet import Fleet
from clover.agents.goals import Goals
from clover.agents.node import NodeSettings
from clover.agents.readiness import wait_until_serving
from clover.agents.system_clock import SystemClock
from clover.bus.memory import MemoryBus
from clover.bus.messages import PlanRecord
from clover.bus.port import Bus
from clover.carbon.replay import TraceReplay
from clover.core.intensity_trace import IntensityTrace
from clover.serving.port import Servicer

#: The grid does not move while one question is answered.
_HOUR_S = 3600.0
_PUE = 1.5


class SingleInstance:
    """Scheme `base` on one GPU: one instance of the largest variant.

    Args:
        fleet: Backend, board, application.
        trace: Grid; its first value holds.
        servicer: Makes the servicer of real models.
        bus: A bus that nobody else uses, which stays the caller's; in-process if None.
    """

    def __init__(
        self, *, fleet: Fleet, trace: IntensityTrace, servicer: Callable[[], Servicer], bus: Bus | None = None
    ) -> None:
        self._fleet = fleet
        self._trace = trace
        self._servicer = servicer
        self._clock = SystemClock()
        self.bus = MemoryBus("single", self._clock.now_ms) if bus is None else bus

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[PlanRecord | None]]:
        """Run the agents; gives a task that ends with the plan once the instance serves."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for agent in self._agents():
                group.create_task(agent(stop))
            ready = group.create_task(
                wait_until_serving(self.bus, seen_after_ms=0.0, block_s=1.0, backoff=Backoff(Random()), stop=stop)  # noqa: S311
            )
            try:
                yield ready
            finally:
                stop.set()
                ready.cancel()

    def _agents(self) -> list[Callable[[asyncio.Event], Coroutine[Any, Any, None]]]:
        fleet, bus, clock = self._fleet, self.bus, self._clock
        table = fleet.model.table
        node = make_node(
            NodeSettings(name="local", backend=fleet.backend),
            fleet=fleet,
            gpus=1,
            bus=bus,
            clock=clock,
            seed=0,
            servicer=self._servicer,
        )
        carbon = make_carbon_monitor(
            CarbonSettings(pue=_PUE, idle_power_w=table.idle_power_w),
            source=TraceReplay(self._trace, hour_s=_HOUR_S),
            bus=bus,
            clock=clock,
            seed=0,
        )
        controller = make_controller(
            ControllerSettings(name="local", rate_rps=fleet.model.application.default_rate_rps_per_gpu),
            fleet=fleet,
            scheme="base",
            goals=Goals(lambda_=0.5, sla_ms=table.sla_p95_ms),
            faithful=False,
            bus=bus,
            clock=clock,
            seed=0,
            compute=asyncio.to_thread,
        )
        return [node.run, carbon.run, controller.run]
