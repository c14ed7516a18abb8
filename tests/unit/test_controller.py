"""The controller's state machine: triggers, rolls, take-over, and nodes that come and go."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_stage import HALVES, WHOLE, everywhere, only, seen, serving

from clover.agents.assembly import left_alone
from clover.agents.controller_settings import ControllerSettings
from clover.agents.goals import Goals
from clover.core.belonging import Kind, why_foreign
from clover.core.configuration import OFF, Configuration, GpuConfiguration, GpuId
from clover.core.control import (
    Command,
    Decide,
    Decided,
    Event,
    ForeignSeen,
    GpuReport,
    IntensitySeen,
    LeavingSeen,
    LoadSeen,
    NodeSeen,
    Say,
    Send,
    Sent,
    ServiceSeen,
    Settle,
    TakenSeen,
    Tick,
)
from clover.core.controller import ControllerMachine
from clover.core.fencing import CHANGE_PATIENCE_S
from clover.core.guard import GuardSettings, SlaGuard
from clover.core.load import LoadEstimate
from clover.core.rolling import STEP_PATIENCE_S
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


def test_a_gpu_that_never_does_what_a_step_says_is_fenced_off_and_the_plan_made_without_it() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    serving(machine)
    machine.handle(LoadSeen(load=LoadEstimate.sure(50.0)), 2.0)
    machine.handle(Decided(configuration=everywhere(HALVES, "n1")), 2.0)
    machine.handle(Sent(epoch=2), 2.0)
    assert machine.handle(seen(epoch=1), 3.0) == []
    late_s = 2.0 + STEP_PATIENCE_S + 1.0
    commands = machine.handle(seen(epoch=1), late_s)
    assert [(c.kind, c.subject) for c in commands if isinstance(c, Say)] == [
        ("gpu.fenced", "n1/gpu0"),
        ("plan.aborted", "epoch 2"),
        ("gpu.rolled_back", "n1/gpu0"),
    ]
    ask = only(commands, Decide)
    assert isinstance(ask, Decide)
    assert (ask.trigger, len(ask.gpus)) == ("fleet", 4)
    # The targets stay complete: the node goes on trying what the GPU was told last.
    without = Configuration.uniform(ask.gpus, HALVES)
    send = only(machine.handle(Decided(configuration=without), late_s), Send)
    assert isinstance(send, Send)
    assert (len(send.configuration.gpus), send.fenced) == (5, (GpuId("n1", 0),))


def _powering(machine: ControllerMachine, epoch: int, limit_s: float, now_s: float) -> list[Command]:
    """Tell that gpu4 of n1 is being switched on by a command, and that the others have reached an epoch."""
    reports = dict(seen(epoch=epoch, serves=WHOLE).gpus)
    reports[4] = GpuReport(phase="changing", applied_epoch=1, reason="to serve", power_limit_s=limit_s)
    return machine.handle(NodeSeen(node="n1", boot_id="b1", interval_s=1.0, gpus=reports), now_s)


def _waking(guard: SlaGuard | None = None) -> ControllerMachine:
    """Return a machine in the middle of waking the one GPU that is off."""
    machine = ControllerMachine(rate_rps=5.0, guard=guard)
    one_off = Configuration.of({**everywhere(WHOLE, "n1").as_dict(), GpuId("n1", 4): OFF})
    machine.handle(IntensitySeen(effective=300.0), 0.0)
    machine.handle(seen(phase="empty"), 0.0)
    machine.handle(Decided(configuration=one_off), 0.0)
    machine.handle(Sent(epoch=1), 0.0)
    reports = {**seen(epoch=1, serves=WHOLE).gpus, 4: GpuReport(phase="off", applied_epoch=1)}
    machine.handle(NodeSeen(node="n1", boot_id="b1", interval_s=1.0, gpus=reports), 1.0)
    assert machine.state == "serving"
    machine.handle(LoadSeen(load=LoadEstimate.sure(50.0)), 2.0)
    machine.handle(Decided(configuration=everywhere(WHOLE, "n1")), 2.0)
    machine.handle(Sent(epoch=2), 2.0)
    return machine


def test_a_gpu_that_a_command_switches_on_is_waited_for_as_long_as_that_may_take() -> None:
    machine = _waking()
    told: list[Command] = []
    now_s = 2.0
    while not told:
        now_s += 1.0
        told = _powering(machine, 2, 300.0, now_s) + machine.handle(Tick(), now_s)
    assert next((c.kind, c.subject) for c in told if isinstance(c, Say)) == ("gpu.fenced", "n1/gpu4")
    assert now_s - 3.0 > 300.0 + CHANGE_PATIENCE_S - 1.0
    patient = _waking()
    for second in range(3, 290):
        assert _powering(patient, 2, 300.0, float(second)) + patient.handle(Tick(), float(second)) == []
    assert patient.handle(seen(epoch=2, serves=WHOLE), 290.0) == [Settle(unchanged=False)]


def test_the_guard_does_not_wait_for_power_commands_and_what_they_switch_on_is_still_waited_for() -> None:
    machine = _waking(SlaGuard(GuardSettings(sla_ms=100.0)))
    late = ServiceSeen(answered=100, late=100, oldest_wait_s=10.0)
    told: list[Command] = []
    now_s = 2.0
    while not told:
        now_s += 1.0
        told = _powering(machine, 2, 300.0, now_s) + machine.handle(late, now_s)
    assert now_s < 60.0
    assert [c.kind for c in told if isinstance(c, Say)] == ["guard.raised", "plan.aborted"]
    assert isinstance(only(told, Decide), Decide)
    # Only dispatch changes: the plan is in force when the GPU that is being switched on is there.
    send = only(machine.handle(Decided(configuration=everywhere(WHOLE, "n1"), redispatch=True), now_s), Send)
    assert isinstance(send, Send)
    assert send.changed == ()
    machine.handle(Sent(epoch=3), now_s)
    assert _powering(machine, 3, 300.0, now_s + 1.0) == []
    assert machine.handle(seen(epoch=3, serves=WHOLE), now_s + 2.0) == [Settle(unchanged=False)]


@pytest.mark.parametrize(("boot", "leaves"), [("b1", True), ("b0", False)])
def test_a_node_that_says_that_it_goes_is_planned_without_at_once(boot: str, leaves: bool) -> None:
    machine = ControllerMachine(rate_rps=5.0)
    serving(machine, WHOLE, "n1", "n2")
    told = machine.handle(LeavingSeen(node="n2", boot_id=boot), 2.0)
    assert [(c.kind, c.subject) for c in told if isinstance(c, Say)] == [("node.left", "n2")] * leaves
    if not leaves:
        return
    ask = only(told, Decide)
    assert isinstance(ask, Decide)
    assert (ask.trigger, {gpu.node for gpu in ask.gpus}) == ("fleet", {"n1"})
    # It says so as long as it has work; that is no news.
    assert machine.handle(LeavingSeen(node="n2", boot_id=boot), 3.0) == []
    send = only(machine.handle(Decided(configuration=everywhere(HALVES, "n1")), 3.0), Send)
    assert isinstance(send, Send)
    assert {gpu.node for gpu in send.configuration.as_dict()} == {"n1"}


def test_a_controller_that_takes_over_gives_the_nodes_of_the_plan_time_to_be_heard() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    plan = everywhere(WHOLE, "n1", "n2").as_dict()
    machine.resume(assigned=plan, wanted=plan, epoch=7, effective=300.0, rate_rps=5.0, now_s=0.0)
    machine.handle(IntensitySeen(effective=300.0), 0.0)
    assert machine.handle(seen("n2", epoch=7), 0.1) == []
    assert machine.handle(Tick(), 1.0) == []
    assert machine.handle(seen("n1", epoch=7), 1.1) == [Settle(unchanged=False)]


def test_a_node_of_the_plan_that_is_never_heard_is_lost_and_decided_without() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    plan = everywhere(WHOLE, "n1", "n2").as_dict()
    machine.resume(assigned=plan, wanted=plan, epoch=7, effective=300.0, rate_rps=5.0, now_s=0.0)
    commands: list[Command] = []
    for second in range(1, 8):
        commands += machine.handle(seen("n2", epoch=7), float(second))
        commands += machine.handle(Tick(), float(second))
    assert only(commands, Say) == Say(kind="node.lost", subject="n1", reason="silent for 6 s")
    ask = only(commands, Decide)
    assert isinstance(ask, Decide)
    assert (ask.trigger, len(ask.gpus)) == ("fleet", 5)


@pytest.mark.parametrize("wanted", [WHOLE, HALVES])
def test_a_node_that_went_on_serving_while_it_was_not_heard_gets_complete_targets(wanted: GpuConfiguration) -> None:
    machine = ControllerMachine(rate_rps=5.0)
    serving(machine, WHOLE, "n1", "n2")
    lost: list[Command] = []
    for second in range(2, 10):
        lost += machine.handle(seen("n1", epoch=1), float(second)) + machine.handle(Tick(), float(second))
    assert only(lost, Say) == Say(kind="node.lost", subject="n2", reason="silent for 6 s")
    # It comes back before that decision is made.
    machine.handle(seen("n2", epoch=1, serves=WHOLE), 10.0)
    machine.handle(Decided(configuration=everywhere(WHOLE, "n1")), 10.0)
    ask = only(machine.handle(Tick(), 10.5), Decide)
    assert isinstance(ask, Decide)
    assert len(ask.gpus) == 10
    commands = machine.handle(Decided(configuration=everywhere(wanted, "n1", "n2")), 11.0)
    if wanted == WHOLE:
        assert commands == [Settle(unchanged=True)]
        return
    send = only(commands, Send)
    assert isinstance(send, Send)
    assert len(send.changed) == 2
    assert len(send.configuration.gpus) == 10


def test_a_node_that_restarts_and_reads_its_old_target_again_gets_complete_targets() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    serving(machine, WHOLE, "n1", "n2")
    for second in range(2, 10):
        machine.handle(seen("n1", epoch=1), float(second))
        machine.handle(Tick(), float(second))
    machine.handle(seen("n2", phase="empty", boot="b2"), 10.0)
    machine.handle(Decided(configuration=everywhere(WHOLE, "n1")), 10.0)
    # Meanwhile it has done what its last target said.
    machine.handle(seen("n2", epoch=1, boot="b2", serves=WHOLE), 10.5)
    commands = machine.handle(Decided(configuration=everywhere(HALVES, "n1", "n2")), 11.0)
    send = only(commands, Send)
    assert isinstance(send, Send)
    assert (len(send.changed), len(send.configuration.gpus)) == (2, 10)


def test_what_is_not_heard_keeps_its_target_in_a_roll() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    serving(machine, WHOLE, "n1", "n2")
    machine.handle(LoadSeen(load=LoadEstimate.sure(50.0)), 2.0)
    machine.handle(Decided(configuration=everywhere(HALVES, "n1", "n2")), 2.0)
    machine.handle(Sent(epoch=2), 2.0)
    moved: list[GpuId] = []
    for second in range(3, 12):
        for command in machine.handle(Tick(), float(second)) + machine.handle(seen("n1", epoch=99), float(second)):
            if isinstance(command, Send):
                moved += command.changed
                machine.handle(Sent(epoch=2 + second), float(second))
    assert moved
    assert {gpu.node for gpu in moved} == {"n1"}


def _refusing(machine: ControllerMachine, epoch: int, gpu: int, since_s: float) -> list[Command]:
    """Let one GPU of n1 say that it failed, for as long as it takes; return what is commanded, without `Say`."""
    good = seen(epoch=epoch, serves=HALVES)
    reports = {**good.gpus, gpu: GpuReport(phase="failed", applied_epoch=epoch - 1, reason="no such profile")}
    told: list[Command] = []
    for second in range(30):
        broken = NodeSeen(node="n1", boot_id="b1", interval_s=1.0, gpus=reports)
        told += machine.handle(broken, since_s + second) + machine.handle(Tick(), since_s + second)
        if machine.state == "deciding":
            break
    return told


def test_a_gpu_that_fails_to_change_is_rolled_back_and_planned_without() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    serving(machine)
    machine.handle(LoadSeen(load=LoadEstimate.sure(50.0)), 2.0)
    send = only(machine.handle(Decided(configuration=everywhere(HALVES, "n1")), 2.0), Send)
    assert isinstance(send, Send)
    (changing,) = send.changed
    machine.handle(Sent(epoch=2), 2.0)
    told = _refusing(machine, 2, changing.index, 3.0)
    kinds = [command.kind for command in told if isinstance(command, Say)]
    assert kinds == ["gpu.fenced", "plan.aborted", "gpu.rolled_back"]
    ask = only(told, Decide)
    assert isinstance(ask, Decide)
    assert (ask.trigger, changing in ask.gpus, len(ask.gpus)) == ("fleet", False, 4)
    # Nothing else is to change: the targets are sent all the same, with what the GPU was before.
    kept = Configuration.of(dict.fromkeys(ask.gpus, WHOLE))
    back = only(machine.handle(Decided(configuration=kept), 30.0), Send)
    assert isinstance(back, Send)
    assert back.configuration.as_dict() == everywhere(WHOLE, "n1").as_dict()
    assert (back.changed, back.last, back.fenced) == ((), True, (changing,))
    # What is fenced off holds nobody up, whether it can be restored or not.
    assert machine.handle(Sent(epoch=3), 30.0) == [Settle(unchanged=False, fenced=(changing,))]
    # A second decision does not restore it once more.
    machine.handle(LoadSeen(load=LoadEstimate.sure(90.0)), 200.0)
    assert machine.handle(Decided(configuration=kept), 200.0) == [Settle(unchanged=True, fenced=(changing,))]


def test_what_failed_in_a_roll_that_was_taken_over_is_rolled_back_to_what_it_was() -> None:
    first = ControllerMachine(rate_rps=5.0)
    serving(first)
    first.handle(LoadSeen(load=LoadEstimate.sure(50.0)), 2.0)
    send = only(first.handle(Decided(configuration=everywhere(HALVES, "n1")), 2.0), Send)
    assert isinstance(send, Send)
    assert dict(send.before) == dict.fromkeys(send.changed, WHOLE)
    second = ControllerMachine(rate_rps=5.0)
    second.resume(
        assigned=send.configuration.as_dict(),
        wanted=everywhere(HALVES, "n1").as_dict(),
        epoch=2,
        effective=300.0,
        rate_rps=50.0,
        now_s=10.0,
        before=send.before,
    )
    second.handle(IntensitySeen(effective=300.0), 10.0)
    told = _refusing(second, 2, send.changed[0].index, 11.0)
    said = [(command.kind, command.subject) for command in told if isinstance(command, Say)]
    assert ("gpu.rolled_back", str(send.changed[0])) in said
    ask = only(told, Decide)
    assert isinstance(ask, Decide)
    assert send.changed[0] not in ask.gpus
    kept = Configuration.of(dict.fromkeys(ask.gpus, WHOLE))
    back = only(second.handle(Decided(configuration=kept), 40.0), Send)
    assert isinstance(back, Send)
    assert back.configuration.as_dict()[send.changed[0]] == WHOLE


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


@pytest.mark.parametrize(
    ("node", "told"),
    [
        (Kind(application="albert", gpu_model="a100-40gb"), ""),
        (Kind(application="albert", gpu_model="a100-80gb"), "board 'a100-80gb': expected 'a100-40gb'"),
        (Kind(application="bert", gpu_model="a100-40gb"), "application 'bert': expected 'albert'"),
        (Kind(application="bert", gpu_model="h100-80gb"), "application 'bert': expected 'albert'"),
        (Kind(application="albert", gpu_model="a100-40gb", emulated=True), "backend cpu: expected sim or nvml"),
    ],
)
def test_which_nodes_are_planned_for(node: Kind, told: str) -> None:
    reason = why_foreign(node, Kind(application="albert", gpu_model="a100-40gb"))
    assert reason.startswith(told)
    assert bool(reason) is bool(told)


def test_a_node_that_is_refused_holds_nobody_up_and_joins_when_it_is_another() -> None:
    machine = ControllerMachine(rate_rps=5.0, expected_nodes=2)
    machine.handle(IntensitySeen(effective=300.0), 0.0)
    foreign = ForeignSeen(node="n2", reason="board 'h100-80gb'")
    assert [c.kind for c in machine.handle(foreign, 0.0) if isinstance(c, Say)] == ["node.refused"]
    # It counts as heard, so that nobody waits for it; it is told once.
    ask = only(machine.handle(seen(phase="empty"), 0.0), Decide)
    assert isinstance(ask, Decide)
    assert {gpu.node for gpu in ask.gpus} == {"n1"}
    assert machine.handle(foreign, 1.0) == []
    machine.handle(Decided(configuration=everywhere(WHOLE, "n1")), 1.0)
    machine.handle(Sent(epoch=1), 1.0)
    assert machine.handle(seen(epoch=1, serves=WHOLE), 2.0) == [Settle(unchanged=False)]
    joined = machine.handle(seen("n2", phase="empty", epoch=1), 3.0)
    assert "node.joined" in [command.kind for command in joined if isinstance(command, Say)]
    again = only(joined, Decide)
    assert isinstance(again, Decide)
    assert (again.trigger, {gpu.node for gpu in again.gpus}) == ("fleet", {"n1", "n2"})
    # And the other way round: a known node that comes back with another board is planned without.
    machine.handle(Decided(configuration=everywhere(WHOLE, "n1", "n2")), 3.0)
    machine.handle(Sent(epoch=2), 3.0)
    machine.handle(foreign, 4.0)
    assert set(machine.fleet.gpus) == {GpuId("n1", index) for index in range(5)}
    assert not [gpu for gpu in machine.roll.assigned if gpu.node == "n2"]
    assert machine.handle(seen(epoch=2, serves=WHOLE), 5.0)
    assert machine.state != "rolling"


def test_a_gpu_that_could_not_be_woken_is_not_rolled_back() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    machine.handle(IntensitySeen(effective=300.0), 0.0)
    machine.handle(seen(phase="empty"), 0.0)
    machine.handle(Decided(configuration=everywhere(HALVES, "n1")), 0.0)
    machine.handle(Sent(epoch=1), 0.0)
    told = _refusing(machine, 1, 3, 1.0)
    assert "gpu.rolled_back" not in [command.kind for command in told if isinstance(command, Say)]
    assert only(told, Decide)


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


def test_a_node_that_is_taken_by_hand_is_left_alone_until_it_is_given_back() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    serving(machine, WHOLE, "n1", "n2")
    commands = machine.handle(TakenSeen(nodes=frozenset({"n2"})), 2.0)
    assert isinstance(only(commands, Say), Say)
    ask = only(commands, Decide)
    assert isinstance(ask, Decide)
    assert (ask.trigger, {gpu.node for gpu in ask.gpus}) == ("fleet", {"n1"})
    send = only(machine.handle(Decided(configuration=everywhere(HALVES, "n1")), 2.0), Send)
    assert isinstance(send, Send)
    assert {gpu.node for gpu, _ in send.configuration.gpus} == {"n1"}
    machine.handle(Sent(epoch=2), 2.0)
    # It goes on telling what it does, which is nobody's business.
    assert machine.handle(seen("n2", epoch=9, serves=HALVES), 3.0) == []
    for epoch in range(2, 8):
        machine.handle(seen("n1", epoch=epoch), 3.0)
        if machine.state == "rolling":
            machine.handle(Sent(epoch=epoch + 1), 3.0)
    assert machine.state == "serving"
    released = machine.handle(TakenSeen(nodes=frozenset()), 4.0)
    assert [command.kind for command in released if isinstance(command, Say)] == ["node.released"]
    ask = only(machine.handle(seen("n2", epoch=9, serves=HALVES), 5.0), Decide)
    assert isinstance(ask, Decide)
    assert len(ask.gpus) == 10


def test_a_node_that_is_taken_while_a_plan_is_made_or_rolled_is_sent_nothing() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    serving(machine, WHOLE, "n1", "n2")
    machine.handle(LoadSeen(load=LoadEstimate.sure(8.0)), 2.0)
    machine.handle(TakenSeen(nodes=frozenset({"n2"})), 2.0)
    send = only(machine.handle(Decided(configuration=everywhere(HALVES, "n1", "n2")), 2.0), Send)
    assert isinstance(send, Send)
    assert {gpu.node for gpu in send.changed} == {"n1"}
    assert {gpu.node for gpu, _ in send.configuration.gpus} == {"n1"}
