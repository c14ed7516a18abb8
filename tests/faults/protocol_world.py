"""What the state machine of the bus works on: a bus that fails as it is told, what each side holds, and a history."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, ClassVar

from hypothesis.stateful import RuleBasedStateMachine

from clover.agents.outcomes import Outstanding
from clover.bus.memory import MemoryBus
from clover.bus.messages import Request
from clover.bus.port import Bus
from clover.bus.values import Completion, Delivery
from clover.core.outcome import LOST_AFTER_DEADLINE_S, ProducerOutcome
from clover.errors import BusUnavailableError
from clover.sim.clock import VirtualClock, VirtualLoop
from clover.sim.faults.history import Ended, HistoryList, Sample
from clover.sim.faults.recording import Interposed, RecordingBus, as_bus

LEASE_S = 5.0
DEADLINE_S = 60.0
BOUND = 12
PRODUCER = "p"
NODES = ("n1", "n2", "n3")
CONTROLLERS = ("c1", "c2")


class FlakyBus(Interposed):
    """Fails one call as it is told: before it was carried out, or after, so that nobody knows."""

    failure = "none"

    def __getattr__(self, name: str) -> Any:
        call = super().__getattr__(name)
        if not asyncio.iscoroutinefunction(call):
            return call

        async def flaky(*args: Any, **kwargs: Any) -> Any:
            failure, self.failure = self.failure, "none"
            if failure == "before":
                raise BusUnavailableError("planned: not carried out")
            answer = await call(*args, **kwargs)
            if failure == "after":
                raise BusUnavailableError("planned: carried out, answer lost")
            return answer

        return flaky


class ProtocolWorld(RuleBasedStateMachine):
    """A bus that may fail, what each side holds of it, and the history from which it is judged."""

    make_bus: ClassVar[Callable[[str, Callable[[], float]], Bus]] = lambda deployment, clock: MemoryBus(
        deployment, clock, verify=True
    )

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.rng = Random(1)
        self.history = HistoryList()
        self.real = type(self).make_bus("machine", self.clock.now_ms)
        self.flaky = FlakyBus(self.real)
        self.bus = as_bus(RecordingBus(as_bus(self.flaky), self.history, wall_ms=self.clock.now_ms))
        self.outstanding = Outstanding()
        self.to_send: list[Request] = []
        self.cursor = "0"
        self.hands: dict[str, dict[str, Delivery]] = {node: {} for node in NODES}
        self.boots = dict.fromkeys(NODES, 0)
        self.epochs: dict[str, int] = {}
        self.finished: list[Completion] = []
        self.energy_j = 0.0

    # --- plumbing

    def do(self, work: Coroutine[Any, Any, Any] | Awaitable[Any]) -> Any:
        """Run to the end in virtual time; None if the bus failed."""

        async def bounded() -> Any:
            return await work

        try:
            return self.loop.run_until_complete(bounded())
        except BusUnavailableError:
            return None

    def with_failure(self, failure: str, work: Coroutine[Any, Any, Any]) -> Any:
        self.flaky.failure = failure
        try:
            return self.do(work)
        finally:
            self.flaky.failure = "none"

    def name(self, node: str) -> str:
        return f"{node}.{self.boots[node]}"

    def hold(self, node: str, deliveries: list[Delivery] | None) -> None:
        for delivery in deliveries or ():
            self.hands[node][delivery.entry_id] = delivery

    def busy_nodes(self) -> list[str]:
        return [node for node in NODES if self.hands[node]]

    def with_something_in_hand(self, node: str) -> str:
        """This node, or another if it has nothing to do: few steps shall be wasted."""
        return next(iter(self.busy_nodes()), node) if not self.hands[node] else node

    # --- what is put down

    def sweep(self) -> None:
        for one in self.outstanding.overdue(self.clock.now_ms() - LOST_AFTER_DEADLINE_S * 1e3):
            self.end(one, ProducerOutcome.LOST, "no reply 2 s after the deadline: the machine waited long enough")

    def end(self, request_id: str, outcome: ProducerOutcome, reason: str) -> None:
        if self.outstanding.end(request_id, outcome, reason=reason) is not None:
            self.record(request_id, outcome, reason)

    def record(self, request_id: str, outcome: ProducerOutcome, reason: str) -> None:
        self.history.write([Ended(at_ms=self.clock.now_ms(), id=request_id, outcome=outcome, reason=reason)])

    def sample(self, *, final: bool = False) -> None:
        queue = self.do(self.real.queue())
        sample = Sample(
            at_ms=self.clock.now_ms(),
            waiting=queue.waiting,
            pending=queue.pending,
            lengths={"waiting": queue.waiting},
            bounds={"waiting": BOUND},
            memory_bytes={},
            final=final,
        )
        self.history.write([sample])
