"""The node agent: owns the GPUs of one host, brings them to their target, serves requests on them, meters them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from clover.agents.backoff import Backoff
from clover.agents.describing import Describing, NodeKind
from clover.agents.gpu_runner import GpuRunner
from clover.agents.metering import NodeMetering
from clover.agents.node_name import NodeName, NodeNameTakenError
from clover.agents.node_reporting import NodeReporter
from clover.agents.nvml_node import Notice
from clover.agents.pool import InstancePool
from clover.agents.power_switch import PowerSwitch
from clover.agents.request_parts import RequestPorts, RequestSettings
from clover.agents.requests import RequestServer
from clover.agents.runner_parts import RunnerPorts
from clover.agents.translate import dispatch_rule, read_target
from clover.bus.messages import NodeTelemetry, Target
from clover.bus.port import Bus
from clover.core.application import ServiceModel
from clover.core.batching import Batching
from clover.core.clock import Clock
from clover.core.identifiers import uuid7
from clover.errors import BusUnavailableError
from clover.serving.port import Servicer
from mig.device import Gpu

__all__ = ["NodeAgent", "NodeNameTakenError", "NodeSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What a node agent is told at its start.

    Attributes:
        name: Of the node, unique in the deployment.
        backend: `sim`, `cpu` or `nvml`.
        telemetry_s: Telemetry interval.
        drain_s: Longest wait for work in hand when the agent is asked to stop.
        requests: Times of the request side.
        target_block_s: Longest wait for a new target in one call.
        power: How GPUs are switched off and on; nothing is to be done for it on simulated ones.
        name_lease_s: The name of a node that went silent can be taken after this long.
        batching: Whether requests are served together.
    """

    name: str
    backend: str
    telemetry_s: float = 1.0
    drain_s: float = 20.0
    requests: RequestSettings = field(default_factory=RequestSettings)
    target_block_s: float = 1.0
    power: PowerSwitch | None = None
    name_lease_s: float = 3.0
    batching: Batching = field(default_factory=Batching)


