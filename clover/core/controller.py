"""The controller's decisions as a state machine: events in, commands out, no clock, no bus.

States and the ways between them are a table (`clover.core.transitions`). Triggers that come while a plan is made or
rolled are judged when that is over: no new layout starts while one is under way. Only a GPU that had to be fenced off
and a raised guard end a roll early, when its present step is through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from clover.core.configuration import Configuration, GpuConfiguration, GpuId
from clover.core.control import (
    Command,
    Decide,
    Decided,
    DriftSeen,
    Event,
    ForeignSeen,
    IntensitySeen,
    LeavingSeen,
    LoadSeen,
    NodeSeen,
    OverrideSeen,
    PlanReady,
    Say,
    Send,
    Sent,
    ServiceSeen,
    Settle,
    TakenSeen,
    Tick,
    Trigger,
)
from clover.core.fleet import FleetView, said
from clover.core.guard import GuardLevel, SlaGuard, measures
from clover.core.load import LoadEstimate
from clover.core.news import News
from clover.core.rolling import Predict, Roll, never_late
from clover.core.transitions import Cause, State, Story
from clover.core.triggers import Pace, PaceSettings, Situation, Triggers


@dataclass(slots=True, kw_only=True)
class ControllerMachine:
    """The controller's state.

    Attributes:
        rate_rps: Load planned for until a measurement differs enough.
        expected_nodes: The first decision waits for this many.
        predict: P(late) of a fleet at a load, by the performance model; tells how many GPUs may change at once.
        pace: How often it may decide.
        guard: Watches over the SLA; None leaves it unwatched.
        story: Its state and how it came there.
        roll: What the targets say, and what is wanted.
        fleet: What is there.
        load: As last estimated.
        paused: Somebody has paused planning.
    """

    rate_rps: float
    expected_nodes: int = 1
    predict: Predict = never_late
    pace: PaceSettings = field(default_factory=PaceSettings)
    guard: SlaGuard | None = None
    story: Story = field(default_factory=Story)
    roll: Roll = field(default_factory=Roll)
    fleet: FleetView = field(default_factory=FleetView)
    load: LoadEstimate | None = None
    paused: bool = False
    _triggers: Triggers | None = None
    _trigger: Trigger = "start"
    _effective: float | None = None
    _decided_effective: float = 0.0
    _pinned: Mapping[GpuId, GpuConfiguration] = field(default_factory=dict[GpuId, GpuConfiguration])
    _news: News = field(default_factory=News)

    @property
    def state(self) -> State:
        """See `clover.core.transitions`."""
        return self.story.state

    def handle(self, event: Event, now_s: float) -> list[Command]:
        """Take an event in and say what to do.

        Raises:
            InvalidTransitionError: `Decided` or `Sent` arrived in a state that did not ask for it.
        """
        match event:
            case IntensitySeen(effective=effective):
                self._effective = effective
            case LoadSeen(load=load):
                self.load = load
            case DriftSeen(reason=reason):
                self._news.drift = reason
            case PlanReady():
                self._news.ready = event
            case OverrideSeen():
                self._see_override(event)
            case Decided(configuration=configuration, redispatch=redispatch):
                return self._decided(configuration, now_s, redispatch=redispatch)
            case Sent(epoch=epoch):
                self.story.expect("rolling", event)
                self.roll.epoch = epoch
            case _:
                return self._see(event, now_s) + self._go_on(now_s)
        return self._go_on(now_s)

    def _see(
        self, event: NodeSeen | LeavingSeen | ForeignSeen | TakenSeen | ServiceSeen | Tick, now_s: float
    ) -> list[Command]:
        match event:
            case NodeSeen():
                return self._see_node(event, now_s)
            case ServiceSeen():
                return self._see_service(event, now_s)
            case _:
                said_, gone = self.fleet.look_after(event, now_s)
                self.roll.forget(gone)
                return [*said_]

    def resume(
        self,
        *,
        assigned: Mapping[GpuId, GpuConfiguration],
        wanted: Mapping[GpuId, GpuConfiguration],
        epoch: int,
        effective: float,
        rate_rps: float,
        now_s: float,
        fenced: Iterable[GpuId] = (),
        guard: GuardLevel = "none",
        before: Mapping[GpuId, GpuConfiguration] | None = None,
    ) -> None:
        """Take over where another controller stopped: its plan stays in force and an unfinished roll is finished.

        What fails to change is rolled back to what it was `before` the step that was under way.

        The plan's nodes count as there until they have been silent for as long as any other.
        """
        self.roll.resume(assigned, wanted, epoch=epoch, now_s=now_s, before=before)
        self.fleet.expect([*assigned, *wanted], now_s)
        self.fleet.fence.restore(fenced)
        if self.guard is not None:
            self.guard.restore(guard, now_s)
        self.rate_rps, self._decided_effective = rate_rps, effective
        self.story.enter("resumed", f"epoch {epoch}")

    # --- seeing

    def _see_node(self, event: NodeSeen, now_s: float) -> list[Command]:
        said_: list[Command] = [*self.fleet.see(event, now_s)]
        # Of GPUs that no target is known of it is believed what they say that they serve with: a node that comes back
        # went on with its last target, or has read it again after a restart.
        for gpu, configuration in self.fleet.serving(event).items():
            self.roll.assigned.setdefault(gpu, configuration)
        return said_

    def _see_override(self, event: OverrideSeen) -> None:
        self.paused = event.paused
        if dict(event.pinned) != dict(self._pinned):
            self._news.see_pins(event)
        self._pinned = event.pinned

    def _see_service(self, event: ServiceSeen, now_s: float) -> list[Command]:
        guard = self.guard
        if guard is None:
            return []
        guard.observe(now_s, event.answered, event.late, event.oldest_wait_s)
        if self.paused or self.state == "waiting":
            return []
        rolling = self.state == "rolling" and not self.roll.only_powered(self.fleet)
        acting = self.state == "deciding" or (rolling and self._trigger == "sla")
        parked = any(configuration.mode != "serving" for configuration in self.roll.wanted.values())
        verdict = guard.judge(now_s, measures(parked=parked), busy=acting or bool(self._news.guard))
        return [] if verdict is None else [self._news.see_guard(verdict)]

    # --- going on

    def _go_on(self, now_s: float) -> list[Command]:
        if self.state == "waiting":
            ready = self.fleet.heard >= self.expected_nodes and self._effective is not None and bool(self.fleet.fit)
            reason = f"{len(self.fleet)} nodes are there"
            return self._decide("start", reason, "ready", now_s) if ready and not self.paused else []
        if self.state == "rolling":
            return self._roll_on(now_s)
        if self.state == "serving" and not self.paused:
            return self._judge_triggers(now_s)
        return []

    def _judge_triggers(self, now_s: float) -> list[Command]:
        fit = set(self.fleet.fit)
        if not fit:
            return []
        if (urgent := self._news.at_once()) is not None:
            return self._decide(*urgent, "triggered", now_s)
        found = self._judge().judge(self._situation(fit), now_s)
        if found is None:
            return []
        self.rate_rps = found.rate_rps
        return self._decide(found.trigger, found.reason, "triggered", now_s)

    def _judge(self) -> Triggers:
        if self._triggers is None:
            self._triggers = Triggers(Pace(self.pace))
        return self._triggers

    def _situation(self, fit: set[GpuId]) -> Situation:
        planned = set(self.roll.wanted)
        return Situation(
            joined=len(fit - planned),
            left=len(planned - fit),
            effective=self._effective,
            decided_effective=self._decided_effective,
            load=self.load,
            planned_rps=self.rate_rps,
            drift=self._news.drift,
            override=self._news.override,
        )

    def _decide(self, trigger: Trigger, reason: str, cause: Cause, now_s: float) -> list[Command]:
        self._decided_effective = self._effective if self._effective is not None else self._decided_effective
        self._trigger = trigger
        self._news.decided()
        self._judge().pace.decided(trigger, now_s)
        self.story.enter(cause, f"{trigger}: {reason}")
        fit = self.fleet.fit
        present = {gpu: self.roll.assigned[gpu] for gpu in fit if gpu in self.roll.assigned}
        alike = {gpu for gpu in present.values() if gpu.instances}
        return [
            Decide(
                trigger=trigger,
                reason=reason,
                gpus=fit,
                rate_rps=self.rate_rps,
                current=next(iter(alike)) if len(alike) == 1 else None,
                present=Configuration.of(present) if present else None,
                guard=self.guard.level if self.guard is not None else "none",
                raised=trigger == "sla" and self._news.raised,
                pinned={gpu: pinned for gpu, pinned in self._pinned.items() if gpu in fit},
            )
        ]

    # --- rolling

    def _decided(self, configuration: Configuration, now_s: float, *, redispatch: bool) -> list[Command]:
        self.story.expect("deciding", configuration)
        self.roll.begin(configuration.as_dict())
        if not self.roll.left and not redispatch and not self.roll.restored:
            self.story.enter("kept", "decision kept what was there")
            return [Settle(unchanged=True, fenced=self._fenced())]
        self.story.enter("changes", str(configuration))
        return [self._next_step(now_s)]

    def _roll_on(self, now_s: float) -> list[Command]:
        if self.roll.epoch is None:
            return []
        said_: list[Command] = [said(change) for change in self.roll.give_up(self.fleet, now_s)]
        done = self.roll.step_done(self.fleet)
        if (done or self.roll.only_powered(self.fleet)) and (reason := self._why_abort()):
            return [*said_, *self._abort(*reason, now_s)]
        if not done:
            return said_
        if any(self.fleet.report(gpu) for gpu in self.roll.left):
            self.story.enter("step", f"epoch {self.roll.epoch} is in force")
            return [*said_, self._next_step(now_s)]
        self.story.enter("through", f"epoch {self.roll.epoch} is in force")
        return [*said_, Settle(unchanged=False, fenced=self._fenced())]

    def _fenced(self) -> tuple[GpuId, ...]:
        return tuple(sorted(self.fleet.fence.fenced & set(self.roll.assigned)))

    def _why_abort(self) -> tuple[Trigger, str] | None:
        """Return why the roll must not go on, the present step being through."""
        fenced = self.fleet.fence.fenced & set(self.roll.wanted)
        if (urgent := self._news.ends_roll()) is not None:
            return urgent
        if fenced and self.fleet.fit:
            return "fleet", f"fenced off: {', '.join(str(gpu) for gpu in sorted(fenced))}"
        return None

    def _abort(self, trigger: Trigger, reason: str, now_s: float) -> list[Command]:
        told = f"{len(self.roll.left)} of {self.roll.total} GPUs were still to change: {reason}"
        abort = Say(kind="plan.aborted", subject=f"epoch {self.roll.epoch}", reason=told)
        back = self.roll.take_back(self.fleet.fence.fenced)
        return [abort, *back, *self._decide(trigger, reason, "aborted", now_s)]

    def _next_step(self, now_s: float) -> Send:
        rate_rps = max(self.load.rate_rps, 0.01) if self.load is not None else self.rate_rps
        return self.roll.step(self.fleet, lambda fleet: self.predict(fleet, rate_rps), now_s)
