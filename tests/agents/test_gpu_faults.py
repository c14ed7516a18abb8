"""Nodes and GPUs that fail or do not belong, the real agents in virtual time: planned without, and with again."""

from __future__ import annotations

import asyncio

import pytest
from control_stage import MODEL, Stage, check, pin_all, play, settings

from clover.agents.assembly import make_node
from clover.agents.control_writer import ControlWriter
from clover.agents.fleet import make_fleet
from clover.agents.gpu_runner import GpuRunner
from clover.agents.node import NodeSettings
from clover.core.configuration import GpuConfiguration, GpuId
from clover.core.control import Send
from clover.serving.port import InstanceSpec, ServingError
from clover.serving.simulated import SimulatedServicer, SimulatedWorker
from clover.sim.world import World


def test_a_gpu_that_never_becomes_ready_is_fenced_off_and_comes_back_when_it_is_healthy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = {"is": False}
    change = GpuRunner._change

    async def change_(self: GpuRunner, wanted: GpuConfiguration, watchers: asyncio.TaskGroup) -> None:
        if broken["is"] and self.index == 2:
            raise ServingError("the driver does not answer")
        await change(self, wanted, watchers)

    monkeypatch.setattr(GpuRunner, "_change", change_)

    async def script(stage: Stage) -> None:
        await asyncio.sleep(60.0)
        broken["is"] = True
        await stage.world.bus.set_override(pin_all("7g", "large"))
        await asyncio.sleep(200.0)
        broken["is"] = False

    result, events = play(settings(duration_s=600.0), script)
    kinds = check(result, events, most_plans=16)
    assert kinds["gpu.fenced"] >= 2
    assert kinds["gpu.returned"] >= 2
    assert {event.subject for event in events if event.kind == "gpu.fenced"} == {"n1/gpu2", "n2/gpu2"}
    assert result["late_pct"] <= 5.0


def test_a_gpu_that_cannot_become_what_is_wanted_is_rolled_back_and_goes_on_serving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change = GpuRunner._change
    refused: list[GpuConfiguration] = []

    async def change_(self: GpuRunner, wanted: GpuConfiguration, watchers: asyncio.TaskGroup) -> None:
        if self.index == 2 and self._ports.node == "n1" and ":large" in str(wanted):
            refused.append(wanted)
            raise ServingError("this partition cannot be made")
        await change(self, wanted, watchers)

    monkeypatch.setattr(GpuRunner, "_change", change_)

    async def script(stage: Stage) -> None:
        await asyncio.sleep(60.0)
        await stage.world.bus.set_override(pin_all("7g", "large"))

    result, events = play(settings(scheme="base", duration_s=180.0), script)
    kinds = check(result, events)
    assert refused
    assert kinds["gpu.fenced"] >= 1
    back = next(event for event in events if event.kind == "gpu.rolled_back")
    assert (back.subject, "7g:xxlarge" in back.reason) == ("n1/gpu2", True)
    serves = [e.reason for e in events if e.kind == "gpu.serving" and e.subject == "n1/gpu2" and e.at_ms > back.at_ms]
    assert serves[0] == "7g:xxlarge"
    assert result["late_pct"] <= 5.0


def test_a_gpu_that_fails_after_a_change_of_controller_is_rolled_back_and_planned_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send, change = ControlWriter.send, GpuRunner._change
    victims: list[asyncio.Task[None]] = []

    async def send_(self: ControlWriter, step: Send, *, above: int) -> int:
        epoch = await send(self, step, above=above)
        if victims and GpuId("n1", 2) in step.changed:
            victims.pop().cancel()
            await asyncio.sleep(0)
        return epoch

    async def change_(self: GpuRunner, wanted: GpuConfiguration, watchers: asyncio.TaskGroup) -> None:
        if self.index == 2 and self._ports.node == "n1" and ":large" in str(wanted):
            raise ServingError("this partition cannot be made")
        await change(self, wanted, watchers)

    monkeypatch.setattr(ControlWriter, "send", send_)
    monkeypatch.setattr(GpuRunner, "_change", change_)

    async def script(stage: Stage) -> None:
        await asyncio.sleep(60.0)
        victims.append(stage.tasks["first"])
        await stage.world.bus.set_override(pin_all("7g", "large"))
        stage.group.create_task(stage.world.controller(name="second"))

    result, events = play(settings(scheme="base", duration_s=240.0), script)
    kinds = check(result, events)
    assert not victims
    told = [event.kind for event in events]
    assert kinds["controller.took_over"] == 1
    assert told.index("controller.took_over") < told.index("gpu.fenced") < told.index("gpu.rolled_back")
    back = next(event for event in events if event.kind == "gpu.rolled_back")
    assert (back.subject, "7g:xxlarge" in back.reason) == ("n1/gpu2", True)
    after = [event for event in events if event.at_ms > back.at_ms]
    serves = [event.reason for event in after if event.kind == "gpu.serving" and event.subject == "n1/gpu2"]
    assert serves[0] == "7g:xxlarge"
    assert any(event.kind == "decision" and event.data["trigger"] == "fleet" for event in events)
    # The others came to what was wanted all the same.
    assert [e.reason for e in events if e.kind == "gpu.serving" and e.subject == "n2/gpu3"][-1] == "7g:large"
    assert result["late_pct"] <= 5.0


