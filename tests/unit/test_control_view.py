"""What the controller sees of what is published at any moment of its own start."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest
from support import a_checkpoint, intensity, run, telemetry

from clover.agents.control_view import ControlView, waking_s
from clover.agents.inbox import Inbox
from clover.agents.overriding import Overrides
from clover.agents.sampling import Sampler
from clover.agents.system_clock import SystemClock
from clover.bus.memory import MemoryBus
from clover.bus.port import Bus
from clover.catalog import load_service
from clover.core.belonging import Kind
from clover.core.calibration import Calibrator
from clover.core.control import IntensitySeen, LeavingSeen, NodeSeen
from clover.core.load import LoadEstimator

MODEL = load_service("albert", "a100-40gb")
READS = ("newest_id", "carbon_now", "node_states", "follow")


class AfterRead:
    """A bus on which something is published as soon as the `number`-th read has its answer."""

    def __init__(self, bus: MemoryBus, number: int, publish: Callable[[], Awaitable[None]]) -> None:
        self._bus = bus
        self._left = number
        self._publish = publish

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._bus, name)
        if name not in READS:
            return call

        async def read(*args: Any, **options: Any) -> Any:
            answer = await call(*args, **options)
            self._left -= 1
            if self._left == 0:
                await self._publish()
            return answer

        return read


def a_view(bus: Bus, inbox: Inbox) -> ControlView:
    calibrator = Calibrator()
    return ControlView(
        bus=bus,
        clock=SystemClock(),
        expected=Kind(application="albert", gpu_model="a100-40gb"),
        load=LoadEstimator(),
        sampler=Sampler(MODEL, calibrator),
        calibrator=calibrator,
        overrides=Overrides(lambda _: ""),
        put=inbox.put,
        calibrate=lambda _: None,
        tell=lambda *_: None,
        planned_rps=lambda: math.nan,
    )


@pytest.mark.parametrize("number", range(1, 6))
def test_what_is_published_between_any_two_reads_is_seen(number: int) -> None:
    async def scenario() -> None:
        memory, inbox = MemoryBus("view", SystemClock().now_ms), Inbox()

        async def publish() -> None:
            await memory.publish_carbon([intensity(321.0)], a_checkpoint())
            await memory.publish_telemetry(telemetry("n1"))

        view = a_view(cast("Bus", AfterRead(memory, number, publish)), inbox)
        following = asyncio.create_task(view.follow(block_s=0.05))
        try:
            async with asyncio.timeout(10.0):
                kinds = {type(await inbox.get()), type(await inbox.get())}
        finally:
            following.cancel()
        assert kinds == {IntensitySeen, NodeSeen}
        assert view.intensity is not None
        assert view.intensity.g_per_kwh == 321.0

    run(scenario())


def test_waking_takes_as_long_as_the_nodes_that_have_switched_gpus_off_say() -> None:
    on = msgspec.structs.replace(telemetry("n1"), power_on_s=90.0)
    assert waking_s([]) == waking_s([telemetry("n1"), on]) == 0.0
    off = msgspec.structs.replace(on.gpus[0], phase="off")
    slower = msgspec.structs.replace(on, node="n2", power_on_s=150.0, gpus=(*on.gpus, off))
    assert waking_s([on, slower]) == 150.0


def test_a_node_that_leaves_is_told_and_no_longer_looked_at() -> None:
    async def scenario() -> None:
        memory, inbox = MemoryBus("view", SystemClock().now_ms), Inbox()
        await memory.publish_telemetry(telemetry("n1"))
        view = a_view(memory, inbox)
        following = asyncio.create_task(view.follow(block_s=0.05))
        try:
            async with asyncio.timeout(10.0):
                assert isinstance(await inbox.get(), NodeSeen)
                assert set(view.nodes) == {"n1"}
                await memory.publish_telemetry(msgspec.structs.replace(telemetry("n1"), leaving=True))
                assert await inbox.get() == LeavingSeen(node="n1", boot_id="b1")
        finally:
            following.cancel()
        assert view.nodes == {}

    run(scenario())
