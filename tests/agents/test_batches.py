"""Requests served together, in virtual time: each keeps its own reply, failure, expiry and part of the energy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from test_request_server import AWorker, Node, replies, requests, virtually

from clover.agents.requests import RequestServer
from clover.bus.memory import MemoryBus
from clover.bus.messages import Reply, Request
from clover.core.batching import Batching
from clover.core.outcome import Outcome
from clover.serving.port import InvalidInputError, OutOfMemoryError, Served, ServingError, WorkerDiedError
from clover.sim.clock import EPOCH_S, VirtualClock


class BatchWorker(AWorker):
    """Takes the same time for a batch as for one; some requests are bad, too large, or deadly."""

    def __init__(self, seconds: float, *, batch_ms: float | None = 200.0, **faults: str) -> None:
        super().__init__(seconds)
        self.batch_ms = batch_ms
        self.faults = faults
        self.batches: list[list[str]] = []
        self.at_ms: list[float] = []

    async def serve(self, request: Request) -> Served:
        [answer] = await self.serve_together([request])
        if isinstance(answer, ServingError):
            raise answer
        return answer

    async def serve_together(self, asked: Sequence[Request]) -> list[Served | ServingError]:
        self.batches.append([request.id for request in asked])
        self.at_ms.append((asyncio.get_running_loop().time()) * 1e3)
        await asyncio.sleep(self.seconds)
        if "dies" in {self.faults.get(request.id) for request in asked}:
            raise WorkerDiedError("killed")
        return [self._answer(request, len(asked)) for request in asked]

    def _answer(self, request: Request, size: int) -> Served | ServingError:
        match self.faults.get(request.id):
            case "bad":
                return InvalidInputError("not a picture")
            case "large":
                return OutOfMemoryError("out of memory")
            case _:
                return Served(
                    content_type="text/plain",
                    payload=request.id.encode(),
                    service_ms=self.seconds * 1e3,
                    energy_j=3.0 / size,
                    busy_s=0.0,
                )


def a_node(bus: MemoryBus, clock: VirtualClock, size: int, delay_s: float = 0.0, sla_ms: float | None = None) -> Node:
    node = Node("n1", bus, clock)
    node.ports.batching = Batching(max_batch_size=size, max_queue_delay_s=delay_s)
    node.server = RequestServer(node.ports, node.server._settings)
    node.server.follow(0, sla_ms)
    return node


async def by_id(bus: MemoryBus) -> dict[str, Reply]:
    found = await replies(bus)
    assert len({reply.id for reply in found}) == len(found)
    return {reply.id: reply for reply in found}


def test_what_waits_for_one_instance_is_served_together_and_each_is_answered() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = a_node(bus, clock, 4)
        worker = BatchWorker(0.1)
        instance = node.add(worker)
        await bus.admit(requests(10), bound=20)
        async with node.running():
            await asyncio.sleep(2.0)
        assert [len(batch) for batch in worker.batches] == [4, 4, 2]
        answered = await by_id(bus)
        assert {name: reply.payload.decode() for name, reply in answered.items()} == {n: n for n in answered}
        assert len(answered) == 10
        # Nothing of a batch's energy is lost or counted twice, and the instance was busy once per batch.
        assert sum(reply.energy_j or 0.0 for reply in answered.values()) == 3 * 3.0
        energy = node.ports.accounts[0].read(clock.now_s())
        assert sum(energy.requests_j.values()) == 3 * 3.0
        assert sum(energy.answered.values()) == instance.served == sum(node.pool.begun.values()) == 10
        assert abs(instance.busy_s - 0.3) < 1e-9
        assert node.pool.in_work == node.server.in_flight == 0

    virtually(test)


def test_idle_instances_come_before_larger_batches() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = a_node(bus, clock, 4, delay_s=0.05)
        workers = [BatchWorker(0.1), BatchWorker(0.1)]
        for worker in workers:
            node.add(worker)
        await bus.admit(requests(3), bound=20)
        async with node.running():
            await asyncio.sleep(1.0)
        assert sorted(len(batch) for worker in workers for batch in worker.batches) == [1, 2]

    virtually(test)


def test_the_first_waits_for_others_no_longer_than_allowed_and_not_when_full() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = a_node(bus, clock, 3, delay_s=0.05)
        worker = BatchWorker(0.1)
        node.add(worker)
        first, second, *late = requests(6)
        async with node.running():
            await asyncio.sleep(0.2)
            began_ms = asyncio.get_running_loop().time() * 1e3
            await bus.admit([now(first, clock)], bound=20)
            await asyncio.sleep(0.03)
            await bus.admit([now(second, clock)], bound=20)
            await asyncio.sleep(0.5)
            full_ms = asyncio.get_running_loop().time() * 1e3
            await bus.admit([now(request, clock) for request in late[:3]], bound=20)
            await asyncio.sleep(0.5)
        assert worker.batches == [["r0", "r1"], ["r2", "r3", "r4"]]
        # With room it began when the first had waited for 50 ms; the full one at once.
        assert abs(worker.at_ms[0] - began_ms - 50.0) < 2.0
        assert worker.at_ms[1] - full_ms < 2.0

    virtually(test)


def now(request: Request, clock: VirtualClock, *, deadline_s: float = 30.0) -> Request:
    at_ms = clock.now_ms()
    return msgspec.structs.replace(request, due_ms=at_ms, deadline_ms=at_ms + deadline_s * 1e3)


def test_a_deadline_is_not_waited_away() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = a_node(bus, clock, 4, delay_s=0.5)
        worker = BatchWorker(0.1, batch_ms=150.0)
        node.add(worker)
        async with node.running():
            await asyncio.sleep(0.2)
            began_ms = asyncio.get_running_loop().time() * 1e3
            await bus.admit([now(requests(1)[0], clock, deadline_s=0.2)], bound=20)
            await asyncio.sleep(1.0)
        assert abs(worker.at_ms[0] - began_ms - 50.0) < 2.0
        assert (await by_id(bus))["r0"].outcome is Outcome.OK

    virtually(test)


def test_an_expired_request_is_in_no_batch() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = a_node(bus, clock, 4)
        worker = BatchWorker(0.1)
        node.add(worker)
        gone = requests(1, deadline_ms=EPOCH_S * 1e3 - 1.0)[0]
        await bus.admit([*requests(3)[1:], gone], bound=20)
        async with node.running():
            await asyncio.sleep(1.0)
        assert worker.batches == [["r1", "r2"]]
        assert (await by_id(bus))["r0"].outcome is Outcome.EXPIRED

    virtually(test)


def test_bad_and_large_inputs_fail_alone() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = a_node(bus, clock, 4)
        told: list[tuple[str, int, str]] = []
        node.ports.report = lambda *event: told.append(event)
        worker = BatchWorker(0.1, r1="bad", r2="large")
        node.add(worker)
        await bus.admit(requests(4), bound=20)
        async with node.running():
            await asyncio.sleep(1.0)
        assert worker.batches == [["r0", "r1", "r2", "r3"]]
        found = await by_id(bus)
        assert [found[f"r{n}"].outcome for n in range(4)] == [Outcome.OK, Outcome.FAILED, Outcome.FAILED, Outcome.OK]
        assert [found[f"r{n}"].reason for n in (1, 2)] == ["not a picture", "out of memory"]
        assert told == [("worker.out_of_memory", 0, "out of memory")]

    virtually(test)


def test_a_poisonous_request_buries_none_of_its_batch() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = a_node(bus, clock, 4)
        workers = [BatchWorker(0.1, r2="dies") for _ in range(8)]
        await bus.admit(requests(4), bound=20)
        async with node.running():
            for worker in workers:
                # Each that dies is replaced, as the runner of its GPU does it.
                node.add(worker)
                await asyncio.sleep(1.0)
        batches = [batch for worker in workers for batch in worker.batches]
        assert batches[0] == ["r0", "r1", "r2", "r3"]
        assert all(len(batch) == 1 for batch in batches[1:])
        assert batches.count(["r2"]) == 2
        found = await by_id(bus)
        assert {name: reply.outcome for name, reply in found.items()} == {
            "r0": Outcome.OK,
            "r1": Outcome.OK,
            "r2": Outcome.FAILED,
            "r3": Outcome.OK,
        }
        assert found["r2"].reason.startswith("3 tries")

    virtually(test)


def test_an_instance_whose_batches_break_the_promise_serves_singly_and_says_so_once() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = a_node(bus, clock, 4, delay_s=0.05, sla_ms=200.0)
        told: list[tuple[str, int, str]] = []
        node.ports.report = lambda *event: told.append(event)
        slow, tight = BatchWorker(0.1, batch_ms=150.0), BatchWorker(0.1, batch_ms=None)
        node.add(slow)
        node.add(tight)
        await bus.admit(requests(6), bound=20)
        async with node.running():
            await asyncio.sleep(2.0)
        assert {len(batch) for worker in (slow, tight) for batch in worker.batches} == {1}
        assert [kind for kind, _, _ in told] == ["worker.no_batches"] * 2
        assert told[0][2].endswith("4 take 150 ms and 50 ms of delay, expected below the SLA of 200 ms")
        assert told[1][2].endswith("4 do not fit into its memory")

    virtually(test)


def test_a_batch_that_is_forming_when_its_instance_must_go_is_served_and_joined_by_none() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = a_node(bus, clock, 4, delay_s=0.5)
        worker = BatchWorker(0.1)
        instance = node.add(worker)
        first, second = requests(2)
        async with node.running():
            await bus.admit([now(first, clock)], bound=20)
            await asyncio.sleep(0.1)
            async with asyncio.timeout(5.0), asyncio.TaskGroup() as group:
                drained = group.create_task(node.pool.drain(instance))
                await asyncio.sleep(0.05)
                await bus.admit([now(second, clock)], bound=20)
                await drained
        assert worker.batches == [["r0"]]
        assert list(await by_id(bus)) == ["r0"]

    virtually(test)


def test_workers_that_know_no_batches_serve_singly() -> None:
    async def test(bus: MemoryBus, clock: VirtualClock) -> None:
        node = a_node(bus, clock, 4)
        worker = AWorker(0.1)
        node.add(worker)
        await bus.admit(requests(3), bound=20)
        async with node.running():
            await asyncio.sleep(1.0)
        found: dict[str, Any] = await by_id(bus)
        assert sorted(found) == sorted(worker.served) == ["r0", "r1", "r2"]

    virtually(test)
