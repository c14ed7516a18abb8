"""The controller's state machine and nodes: that come, go, restart, belong to others or are taken by hand."""

from __future__ import annotations

import pytest
from machine_stage import HALVES, WHOLE, everywhere, only, seen, serving

from clover.core.belonging import Kind, why_foreign
from clover.core.configuration import GpuConfiguration, GpuId
from clover.core.control import (
    Command,
    Decide,
    Decided,
    ForeignSeen,
    IntensitySeen,
    LeavingSeen,
    LoadSeen,
    Say,
    Send,
    Sent,
    Settle,
    TakenSeen,
    Tick,
)
from clover.core.controller import ControllerMachine
from clover.core.load import LoadEstimate


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