class NodeAgent:
    """One node of the fleet.

    Args:
        settings: Name and times.
        model: Application and table; gives idle power, expected times and accuracies.
        bus, clock: Ports.
        gpus: The GPUs of this node.
        servicer: Starts workers.
        pool: Where instances serve (made outside because a simulated servicer reads its contention).
        rng: Source of ids and jitter.
        metering: The meters of this node; without, energy is what the table and the servicer say.
        notices: What was found before the start; goes to the event stream.
    """

    def __init__(
        self,
        settings: NodeSettings,
        *,
        model: ServiceModel,
        bus: Bus,
        clock: Clock,
        gpus: Sequence[Gpu],
        servicer: Servicer,
        pool: InstancePool,
        rng: Random,
        metering: NodeMetering | None = None,
        notices: Sequence[Notice] = (),
    ) -> None:
        self._settings = settings
        self._model = model
        self._bus = bus
        self._clock = clock
        self._servicer = servicer
        self._pool = pool
        self._rng = rng
        self._boot_id = uuid7(clock.now_ms(), rng)
        self._name = NodeName(
            settings.name, self._boot_id, bus=bus, clock=clock, rng=rng, lease_s=settings.name_lease_s
        )
        self._epoch = 0
        self._leaving = False
        power = settings.power or PowerSwitch(settings.name)
        self._reporter = NodeReporter(
            settings.name, bus=bus, clock=clock, rng=rng, interval_s=settings.telemetry_s, look=self._telemetry
        )
        self._metering = metering or NodeMetering(clock)
        self._describing = Describing(
            NodeKind(
                name=settings.name,
                boot_id=self._boot_id,
                booted_at_ms=clock.now_ms(),
                interval_s=settings.telemetry_s,
                backend=settings.backend,
                gpu_model=gpus[0].model.name,
                application=model.application.name,
                batching=settings.batching.text,
            ),
            clock=clock,
            pool=pool,
            metering=self._metering,
            served_source=servicer.energy_source,
            power=power,
        )
        for notice in notices:
            self._reporter.say(notice.kind, notice.reason, gpu=notice.gpu)
        accounts = {gpu.index: self._metering.account(gpu, model) for gpu in gpus}
        ports = RunnerPorts(
            node=settings.name,
            application=model.application.name,
            pool=pool,
            servicer=servicer,
            clock=clock,
            changed=self._reporter.hurry,
            report=self._reporter.report,
            power=power,
            side_by_side=settings.backend == "cpu",
        )
        self._runners = [GpuRunner(gpu, accounts[gpu.index], ports) for gpu in gpus]
        self._server = RequestServer(
            RequestPorts(
                node=settings.name,
                consumer=f"{settings.name}.{self._boot_id}",
                application=model.application,
                energy_source=servicer.energy_source,
                bus=bus,
                pool=pool,
                accounts=accounts,
                clock=clock,
                rng=rng,
                batching=settings.batching,
                report=lambda kind, gpu, reason: self._reporter.say(kind, reason, gpu=gpu),
            ),
            settings.requests,
        )

    @property
    def telemetry(self) -> NodeTelemetry | None:
        """What was published last, for the metrics endpoint."""
        return self._reporter.last

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then finish what is in hand (at most `drain_s`) and end all workers.

        Raises:
            NodeNameTakenError: Another agent serves under this name; nothing was touched.
        """
        try:
            if not await self._name.claim(stop):
                return
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._name.hold(), name="name"),
                    group.create_task(self._server.run(), name="requests"),
                    group.create_task(self._follow_targets(), name="targets"),
                    group.create_task(self._reporter.run(), name="telemetry"),
                    group.create_task(self._measure(), name="meters"),
                    *(group.create_task(runner.run(), name=f"gpu{runner.index}") for runner in self._runners),
                ]
                await stop.wait()
                await self._drain()
                for task in tasks:
                    task.cancel()
            await self._server.leave()
            await self._name.give_back()
        except BaseExceptionGroup as errors:
            if taken := errors.subgroup(NodeNameTakenError):
                raise taken.exceptions[0] from None
            raise
        finally:
            await self._servicer.close()

    async def _drain(self) -> None:
        self._server.stop_taking()
        # Plans are to be made without us from now on, not only when the last request is answered.
        self._leaving = True
        self._reporter.hurry()
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self._server.drained()
        except TimeoutError:
            # What is left is handed back as we leave.
            self._reporter.say("node.drain_timeout", f"{self._server.in_flight} requests left to other nodes")
        await self._metering.read()
        with contextlib.suppress(BusUnavailableError):
            await self._reporter.publish()

    # --- targets

    async def _follow_targets(self) -> None:
        backoff = Backoff(self._rng)
        while True:
            try:
                target = await self._bus.next_target(
                    self._settings.name, after_epoch=self._epoch, block_s=self._settings.target_block_s
                )
                backoff.reset()
            except BusUnavailableError:
                await asyncio.sleep(backoff.next_s())
                continue
            if target is not None:
                self._take_target(target)

    def _take_target(self, target: Target) -> None:
        """Pass a target on to the GPUs; one that does not fit this node is refused and said so."""
        mine = {runner.index for runner in self._runners}
        problem, wanted = read_target(target, mine, self._model)
        self._epoch = target.epoch
        if problem:
            self._reporter.say("target.refused", problem, epoch=target.epoch)
            return
        self._pool.set_rule(dispatch_rule(target.dispatch))
        self._server.follow(target.epoch, target.sla_p95_ms)
        for runner in self._runners:
            runner.want(target.epoch, wanted[runner.index])
        self._reporter.hurry()

    # --- telemetry

    async def _measure(self) -> None:
        """Read the meters once per interval; apart from publishing, which no driver shall hold up."""
        while True:
            await self._metering.read()
            await asyncio.sleep(self._settings.telemetry_s)

    def _telemetry(self) -> NodeTelemetry:
        return self._describing.telemetry(self._runners, self._server, epoch=self._epoch, leaving=self._leaving)
