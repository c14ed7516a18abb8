"""How rolls end that do not come through: GPUs that fail, people, the guard; and nodes that come and go."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from machine_stage import HALVES, WHOLE, everywhere, only, seen, serving

from clover.core.configuration import PARKED, Configuration, GpuConfiguration, GpuId
from clover.core.control import (
    Command,
    Decide,
    Decided,
    Event,
    GpuReport,
    IntensitySeen,
    LoadSeen,
    NodeSeen,
    OverrideSeen,
    Say,
    Send,
    Sent,
    ServiceSeen,
    Tick,
)
from clover.core.controller import ControllerMachine
from clover.core.fencing import CHANGE_PATIENCE_S, FAILED_PATIENCE_S
from clover.core.guard import GuardSettings, SlaGuard
from clover.core.load import LoadEstimate
from clover.core.rolling import STEP_PATIENCE_S

PINNED = OverrideSeen(pinned={GpuId("n1", 0): WHOLE}, reason="back, please")


@dataclass
class Fleet:
    """Nodes that do at once what they are told, but for GPUs that cannot become something."""

    machine: ControllerMachine
    gpus: dict[str, int]
    broken: frozenset[GpuId] = frozenset()
    #: What they do instead: say that they failed, go on changing, or serve on without a word.
    instead: str = "failed"
    wants: GpuConfiguration = HALVES
    refused: GpuConfiguration = HALVES
    now_s: float = 0.0
    epoch: int = 0
    told: list[tuple[float, Command]] = field(default_factory=list)
    target: dict[GpuId, tuple[int, GpuConfiguration]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)

    def happen(self, event: Event) -> None:
        todo = self.machine.handle(event, self.now_s)
        while todo:
            command = todo.pop(0)
            self.told.append((self.now_s, command))
            if isinstance(command, Decide):
                wanted = {gpu: command.pinned.get(gpu, self.wants) for gpu in command.gpus}
                todo += self.machine.handle(Decided(configuration=Configuration.of(wanted)), self.now_s)
            elif isinstance(command, Send):
                self.epoch += 1
                self.target |= {gpu: (self.epoch, what) for gpu, what in command.configuration.gpus}
                todo += self.machine.handle(Sent(epoch=self.epoch), self.now_s)

    def report(self, gpu: GpuId) -> GpuReport:
        epoch, what = self.target.get(gpu, (0, None))
        if what is None:
            return GpuReport(phase="empty", applied_epoch=0)
        if gpu in self.broken and what == self.refused:
            phase = {"failed": "failed", "changing": "changing", "deaf": "serving"}[self.instead]
            return GpuReport(phase=phase, applied_epoch=epoch - 1, reason="no such partition")
        phase = what.mode
        return GpuReport(phase=phase, applied_epoch=epoch, configuration=what if what.instances else None)

    def pass_by(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now_s += 1.0
            for node, count in self.gpus.items():
                if node not in self.silent:
                    reports = {index: self.report(GpuId(node, index)) for index in range(count)}
                    self.happen(NodeSeen(node=node, boot_id="b1", interval_s=1.0, gpus=reports))
            self.happen(Tick())

    def kinds(self) -> Counter[str]:
        return Counter(command.kind for _, command in self.told if isinstance(command, Say))

    def subjects(self, kind: str) -> set[str]:
        return {command.subject for _, command in self.told if isinstance(command, Say) and command.kind == kind}

    def decided(self) -> list[Decide]:
        return [command for _, command in self.told if isinstance(command, Decide)]


def begun(fleet: Fleet, first: GpuConfiguration) -> Fleet:
    """Bring a fleet to serve with something, and forget how."""
    fleet.wants, wanted = first, fleet.wants
    fleet.happen(IntensitySeen(effective=300.0))
    fleet.pass_by(60)
    assert fleet.machine.state == "serving"
    fleet.wants = wanted
    fleet.told.clear()
    return fleet


def parts(count: int) -> frozenset[GpuId]:
    return frozenset(GpuId("n1", index) for index in range(count))


# --- every GPU that fails to change is fenced off or rolled back, the last one too ----------------------------------


@pytest.mark.parametrize("instead", ["failed", "changing", "deaf"])
@pytest.mark.parametrize(
    ("gpus", "broken", "first", "fenced", "back"),
    [
        (5, 1, WHOLE, True, True),
        (5, 1, PARKED, True, False),
        (5, 4, WHOLE, True, True),
        (2, 1, WHOLE, True, True),
        # Nothing else is fit: the last one goes back to what it was.
        (1, 1, WHOLE, False, True),
        (2, 2, WHOLE, True, True),
        (5, 5, WHOLE, True, True),
        # It served nobody: there is nothing to go back to, its node goes on trying.
        (1, 1, PARKED, False, False),
        (2, 2, PARKED, True, False),
    ],
)
def test_each_gpu_that_fails_to_change_is_fenced_off_or_rolled_back(
    gpus: int, broken: int, first: GpuConfiguration, fenced: bool, back: bool, instead: str
) -> None:
    fleet = begun(Fleet(ControllerMachine(rate_rps=5.0), {"n1": gpus}, instead=instead), first)
    fleet.broken = parts(broken)
    fleet.happen(LoadSeen(load=LoadEstimate.sure(50.0)))
    waited, longest, tried = 0, 0, set[GpuId]()
    for _ in range((broken + 1) * round(STEP_PATIENCE_S)):
        epoch = fleet.epoch
        fleet.pass_by(1)
        waited = waited + 1 if fleet.machine.state == "rolling" and fleet.epoch == epoch else 0
        longest = max(longest, waited)
        tried |= {gpu for gpu in fleet.broken if fleet.target[gpu][1] == HALVES}
        assert fleet.machine.fleet.fit, "there must be something to plan with"
    assert longest <= STEP_PATIENCE_S + 2
    assert fleet.kinds()["plan.aborted"] >= 1
    assert bool(fleet.subjects("gpu.fenced")) is fenced
    assert bool(fleet.subjects("gpu.rolled_back")) is back
    if fenced or back:
        under_way = set(fleet.machine.roll.gpus) if fleet.machine.state == "rolling" else set()
        cared_for = fleet.subjects("gpu.fenced") | fleet.subjects("gpu.rolled_back")
        spared = {broken - 1} if first == PARKED and broken == gpus else set()
        assert {str(gpu) for gpu in tried - under_way if gpu.index not in spared} <= cared_for
        assert len(cared_for) >= min(broken, 2) - len(spared)
    # Those that can, did what was wanted; where many fail slowly that takes longer than is watched here.
    for index in range(broken, gpus if broken == 1 else broken):
        assert fleet.target[GpuId("n1", index)][1] == HALVES


@pytest.mark.parametrize(
    ("instead", "within_s"),
    [("failed", FAILED_PATIENCE_S), ("changing", CHANGE_PATIENCE_S), ("deaf", STEP_PATIENCE_S)],
)
def test_the_last_gpu_goes_back_as_soon_as_another_would_be_fenced_off(instead: str, within_s: float) -> None:
    fleet = begun(Fleet(ControllerMachine(rate_rps=5.0), {"n1": 1}, instead=instead), WHOLE)
    fleet.broken = parts(1)
    fleet.happen(LoadSeen(load=LoadEstimate.sure(50.0)))
    began_s = fleet.now_s
    fleet.pass_by(round(within_s) + 3)
    (at_s,) = [at_s for at_s, command in fleet.told if isinstance(command, Say) and command.kind == "plan.aborted"]
    assert at_s - began_s <= within_s + 3.0
    assert (fleet.target[GpuId("n1", 0)][1], fleet.machine.state) == (WHOLE, "serving")
    told = [command.reason for _, command in fleet.told if isinstance(command, Say)]
    assert any(
        "n1/gpu0, the last GPU that is fit: " in reason and "stays what it was for 30 s" in reason for reason in told
    )


def test_the_last_gpu_is_tried_again_ever_more_rarely_and_serves_in_between() -> None:
    fleet = begun(Fleet(ControllerMachine(rate_rps=5.0), {"n1": 1}), WHOLE)
    fleet.broken = parts(1)
    fleet.happen(LoadSeen(load=LoadEstimate.sure(50.0)))
    served = 0
    for _ in range(7200):
        fleet.pass_by(1)
        served += fleet.target[GpuId("n1", 0)][1] == WHOLE
    tries = fleet.kinds()["plan.aborted"]
    assert 4 <= tries <= 10
    assert len(fleet.decided()) <= 2 * tries + 2
    assert served >= 0.95 * 7200
    # It can do it at last.
    fleet.broken = frozenset()
    fleet.pass_by(1900)
    assert (fleet.target[GpuId("n1", 0)][1], fleet.machine.state) == (HALVES, "serving")


# --- people and the guard -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpus", [1, 5])
def test_people_end_a_roll_that_waits_for_nothing_but_failures(gpus: int) -> None:
    fleet = begun(Fleet(ControllerMachine(rate_rps=5.0), {"n1": gpus}), WHOLE)
    fleet.broken = parts(1)
    fleet.happen(LoadSeen(load=LoadEstimate.sure(50.0)))
    fleet.pass_by(2)
    assert fleet.machine.state == "rolling"
    fleet.told.clear()
    fleet.happen(PINNED)
    commands = [command for _, command in fleet.told]
    assert [command.kind for command in commands if isinstance(command, Say)] == ["plan.aborted", "gpu.rolled_back"]
    ask = only(commands, Decide)
    assert isinstance(ask, Decide)
    assert (ask.trigger, dict(ask.pinned)) == ("override", dict(PINNED.pinned))
    assert fleet.target[GpuId("n1", 0)][1] == WHOLE


def test_people_do_not_end_a_roll_that_goes_on_or_that_they_asked_for() -> None:
    fleet = begun(Fleet(ControllerMachine(rate_rps=5.0), {"n1": 5}, instead="changing"), WHOLE)
    fleet.broken = parts(1)
    fleet.happen(LoadSeen(load=LoadEstimate.sure(50.0)))
    fleet.pass_by(2)
    fleet.happen(PINNED)
    assert fleet.kinds()["plan.aborted"] == 0
    # A controller that takes over hears of a pin that its roll is about.
    fleet = begun(Fleet(ControllerMachine(rate_rps=5.0), {"n1": 5}), WHOLE)
    fleet.broken = parts(1)
    fleet.happen(LoadSeen(load=LoadEstimate.sure(50.0)))
    fleet.pass_by(2)
    fleet.happen(OverrideSeen(pinned={GpuId("n1", 0): HALVES}, reason="halves"))
    assert fleet.kinds()["plan.aborted"] == 0


@pytest.mark.parametrize("hangs", [True, False])
def test_the_guard_ends_a_roll(hangs: bool) -> None:
    guard = SlaGuard(GuardSettings(sla_ms=100.0))
    machine = ControllerMachine(rate_rps=5.0, guard=guard)
    serving(machine)
    machine.handle(LoadSeen(load=LoadEstimate.sure(50.0)), 2.0)
    send = only(machine.handle(Decided(configuration=everywhere(HALVES, "n1")), 2.0), Send)
    assert isinstance(send, Send)
    (moving,) = send.changed
    machine.handle(Sent(epoch=2), 2.0)
    good = seen(epoch=2, serves=HALVES)
    phase = "failed" if hangs else "changing"
    under_way = NodeSeen(
        node="n1",
        boot_id="b1",
        interval_s=1.0,
        gpus={**good.gpus, moving.index: GpuReport(phase=phase, applied_epoch=1)},
    )
    told = machine.handle(under_way, 3.0)
    told += machine.handle(ServiceSeen(answered=200, late=100, oldest_wait_s=0.0), 4.0)
    if not hangs:
        # What is under way is finished first; the steps after it are not taken.
        assert [command.kind for command in told if isinstance(command, Say)] == ["guard.raised"]
        told += machine.handle(good, 5.0)
    kinds = [command.kind for command in told if isinstance(command, Say)]
    assert kinds == ["guard.raised", "plan.aborted", *(["gpu.rolled_back"] if hangs else [])]
    ask = only(told, Decide)
    assert isinstance(ask, Decide)
    assert (ask.trigger, ask.raised, ask.guard) == ("sla", True, "dispatch")
    assert ask.present is not None
    assert ask.present.as_dict()[moving] == (WHOLE if hangs else HALVES)
    assert len(machine.roll.left) == (5 if hangs else 4)


# --- the guard does not wait for plans ------------------------------------------------------------------------------


def _deciding(*, pinned: bool = False, start: bool = False) -> ControllerMachine:
    machine = ControllerMachine(rate_rps=5.0, guard=SlaGuard(GuardSettings(sla_ms=100.0)))
    if start:
        machine.handle(IntensitySeen(effective=300.0), 0.0)
        machine.handle(seen(phase="empty"), 0.0)
    else:
        serving(machine)
        if pinned:
            machine.handle(PINNED, 2.0)
        else:
            machine.handle(LoadSeen(load=LoadEstimate.sure(50.0)), 2.0)
    assert machine.state == "deciding"
    return machine


@pytest.mark.parametrize(
    ("pinned", "start", "overtakes"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_a_raised_guard_does_not_wait_for_a_plan_that_its_measure_does_not_need(
    pinned: bool, start: bool, overtakes: bool
) -> None:
    machine = _deciding(pinned=pinned, start=start)
    told: list[Command] = []
    for second in range(3, 120):
        told += machine.handle(seen(epoch=1, serves=None if start else WHOLE), float(second))
        told += machine.handle(ServiceSeen(answered=100, late=60, oldest_wait_s=0.0), float(second))
        told += machine.handle(Tick(), float(second))
    asked = [command for command in told if isinstance(command, Decide)]
    assert machine.state == "deciding"
    assert [(ask.trigger, ask.raised, ask.guard) for ask in asked] == ([("sla", True, "dispatch")] if overtakes else [])


# --- nodes that come and go -----------------------------------------------------------------------------------------


def test_a_node_that_flaps_causes_few_plans_and_nobody_else_waits_for_that() -> None:
    fleet = begun(Fleet(ControllerMachine(rate_rps=5.0), {"n1": 2, "n2": 2}), HALVES)
    joined: list[float] = []
    for second in range(3600):
        if second % 12 == 0:
            fleet.silent = set() if "n2" in fleet.silent else {"n2"}
        if second == 1800:
            fleet.gpus["n3"] = 2
            joined.append(fleet.now_s)
        fleet.pass_by(1)
    asked = [(at_s, command) for at_s, command in fleet.told if isinstance(command, Decide)]
    assert {ask.trigger for _, ask in asked} == {"fleet"}
    assert 2 <= len(asked) <= 20
    first = next(at_s for at_s, ask in asked if any(gpu.node == "n3" for gpu in ask.gpus))
    assert first - joined[0] <= 30.0
    # It has come to stay.
    fleet.silent = set()
    fleet.pass_by(1900)
    assert {gpu.node for gpu in fleet.decided()[-1].gpus} == {"n1", "n2", "n3"}


def test_gpus_that_are_lost_or_join_do_not_wait_for_the_budget_of_plans() -> None:
    fleet = begun(Fleet(ControllerMachine(rate_rps=5.0), {"n1": 2, "n2": 2}), HALVES)
    rate = 5.0
    for _ in range(25):
        rate *= 1.5
        fleet.happen(LoadSeen(load=LoadEstimate.sure(rate)))
        fleet.pass_by(10)
    assert len(fleet.decided()) == 20
    fleet.told.clear()
    fleet.gpus["n3"] = 2
    fleet.pass_by(2)
    assert [(ask.trigger, len(ask.gpus)) for ask in fleet.decided()] == [("fleet", 6)]
    fleet.silent = {"n1"}
    fleet.pass_by(8)
    assert [(ask.trigger, len(ask.gpus)) for ask in fleet.decided()] == [("fleet", 6), ("fleet", 4)]
