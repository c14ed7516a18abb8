"""The request side of a node in virtual time, on the in-process bus: what it takes, hands back, takes over, answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from support import a_request

from clover.agents.instance import Instance
from clover.agents.pool import InstancePool
from clover.agents.request_parts import RequestPorts, RequestSettings
from clover.agents.requests import RequestServer
from clover.bus.memory import MemoryBus
from clover.bus.messages import Reply, Request
from clover.bus.values import ALL_TIERS, Claimed, Delivery
from clover.catalog import load_service
from clover.core.configuration import InstanceKind
from clover.core.outcome import Outcome
from clover.errors import BusUnavailableError
from clover.power.account import GpuAccount
from clover.serving.port import InvalidInputError, OutOfMemoryError, Served, WorkerDiedError
from clover.sim.clock import EPOCH_S, VirtualClock, run_virtual
from mig.device import GpuInstance
from mig.placement import Placement
from mig.profiles import gpu_model

MODEL = load_service("albert", "a100-40gb")
VARIANT = MODEL.application.largest.name


class AWorker:
    """Answers after a while, or dies under every request."""

    pid = None
    last_lines = ()
    fallback = ""
    energy_source = "simulated"

    def __init__(self, seconds: float, *, dies: bool = False) -> None:
        self.seconds = seconds
        self.dies = dies
        self.served: list[str] = []

    async def serve(self, request: Request) -> Served:
        self.served.append(request.id)
        await asyncio.sleep(self.seconds)
        if self.dies:
            raise WorkerDiedError("killed")
        return Served(content_type="text/plain", payload=b"!", service_ms=self.seconds * 1e3, energy_j=1.0, busy_s=0.0)


class Node:
    """One node's request side, with instances that tests add and remove."""

    def __init__(self, name: str, bus: MemoryBus, clock: VirtualClock, **settings: Any) -> None:
        self.clock = clock
        self.bus = bus
        self.pool = InstancePool(MODEL, clock)
        board = gpu_model("a100-40gb")
        self.device = GpuInstance(id=0, profile=board.profile("7g"), placement=Placement(start=0, size=8), uuid="MIG-0")
        account = GpuAccount(idle_power_w=50, parked_power_w=25, compute_slices=7, now_s=clock.now_s())
        self.ports = RequestPorts(
            node=name, consumer=name, application=MODEL.application, energy_source="simulated", bus=bus,
            pool=self.pool, accounts={0: account}, clock=clock, rng=Random(name),
        )  # fmt: skip
        self.server = RequestServer(self.ports, RequestSettings(**settings))

    def add(self, worker: AWorker) -> Instance:
        return self.pool.add(0, self.device, InstanceKind("7g", VARIANT), worker)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.server.run())
            yield
            task.cancel()


def virtually(test: Callable[[MemoryBus, VirtualClock], Awaitable[None]]) -> None:
    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        await test(MemoryBus("world", clock.now_ms), clock)

    run_virtual(main())


def requests(number: int, **changes: Any) -> list[Request]:
    now_ms = EPOCH_S * 1e3
    return [a_request(f"r{i}", **{"due_ms": now_ms, "deadline_ms": now_ms + 30e3, **changes}) for i in range(number)]


async def replies(bus: MemoryBus) -> list[Reply]:
    return (await bus.replies("generator", "0", block_s=0))[0]


class FaultyWorker(AWorker):
    """Raises for the first requests what it was given, and then answers."""

    def __init__(self, seconds: float, *faults: Exception) -> None:
        super().__init__(seconds)
        self.faults = list(faults)

    async def serve(self, request: Request) -> Served:
        if self.faults:
            self.served.append(request.id)
            await asyncio.sleep(self.seconds)
            raise self.faults.pop(0)
        return await super().serve(request)


def test_out_of_memory_and_bad_input_fail_their_request_alone_and_at_once() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = Node("n1", bus, clock)
        told: list[tuple[str, int, str]] = []
        node.ports.report = lambda kind, gpu, reason: told.append((kind, gpu, reason))
        worker = FaultyWorker(
            0.1, OutOfMemoryError("gpu0/1g (xxlarge): out of memory"), InvalidInputError("not a picture")
        )
        other = AWorker(0.1)
        node.add(worker)
        node.add(other)
        await bus.admit(requests(6), bound=10)
        async with node.running():
            await asyncio.sleep(3.0)
        found = {reply.id: reply for reply in await replies(bus)}
        assert len(found) == len(await replies(bus)) == 6
        failed = {reply.reason for reply in found.values() if reply.outcome is Outcome.FAILED}
        assert failed == {"gpu0/1g (xxlarge): out of memory", "not a picture"}
        assert sum(reply.outcome is Outcome.OK for reply in found.values()) == 4
        # Neither was tried a second time, and neither instance was given up.
        assert sorted([*worker.served, *other.served]) == [f"r{i}" for i in range(6)]
        assert len(worker.served) > 2
        assert told == [("worker.out_of_memory", 0, "gpu0/1g (xxlarge): out of memory")]
        assert node.ports.accounts[0].read(clock.now_s()).answered == {VARIANT: 4}

    virtually(test)


