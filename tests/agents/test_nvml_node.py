"""The node agent on real GPUs: over the fake driver, with worker processes that really start."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helper_support import a_helper
from nvml_fake import FakeNvml
from support import a_plan, a_target, eventually

from clover.agents.assembly import run_nvml_node
from clover.agents.fleet import Fleet, make_fleet
from clover.agents.node import NodeSettings
from clover.agents.nvml_node import count_usable, node_gpus
from clover.agents.system_clock import SystemClock
from clover.bus.memory import MemoryBus
from clover.bus.messages import DispatchRule, Event, GpuTarget, InstanceTarget, NodeTelemetry, Request
from clover.bus.port import Feed
from clover.catalog import load_recipes, load_service
from clover.core.outcome import Outcome
from clover.errors import NodeError
from clover.serving.availability import missing_packages
from clover.serving.port import InstanceSpec, ServableRequest, Served, Servicer, Worker
from clover.serving.process import TORCH_WORKER, ProcessServicer
from clover.serving.samples import sample_inputs
from mig.apply import apply
from mig.managed import ManagedGpu
from mig.nvml import NvmlDriver
from mig.patience import Patience
from mig.placement import place
from mig.profiles import gpu_model
from mig.store import FileStore, MemoryStore

FAKE_WORKER = (sys.executable, str(Path(__file__).parents[1] / "serving" / "fake_worker.py"))
A100, A30 = gpu_model("a100-40gb"), gpu_model("a30")


@pytest.fixture(autouse=True)
def _own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOVER_MIG_STATE", str(tmp_path / "records"))


def within(body: Callable[[], object], limit_s: float = 60.0) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(limit_s):
            await body()  # pyright: ignore[reportGeneralTypeIssues]

    asyncio.run(bounded())


# --- opening


def test_gpus_that_cannot_be_used_are_fenced_and_the_others_locked(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)
    fake_nvml.add_gpu(A100, mode=False)
    fake_nvml.add_gpu(A30)
    fake_nvml.add_gpu(A100, supports_mig=False)
    for _ in range(3):
        fake_nvml.add_gpu(A100)
    fake_nvml.set_activation(6, "after_reset")

    async def run() -> None:
        store = FileStore()
        async with NvmlDriver() as driver:
            gpus = await driver.gpus()
            seven = place(A100.profile("7g"), 0)
            await gpus[4].create(seven.profile, seven.placement)
            held = ManagedGpu(gpus[5], store)
        with held:
            async with node_gpus(None, board="a100-40gb") as opened:
                assert [gpu.index for gpu in opened.gpus] == [0, 6]
                fenced = {notice.gpu: notice.reason for notice in opened.notices if notice.kind == "gpu.fenced"}
                assert sorted(fenced) == [1, 2, 3, 4, 5]
                assert "MIG mode is off" in fenced[1]
                assert "board a30: expected a100-40gb" in fenced[2]
                assert "were not created here" in fenced[4]
                assert "is managed by process" in fenced[5]
                # Somebody else is refused as long as the agent runs.
                second = ManagedGpu(opened.gpus[0], FileStore())
                with pytest.raises(Exception, match="is managed by process"), second:
                    pass
        assert await count_usable(None, "a100-40gb") == 4

    within(run)


def test_a_node_without_a_usable_gpu_says_why_of_each(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100, mode=False)
    fake_nvml.add_gpu(A30)

    async def run() -> None:
        with pytest.raises(NodeError, match=r"MIG mode is off.*; GPU 1: board a30") as caught:
            async with node_gpus(None, board="a100-40gb"):
                pass
        assert "clover mig enable" in caught.value.hint
        with pytest.raises(NodeError, match="MIG mode is off"):
            await count_usable(None, "a100-40gb")

    within(run)


def test_what_is_ours_is_taken_over_and_what_is_half_made_goes(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)

    async def run() -> None:
        store = MemoryStore()
        async with NvmlDriver() as driver:
            (gpu,) = await driver.gpus()
            made = (await apply(gpu, ("4g", "3g"), store)).instances
            assert made is not None
        async with node_gpus(None, board="a100-40gb", store=store) as opened:
            assert await opened.gpus[0].instances() == made
            assert [notice.kind for notice in opened.notices] == ["gpu.adopted"]
            assert opened.gpus[0].record.apply is None

    within(run)


# --- running


class HoldingServicer:
    """Starts real processes, and plays to the driver what CUDA would: each holds its device until it has ended."""

    def __init__(self, fake: FakeNvml, inner: Servicer) -> None:
        self._fake = fake
        self._inner = inner
        self.held: dict[str, tuple[int, int]] = {}
        self.started: list[InstanceSpec] = []

    @property
    def energy_source(self) -> str:
        return self._inner.energy_source

    async def start(self, spec: InstanceSpec) -> Worker:
        self.started.append(spec)
        # The device must be there before the process that is told to use it.
        assert spec.device in devices(self._fake), f"{spec.name} is started on a device that is not there"
        instance_id = devices(self._fake)[spec.device]
        worker = await self._inner.start(spec)
        assert worker.pid is not None
        self._fake.use(0, instance_id, pid=worker.pid)
        self.held[spec.device] = (instance_id, worker.pid)
        return HoldingWorker(self, worker, spec.device)

    def left(self, device: str) -> None:
        if held := self.held.pop(device, None):
            self._fake.leave(0, held[0])

    async def close(self) -> None:
        await self._inner.close()
        for device in list(self.held):
            self.left(device)


class HoldingWorker:
    """A worker whose device is held until it has stopped."""

    def __init__(self, servicer: HoldingServicer, inner: Worker, device: str) -> None:
        self._servicer = servicer
        self._inner = inner
        self._device = device

    @property
    def pid(self) -> int | None:
        return self._inner.pid

    @property
    def fallback(self) -> str:
        return self._inner.fallback

    @property
    def energy_source(self) -> str:
        return self._inner.energy_source

    @property
    def last_lines(self) -> tuple[str, ...]:
        return self._inner.last_lines

    async def serve(self, request: ServableRequest) -> Served:
        return await self._inner.serve(request)

    async def wait_died(self) -> str:
        return await self._inner.wait_died()

    async def stop(self) -> None:
        await self._inner.stop()
        self._servicer.left(self._device)


def devices(fake: FakeNvml) -> dict[str, int]:
    """Instance ids of the MIG devices that live now, by UUID, as any other process sees them."""
    import pynvml  # noqa: PLC0415, TID251 - a second reader beside the product

    del fake
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    found: dict[str, int] = {}
    for slot in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, slot)
        except pynvml.NVMLError_NotFound:
            continue
        found[pynvml.nvmlDeviceGetUUID(handle)] = pynvml.nvmlDeviceGetGpuInstanceId(handle)
    return found


class Node:
    """One node agent on the in-process bus, told what to be by the test."""

    def __init__(self, fake: FakeNvml, *, helper: Path | None = None, command: tuple[str, ...] = FAKE_WORKER) -> None:
        self.clock = SystemClock()
        self.bus = MemoryBus("test", self.clock.now_ms)
        self.stop = asyncio.Event()
        self.fleet: Fleet = make_fleet(
            backend="nvml", board="a100-40gb", model=load_service("efficientnet_lite", "cpu")
        )
        inner = ProcessServicer(
            command=command, recipes=load_recipes("efficientnet_lite"), table_j=lambda _variant: 1.0
        )
        self.servicer = HoldingServicer(fake, inner)
        self._helper = helper
        self._epoch = 0

    async def run(self) -> None:
        await run_nvml_node(
            NodeSettings(name="n1", backend="nvml", telemetry_s=0.1),
            fleet=self.fleet,
            helper=self._helper,
            gpus=None,
            bus=self.bus,
            clock=self.clock,
            seed=1,
            servicer=lambda: self.servicer,
            stop=self.stop,
            patience=Patience(total_s=0.5),
        )

    async def want(self, **instances: str) -> NodeTelemetry:
        """Send a target (`g3="lite0"`) and wait until the node has applied it or failed."""
        wanted = tuple(InstanceTarget(profile=f"{name[1]}g", variant=variant) for name, variant in instances.items())
        gpu = GpuTarget(index=0, mode="serving" if wanted else "parked", instances=wanted)
        target = a_target(application="efficientnet_lite", gpus=(gpu,), dispatch=DispatchRule())
        assert await self.bus.acquire_lease("test", ttl_s=3600.0)
        epoch = await self.bus.publish_plan("test", a_plan(application="efficientnet_lite"), [target])
        assert epoch is not None
        states: list[NodeTelemetry] = []

        async def settled() -> bool:
            state = (await self.bus.node_states()).get("n1")
            states.extend([state] if state else [])
            return state is not None and (
                state.applied_epoch == epoch or (state.epoch == epoch and state.gpus[0].phase == "failed")
            )

        await eventually(settled, limit_s=30.0)
        return states[-1]

    async def events(self) -> list[Event]:
        entries = await self.bus.follow({Feed.EVENTS: "0-0"}, block_s=0.01)
        return [entry.message for entry in entries if isinstance(entry.message, Event)]


def test_workers_start_after_creation_and_end_before_destruction(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)
    fake_nvml.set_energy(0, 5_000_000)

    async def run() -> None:
        node = Node(fake_nvml)
        async with asyncio.TaskGroup() as group:
            group.create_task(node.run())
            first = await node.want(g7="lite2")
            assert (first.gpus[0].phase, first.mig_changes) == ("serving", 1)
            second = await node.want(g4="lite2", g3="lite0")
            assert second.gpus[0].phase == "serving", second.gpus[0].reason
            kept = {each.profile: each.uuid for each in second.gpus[0].instances}
            # The 3g stays although a process holds it; only the 4g goes.
            third = await node.want(g3="lite0", g2="lite0", g1="lite0")
            assert {each.profile: each.uuid for each in third.gpus[0].instances}["3g"] == kept["3g"]
            assert set(node.servicer.held) == set(devices(fake_nvml))
            assert {spec.device for spec in node.servicer.started} >= set(devices(fake_nvml))
            assert all(spec.memory_mib and spec.multiprocessors for spec in node.servicer.started)
            fake_nvml.set_energy(0, 5_050_000)

            async def metered() -> bool:
                state = (await node.bus.node_states())["n1"]
                energy = state.gpus[0].energy
                parts = energy.idle_j + energy.unallocated_j + energy.transition_j + sum(energy.requests_j.values())
                return abs(parts - 50.0) < 1e-6 and state.energy_source == "nvml"

            await eventually(metered)
            node.stop.set()
        assert node.servicer.held == {}

    within(run)


def test_a_request_is_answered_by_a_process_on_the_device_that_was_created_for_it(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)

    async def run() -> None:
        node = Node(fake_nvml)
        async with asyncio.TaskGroup() as group:
            group.create_task(node.run())
            await node.want(g7="lite2")
            (uuid,) = devices(fake_nvml)
            ((_, pid),) = node.servicer.held.values()
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")  # noqa: ASYNC240 - at once
            assert f"CUDA_VISIBLE_DEVICES={uuid}".encode() in environment
            await _ask(node, b"abc")
            replies, _ = await node.bus.replies("p", "0-0", block_s=20.0)
            assert (replies[0].outcome, replies[0].payload) == (Outcome.OK, b"cba")
            assert (replies[0].energy_source, replies[0].energy_j) == ("estimate:table", 1.0)
            node.stop.set()

    within(run)


async def _ask(node: Node, payload: bytes) -> None:
    now = node.clock.now_ms()
    request = Request(
        id="r1", application="efficientnet_lite", due_ms=now, deadline_ms=now + 60e3, reply_to="p", payload=payload,
    )  # fmt: skip
    await node.bus.admit([request], bound=10)


def test_an_agent_that_starts_again_keeps_what_it_had(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)

    async def run() -> None:
        uuids: list[set[str]] = []
        for _ in range(2):
            node = Node(fake_nvml)
            async with asyncio.TaskGroup() as group:
                group.create_task(node.run())
                state = await node.want(g4="lite2", g3="lite0")
                assert state.gpus[0].phase == "serving"
                uuids.append({each.uuid for each in state.gpus[0].instances})
                kinds = [event.kind for event in await node.events()]
                node.stop.set()
        assert uuids[0] == uuids[1]
        assert (state.mig_changes, "gpu.adopted" in kinds) == (0, True)

    within(run)


def test_an_instance_that_somebody_else_holds_fails_the_change_and_the_rest_serves_on(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)

    async def run() -> None:
        node = Node(fake_nvml)
        async with asyncio.TaskGroup() as group:
            group.create_task(node.run())
            await node.want(g4="lite2", g3="lite0")
            four = next(spec.device for spec in node.servicer.started if spec.profile == "4g")
            stranger = devices(fake_nvml)[four]
            node.servicer.held.pop(four)
            failed = await node.want(g3="lite0", g2="lite0")
            assert failed.gpus[0].phase == "failed"
            assert f"instance {stranger} is in use by process" in failed.gpus[0].reason
            assert [each.profile for each in failed.gpus[0].instances] == ["3g"]
            fake_nvml.leave(0, stranger)

            async def serving() -> bool:
                return (await node.bus.node_states())["n1"].gpus[0].phase == "serving"

            await eventually(serving, limit_s=30.0)
            node.stop.set()

    within(run, 90.0)


def test_an_agent_without_rights_works_through_a_helper(fake_nvml: FakeNvml, tmp_path: Path) -> None:
    fake_nvml.add_gpu(A100)
    path = tmp_path / "helper.sock"

    async def run() -> None:
        async with NvmlDriver() as driver, a_helper(path, await driver.gpus()):
            node = Node(fake_nvml, helper=path)
            async with asyncio.TaskGroup() as group:
                group.create_task(node.run())
                state = await node.want(g4="lite2", g3="lite0")
                assert state.gpus[0].phase == "serving"
                assert {each.uuid for each in state.gpus[0].instances} == set(devices(fake_nvml))
                assert any("through the helper" in event.reason for event in await node.events())
                node.stop.set()

    within(run)


@pytest.mark.models
@pytest.mark.skipif(bool(missing_packages()), reason="needs the `models` extra")
def test_real_models_without_cuda_answer_from_the_cpu_and_everything_says_so(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)
    fake_nvml.set_energy(0, 5_000_000)

    async def run() -> None:
        node = Node(fake_nvml, command=TORCH_WORKER)
        async with asyncio.TaskGroup() as group:
            group.create_task(node.run())
            state = await node.want(g4="lite1", g3="lite0")
            assert state.gpus[0].phase == "serving", state.gpus[0].reason
            for instance in state.gpus[0].instances:
                assert f"finds no CUDA device {instance.uuid}" in instance.fallback
            fallbacks = [event for event in await node.events() if event.kind == "worker.fallback"]
            assert len(fallbacks) == 2
            await _ask(node, sample_inputs()[0].payload)
            replies, _ = await node.bus.replies("p", "0-0", block_s=20.0)
            assert replies[0].outcome is Outcome.OK
            assert json.loads(replies[0].payload)["label"]
            assert replies[0].energy_source == "estimate:tdp"

            async def marked() -> bool:
                now = (await node.bus.node_states())["n1"]
                return now.energy_source == "estimate:tdp+nvml" and bool(now.gpus[0].energy.requests_j)

            await eventually(marked)
            node.stop.set()

    within(run, 110.0)
