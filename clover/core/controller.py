"""The controller's decisions as a state machine: events in, commands out, no clock, no bus.

States and the ways between them are a table (`clover.core.transitions`). Triggers that come while a plan is made or
rolled are judged when that is over: no new layout starts while one is under way. Only a raised guard does not wait for
a plan, and `clover.core.ending` says what ends a roll early.
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
    Send,
    Sent,
    ServiceSeen,
    Settle,
    TakenSeen,
    Tick,
    Trigger,
)
from clover.core.ending import HeldBack, end, ending
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
    _held: HeldBack = field(default_factory=HeldBack)

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
                if isinstance(event, Tick) and (released := self._held.release(now_s)):
                    may = f"{', '.join(map(str, released))} may change again"
                    self._news.ready = PlanReady(trigger="fleet", reason=may)
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
            wanted = self.roll.wanted
            under_way = not self._pinned and all(wanted.get(gpu) == pin for gpu, pin in event.pinned.items())
            self._news.see_pins(event, under_way=under_way)
        self._pinned = event.pinned

    def _see_service(self, event: ServiceSeen, now_s: float) -> list[Command]:
        guard = self.guard
        if guard is None:
            return []
        guard.observe(now_s, event.answered, event.late, event.oldest_wait_s, event.age_s)
        if self.paused or self.state == "waiting":
            return []
        parked = any(configuration.mode != "serving" for configuration in self.roll.wanted.values())
        able = measures(parked=parked, planning=self.state == "deciding")
        verdict = guard.judge(now_s, able, busy=self._guard_acts() or bool(self._news.guard))
        if verdict is None:
            return []
        told = self._news.see_guard(verdict)
        # While a plan is made there are only measures that need none, and so wait for none.
        at_once = self.state == "deciding" and verdict.raised
        return [told, *(self._decide("sla", verdict.reason, "overtaken", now_s) if at_once else [])]

    def _guard_acts(self) -> bool:
        """Return whether a measure of the guard is being put in force, or none could be without a plan."""
        if self.state != "deciding":
            return self.state == "rolling" and self._trigger == "sla" and not self.roll.only_powered(self.fleet)
        present = self.roll.assigned_of(self.fleet.fit)
        serves = any(gpu.instances for gpu in present.values()) and len(present) == len(self.fleet.fit)
        return not serves or bool(self._fixed()) or (self._trigger == "sla" and self._news.raised)

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
        found = self._judge().judge(self._situation(fit, now_s), now_s)
        if found is None:
            return []
        self.rate_rps = found.rate_rps
        return self._decide(found.trigger, found.reason, "triggered", now_s)

    def _judge(self) -> Triggers:
        if self._triggers is None:
            self._triggers = Triggers(Pace(self.pace))
        return self._triggers

    def _situation(self, fit: set[GpuId], now_s: float) -> Situation:
        planned = set(self.roll.wanted)
        return Situation(
            joined=len(self.fleet.joining(planned, now_s)),
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
        return [
            Decide.about(
                self.roll.assigned,
                self.fleet.fit,
                self._fixed(),
                trigger=trigger,
                reason=reason,
                rate_rps=self.rate_rps,
                guard=self.guard.level if self.guard is not None else "none",
                raised=trigger == "sla" and self._news.raised,
            )
        ]

    def _fixed(self) -> dict[GpuId, GpuConfiguration]:
        """Return what GPUs must be whatever the scheme says."""
        return {**self._held.now(), **self._pinned}

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
        if (why := ending(self.roll, self.fleet, self._news, now_s)) is not None:
            reason, told = end(self.roll, self.fleet, why, self._held, now_s)
            return [*said_, *told, *self._decide(why.trigger, reason, "aborted", now_s)]
        if self.roll.open(self.fleet):
            return said_
        if any(self.fleet.report(gpu) for gpu in self.roll.left):
            self.story.enter("step", f"epoch {self.roll.epoch} is in force")
            return [*said_, self._next_step(now_s)]
        self.story.enter("through", f"epoch {self.roll.epoch} is in force")
        return [*said_, Settle(unchanged=False, fenced=self._fenced())]

    def _fenced(self) -> tuple[GpuId, ...]:
        return tuple(sorted(self.fleet.fence.fenced & set(self.roll.assigned)))

    def _next_step(self, now_s: float) -> Send:
        rate_rps = max(self.load.rate_rps, 0.01) if self.load is not None else self.rate_rps
        return self.roll.step(self.fleet, lambda fleet: self.predict(fleet, rate_rps), now_s)
