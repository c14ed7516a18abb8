"""A fleet that is changed under load: rolled by the product's controller, or all at once as the original does.

Server, node agents and generator are processes of the product; the controller is the product's as well, run here with a
scheme that answers what it was set to. What a change costs comes from the performance table (simulated GPUs).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from clover.agents.controller import ControllerAgent
from clover.agents.controller_settings import ControllerSettings
from clover.agents.decision import DecisionMaker
from clover.agents.goals import Goals
from clover.agents.system_clock import SystemClock
from clover.bus.embedded import EmbeddedServer
from clover.bus.messages import IntensityReading, LedgerCheckpoint, LedgerReading
from clover.bus.redis import RedisBus, connect
from clover.bus.values import Entry, Feed
from clover.core.configuration import Configuration, GpuConfiguration, GpuId
from clover.core.identifiers import uuid7
from clover.core.queueing import evaluate
from clover.errors import BusUnavailableError, NotReadyError
from clover.plan.fixed import FixedScheme
from clover.plan.problem import Answer, Problem
from clover.sim.rolling.finished import FinishedRequests, Window
from clover.sim.rolling.processes import AGENTS_LOG, nodes_and_generator
from clover.sim.rolling.settings import DEPLOYMENT, LATE_LIMIT, RollingSettings

#: Longest wait for a deployment to start or a change to be through, s.
_WITHIN_S = 600.0
_ORIGINAL, _ROLLED = "original", "rolling"


@dataclass(slots=True)
class SetScheme:
    """A scheme that answers what it was last set to."""

    wanted: GpuConfiguration
    _inner: FixedScheme = field(default_factory=lambda: FixedScheme("base"))

    @property
    def name(self) -> str:
        """`set`."""
        return "set"

    def plan(self, problem: Problem) -> Answer:
        """Return the configuration that was set, evaluated."""
        configuration = Configuration.uniform(problem.gpus, self.wanted)
        evaluation = evaluate(problem.model, configuration.fleet, problem.rate_rps, problem.sla_ms)
        return Answer(
            configuration=configuration,
            evaluation=evaluation,
            objective=problem.objective().value(evaluation),
            reason=f"set to {self.wanted}",
            candidates=(),
            evaluations=1,
            meets_sla=evaluation.meets(LATE_LIMIT),
        )


class RollingChange:
    """One deployment that is changed back and forth, each way of changing in turn."""

    def __init__(self, settings: RollingSettings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._scheme = SetScheme(settings.layouts[0])
        self._g_per_kwh = 100.0

    async def run(self) -> list[dict[str, Any]]:
        """Return the figures of each change, in order."""
        settings = self._settings
        windows: list[Window] = []
        async with EmbeddedServer(settings.folder / "data") as server, asyncio.TaskGroup() as group:
            self._bus = connect(server.url, DEPLOYMENT, "rolling")
            finished = FinishedRequests(self._bus)
            async with closing(self._bus), nodes_and_generator(settings, server.url) as generator:
                stop = asyncio.Event()
                carbon = group.create_task(self._say_intensity(), name="carbon")
                controller = group.create_task(self._controller().run(stop), name="controller")
                follower = group.create_task(finished.follow(), name="records")
                await self._settled(settings.layouts[0], "the deployment does not serve")
                for way in (_ROLLED, _ORIGINAL):
                    if way == _ORIGINAL:
                        stop.set()
                        await controller
                        carbon.cancel()
                    for layout in (settings.layouts[1], settings.layouts[0]):
                        await asyncio.sleep(settings.lead_s)
                        windows.append(await self._change(way, layout))
                generator.terminate()
                await generator.wait()
                follower.cancel()
                await finished.read_all()
        return [finished.figures(window) for window in windows]

    # --- what decides

    def _controller(self) -> ControllerAgent:
        settings, model = self._settings, self._settings.fleet.model
        maker = DecisionMaker(
            model=model,
            multisets=settings.fleet.multisets,
            scheme=self._scheme,
            goals=Goals(lambda_=0.5, sla_ms=model.table.sla_p95_ms),
            controller="rolling",
        )
        return ControllerAgent(
            ControllerSettings(name="rolling", rate_rps=settings.rate_rps, expected_nodes=len(settings.gpus)),
            bus=self._bus,
            clock=self._clock,
            maker=maker,
            compute=asyncio.to_thread,
            rng=Random(settings.seed),  # noqa: S311 - jitter
            boot_id=uuid7(self._clock.now_ms(), Random(settings.seed)),  # noqa: S311 - nobody else controls here
        )

    async def _say_intensity(self) -> None:
        """Be the carbon monitor: a change of intensity is what makes the controller ask its scheme."""
        while True:
            now_ms = self._clock.now_ms()
            reading = IntensityReading(
                g_per_kwh=self._g_per_kwh,
                zone="none",
                from_ms=now_ms,
                to_ms=now_ms + 1e3,
                kind="average",
                factor="direct",
                status="trace",
                source="trace:steps",
                fallback_level=0,
                published_at_ms=now_ms,
                pue=1.0,
            )
            ledger = LedgerReading(at_ms=now_ms, energy_j=0.0, footprint_g=0.0, by_cause_j={})
            checkpoint = LedgerCheckpoint(
                ledger=ledger, trace_started_ms=now_ms, telemetry_cursor="0", counters={}, counters_at_ms={}
            )
            # A server that is too busy to answer in time gets the next reading.
            with contextlib.suppress(BusUnavailableError):
                await self._bus.publish_carbon([reading], checkpoint)
            await asyncio.sleep(0.5)

    # --- changing

    async def _change(self, way: str, layout: GpuConfiguration) -> Window:
        """Change everything to a layout; return when the first command was given and when the last GPU served."""
        before = await self._bus.node_states()
        cursor = await self._bus.newest_id(Feed.EVENTS)
        begun_ms = self._clock.now_ms()
        if way == _ROLLED:
            self._scheme.wanted = layout
            self._g_per_kwh = 400.0 if self._g_per_kwh < 200.0 else 100.0
            begun_ms = await self._first_step(cursor)
        else:
            await self._everything_at_once(layout)
        await self._settled(layout, f"the change to {layout} did not end")
        after = await self._bus.node_states()
        changes = {name: sum(state.mig_changes for state in states.values()) for name, states in
                   (("before", before), ("after", after))}  # fmt: skip
        return Window(
            way=way,
            to=str(layout),
            from_ms=begun_ms,
            until_ms=self._clock.now_ms(),
            mig_changes=changes["after"] - changes["before"],
        )

    async def _first_step(self, cursor: str) -> float:
        """Wait for the first command of the roll; return when it was given."""
        async with asyncio.timeout(_WITHIN_S):
            while True:
                for entry in await self._new({Feed.EVENTS: cursor}, 1.0):
                    cursor = entry.id
                    if getattr(entry.message, "kind", "") == "plan.step":
                        return float(getattr(entry.message, "at_ms", 0.0))

    async def _everything_at_once(self, layout: GpuConfiguration) -> None:
        """Do as the original: every node is told to change all that it has."""
        plan = await self._bus.plan()
        if plan is None or not await self._bus.acquire_lease("original", ttl_s=_WITHIN_S):
            raise NotReadyError("the former controller has left no plan, or not given back its lease")
        targets = [await self._bus.target(node) for node in plan.configuration]
        gpus = Configuration.uniform(self._ids(), layout)
        maker = DecisionMaker(
            model=self._settings.fleet.model, multisets=(), scheme=self._scheme,
            goals=Goals(lambda_=0.5, sla_ms=self._settings.fleet.model.table.sla_p95_ms), controller="original",
        )  # fmt: skip
        wanted = maker.targets(gpus, reason="as the original: everything at once")
        above = max(target.epoch for target in targets if target is not None)
        await self._bus.publish_plan("original", plan, wanted, above=above)

    def _ids(self) -> list[GpuId]:
        return [
            GpuId(f"n{number}", index) for number, gpus in enumerate(self._settings.gpus, 1) for index in range(gpus)
        ]

    async def _new(self, cursors: Mapping[Feed, str], block_s: float) -> list[Entry]:
        """Return what is new in feeds; nothing where the server does not answer in time, to be asked again."""
        try:
            return await self._bus.follow(cursors, block_s=block_s)
        except BusUnavailableError:
            await asyncio.sleep(0.1)
            return []

    async def _settled(self, layout: GpuConfiguration, problem: str) -> None:
        """Wait until every GPU serves with a layout."""
        wanted = sorted((kind.profile, kind.variant) for kind in layout.instances)
        cursor = await self._bus.newest_id(Feed.TELEMETRY)
        until_s = self._clock.now_s() + _WITHIN_S
        while self._clock.now_s() < until_s:
            states = await self._bus.node_states()
            gpus = [gpu for state in states.values() for gpu in state.gpus]
            if len(gpus) == sum(self._settings.gpus) and all(
                gpu.phase == "serving" and sorted((i.profile, i.variant) for i in gpu.instances) == wanted
                for gpu in gpus
            ):
                return
            for entry in await self._new({Feed.TELEMETRY: cursor}, 1.0):
                cursor = entry.id
        raise NotReadyError(problem, hint=f"see {self._settings.folder / AGENTS_LOG}")


@contextlib.asynccontextmanager
async def closing(bus: RedisBus) -> AsyncIterator[None]:
    """Close a bus at the end of a `with` block."""
    try:
        yield
    finally:
        await bus.close()


async def rolling_change(settings: RollingSettings) -> list[dict[str, Any]]:
    """Run the experiment; one row per change."""
    return await RollingChange(settings).run()
