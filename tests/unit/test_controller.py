"""The controller's state machine: first decisions, triggers, the guard, and any history."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_stage import HALVES, WHOLE, everywhere, only, seen, serving

from clover.agents.assembly import left_alone
from clover.agents.controller_settings import ControllerSettings
from clover.agents.goals import Goals
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
    ServiceSeen,
    Settle,
    Tick,
)
from clover.core.controller import ControllerMachine
from clover.core.guard import GuardSettings, SlaGuard
from clover.core.load import LoadEstimate
from clover.core.triggers import INTENSITY_TRIGGER
from clover.errors import InvalidTransitionError
from clover.plan.problem import Parking


def test_the_first_decision_waits_for_the_nodes_and_the_grid() -> None:
    machine = ControllerMachine(rate_rps=5.0, expected_nodes=2)
    assert [type(c) for c in machine.handle(seen("n1", phase="empty"), 0.0)] == [Say]
    machine.handle(seen("n2", phase="empty"), 0.0)
    assert machine.state == "waiting"
    ask = only(machine.handle(IntensitySeen(effective=300.0), 0.0), Decide)
    assert isinstance(ask, Decide)
    assert (ask.trigger, len(ask.gpus), ask.current) == ("start", 10, None)


def test_gpus_that_serve_nobody_change_at_once_and_of_the_others_one_in_five() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    epoch = serving(machine)
    ask = only(machine.handle(IntensitySeen(effective=300.0 + INTENSITY_TRIGGER + 1.0), 2.0), Decide)
    assert isinstance(ask, Decide)
    assert (ask.trigger, ask.current) == ("intensity", WHOLE)
    commands = machine.handle(Decided(configuration=everywhere(HALVES, "n1")), 2.0)
    moved: list[GpuId] = []
    for step in range(5):
        send = only(commands, Send)
        assert isinstance(send, Send)
        assert len(send.changed) == 1
        assert len(send.configuration.gpus) == 5
        assert send.last is (step == 4)
        moved += send.changed
        epoch += 1
        machine.handle(Sent(epoch=epoch), 3.0 + step)
        commands = machine.handle(seen(epoch=epoch), 3.0 + step)
    assert commands == [Settle(unchanged=False)]
    assert len(set(moved)) == 5


def test_a_decision_that_keeps_what_is_there_sends_nothing() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    serving(machine)
    machine.handle(LoadSeen(load=LoadEstimate.sure(8.0)), 2.0)
    assert machine.state == "deciding"
    assert machine.handle(Decided(configuration=everywhere(WHOLE, "n1")), 2.0) == [Settle(unchanged=True)]


def test_small_changes_of_grid_and_load_cause_nothing() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    serving(machine)
    assert machine.handle(IntensitySeen(effective=300.0 + INTENSITY_TRIGGER), 2.0) == []
    assert machine.handle(LoadSeen(load=LoadEstimate.sure(5.0)), 2.0) == []
    noisy = LoadEstimate(rate_rps=6.0, low_rps=4.9, high_rps=7.1, ahead_rps=6.0)
    assert machine.handle(LoadSeen(load=noisy), 2.0) == []


@pytest.mark.parametrize(
    ("scheme", "parking", "live", "guarded", "calibrated"),
    [
        ("base", "none", False, False, True),
        ("base", "parked", False, False, True),
        ("co2opt", "none", False, False, True),
        ("co2opt", "parked", False, True, True),
        ("exact", "none", False, True, True),
        ("clover", "parked", False, True, True),
        ("clover", "none", True, False, False),
    ],
)
def test_under_which_schemes_the_guard_acts(
    scheme: str, parking: Parking, live: bool, guarded: bool, calibrated: bool
) -> None:
    goals = Goals(lambda_=0.5, sla_ms=100.0, parking=parking)
    found = left_alone(ControllerSettings(name="c1", rate_rps=5.0), scheme, goals, live=live)
    assert (found.guarded, found.calibrated) == (guarded, calibrated)


@pytest.mark.parametrize("guarded", [True, False])
def test_without_a_guard_nothing_follows_from_late_answers(guarded: bool) -> None:
    guard = SlaGuard(GuardSettings(sla_ms=100.0)) if guarded else None
    machine = ControllerMachine(rate_rps=5.0, guard=guard)
    serving(machine)
    late = ServiceSeen(answered=100, late=100, oldest_wait_s=10.0)
    told = [command for second in range(90) for command in machine.handle(late, 2.0 + second)]
    assert ("guard.raised" in [command.kind for command in told if isinstance(command, Say)]) is guarded
    assert any(isinstance(command, Decide) for command in told) is guarded
    assert machine.state == ("deciding" if guarded else "serving")


def test_what_was_not_asked_for_is_a_bug_told_with_its_story() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    serving(machine)
    with pytest.raises(InvalidTransitionError, match="Sent in state serving, expected rolling. Story: waiting -> deci"):
        machine.handle(Sent(epoch=3), 2.0)


# --- any history


_NODES = ("n1", "n2", "n3")


_EVENTS = st.one_of(
    st.builds(IntensitySeen, effective=st.floats(10.0, 900.0)),
    st.builds(LoadSeen, load=st.floats(0.1, 100.0).map(LoadEstimate.sure)),
    st.just(Tick()),
    st.tuples(st.sampled_from(_NODES), st.sampled_from(["b1", "b2"]), st.booleans()),
    st.tuples(st.just("choice"), st.sampled_from([WHOLE, HALVES])),
)


class _Nodes:
    """Nodes that reach their targets at once; one that is started anew has nothing, then reads its newest target."""

    def __init__(self) -> None:
        self.boots: dict[str, str] = {}
        self.targets: dict[GpuId, tuple[int, GpuConfiguration]] = {}
        self.has: dict[GpuId, tuple[int, GpuConfiguration]] = {}

    def take(self, send: Send, epoch: int) -> None:
        configured = send.configuration.as_dict()
        for node in {gpu.node for gpu in configured}:
            mine = {gpu for gpu in configured if gpu.node == node}
            assert mine == {GpuId(node, index) for index in range(5)}, "a target must be complete"
            self.targets |= {gpu: (epoch, configured[gpu]) for gpu in mine}
        self.has |= self.targets

    def seen(self, node: str, boot: str) -> NodeSeen:
        if self.boots.get(node) != boot:
            self.boots[node] = boot
            self.has = {gpu: what for gpu, what in self.has.items() if gpu.node != node}
        else:
            self.has |= {gpu: what for gpu, what in self.targets.items() if gpu.node == node}
        reports: dict[int, GpuReport] = {}
        for index in range(5):
            epoch, gpu = self.has.get(GpuId(node, index), (0, None))
            reports[index] = GpuReport(phase="serving" if gpu else "empty", applied_epoch=epoch, configuration=gpu)
        return NodeSeen(node=node, boot_id=boot, interval_s=1.0, gpus=reports)


class _World:
    """A machine with nodes; decisions are answered with the present choice, and checked on the way."""

    def __init__(self) -> None:
        self.machine, self.nodes, self.choice = ControllerMachine(rate_rps=5.0), _Nodes(), WHOLE
        self.epoch = 0

    def happen(self, event: Event, now_s: float) -> None:
        todo = self.machine.handle(event, now_s)
        while todo:
            todo += self._carry_out(todo.pop(0), now_s)

    def _carry_out(self, command: Command, now_s: float) -> list[Command]:
        if isinstance(command, Decide):
            answer = Configuration.uniform(command.gpus, self.choice)
            return self.machine.handle(Decided(configuration=answer), now_s)
        if isinstance(command, Send):
            served = [gpu for gpu in command.changed if gpu in self.nodes.has]
            assert len(served) <= max(1, len(self.machine.roll.wanted) // 5)
            self.epoch += 1
            self.nodes.take(command, self.epoch)
            return self.machine.handle(Sent(epoch=self.epoch), now_s)
        return []


@given(st.lists(_EVENTS, max_size=60), st.lists(st.floats(0.0, 8.0), min_size=60, max_size=60))
@settings(max_examples=200, deadline=None)
def test_in_any_history_targets_are_complete_and_steps_small(history: list[object], gaps: list[float]) -> None:
    world, now_s = _World(), 0.0
    for happens, gap_s in zip(history, gaps, strict=False):
        now_s += gap_s
        match happens:
            case ("choice", GpuConfiguration() as gpu):
                world.choice = gpu
            case (str(node), str(boot), _):
                world.happen(world.nodes.seen(node, boot), now_s)
            case _:
                world.happen(happens, now_s)  # type: ignore[arg-type]
    # Once everybody is heard again, any roll comes to its end.
    world.happen(IntensitySeen(effective=300.0), now_s)
    for _ in range(60):
        now_s += 1.0
        for node, boot in list(world.nodes.boots.items()):
            world.happen(world.nodes.seen(node, boot), now_s)
    assert world.machine.state == ("serving" if world.nodes.boots else "waiting")