def test_it_takes_no_more_than_can_begin_and_carries_the_trace_through() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = Node("n1", bus, clock)
        node.add(AWorker(1.0))
        await bus.admit(requests(3, traceparent="00-1-2-01"), bound=10)
        async with node.running():
            await asyncio.sleep(0.5)
            status = await bus.queue()
            assert (status.waiting, status.pending) == (2, 1)
            await asyncio.sleep(3.0)
        assert [reply.outcome for reply in await replies(bus)] == [Outcome.OK] * 3
        assert {reply.traceparent for reply in await replies(bus)} == {"00-1-2-01"}

    virtually(test)


def test_a_gpu_that_is_changed_hands_back_what_has_not_begun() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node, other = Node("n1", bus, clock), Node("n2", bus, clock)
        instance = node.add(AWorker(1.0))
        await bus.admit(requests(1), bound=10)
        # Taken for an instance that is gone when the request arrives.
        [taken] = await bus.pull("n1", count=1, block_s=0)
        await node.pool.drain(instance)
        worker = AWorker(1.0)
        other.add(worker)
        async with node.running(), other.running():
            await asyncio.sleep(4.0)
        assert worker.served == [taken.request.id]
        assert node.server.counts.handed_back == 1
        assert other.server.counts.claimed == 1
        [reply] = await replies(bus)
        assert reply.node == "n2"

    virtually(test)


def test_what_waits_behind_a_long_request_is_handed_back() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node, other = Node("n1", bus, clock), Node("n2", bus, clock)
        node.add(AWorker(20.0))
        await bus.admit(requests(2), bound=10)
        await bus.pull("n1", count=2, block_s=0)
        other.add(AWorker(0.1))
        async with node.running(), other.running():
            await asyncio.sleep(5.0)
            assert [(reply.id, reply.node) for reply in await replies(bus)] == [("r1", "n2")]
            await asyncio.sleep(20.0)
        assert [reply.id for reply in await replies(bus)] == ["r1", "r0"]

    virtually(test)


def test_what_was_handed_back_does_not_wait_until_nothing_new_comes() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = Node("n1", bus, clock)
        worker = AWorker(0.05)
        node.add(worker)
        await bus.admit(requests(200), bound=1000)
        await bus.hand_back("n9", await bus.pull("n9", count=5, block_s=0))
        async with node.running():
            # Before the timer that looks for what the dead have left.
            await asyncio.sleep(1.5)
            assert {f"r{number}" for number in range(5)} <= set(worker.served)
            assert len(worker.served) > 20
            assert (await bus.queue()).waiting > 100

    virtually(test)


def test_what_is_being_handed_back_does_not_begin_here_as_well() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = Node("n1", bus, clock)
        worker = AWorker(3.0)
        node.add(worker)
        give_up = bus.hand_back

        async def slowly(consumer: str, deliveries: Sequence[Delivery]) -> None:
            await asyncio.sleep(5.0)
            await give_up(consumer, deliveries)

        bus.hand_back = slowly  # pyright: ignore[reportAttributeAccessIssue]
        await bus.admit(requests(2), bound=10)
        await bus.pull("n1", count=2, block_s=0)
        async with node.running():
            # The only instance becomes free while the second request is being handed back.
            await asyncio.sleep(4.0)
            assert worker.served == ["r0"]
            await asyncio.sleep(16.0)
        assert worker.served == ["r0", "r1"]
        assert node.server.counts.handed_back == 1
        assert [reply.id for reply in await replies(bus)] == ["r0", "r1"]

    virtually(test)


def test_who_is_stopped_finishes_what_it_began_and_leaves_the_rest() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = Node("n1", bus, clock)
        node.add(AWorker(2.0))
        await bus.admit(requests(3), bound=10)
        await bus.pull("n1", count=2, block_s=0)
        async with node.running():
            await asyncio.sleep(0.1)
            node.server.stop_taking()
            async with asyncio.timeout(3.0):
                await node.server.drained()
        await node.server.leave()
        assert [reply.id for reply in await replies(bus)] == ["r0"]
        status = await bus.queue()
        assert (status.waiting, status.pending) == (1, 1)
        [back] = (await bus.claim("n2", min_idle_s=3600, count=5)).deliveries
        assert (back.request.id, back.times_delivered) == ("r1", 1)

    virtually(test)


