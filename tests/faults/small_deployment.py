"""A deployment inside the test's process, on a real server: for faults that hit the server and not the processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support import eventually, persistently

from clover.agents.readiness import plan_in_force
from clover.agents.system_clock import SystemClock
from clover.bus.codec import decode_request
from clover.bus.key_names import Keys
from clover.bus.messages import PlanRecord
from clover.bus.redis import RedisBus, connect
from clover.core.outcome import Outcome
from clover.errors import BusUnavailableError
from clover.sim.faults.checker import Verdict, check
from clover.sim.faults.history import (
    Fault,
    HistoryList,
    Invoked,
    Removed,
    ReplySeen,
    Sample,
    now_ms,
)
from clover.sim.faults.process import AgentMaker, ProcessSettings, Role
from clover.sim.faults.recording import RecordingBus, as_bus
from clover.sim.faults.server import FaultyServer

DEPLOYMENT, PRODUCER = "small", "producer"
#: Generous: the machine may be very busy.
READY_S, LAST_ANSWER_S = 60.0, 60.0
#: The service is to be back this soon after a loss of data.
BACK_WITHIN_S = 10.0


class SmallDeployment:
    """One node with seven instances, a controller, a carbon monitor and a generator."""

    def __init__(self, server: FaultyServer, group: asyncio.TaskGroup, *, rate_rps: float, service_ms: float) -> None:
        self.server = server
        self.keys = Keys(DEPLOYMENT)
        self.history = HistoryList()
        self.bus: RedisBus = connect(server.url, DEPLOYMENT, "test")
        self._group = group
        self._rate_rps = rate_rps
        self._service_ms = service_ms
        self._clock = SystemClock()
        self._stops: list[asyncio.Event] = []
        self._generating: asyncio.Task[None] | None = None
        self._buses: list[RedisBus] = [self.bus]

    def start_agent(self, role: Role, name: str) -> tuple[asyncio.Task[None], asyncio.Event]:
        settings = ProcessSettings(
            role=role,
            name=name,
            url=self.server.url,
            deployment=DEPLOYMENT,
            folder="",
            service_ms=self._service_ms,
            rate_rps=self._rate_rps,
        )
        bus = connect(self.server.url, DEPLOYMENT, name)
        self._buses.append(bus)
        recorded = as_bus(RecordingBus(bus, self.history))
        stop = asyncio.Event()
        task = self._group.create_task(AgentMaker(settings, recorded, self._clock).work()(stop), name=name)
        return task, stop

    async def start(self) -> None:
        for role, name in (("node", "n1"), ("controller", "c1"), ("carbon", "carbon")):
            self._stops.append(self.start_agent(role, name)[1])  # pyright: ignore[reportArgumentType]
        self._generating, stop = self.start_agent("generator", PRODUCER)
        self._stops.append(stop)
        await eventually(lambda: self.answered_after(0.0), limit_s=READY_S)

    async def in_force(self) -> PlanRecord | None:
        try:
            return await plan_in_force(self.bus, seen_after_ms=0.0)
        except BusUnavailableError:
            return None

    async def answered_after(self, due_ms: float) -> bool:
        """Whether a request that became due after a moment has an ok reply."""
        due = {r.id for r in self.history.records if isinstance(r, Invoked) and r.due_ms >= due_ms}
        return any(
            isinstance(r, ReplySeen) and r.outcome is Outcome.OK and r.id in due for r in reversed(self.history.records)
        )

    async def service_is_back(self, since_ms: float) -> float:
        """Wait until a request that became due after a moment is answered; return after how many seconds it was."""
        await eventually(lambda: self.answered_after(since_ms), limit_s=READY_S)
        return (now_ms() - since_ms) / 1e3

    async def broken(self, name: str, began_ms: float) -> None:
        """Put down a fault of class B that has just ended."""
        self.history.write([Fault(at_ms=began_ms, until_ms=now_ms(), kind="B", name=name)])

    async def unread(self) -> list[str]:
        """Return ids of requests in the stream, and put them down as about to be removed."""
        entries = await self.server.command("XRANGE", self.keys.requests, "-", "+")
        ids = [decode_request(raw).id for _, raw in entries]
        self.history.write([Removed(at_ms=now_ms(), ids=ids)])
        return ids

    async def finish(self) -> Verdict:
        """Stop the load, wait for the last answer, put down the final state, and judge."""
        self._stops.pop().set()
        assert self._generating is not None
        async with asyncio.timeout(LAST_ANSWER_S):
            await self._generating
        await eventually(self._is_empty, limit_s=LAST_ANSWER_S)
        replies, cursor = await self.bus.replies(PRODUCER, "0", block_s=0.0)
        while replies:
            at_ms = now_ms()
            self.history.write([ReplySeen(at_ms=at_ms, id=r.id, by="observer", outcome=r.outcome) for r in replies])
            replies, cursor = await self.bus.replies(PRODUCER, cursor, block_s=0.0)
        self.history.write(
            [Sample(at_ms=now_ms(), waiting=0, pending=0, lengths={}, bounds={}, memory_bytes={}, final=True)]
        )
        return check(self.history.records)

    async def _is_empty(self) -> bool:
        queue = await persistently(self.bus.queue)
        return queue.waiting == 0 and queue.pending == 0

    async def end(self) -> None:
        for stop in self._stops:
            stop.set()

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()


@asynccontextmanager
async def small_deployment(
    folder: Path, *, durable: bool = True, rate_rps: float = 40.0, service_ms: float = 100.0
) -> AsyncIterator[SmallDeployment]:
    async with FaultyServer(folder / "data", durable=durable) as server:
        deployment: SmallDeployment | None = None
        try:
            async with asyncio.TaskGroup() as group:
                deployment = SmallDeployment(server, group, rate_rps=rate_rps, service_ms=service_ms)
                await deployment.start()
                yield deployment
                await deployment.end()
        finally:
            if deployment is not None:
                await deployment.close()
