"""Carries out what the controller's machine commands: has plans made, sends targets, says why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from clover.agents.control_view import ControlView
from clover.agents.control_writer import ControlWriter, guard_data
from clover.agents.correcting import Correction
from clover.agents.decision import Decision, DecisionMaker
from clover.agents.live import LiveWindow
from clover.agents.planner import Planner
from clover.bus import messages
from clover.core import control
from clover.core.clock import Clock
from clover.core.configuration import Configuration
from clover.core.controller import ControllerMachine
from clover.core.triggers import AT_ONCE_S
from clover.plan.live import MEASURED_REQUESTS


@dataclass(slots=True, kw_only=True)
class _Awaited:
    """A plan that is being made: what was asked, and until when the present one is not kept instead."""

    ask: control.Decide
    number: int
    future: asyncio.Future[Decision]
    until_s: float


class ControlActing:
    """One term of one controller.

    Args:
        machine: Decides.
        view: What is seen.
        writer: Writes.
        maker, planner: Make plans.
        clock: Wall time.
        live: Measures candidates on live traffic.
        decisions: Number of the last decision of this deployment.
        wake: Has a tick follow: called when a plan is there that was not waited for.
    """

    def __init__(
        self,
        *,
        machine: ControllerMachine,
        view: ControlView,
        writer: ControlWriter,
        maker: DecisionMaker,
        planner: Planner[Decision],
        clock: Clock,
        live: LiveWindow,
        decisions: int,
        wake: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._view = view
        self._writer = writer
        self._maker = maker
        self._planner = planner
        self._clock = clock
        self._live = live
        self._decisions = decisions
        self._correction = Correction()
        self._wake = wake
        #: The plan that the machine waits for, and one that it was not waited for to the end.
        self._awaited: _Awaited | None = None
        self._overdue: _Awaited | None = None

    async def act(self, event: control.Event) -> None:
        """Tell the machine of an event and do what it says."""
        if isinstance(event, control.Tick):
            await self._look_at_plan()
        await self._do(self._machine.handle(event, self._clock.now_s()))
        if isinstance(event, control.Tick):
            await self._after_tick()

    async def _do(self, commands: list[control.Command]) -> None:
        while commands:
            commands = [*commands[1:], *await self._carry_out(commands[0])]

    async def _carry_out(self, command: control.Command) -> list[control.Command]:
        match command:
            case control.Decide():
                return await self._decide(command)
            case control.Send():
                epoch = await self._writer.send(command, above=self._view.reached)
                return self._machine.handle(control.Sent(epoch=epoch), self._clock.now_s())
            case control.Settle():
                await self._settle(command)
            case control.Say(kind=kind, subject=subject, reason=reason, verdict=verdict):
                await self._writer.say(kind, subject, reason, data=guard_data(verdict))
        return []

    async def _decide(self, ask: control.Decide) -> list[control.Command]:
        intensity = self._view.intensity
        if intensity is None:
            raise AssertionError("a decision is only asked for when the intensity is known")
        if self._awaited is not None:
            # The guard did not wait for it. What it was asked for is still to be done, if it is not done by then.
            self._overdue, self._awaited = self._awaited, None
        self._decisions += 1
        number, at_ms = self._decisions, self._clock.now_ms()
        g_per_kwh, pue = intensity.g_per_kwh, intensity.pue
        measure = self._maker.measure(ask, number=number, intensity_g_per_kwh=g_per_kwh, pue=pue, at_ms=at_ms)
        if measure is not None:
            return await self._decided(measure)

        def decide() -> Decision:
            return self._maker.decide(ask, number=number, intensity_g_per_kwh=g_per_kwh, pue=pue, at_ms=at_ms)

        # It is made for all that is known now: what was not waited for need not be asked for again.
        self._overdue = None
        future = self._planner.begin(decide)
        decision = await self._planner.wait(future, at_most_s=AT_ONCE_S)
        if decision is not None:
            return await self._decided(decision)
        # It takes a while: meanwhile everything else goes on.
        until_s = self._clock.now_s() + self._planner.within_s - AT_ONCE_S
        self._awaited = _Awaited(ask=ask, number=number, future=future, until_s=until_s)
        future.add_done_callback(lambda _: self._wake())
        if ask.trigger == "intensity":
            await self._follow_grid(ask, intensity)
        return []

    async def _look_at_plan(self) -> None:
        """Take in the plan that is waited for if it is there; keep the present one if it takes too long."""
        awaited, now_s = self._awaited, self._clock.now_s()
        if awaited is None:
            return
        if awaited.future.done():
            self._awaited = None
            await self._do(await self._decided(awaited.future.result()))
        elif now_s >= awaited.until_s:
            ask = awaited.ask
            await self._say_overdue(ask, awaited.number)
            if ask.present is None or set(self._machine.roll.wanted) != set(ask.gpus):
                # There is nothing to go on with.
                awaited.until_s = now_s + self._planner.within_s
                return
            # The present plan stays; once it is ready this one is asked for again and found at once.
            self._overdue, self._awaited = awaited, None
            kept = Configuration.of(self._machine.roll.assigned_of(ask.gpus))
            await self._do(self._machine.handle(control.Decided(configuration=kept), now_s))

    async def _follow_grid(self, ask: control.Decide, intensity: messages.IntensityReading) -> None:
        """Dispatch as is best on the layout that is there, of what is certified, while the plan is made."""
        rules = self._maker.known_dispatch(ask, intensity_g_per_kwh=intensity.g_per_kwh, pue=intensity.pue)
        present = Configuration.of(self._machine.roll.assigned)
        if rules is not None and rules != self._writer.dispatch:
            reason = f"{ask.reason}: the best that is certified for the present layout, until the plan is made"
            await self._writer.correct(rules, present, above=self._view.reached, reason=reason)

    async def _decided(self, decision: Decision) -> list[control.Command]:
        redispatch = await self._writer.take(decision)
        done = control.Decided(configuration=decision.answer.configuration, redispatch=redispatch)
        return self._machine.handle(done, self._clock.now_s())

    async def _say_overdue(self, ask: control.Decide, number: int) -> None:
        reason = f"{ask.reason}: not planned within {self._planner.within_s:g} s; the present plan stays until it is"
        await self._writer.say("plan.overdue", f"decision {number}", reason)

    async def _settle(self, settle: control.Settle) -> None:
        present = Configuration.of(self._machine.roll.assigned)
        await self._writer.settle(settle, present, above=self._view.reached)
        decision = self._writer.decision
        if decision is not None and self._maker.measuring:
            length_s = MEASURED_REQUESTS / decision.problem.rate_rps
            await self._live.begin(self._view.nodes, now_s=self._clock.now_s(), length_s=length_s)
        elif decision is not None and decision.record.trigger != "intensity":
            # While nothing else is to be done: later changes of the grid are then look-ups.
            self._planner.spare(lambda: self._look_ahead(decision, present))

    def _look_ahead(self, decision: Decision, present: Configuration) -> Decision:
        self._maker.look_ahead(decision, present)
        return decision

    async def _measure(self) -> None:
        """Take a measurement in that is over, and go on with the search that asked for it."""
        present = Configuration.of(self._machine.roll.assigned)
        found = await self._live.result(self._view.nodes, present, now_s=self._clock.now_s())
        decision = self._writer.decision
        if found is None or decision is None:
            return
        evaluation, data = found
        kept = "keeps" if data.meets_sla else "breaks"
        reason = f"{kept} the SLA: {data.late} of {data.requests} late, {data.energy_j:.0f} J in {data.seconds:.0f} s"
        await self._writer.say("live.measured", str(present), reason, data=data)
        self._maker.measured(evaluation, data.requests)
        await self.act(control.PlanReady(trigger=decision.record.trigger, reason="the search on live traffic goes on"))

    async def _after_tick(self) -> None:
        machine, writer = self._machine, self._writer
        if self._overdue is not None and self._overdue.future.done():
            ask, self._overdue = self._overdue.ask, None
            await self.act(control.PlanReady(trigger=ask.trigger, reason=f"{ask.reason} (the plan is ready now)"))
        if machine.state != "serving" or writer.record is None:
            self._live.cancel()
            return
        if self._live.open:
            await self._measure()
            return
        rules = self._correction.corrected(
            writer.decision,
            self._view.nodes,
            writer.dispatch,
            epoch=writer.record.epoch,
            now_s=self._clock.now_s(),
        )
        if rules is not None:
            await writer.correct(
                rules,
                Configuration.of(machine.roll.assigned),
                above=self._view.reached,
                reason="shares follow what nodes really served",
            )
