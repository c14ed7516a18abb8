"""A node agent on the fake driver with workers that are real processes, told what to be by a test."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from nvml_fake import FakeNvml
from support import a_plan, a_target, eventually

from clover.agents.assembly import run_nvml_node
from clover.agents.fleet import Fleet, make_fleet
from clover.agents.node import NodeSettings
from clover.agents.system_clock import SystemClock
from clover.bus.memory import MemoryBus
from clover.bus.messages import DispatchRule, Event, GpuTarget, InstanceTarget, NodeTelemetry, Request
from clover.bus.values import Feed
from clover.catalog import load_recipes, load_service
from clover.serving.port import InstanceSpec, ServableRequest, Served, Servicer, Worker
from clover.serving.process import ProcessServicer
from mig.patience import Patience

FAKE_WORKER = (sys.executable, str(Path(__file__).parents[1] / "serving" / "fake_worker.py"))


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


async def ask(node: Node, payload: bytes) -> None:
    """Send a request, whose reply goes to the producer `p`."""
    now = node.clock.now_ms()
    request = Request(
        id="r1", application="efficientnet_lite", due_ms=now, deadline_ms=now + 60e3, reply_to="p", payload=payload,
    )  # fmt: skip
    await node.bus.admit([request], bound=10)


def within(body: Callable[[], object], limit_s: float = 60.0) -> None:
    """Run a test's body in an event loop, for so long at most."""

    async def bounded() -> None:
        async with asyncio.timeout(limit_s):
            await body()  # pyright: ignore[reportGeneralTypeIssues]

    asyncio.run(bounded())
