"""The controller's state machine and GPUs that fail to change, or that a power command switches."""

from __future__ import annotations

from machine_stage import HALVES, WHOLE, everywhere, only, seen, serving

from clover.core.configuration import OFF, Configuration, GpuId
from clover.core.control import (
    Command,
    Decide,
    Decided,
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
from clover.core.fencing import CHANGE_PATIENCE_S
from clover.core.guard import GuardSettings, SlaGuard
from clover.core.load import LoadEstimate
from clover.core.rolling import STEP_PATIENCE_S


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


def test_a_gpu_that_could_not_be_woken_is_not_rolled_back() -> None:
    machine = ControllerMachine(rate_rps=5.0)
    machine.handle(IntensitySeen(effective=300.0), 0.0)
    machine.handle(seen(phase="empty"), 0.0)
    machine.handle(Decided(configuration=everywhere(HALVES, "n1")), 0.0)
    machine.handle(Sent(epoch=1), 0.0)
    told = _refusing(machine, 1, 3, 1.0)
    assert "gpu.rolled_back" not in [command.kind for command in told if isinstance(command, Say)]
    assert only(told, Decide)