def test_a_request_that_kills_its_workers_is_given_up() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = Node("n1", bus, clock)
        for _ in range(4):
            node.add(AWorker(0.1, dies=True))
        await bus.admit(requests(1), bound=10)
        async with node.running():
            await asyncio.sleep(5.0)
        [reply] = await replies(bus)
        assert reply.outcome is Outcome.FAILED
        assert "3 tries" in reply.reason
        [dead] = [one for _, one in bus.dead.after("0", 10)]
        assert dead.delivery.request.id == "r0"

    virtually(test)


def test_a_dead_worker_is_not_tried_again_with_the_same_request() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node, dying = Node("n1", bus, clock), AWorker(0.1, dies=True)
        node.add(dying)
        await bus.admit(requests(1), bound=10)
        async with node.running():
            await asyncio.sleep(0.5)
            node.add(AWorker(0.1))
            await asyncio.sleep(2.0)
        assert dying.served == ["r0"]
        assert [reply.outcome for reply in await replies(bus)] == [Outcome.OK]

    virtually(test)


def test_a_request_that_outlived_three_consumers_is_given_up() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        await bus.admit(requests(1), bound=10)
        await bus.pull("gone", count=1, block_s=0)
        for number in range(2):
            await bus.claim(f"gone{number}", min_idle_s=0, count=1)
        node = Node("n1", bus, clock)
        worker = AWorker(0.1)
        node.add(worker)
        async with node.running():
            await asyncio.sleep(10.0)
        [reply] = await replies(bus)
        assert (reply.outcome, worker.served) == (Outcome.FAILED, [])
        assert "delivered 4 times" in reply.reason

    virtually(test)


def test_the_deadline_is_kept_with_every_instance_busy_and_a_late_answer_is_suppressed() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = Node("n1", bus, clock)
        node.add(AWorker(10.0))
        await bus.admit(requests(2, deadline_ms=EPOCH_S * 1e3 + 3e3), bound=10)
        async with node.running():
            await asyncio.sleep(4.9)
            assert sorted((reply.id, reply.outcome) for reply in await replies(bus)) == [
                ("r0", Outcome.EXPIRED),
                ("r1", Outcome.EXPIRED),
            ]
            await asyncio.sleep(6.0)
        assert node.server.counts.suppressed == 1
        assert len(await replies(bus)) == 2

    virtually(test)


def test_an_expired_request_is_not_begun() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        await bus.admit(requests(1, deadline_ms=EPOCH_S * 1e3 - 1.0), bound=10)
        node = Node("n1", bus, clock)
        worker = AWorker(0.1)
        node.add(worker)
        async with node.running():
            await asyncio.sleep(0.05)
        assert ([reply.outcome for reply in await replies(bus)], worker.served) == ([Outcome.EXPIRED], [])

    virtually(test)


class CutOffBus(MemoryBus):
    """Takes entries and then says that the server did not answer."""

    cut = True

    async def claim(
        self, consumer: str, *, min_idle_s: float, count: int, tiers: Mapping[int, int] = ALL_TIERS
    ) -> Claimed:
        claimed = await super().claim(consumer, min_idle_s=min_idle_s, count=count, tiers=tiers)
        if claimed.deliveries and self.cut:
            self.cut = False
            raise BusUnavailableError("the answer was lost")
        return claimed


def test_a_claim_whose_answer_was_lost_is_found_in_the_own_list() -> None:
    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        bus = CutOffBus("world", clock.now_ms)
        node = Node("n1", bus, clock, lease_s=5.0)
        worker = AWorker(0.1)
        node.add(worker)
        await bus.admit(requests(1), bound=10)
        await bus.pull("dead", count=1, block_s=0)
        async with node.running():
            await asyncio.sleep(12.0)
        assert not bus.cut
        assert worker.served == ["r0"]
        assert [reply.outcome for reply in await replies(bus)] == [Outcome.OK]

    run_virtual(main())


def test_what_another_claimed_meanwhile_is_dropped_on_rereading() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = Node("n1", bus, clock, hold_s=60.0)
        slow = AWorker(3.0)
        node.add(slow)
        await bus.admit(requests(2), bound=10)
        await bus.pull("n1", count=2, block_s=0)
        async with node.running():
            await asyncio.sleep(0.1)
            claimed = (await bus.claim("n2", min_idle_s=0, count=9)).deliveries
            assert [one.request.id for one in claimed] == ["r0", "r1"]
            node.server._recover = True
            node.pool.changed.set()
            await asyncio.sleep(4.0)
        assert slow.served == ["r0"]

    virtually(test)
