"""The controller agent: feeds what it sees to the state machine and carries out what that commands.

One controller acts: it holds a lease, and everything it writes is checked against it. A standby waits for the lease
and then takes over the plan that is in force, including an unfinished roll, the guard's level, GPUs that are fenced
off, and the table as it was re-calibrated.
"""

from __future__ import annotations

import asyncio
import logging
from random import Random

from clover.agents.backoff import Backoff
from clover.agents.care import Sweeper, reap
from clover.agents.control_acting import ControlActing
from clover.agents.control_view import ControlView
from clover.agents.control_writer import ControlWriter
from clover.agents.controller_settings import ControllerSettings
from clover.agents.decision import Decision, DecisionMaker
from clover.agents.inbox import Inbox
from clover.agents.known_load import KnownLoad
from clover.agents.lease import Lease, LeaseLostError
from clover.agents.lifetime import until_stopped
from clover.agents.live import LiveWindow
from clover.agents.overriding import Overrides
from clover.agents.planner import Compute, Planner
from clover.agents.sampling import Sampler
from clover.agents.taking_over import configurations, factors_of, gpu_ids
from clover.bus import messages
from clover.bus.messages import CalibrationData, DispatchRule, PlanRecord
from clover.bus.port import Bus
from clover.bus.values import Feed
from clover.core.belonging import Kind
from clover.core.calibration import Calibrator
from clover.core.clock import Clock
from clover.core.configuration import GpuConfiguration, GpuId
from clover.core.control import Tick
from clover.core.controller import ControllerMachine
from clover.core.guard import GuardSettings, SlaGuard
from clover.core.load import LoadEstimator, rate_to_plan
from clover.core.load_profile import LoadProfile
from clover.errors import BusUnavailableError
from clover.plan.measures import unfit

