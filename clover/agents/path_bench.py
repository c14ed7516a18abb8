"""Measures what a request takes beside its service: producer, server, node agent and back.

A producer sends requests with pauses through a bus to the request side of a node whose one instance answers at once.
What is left of their latency is the path. It is long enough to matter: inputs of some 100 kB are copied a few times,
and each process on the way has to wake up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from clover.agents.pool import InstancePool
from clover.agents.request_parts import RequestPorts, RequestSettings
from clover.agents.requests import RequestServer
from clover.bus.messages import Request
from clover.bus.port import Bus
from clover.core.application import ServiceModel
from clover.core.clock import Clock
from clover.core.configuration import InstanceKind
from clover.core.identifiers import uuid7
from clover.errors import NotReadyError
from clover.power.account import GpuAccount
from clover.serving.port import ServableRequest, Served
from mig.device import GpuInstance
from mig.placement import Placement
from mig.profiles import GpuModel

#: As long as a result usually is, bytes.
_RESULT = b"." * 512
_ANSWER_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSettings:
    """How much to measure.

    Attributes:
        requests: Requests that count.
        warm_up: Requests before those.
        think_s: Mean pause between an answer and the next request, exponential.
    """

    requests: int = 40
    warm_up: int = 5
    think_s: float = 0.1


class _AtOnce:
    """A worker that has nothing to do."""

    pid = None
    last_lines: tuple[str, ...] = ()
    energy_source = "none"
    fallback = ""

    async def serve(self, request: ServableRequest) -> Served:
        del request
        return Served(content_type="application/json", payload=_RESULT, service_ms=0.0, energy_j=0.0, busy_s=0.0)

    async def wait_died(self) -> str:
        return "it does not live"

    async def stop(self) -> None:
        return


async def measure_path(
    *,
    producer: Bus,
    node: Bus,
    model: ServiceModel,
    board: GpuModel,
    inputs: Sequence[tuple[str, bytes]],
    clock: Clock,
    rng: Random,
    settings: PathSettings,
) -> list[float]:
    """Return the latency of each request that counts, due time to receipt, in ms.

    Args:
        producer: Connection of the producer to a server that nobody else uses.
        node: Connection of the node to it.
        model: What the node serves.
        board: The board that it is said to serve on.
        inputs: (content type, payload), sent in turn.
        clock: Wall time.
        rng: Source of ids and pauses.
        settings: How much.

    Raises:
        NotReadyError: There was no answer in time.
        BusUnavailableError: The server is away.
    """
    server = RequestServer(_ports(node, model, board, clock, rng), RequestSettings())
    latencies_ms: list[float] = []
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.run())
        cursor = "0"
        for number in range(settings.warm_up + settings.requests):
            pause_s = rng.expovariate(1.0 / settings.think_s)
            due_ms = clock.now_ms() + 1e3 * pause_s
            await asyncio.sleep(pause_s)
            content_type, payload = inputs[number % len(inputs)]
            request = Request(
                id=uuid7(due_ms, rng),
                application=model.application.name,
                due_ms=due_ms,
                deadline_ms=due_ms + 1e3 * _ANSWER_WITHIN_S,
                reply_to="path",
                content_type=content_type,
                payload=payload,
            )
            await producer.admit([request], bound=1)
            cursor = await _answered(producer, cursor)
            if number >= settings.warm_up:
                latencies_ms.append(clock.now_ms() - due_ms)
        serving.cancel()
    return latencies_ms


async def _answered(producer: Bus, cursor: str) -> str:
    """Wait for a reply; return where to go on."""
    replies, cursor = await producer.replies("path", cursor, block_s=_ANSWER_WITHIN_S)
    if not replies:
        raise NotReadyError(f"no answer within {_ANSWER_WITHIN_S:g} s while the path of requests was measured")
    return cursor


def _ports(node: Bus, model: ServiceModel, board: GpuModel, clock: Clock, rng: Random) -> RequestPorts:
    whole = board.basic_profiles[0]
    pool = InstancePool(model, clock)
    device = GpuInstance(id=0, profile=whole, placement=Placement(start=0, size=whole.memory_slices), uuid="")
    pool.add(0, device, InstanceKind(whole.size, model.application.largest.name), _AtOnce())
    account = GpuAccount(idle_power_w=0.0, parked_power_w=0.0, compute_slices=board.compute_slices, now_s=clock.now_s())
    return RequestPorts(
        node="path",
        consumer="path",
        application=model.application,
        energy_source="none",
        bus=node,
        pool=pool,
        accounts={0: account},
        clock=clock,
        rng=rng,
    )
