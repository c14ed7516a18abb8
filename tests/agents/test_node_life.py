"""A node agent through changes and failures, in virtual time: what stays serves on, what fails is tried again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from support import a_plan

from clover.agents.assembly import make_node
from clover.agents.fleet import make_fleet
from clover.agents.node import NodeNameTakenError, NodeSettings
from clover.agents.power_switch import PowerCommandError
from clover.agents.request_parts import RequestSettings
from clover.agents.translate import gpu_target
from clover.bus.memory import MemoryBus
from clover.bus.messages import DispatchRule, Event, GpuTelemetry, NodeTelemetry, Target
from clover.bus.values import Feed
from clover.catalog import load_service
from clover.core.configuration import OFF, PARKED, GpuConfiguration, InstanceKind
from clover.serving.port import InstanceSpec, ServingError, Worker
from clover.serving.simulated import SimulatedServicer, SimulatedWorker
from clover.sim.clock import VirtualClock, run_virtual

MODEL = load_service("albert", "a100-40gb")
FLEET = make_fleet(backend="sim", board="a100-40gb", model=MODEL)
SMALL, BIG = InstanceKind("1g", "base"), InstanceKind("3g", "large")
KEPT = InstanceKind("2g", "base")


class Troublesome(SimulatedServicer):
    """Refuses to start some workers, and lets others die a second after their start."""

    def __init__(self, *, refuse_gpu: int = -1, crash: str = "") -> None:
        super().__init__(model=MODEL, rng=Random(1), contention=lambda: 0.0)
        self.refuse_gpu, self.crash = refuse_gpu, crash
        self.started: list[tuple[float, InstanceSpec]] = []

    async def start(self, spec: InstanceSpec) -> Worker:
        self.started.append((asyncio.get_running_loop().time(), spec))
        if spec.gpu == self.refuse_gpu:
            raise ServingError(f"{spec.name} does not come up")
        worker = await super().start(spec)
        if spec.variant == self.crash:
            assert isinstance(worker, SimulatedWorker)
            asyncio.get_running_loop().call_later(1.0, worker.kill, "killed by signal 11")
        return worker


@dataclass(slots=True)
class Switch:
    """Notes what is switched; switching on fails as often as told."""

    fails: int = 0
    done: list[str] = field(default_factory=list)
    limits_s: tuple[float, float] = (20.0, 300.0)
    takes_s: float = 0.0
    on_takes_s: float = 0.0

    def may_take_s(self, *, on: bool) -> float:
        return self.limits_s[on]

    async def switch(self, gpu: Any, *, on: bool) -> None:
        self.done.append(f"{'on' if on else 'off'} {gpu.index}")
        await asyncio.sleep(self.takes_s)
        if on and self.fails:
            self.fails -= 1
            raise PowerCommandError("power_on of n1/gpu0 ended with code 7")


class Lab:
    """One node on a bus of its own."""

    def __init__(
        self, clock: VirtualClock, *, gpus: int = 2, servicer: Any = None, power: Any = None, backend: str = "sim"
    ) -> None:
        self.clock = clock
        self.bus = MemoryBus("world", clock.now_ms)
        self.gpus = gpus
        self._servicer, self._power, self._backend = servicer, power, backend

    def agent(self, seed: int = 1) -> Any:
        settings = NodeSettings(
            name="n1", backend=self._backend, target_block_s=3600.0, power=self._power,
            requests=RequestSettings(block_s=3600.0, lease_s=30.0),
        )  # fmt: skip
        servicer = (lambda: self._servicer) if self._servicer else None
        return make_node(
            settings, fleet=FLEET, gpus=self.gpus, bus=self.bus, clock=self.clock, seed=seed, servicer=servicer
        )

    @asynccontextmanager
    async def running(self) -> Any:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.agent().run(stop))
            yield
            stop.set()

    async def want(self, *gpus: GpuConfiguration) -> None:
        assert await self.bus.acquire_lease("c1", ttl_s=1e6)
        targets = tuple(gpu_target(index, gpu) for index, gpu in enumerate(gpus))
        target = Target(epoch=0, node="n1", application="albert", gpus=targets, dispatch=DispatchRule(), reason="")
        assert await self.bus.publish_plan("c1", a_plan(), [target]) is not None

    async def state(self) -> NodeTelemetry:
        return (await self.bus.node_states())["n1"]

    async def gpu(self, index: int) -> GpuTelemetry:
        return (await self.state()).gpus[index]

    async def events(self, kind: str) -> list[Event]:
        entries = await self.bus.follow({Feed.EVENTS: "0"}, block_s=0.0)
        return [one.message for one in entries if isinstance(one.message, Event) and one.message.kind == kind]


def virtually(test: Callable[[VirtualClock], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(VirtualClock(asyncio.get_running_loop()))

    run_virtual(main())


def serving(gpu: GpuTelemetry) -> list[tuple[str, str, str]]:
    return [(one.profile, one.variant, one.uuid) for one in gpu.instances if one.phase in {"idle", "busy"}]


def test_what_stays_serves_on_and_what_comes_is_there_before_anything_stops() -> None:
    async def test(clock: VirtualClock) -> None:
        lab = Lab(clock, gpus=1)
        async with lab.running():
            await lab.want(GpuConfiguration((KEPT, SMALL)))
            await asyncio.sleep(30.0)
            before = serving(await lab.gpu(0))
            assert sorted(kind for kind, *_ in before) == ["1g", "2g"]
            await lab.want(GpuConfiguration((KEPT, BIG)))
            seen: list[list[tuple[str, str, str]]] = []
            for _ in range(120):
                await asyncio.sleep(0.25)
                seen.append(serving(await lab.gpu(0)))
            assert min(len(one) for one in seen) == 2, "something stopped before its successor served"
            kept = next(one for one in before if one[0] == "2g")
            assert all(kept in one for one in seen)
            assert sorted(kind for kind, *_ in seen[-1]) == ["2g", "3g"]
            assert (await lab.gpu(0)).phase == "serving"

    virtually(test)


@pytest.mark.parametrize(("backend", "least"), [("cpu", 1), ("sim", 0)])
def test_a_new_variant_is_loaded_beside_the_old_one_where_workers_share_nothing(backend: str, least: int) -> None:
    async def test(clock: VirtualClock) -> None:
        lab = Lab(clock, gpus=1, backend=backend)
        async with lab.running():
            await lab.want(GpuConfiguration((InstanceKind("7g", "base"),)))
            await asyncio.sleep(30.0)
            await lab.want(GpuConfiguration((InstanceKind("7g", "large"),)))
            seen: list[list[str]] = []
            for _ in range(60):
                await asyncio.sleep(0.25)
                seen.append([variant for _, variant, _ in serving(await lab.gpu(0))])
                occupied = (await lab.gpu(0)).energy
                assert occupied.unallocated_j >= 0.0
            assert seen[-1] == ["large"]
            assert min(map(len, seen)) == least
            assert (await lab.state()).mig_changes == 1

    virtually(test)


def test_a_variant_that_does_not_start_leaves_the_old_one_serving_until_it_does() -> None:
    async def test(clock: VirtualClock) -> None:
        servicer = Troublesome()
        lab = Lab(clock, gpus=1, servicer=servicer, backend="cpu")
        async with lab.running():
            await lab.want(GpuConfiguration((InstanceKind("7g", "base"),)))
            await asyncio.sleep(30.0)
            servicer.refuse_gpu = 0
            await lab.want(GpuConfiguration((InstanceKind("7g", "large"),)))
            await asyncio.sleep(60.0)
            failed = await lab.gpu(0)
            assert failed.phase == "failed"
            assert [variant for _, variant, _ in serving(failed)] == ["base"]
            servicer.refuse_gpu = -1
            await asyncio.sleep(60.0)
            assert [variant for _, variant, _ in serving(await lab.gpu(0))] == ["large"]

    virtually(test)


def test_where_there_is_no_room_the_victims_go_first() -> None:
    async def test(clock: VirtualClock) -> None:
        lab = Lab(clock, gpus=1)
        async with lab.running():
            await lab.want(GpuConfiguration((InstanceKind("7g", "base"),)))
            await asyncio.sleep(30.0)
            await lab.want(GpuConfiguration((SMALL,) * 7))
            await asyncio.sleep(30.0)
            assert len(serving(await lab.gpu(0))) == 7
            assert (await lab.state()).mig_changes == 1 + 1 + 7

    virtually(test)


def test_a_worker_that_dies_again_and_again_is_tried_ever_less_and_the_others_serve_on() -> None:
    async def test(clock: VirtualClock) -> None:
        servicer = Troublesome(crash="large")
        lab = Lab(clock, servicer=servicer)
        async with lab.running():
            await lab.want(GpuConfiguration((BIG, SMALL)), GpuConfiguration((SMALL,)))
            await asyncio.sleep(300.0)
            first, second = await lab.gpu(0), await lab.gpu(1)
            assert second.phase == "serving"
            assert ("1g", "base") in [one[:2] for one in serving(first)]
            tries = [at for at, spec in servicer.started if spec.variant == "large"]
            pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
            assert 5 <= len(tries) <= 20
            assert pauses[-1] >= 30.0 > pauses[0]
            assert len([one for one in servicer.started if one[1].variant == "base"]) == 2
            told = await lab.events("worker.died")
            assert "killed by signal 11" in told[0].reason
            assert (await lab.events("gpu.failed"))[0].subject == "n1/gpu0"

    virtually(test)


def test_a_gpu_that_never_becomes_ready_is_told_and_does_not_hold_up_the_other() -> None:
    async def test(clock: VirtualClock) -> None:
        servicer = Troublesome(refuse_gpu=1)
        lab = Lab(clock, servicer=servicer)
        async with lab.running():
            await lab.want(GpuConfiguration((BIG,)), GpuConfiguration((BIG,)))
            await asyncio.sleep(200.0)
            assert (await lab.gpu(0)).phase == "serving"
            broken = await lab.gpu(1)
            assert broken.applied_epoch == 0
            assert "does not come up" in (await lab.events("gpu.failed"))[-1].reason
            assert (await lab.events("gpu.failed"))[-1].subject == "n1/gpu1"
            assert len([one for one in servicer.started if one[1].gpu == 1]) <= 15
            servicer.refuse_gpu = -1
            await asyncio.sleep(60.0)
            assert (await lab.gpu(1)).phase == "serving"

    virtually(test)


def test_parked_has_no_instances_and_waking_is_charged() -> None:
    async def test(clock: VirtualClock) -> None:
        lab = Lab(clock, gpus=1)
        async with lab.running():
            await lab.want(GpuConfiguration((BIG,)))
            await asyncio.sleep(30.0)
            await lab.want(PARKED)
            await asyncio.sleep(30.0)
            parked = await lab.gpu(0)
            assert (parked.phase, parked.instances) == ("parked", ())
            await asyncio.sleep(100.0)
            rest = (await lab.gpu(0)).energy.parked_j - parked.energy.parked_j
            assert rest == pytest.approx(100.0 * MODEL.table.parked_power_w, rel=0.02)
            before = await lab.state()
            await lab.want(GpuConfiguration((BIG,)))
            await asyncio.sleep(30.0)
            after = await lab.state()
            change = MODEL.table.change
            assert after.change_s - before.change_s == pytest.approx(change.create_s + change.worker_start_s, abs=0.1)
            woken = after.gpus[0].energy.transition_j - before.gpus[0].energy.transition_j
            assert woken > 0.5 * change.worker_start_s * MODEL.table.idle_power_w * 4 / 7

    virtually(test)


def test_power_is_cut_last_and_comes_first_and_a_failing_command_is_told_and_tried_again() -> None:
    async def test(clock: VirtualClock) -> None:
        power = Switch(fails=2)
        lab = Lab(clock, gpus=1, power=power)
        async with lab.running():
            await lab.want(GpuConfiguration((BIG,)))
            await asyncio.sleep(30.0)
            await lab.want(OFF)
            await asyncio.sleep(30.0)
            assert power.done == ["off 0"]
            assert (await lab.gpu(0)).phase == "off"
            await lab.want(GpuConfiguration((BIG,)))
            await asyncio.sleep(60.0)
            assert power.done == ["off 0", "on 0", "on 0", "on 0"]
            assert [one.reason for one in await lab.events("gpu.failed")] == [
                "power_on of n1/gpu0 ended with code 7"
            ] * 2
            assert (await lab.gpu(0)).phase == "serving"

    virtually(test)


def test_telemetry_says_while_a_power_command_runs_how_long_that_may_take() -> None:
    async def test(clock: VirtualClock) -> None:
        power = Switch(takes_s=15.0, on_takes_s=240.0)
        lab = Lab(clock, gpus=1, power=power)
        async with lab.running():
            await lab.want(GpuConfiguration((BIG,)))
            await asyncio.sleep(30.0)
            assert (await lab.gpu(0)).power_limit_s == 0.0
            assert (await lab.state()).power_on_s == 240.0
            for wanted, limit_s, phase in ((OFF, 20.0, "off"), (GpuConfiguration((BIG,)), 300.0, "serving")):
                await lab.want(wanted)
                await asyncio.sleep(14.0)
                gpu = await lab.gpu(0)
                assert (gpu.phase, gpu.power_limit_s) == ("changing", limit_s)
                await asyncio.sleep(30.0)
                gpu = await lab.gpu(0)
                assert (gpu.phase, gpu.power_limit_s) == (phase, 0.0)

    virtually(test)


def test_a_node_that_is_asked_to_stop_says_so_at_once_finishes_and_is_not_kept() -> None:
    async def test(clock: VirtualClock) -> None:
        lab = Lab(clock, gpus=1)
        async with lab.running():
            await lab.want(GpuConfiguration((BIG,)))
            await asyncio.sleep(30.0)
            assert set(await lab.bus.node_states()) == {"n1"}
        assert await lab.bus.node_states() == {}
        told = [one.message for one in await lab.bus.follow({Feed.TELEMETRY: "0"}, block_s=0.0)]
        leaving = [one.leaving for one in told if isinstance(one, NodeTelemetry)]
        assert leaving == sorted(leaving)
        assert leaving[-1]

    virtually(test)


def test_a_second_node_of_the_name_is_refused_and_a_returning_one_is_not() -> None:
    async def test(clock: VirtualClock) -> None:
        lab = Lab(clock, gpus=1)
        async with lab.running():
            await lab.want(GpuConfiguration((BIG,)))
            await asyncio.sleep(30.0)
            boot = (await lab.state()).boot_id
            with pytest.raises(NodeNameTakenError, match="another agent serves under this name"):
                await lab.agent(seed=2).run(asyncio.Event())
            await asyncio.sleep(5.0)
            assert (await lab.state()).boot_id == boot
        async with lab.running():
            await asyncio.sleep(30.0)
            assert (await lab.state()).boot_id != boot
            assert (await lab.gpu(0)).phase == "serving"

    virtually(test)