def test_a_gpu_whose_workers_die_again_and_again_is_fenced_off(monkeypatch: pytest.MonkeyPatch) -> None:
    looping = {"is": True}
    start = SimulatedServicer.start

    async def start_(self: SimulatedServicer, spec: InstanceSpec) -> SimulatedWorker:
        worker = await start(self, spec)
        if looping["is"] and spec.name.startswith("n1/gpu1/"):
            asyncio.get_running_loop().call_later(3.0, worker.kill, "exit code 3")
        return worker

    monkeypatch.setattr(SimulatedServicer, "start", start_)

    async def script(_: Stage) -> None:
        await asyncio.sleep(240.0)
        looping["is"] = False

    result, events = play(settings(scheme="base", duration_s=600.0), script)
    kinds = check(result, events)
    assert {event.subject for event in events if event.kind in {"gpu.fenced", "worker.died"}} == {"n1/gpu1"}
    assert (kinds["gpu.fenced"], kinds["gpu.returned"]) == (1, 1)
    # Tries grow rarer: with pauses of at most half a second there would be about sixty.
    assert 4 <= kinds["worker.died"] <= 16
    # The first, and one each without it and with it again.
    assert kinds["decision"] <= 4
    assert result["late_pct"] <= 5.0


class OtherKind(World):
    """The second node is of another kind."""

    backend, board = "sim", "a100-40gb"

    async def node(self, index: int, stop: asyncio.Event | None = None) -> None:
        if index == 0:
            await super().node(index, stop)
            return
        agent = make_node(
            NodeSettings(name=f"n{index + 1}", backend=self.backend, target_block_s=3600.0),
            fleet=make_fleet(backend="sim", board=self.board, model=MODEL),
            gpus=self.settings.gpus[index],
            bus=self.bus,
            clock=self.clock,
            seed=index,
        )
        await agent.run(stop or self.stop)


class OtherBoard(OtherKind):
    board = "h100-80gb"


class Emulated(OtherKind):
    backend = "cpu"


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        (OtherBoard, "board 'h100-80gb': expected 'a100-40gb', which plans are made for"),
        (Emulated, "backend cpu: expected sim or nvml, whose performance table plans are made with"),
    ],
)
def test_a_node_of_another_kind_is_refused_and_the_rest_goes_on(world: type[World], reason: str) -> None:
    targets: list[object] = []

    async def script(stage: Stage) -> None:
        await asyncio.sleep(60.0)
        await stage.world.bus.set_override(pin_all("7g", "large", nodes=1))
        await asyncio.sleep(100.0)
        targets.append(await stage.world.bus.target("n2"))

    result, events = play(settings(scheme="base", duration_s=180.0), script, world)
    kinds = check(result, events)
    refused = [event for event in events if event.kind == "node.refused"]
    assert [(event.subject, event.reason) for event in refused] == [("n2", reason)]
    assert targets == [None]
    assert not [event for event in events if event.kind.startswith("gpu.") and event.subject.startswith("n2")]
    assert kinds["gpu.fenced"] == kinds["node.lost"] == kinds["target.refused"] == 0
    moved = [event.reason for event in events if event.kind == "gpu.serving" and event.subject == "n1/gpu3"]
    assert moved[-1] == "7g:large"
    assert result["late_pct"] <= 5.0
