"""The controller's decisions as a state machine: events in, commands out, no clock, no bus.

States: `waiting` (fleet or intensity not known yet) -> `deciding` (a plan is being made) -> `rolling` (targets are
being applied step by step) -> `serving`; a trigger leads from `serving` back to `deciding`. Triggers that come during
`deciding` or
`rolling` are judged when the roll is over: no new layout starts while one is under way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clover.core.carbon import REFERENCE_INTENSITY_G_PER_KWH, REFERENCE_PUE
from clover.core.configuration import Configuration, GpuConfiguration, GpuId
from clover.core.control import (
    Command,
    Decide,
    Decided,
    Event,
    GpuReport,
    IntensitySeen,
    LoadSeen,
    NodeSeen,
    Say,
    Send,
    Sent,
    Settle,
    TakenSeen,
    Tick,
    Trigger,
)
from clover.errors import InvalidTransitionError

State = Literal["waiting", "deciding", "rolling", "serving"]

#: Intensity x PUE must move by more than this part of the reference to cause a decision (SC'23, section 5).
INTENSITY_TRIGGER = 0.05 * REFERENCE_INTENSITY_G_PER_KWH * REFERENCE_PUE

#: Relative change of the load that causes a decision: more than 4 standard errors of the estimate.
LOAD_TRIGGER = 0.25

#: A node that has been silent for this many telemetry intervals, and at least this long, is lost.
SILENT_INTERVALS, SILENT_LEAST_S = 5.0, 5.0

#: At most this part of the serving GPUs (at least one) changes at a time.
ROLL_FRACTION = 5

#: A step that is not through after this long is passed over, so that one broken GPU cannot hold up the fleet.
STEP_PATIENCE_S = 120.0

_SETTLED = frozenset({"serving", "parked", "off"})


# --- the machine ----------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Node:
    boot_id: str
    interval_s: float
    seen_s: float
    gpus: Mapping[int, GpuReport]


#: Boot id of a node that a plan names and that has not been heard yet.
_NOT_HEARD = ""


def _not_heard_yet(wanted: Mapping[GpuId, GpuConfiguration], node: str, now_s: float) -> _Node:
    silent = {gpu.index: GpuReport(phase="unknown", applied_epoch=0) for gpu in wanted if gpu.node == node}
    return _Node(boot_id=_NOT_HEARD, interval_s=1.0, seen_s=now_s, gpus=silent)


@dataclass(slots=True, kw_only=True)
class ControllerMachine:
    """The controller's state.

    Attributes:
        rate_rps: Load planned for until a measurement differs enough.
        expected_nodes: The first decision waits for this many.
        state: See the module.
        assigned: What the newest targets say of each GPU.
        wanted: Where the present roll leads.
        story: The last transitions, told when something impossible happens.
    """

    rate_rps: float
    expected_nodes: int = 1
    state: State = "waiting"
    assigned: dict[GpuId, GpuConfiguration] = field(default_factory=dict[GpuId, GpuConfiguration])
    wanted: dict[GpuId, GpuConfiguration] = field(default_factory=dict[GpuId, GpuConfiguration])
    story: list[str] = field(default_factory=list[str])
    _nodes: dict[str, _Node] = field(default_factory=dict[str, _Node])
    _taken: frozenset[str] = frozenset()
    _effective: float | None = None
    _decided_effective: float = 0.0
    _measured_rps: float | None = None
    _step: tuple[GpuId, ...] = ()
    _step_epoch: int | None = None
    _step_since_s: float = 0.0

    def handle(self, event: Event, now_s: float) -> list[Command]:
        """Take an event in and say what to do.

        Raises:
            InvalidTransitionError: `Decided` or `Sent` arrived in a state that did not ask for it.
        """
        match event:
            case IntensitySeen(effective=effective):
                self._effective = effective
            case LoadSeen(rate_rps=rate):
                self._measured_rps = rate
            case NodeSeen():
                return self._see_node(event, now_s) + self._go_on(now_s)
            case TakenSeen(nodes=nodes):
                return self._see_taken(nodes) + self._go_on(now_s)
            case Tick():
                return self._lose_silent(now_s) + self._go_on(now_s)
            case Decided(configuration=configuration, redispatch=redispatch):
                return self._decided(configuration, now_s, redispatch=redispatch)
            case Sent(epoch=epoch):
                self._expect("rolling", event)
                self._step_epoch = epoch
        return self._go_on(now_s)

    def resume(
        self,
        *,
        assigned: Mapping[GpuId, GpuConfiguration],
        wanted: Mapping[GpuId, GpuConfiguration],
        epoch: int,
        effective: float,
        rate_rps: float,
        now_s: float,
    ) -> None:
        """Take over where another controller stopped: its plan stays in force and an unfinished roll is finished.

        The plan's nodes count as there until they have been silent for as long as any other.
        """
        self.assigned, self.wanted = dict(assigned), dict(wanted)
        self._nodes = {node: _not_heard_yet(wanted, node, now_s) for node in {gpu.node for gpu in wanted}}
        self.rate_rps, self._decided_effective = rate_rps, effective
        self._step, self._step_epoch, self._step_since_s = tuple(assigned), epoch, now_s
        self._enter("rolling", "resumed")

    # --- fleet

    def _see_node(self, event: NodeSeen, now_s: float) -> list[Command]:
        if event.node in self._taken:
            return []
        known = self._nodes.get(event.node)
        self._nodes[event.node] = _Node(
            boot_id=event.boot_id, interval_s=event.interval_s, seen_s=now_s, gpus=event.gpus
        )
        self._take_in(event)
        if known is None:
            return [Say(kind="node.joined", subject=event.node, reason=f"{len(event.gpus)} GPUs")]
        if known.boot_id not in {event.boot_id, _NOT_HEARD}:
            return [Say(kind="node.restarted", subject=event.node, reason=f"boot {event.boot_id}")]
        return []

    def _see_taken(self, nodes: frozenset[str]) -> list[Command]:
        """Leave nodes alone that were taken by hand, as if they had gone; one that is given back joins anew."""
        taken, released = sorted(nodes - self._taken), sorted(self._taken - nodes)
        self._taken = nodes
        for name in taken:
            self._forget(name)
        return [
            *(Say(kind="node.taken", subject=name, reason="by hand: it is left alone") for name in taken),
            *(Say(kind="node.released", subject=name, reason="it is planned for again") for name in released),
        ]

    def _forget(self, name: str) -> None:
        self._nodes.pop(name, None)
        for gpu in [gpu for gpu in self.assigned if gpu.node == name]:
            del self.assigned[gpu]

    def _take_in(self, event: NodeSeen) -> None:
        """Believe of GPUs that no target is known of what they say that they serve with.

        A node that comes back went on with its last target, or has read it again after a restart.
        """
        for index, report in event.gpus.items():
            if report.phase == "serving" and report.configuration is not None:
                self.assigned.setdefault(GpuId(event.node, index), report.configuration)

    def _lose_silent(self, now_s: float) -> list[Command]:
        said: list[Command] = []
        for name, node in list(self._nodes.items()):
            silent_s = now_s - node.seen_s
            if silent_s > max(SILENT_LEAST_S, SILENT_INTERVALS * node.interval_s):
                self._forget(name)
                said.append(Say(kind="node.lost", subject=name, reason=f"silent for {silent_s:.0f} s"))
        return said

    def _fleet(self) -> tuple[GpuId, ...]:
        return tuple(sorted(GpuId(name, index) for name, node in self._nodes.items() for index in node.gpus))

    def _report(self, gpu: GpuId) -> GpuReport | None:
        node = self._nodes.get(gpu.node)
        return node.gpus.get(gpu.index) if node else None

    # --- going on

    def _go_on(self, now_s: float) -> list[Command]:
        if self.state == "waiting":
            ready = len(self._nodes) >= self.expected_nodes and self._effective is not None
            return self._decide("start", f"{len(self._nodes)} nodes are there") if ready else []
        if self.state == "rolling":
            return self._roll_on(now_s)
        if self.state == "serving":
            return self._judge_triggers()
        return []

    def _judge_triggers(self) -> list[Command]:
        fleet = set(self._fleet())
        if fleet and fleet != set(self.wanted):
            gone, new = len(set(self.wanted) - fleet), len(fleet - set(self.wanted))
            return self._decide("fleet", f"{new} GPUs joined, {gone} left")
        effective = self._effective
        if effective is not None and abs(effective - self._decided_effective) > INTENSITY_TRIGGER:
            return self._decide(
                "intensity",
                f"intensity x PUE went from {self._decided_effective:.0f} to {effective:.0f} g/kWh",
            )
        measured = self._measured_rps
        if measured is not None and abs(measured - self.rate_rps) > LOAD_TRIGGER * self.rate_rps:
            reason = f"load went from {self.rate_rps:.3g} to {measured:.3g} requests/s"
            self.rate_rps = max(measured, 0.01)
            return self._decide("load", reason)
        return []

    def _decide(self, trigger: Trigger, reason: str) -> list[Command]:
        self._decided_effective = self._effective if self._effective is not None else self._decided_effective
        self._enter("deciding", f"{trigger}: {reason}")
        configurations = [gpu for gpu in set(self.assigned.values()) if gpu.instances]
        current = configurations[0] if len(configurations) == 1 else None
        present = Configuration.of(self.assigned) if self.assigned else None
        return [
            Decide(
                trigger=trigger,
                reason=reason,
                gpus=self._fleet(),
                rate_rps=self.rate_rps,
                current=current,
                present=present,
            )
        ]

    def _decided(self, configuration: Configuration, now_s: float, *, redispatch: bool) -> list[Command]:
        self._expect("deciding", configuration)
        self.wanted = configuration.as_dict()
        if not self._differing() and not redispatch:
            self._enter("serving", "decision kept what was there")
            return [Settle(unchanged=True)]
        self._enter("rolling", str(configuration))
        return self._next_step(now_s)

    def _roll_on(self, now_s: float) -> list[Command]:
        if self._step_epoch is None or not self._step_done(now_s):
            return []
        if any(self._report(gpu) for gpu in self._differing()):
            return self._next_step(now_s)
        self._enter("serving", f"epoch {self._step_epoch} is in force")
        return [Settle(unchanged=False)]

    def _step_done(self, now_s: float) -> bool:
        if now_s - self._step_since_s > STEP_PATIENCE_S:
            return True
        epoch = self._step_epoch or 0
        reports = [report for gpu in self._step if (report := self._report(gpu)) is not None]
        return all(report.applied_epoch >= epoch and report.phase in _SETTLED for report in reports)

    def _next_step(self, now_s: float) -> list[Command]:
        """Move every GPU that serves nobody at once, and at most one in five of those that do.

        What is not heard keeps its last target: it may well be serving.
        """
        different = {gpu: report for gpu in self._differing() if (report := self._report(gpu)) is not None}
        serving = [gpu for gpu, report in different.items() if report.phase == "serving"]
        at_once = [gpu for gpu in different if gpu not in serving]
        # By index before node, so that a step takes from all nodes rather than emptying one.
        serving.sort(key=lambda gpu: (gpu.index, gpu.node))
        # What wakes has to serve before something else stops: the others wait for the next step.
        waking = any(self.wanted[gpu].mode == "serving" and gpu in self.assigned for gpu in at_once)
        step = at_once if waking else at_once + serving[: max(1, len(self.wanted) // ROLL_FRACTION)]
        for gpu in step:
            self.assigned[gpu] = self.wanted[gpu]
        self._step, self._step_epoch, self._step_since_s = tuple(step), None, now_s
        return [
            Send(
                configuration=Configuration.of(self.assigned),
                changed=tuple(sorted(step)),
                last=not self._differing(),
            )
        ]

    def _differing(self) -> list[GpuId]:
        return [gpu for gpu, wanted in self.wanted.items() if self.assigned.get(gpu) != wanted]

    # --- story

    def _enter(self, state: State, why: str) -> None:
        self.story = [*self.story[-19:], f"{self.state} -> {state}: {why}"]
        self.state = state

    def _expect(self, state: State, event: object) -> None:
        if self.state != state:
            told = "; ".join(self.story)
            raise InvalidTransitionError(
                f"{type(event).__name__} in state {self.state}, expected {state}. Story: {told}"
            )