_log = logging.getLogger("clover.controller")


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
        boot_id: str,
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._clock = clock
        self._maker = maker
        self._rng = rng
        self._planner = Planner(compute, within_s=settings.plan_within_s)
        self._lease = Lease(settings.name, boot_id, bus=bus, ttl_s=settings.lease_s, rng=rng)
        self._writer = ControlWriter(self._lease, bus=bus, clock=clock, maker=maker)
        #: What was seen, and what is to be said before it is acted upon; new for each term.
        self._events = Inbox()
        self._said: list[messages.Event] = []

    @property
    def holder(self) -> str:
        """What holds the lease while this controller acts."""
        return self._lease.holder

    def _new_machine(self, load: LoadEstimator) -> ControllerMachine:
        settings, maker = self._settings, self._maker
        known = load.known(self._clock.now_s())
        guard = SlaGuard(GuardSettings(sla_ms=maker.goals.sla_ms)) if settings.guarded else None
        return ControllerMachine(
            rate_rps=settings.rate_rps if known is None else rate_to_plan(known),
            expected_nodes=settings.expected_nodes,
            predict=maker.late_fraction,
            pace=settings.pace,
            guard=guard,
        )

    def _new_load(self) -> LoadEstimator:
        settings = self._settings
        change = self._maker.model.table.change
        change_s = change.destroy_s + change.create_s + change.worker_start_s
        # Two steps of a roll, each seen by a tick, and the plan.
        ahead_s = 2.0 * (change_s + settings.tick_s) + 10.0 if settings.load_ahead_s is None else settings.load_ahead_s
        rates = settings.load_profile if settings.load_begins == "midnight" else None
        # The clock's seconds began at a midnight.
        return LoadEstimator(horizon_s=ahead_s, profile=LoadProfile(rates) if rates is not None else None)

    def _new_view(self, machine: ControllerMachine, calibrator: Calibrator, load: LoadEstimator) -> ControlView:
        settings, maker = self._settings, self._maker

        def tell(kind: str, subject: str, reason: str, data: CalibrationData | None) -> None:
            self._said.append(self._writer.event(kind, subject, reason, data=data))

        return ControlView(
            bus=self._bus,
            clock=self._clock,
            expected=Kind(
                application=maker.model.application.name,
                gpu_model=settings.gpu_model,
                emulated=settings.emulated,
            ),
            load=load,
            sampler=Sampler(maker.model, calibrator),
            # What is not asked for is measured, but nothing follows from it.
            calibrator=calibrator if settings.calibrated else Calibrator(),
            overrides=Overrides(lambda gpu: unfit(gpu, maker.model, maker.multisets)),
            put=self._events.put,
            calibrate=maker.calibrate,
            tell=tell,
            planned_rps=lambda: machine.rate_rps,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Wait for the lease, then control, until `stop` is set."""
        try:
            await until_stopped(stop, self._terms())
        finally:
            await self._planner.close()
            await self._lease.give_back()

    async def _terms(self) -> None:
        """Control again and again; a term ends when the lease is lost or the server is away."""
        backoff = Backoff(self._rng)
        while True:
            try:
                await self._term()
            except* LeaseLostError:
                _log.info("%s does not hold the lease any more and stands by", self._settings.name)
            except* BusUnavailableError:
                pass
            await asyncio.sleep(backoff.next_s())

    async def _term(self) -> None:
        """Control from winning the lease to losing it."""
        await self._lease.win()
        self._events, self._said = Inbox(), []
        load = self._new_load()
        machine, calibrator = self._new_machine(load), Calibrator()
        plan = await self._take_over(machine, calibrator)
        view = self._new_view(machine, calibrator, load)
        # Before anything else is believed: a node that is somebody else's must not be sent anything.
        await view.look_at_override()
        events = self._events
        acting = ControlActing(
            machine=machine,
            view=view,
            writer=self._writer,
            maker=self._maker,
            planner=self._planner,
            clock=self._clock,
            live=LiveWindow(self._bus, self._maker.model, self._maker.goals.sla_ms),
            decisions=plan.decision if plan else 0,
            wake=lambda: events.put(Tick()),
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.hold(self._written), name="lease")
            group.create_task(view.follow(block_s=self._settings.block_s), name="follow")
            group.create_task(view.tick(every_s=self._settings.tick_s), name="tick")
            if self._settings.load_profile is not None and self._settings.load_begins == "generator":
                known = KnownLoad(self._bus, rates=self._settings.load_profile, load=load, say=self._writer.say)
                group.create_task(known.follow(block_s=self._settings.block_s), name="known load")
            group.create_task(Sweeper(self._bus, period_s=self._settings.sweep_s).run(), name="sweep")
            group.create_task(reap(self._bus, period_s=self._settings.reap_s), name="reap")
            group.create_task(self._act(acting), name="act")

    def _written(self) -> int | None:
        return self._writer.record.epoch if self._writer.record is not None else None

    async def _act(self, acting: ControlActing) -> None:
        while True:
            event = await self._events.get()
            self._lease.check()
            said, self._said = self._said, []
            if said:
                await self._bus.publish(Feed.EVENTS, said)
            await acting.act(event)

    # --- taking over

    async def _take_over(self, machine: ControllerMachine, calibrator: Calibrator) -> PlanRecord | None:
        """Begin from the plan that is in force, if there is one; return it."""
        self._writer.begin(None, {})
        plan = await self._bus.plan()
        if plan is None:
            return None
        try:
            wanted = configurations(plan.configuration)
            assigned, dispatch = await self._assigned(plan)
            fenced = gpu_ids(plan.fenced)
            before = configurations(plan.before)
        except ValueError as error:
            _log.warning("the plan of epoch %d makes no sense and is made anew: %s", plan.epoch, error)
            return None
        self._writer.begin(plan, dispatch)
        calibrator.in_use = factors_of(plan.calibration)
        self._maker.calibrate(calibrator.in_use)
        machine.resume(
            assigned=assigned,
            wanted=wanted,
            epoch=plan.epoch,
            effective=plan.intensity_g_per_kwh * plan.pue,
            rate_rps=plan.prediction.rate_rps,
            now_s=self._clock.now_s(),
            fenced=fenced,
            guard=plan.guard,
            before=before,
        )
        reason = f"plan of epoch {plan.epoch} stays in force"
        await self._writer.say("controller.took_over", self._settings.name, reason)
        return plan

    async def _assigned(self, plan: PlanRecord) -> tuple[dict[GpuId, GpuConfiguration], dict[str, DispatchRule]]:
        """Return what the newest targets of the plan's nodes say of each GPU, and their dispatch."""
        assigned: dict[GpuId, GpuConfiguration] = {}
        dispatch: dict[str, DispatchRule] = {}
        for node in plan.configuration:
            target = await self._bus.target(node)
            if target is not None:
                assigned |= configurations({node: target.gpus})
                dispatch[node] = target.dispatch
        return assigned, dispatch
