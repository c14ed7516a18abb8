"""The controller agent: feeds what it sees to the state machine and carries out what that commands.

One controller acts: it holds a lease, and everything it writes is checked against it. A standby waits for the lease
and then takes over the plan that is in force, including an unfinished roll.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import msgspec

from clover.agents.backoff import Backoff
from clover.agents.care import Sweeper
from clover.agents.decision import Decision, DecisionMaker
from clover.agents.inbox import Inbox
from clover.agents.lifetime import until_stopped
from clover.agents.translate import dispatch_target, gpu_configuration, serving_configuration
from clover.bus import messages
from clover.bus.messages import DecisionData, IntensityReading, NodeTelemetry, PlanData, PlanRecord, Prediction
from clover.bus.port import Bus, Feed
from clover.core import control
from clover.core.clock import Clock
from clover.core.configuration import Configuration, GpuConfiguration, GpuId
from clover.core.controller import ControllerMachine
from clover.core.load import LoadEstimator
from clover.errors import BusUnavailableError

_T = TypeVar("_T")

_log = logging.getLogger("clover.controller")

#: Runs a slow pure function; in a thread when live, at once in virtual time.
Compute = Callable[[Callable[[], _T]], Awaitable[_T]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """What a controller is told at its start.

    Attributes:
        name: Unique among controllers.
        rate_rps: Load to plan for until it is measured.
        expected_nodes: The first decision waits for this many nodes.
        tick_s: How often lost nodes and the load are looked at.
        lease_s: After this long without a sign of life a standby may take over.
        sweep_s: How often to look for requests that nobody will answer.
        reap_s: How often to forget consumers of nodes that are gone, and how long they must have been silent.
        block_s: Longest wait for news in one call.
    """

    name: str
    rate_rps: float
    expected_nodes: int = 1
    tick_s: float = 1.0
    lease_s: float = 6.0
    sweep_s: float = 0.5
    reap_s: float = 60.0
    block_s: float = 1.0


class LeaseLostError(Exception):
    """Another controller has taken over; this one becomes a standby."""


class ControllerAgent:
    """Decides, under the lease, what every GPU shall be."""

    def __init__(
        self,
        settings: ControllerSettings,
        *,
        bus: Bus,
        clock: Clock,
        maker: DecisionMaker,
        compute: Compute[Decision],
        rng: Random,
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._clock = clock
        self._maker = maker
        self._compute = compute
        self._rng = rng
        self._machine = self._new_machine()
        self._load = LoadEstimator()
        self._intensity: IntensityReading | None = None
        self._decision: Decision | None = None
        self._record: PlanRecord | None = None
        self._dispatch: dict[str, messages.DispatchRule] = {}
        self._decisions = 0
        #: Highest epoch that a node has reported.
        self._reached = 0
        #: Nodes that were taken by hand, as far as the machine knows.
        self._taken: frozenset[str] = frozenset()
        self._events = Inbox()

    async def run(self, stop: asyncio.Event) -> None:
        """Wait for the lease, then control, until `stop` is set."""
        try:
            await until_stopped(stop, self._terms())
        finally:
            await self._give_back_lease()

    async def _terms(self) -> None:
        """Control again and again; a term ends when the lease is lost or the server is away."""
        backoff = Backoff(self._rng)
        while True:
            try:
                await self._term()
            except* (LeaseLostError, BusUnavailableError):
                pass
            await asyncio.sleep(backoff.next_s())

    async def _term(self) -> None:
        """Control from winning the lease to losing it."""
        await self._win_lease()
        await self._take_over()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hold_lease(), name="lease")
            group.create_task(self._follow(), name="follow")
            group.create_task(self._tick(), name="tick")
            group.create_task(Sweeper(self._bus, period_s=self._settings.sweep_s).run(), name="sweep")
            group.create_task(self._reap(), name="reap")
            group.create_task(self._handle(), name="handle")

    # --- lease

    async def _win_lease(self) -> None:
        backoff = Backoff(self._rng)
        while True:
            try:
                await self._bus.beat(f"controller:{self._settings.name}")
                if await self._bus.acquire_lease(self._settings.name, ttl_s=self._settings.lease_s):
                    return
                await asyncio.sleep(self._settings.lease_s / 3.0)
            except BusUnavailableError:
                await asyncio.sleep(backoff.next_s())

    async def _hold_lease(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3.0)
            if not await self._bus.acquire_lease(self._settings.name, ttl_s=self._settings.lease_s):
                raise LeaseLostError
            await self._bus.beat(f"controller:{self._settings.name}")
            if self._record is not None and await self._bus.plan() is None:
                _log.error("the server has lost the plan of epoch %d; deciding anew", self._record.epoch)
                raise LeaseLostError

    async def _give_back_lease(self) -> None:
        try:
            await self._bus.release_lease(self._settings.name)
        except BusUnavailableError:
            return  # it runs out by itself

    async def _take_over(self) -> None:
        """Begin from the plan that is in force, if there is one."""
        self._machine = self._new_machine()
        self._events = Inbox()
        self._taken = frozenset()
        self._decision = None
        self._dispatch = {}
        # Before anything else is believed: a node that is somebody else's must not be sent anything.
        self._see_override(await self._bus.override())
        self._record = plan = await self._bus.plan()
        if plan is None:
            return
        try:
            wanted = _configurations(plan.configuration)
            assigned = await self._assigned(plan)
        except ValueError as error:
            _log.warning("the plan of epoch %d makes no sense and is made anew: %s", plan.epoch, error)
            self._record = None
            return
        self._decisions = plan.decision
        self._machine.resume(
            assigned=assigned,
            wanted=wanted,
            epoch=plan.epoch,
            effective=plan.intensity_g_per_kwh * plan.pue,
            rate_rps=plan.prediction.rate_rps,
            now_s=self._clock.now_s(),
        )
        await self._say("controller.took_over", self._settings.name, f"plan of epoch {plan.epoch} stays in force")

    async def _assigned(self, plan: PlanRecord) -> dict[GpuId, GpuConfiguration]:
        """Return what the newest targets of the plan's nodes say of each GPU, and keep their dispatch."""
        assigned: dict[GpuId, GpuConfiguration] = {}
        for node in plan.configuration:
            target = await self._bus.target(node)
            assigned |= _configurations({node: target.gpus} if target else {})
            if target is not None:
                self._dispatch[node] = target.dispatch
        return assigned

    def _new_machine(self) -> ControllerMachine:
        return ControllerMachine(rate_rps=self._settings.rate_rps, expected_nodes=self._settings.expected_nodes)

    # --- seeing

    async def _follow(self) -> None:
        now = await self._bus.carbon_now()
        if isinstance(intensity := now.get("intensity"), IntensityReading):
            self._see_intensity(intensity)
        cursors = {feed: await self._bus.newest_id(feed) for feed in (Feed.CARBON, Feed.TELEMETRY)}
        for telemetry in (await self._bus.node_states()).values():
            self._see_node(telemetry)
        while True:
            for entry in await self._bus.follow(cursors, block_s=self._settings.block_s):
                cursors[entry.feed] = entry.id
                if isinstance(entry.message, IntensityReading):
                    self._see_intensity(entry.message)
                elif isinstance(entry.message, NodeTelemetry):
                    self._see_node(entry.message)

    def _see_intensity(self, reading: IntensityReading) -> None:
        if reading.stale and self._intensity is not None:
            # Old news changes no plan; the ledger goes on with it, marked.
            return
        self._intensity = reading
        self._events.put(control.IntensitySeen(effective=reading.g_per_kwh * reading.pue))

    def _see_node(self, telemetry: NodeTelemetry) -> None:
        if telemetry.application != self._maker.model.application.name:
            return
        self._reached = max(self._reached, telemetry.epoch)
        gpus = {
            gpu.index: control.GpuReport(
                phase=gpu.phase, applied_epoch=gpu.applied_epoch, configuration=serving_configuration(gpu)
            )
            for gpu in telemetry.gpus
        }
        self._events.put(
            control.NodeSeen(node=telemetry.node, boot_id=telemetry.boot_id, interval_s=telemetry.interval_s, gpus=gpus)
        )

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._settings.tick_s)
            self._see_override(await self._bus.override())
            queue = await self._bus.queue()
            rate = self._load.observe(self._clock.now_s(), queue.admitted, expected_rps=self._machine.rate_rps)
            if rate is not None:
                self._events.put(control.LoadSeen(rate_rps=rate))
            self._events.put(control.Tick())

    def _see_override(self, override: messages.Override) -> None:
        taken = frozenset(override.nodes)
        if taken != self._taken:
            self._taken = taken
            self._events.put(control.TakenSeen(nodes=taken))

    async def _reap(self) -> None:
        """Forget consumers that are gone: each start of a node agent is a new one."""
        while True:
            await asyncio.sleep(self._settings.reap_s)
            await self._bus.reap(idle_s=self._settings.reap_s)

    # --- acting

    async def _handle(self) -> None:
        while True:
            event = await self._events.get()
            for command in self._machine.handle(event, self._clock.now_s()):
                await self._carry_out(command)

    async def _carry_out(self, command: control.Command) -> None:
        match command:
            case control.Decide():
                await self._decide(command)
            case control.Send():
                await self._send(command)
            case control.Settle():
                await self._settle(command)
            case control.Say(kind=kind, subject=subject, reason=reason):
                await self._say(kind, subject, reason)

    async def _decide(self, ask: control.Decide) -> None:
        intensity = self._intensity
        if intensity is None:
            raise AssertionError("a decision is only asked for when the intensity is known")
        self._decisions += 1
        number, at_ms = self._decisions, self._clock.now_ms()
        decision = await self._compute(
            lambda: self._maker.decide(
                ask, number=number, intensity_g_per_kwh=intensity.g_per_kwh, pue=intensity.pue, at_ms=at_ms
            )
        )
        self._decision = decision
        await self._report_decision(decision)
        dispatch = {node: dispatch_target(rule) for node, rule in decision.answer.dispatch.items()}
        plain = messages.DispatchRule()
        nodes = dispatch.keys() | self._dispatch.keys()
        changed = any(dispatch.get(node, plain) != self._dispatch.get(node, plain) for node in nodes)
        self._dispatch = dispatch
        done = control.Decided(configuration=decision.answer.configuration, redispatch=changed)
        for command in self._machine.handle(done, self._clock.now_s()):
            await self._carry_out(command)

    async def _report_decision(self, decision: Decision) -> None:
        record = decision.record
        await self._say(
            "decision",
            str(decision.answer.configuration),
            record.reason,
            data=DecisionData(
                decision=record.decision,
                trigger=record.trigger,
                scheme=record.scheme,
                intensity_g_per_kwh=record.intensity_g_per_kwh,
                rate_rps=record.prediction.rate_rps,
                evaluations=record.evaluations,
                meets_sla=decision.answer.meets_sla,
                prediction=record.prediction,
                alternatives=record.alternatives,
            ),
        )

    async def _send(self, step: control.Send) -> None:
        if self._decision is None:
            # A roll that another controller began: only its record is known, and the configuration is as good.
            record = self._require_record()
        else:
            now_ms = self._clock.now_ms()
            record = self._maker.step_record(self._decision, step.configuration, changed=step.changed, at_ms=now_ms)
        # On the way kinds come and go; only the last step has those that the plan's dispatch is made for.
        epoch = await self._publish(record, step.configuration, self._dispatch if step.last else {})
        self._record = msgspec.structs.replace(record, epoch=epoch)
        moved = ", ".join(str(gpu) for gpu in step.changed)
        await self._say(
            "plan.step",
            str(step.configuration),
            f"{len(step.changed)} GPUs change: {moved}",
            epoch=epoch,
            data=_plan_data(record, record.step_prediction, changed=step.changed, last=step.last),
        )
        self._events.put(control.Sent(epoch=epoch))

    async def _publish(
        self, record: PlanRecord, configuration: Configuration, dispatch: Mapping[str, messages.DispatchRule]
    ) -> int:
        """Publish a plan with the targets of a configuration; return its epoch, above all that any node has reached."""
        targets = self._maker.targets(configuration, reason=record.reason, dispatch=dispatch)
        epoch = await self._bus.publish_plan(self._settings.name, record, targets, above=self._reached)
        if epoch is None:
            raise LeaseLostError
        return epoch

    async def _settle(self, command: control.Settle) -> None:
        record = self._decision.record if self._decision else self._require_record()
        epoch = self._record.epoch if self._record else 0
        record = msgspec.structs.replace(record, epoch=epoch, state="serving", since_ms=self._clock.now_ms())
        if self._record is None and self._decision is not None:
            # Nodes are as decided, but the server knows of no plan (it has lost it): nodes to come need their targets.
            epoch = await self._publish(record, self._decision.answer.configuration, self._dispatch)
            record = msgspec.structs.replace(record, epoch=epoch)
        elif not await self._bus.update_plan(self._settings.name, record):
            raise LeaseLostError
        self._record = record
        reason = "kept as it was" if command.unchanged else "in force everywhere"
        await self._say(
            "plan.serving",
            f"decision {record.decision}",
            reason,
            epoch=epoch,
            data=_plan_data(record, record.prediction),
        )
        decision = self._decision
        if decision is not None and record.trigger != "intensity":
            # While nothing else is to be done: later changes of the grid are then look-ups.
            await self._compute(lambda: self._look_ahead(decision))

    def _look_ahead(self, decision: Decision) -> Decision:
        self._maker.look_ahead(decision)
        return decision

    def _require_record(self) -> PlanRecord:
        if self._record is None:
            raise AssertionError("a roll without a decision can only be one that was taken over")
        return self._record

    async def _say(
        self, kind: str, subject: str, reason: str, *, epoch: int = 0, data: DecisionData | PlanData | None = None
    ) -> None:
        event = messages.Event(
            at_ms=self._clock.now_ms(),
            kind=kind,
            source="controller",
            subject=subject,
            reason=reason,
            epoch=epoch,
            data=msgspec.to_builtins(data) if data is not None else {},
        )
        await self._bus.publish(Feed.EVENTS, [event])


def _plan_data(
    record: PlanRecord, prediction: Prediction, *, changed: tuple[GpuId, ...] = (), last: bool = True
) -> PlanData:
    return PlanData(
        decision=record.decision,
        prediction=prediction,
        base=record.base,
        base_rightsized=record.base_rightsized,
        changed=tuple(str(gpu) for gpu in changed),
        last=last,
    )


def _configurations(nodes: Mapping[str, tuple[messages.GpuTarget, ...]]) -> dict[GpuId, GpuConfiguration]:
    return {GpuId(node, gpu.index): gpu_configuration(gpu) for node, gpus in nodes.items() for gpu in gpus}
