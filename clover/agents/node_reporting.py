"""What a node says of itself: telemetry once per interval, and events as they happen."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random

from clover.agents.backoff import Backoff
from clover.agents.lifetime import happens_within
from clover.bus.messages import Event, NodeTelemetry
from clover.bus.port import Bus
from clover.bus.values import Feed
from clover.core.clock import Clock
from clover.errors import BusUnavailableError

#: While the server is away only the newest events are kept: they explain, they do not decide.
MAX_HELD_EVENTS = 1000


class NodeReporter:
    """Publishes for one node.

    Args:
        name: Of the node.
        bus, clock: Ports.
        rng: Source of jitter.
        interval_s: Telemetry interval.
        look: Reads the telemetry.
    """

    def __init__(
        self, name: str, *, bus: Bus, clock: Clock, rng: Random, interval_s: float, look: Callable[[], NodeTelemetry]
    ) -> None:
        self._name = name
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._interval_s = interval_s
        self._look = look
        self._news = asyncio.Event()
        self._events: deque[Event] = deque(maxlen=MAX_HELD_EVENTS)
        #: What was published last.
        self.last: NodeTelemetry | None = None

    def report(self, event: Event) -> None:
        """Publish an event as soon as possible."""
        self._events.append(event)
        self.hurry()

    def say(self, kind: str, reason: str, *, epoch: int = 0, gpu: int | None = None) -> None:
        """Publish an event about the node, or one of its GPUs, as soon as possible."""
        self.report(
            Event(
                at_ms=self._clock.now_ms(),
                kind=kind,
                source=f"node:{self._name}",
                subject=self._name if gpu is None else f"{self._name}/gpu{gpu}",
                reason=reason,
                epoch=epoch,
            )
        )

    def hurry(self) -> None:
        """Publish at once instead of at the end of the interval."""
        self._news.set()

    async def run(self) -> None:
        """Publish once per interval, on the interval's grid, and at once when there are news; until cancelled."""
        backoff = Backoff(self._rng)
        while True:
            try:
                await self.publish()
                backoff.reset()
            except BusUnavailableError:
                await asyncio.sleep(backoff.next_s())
                continue
            await happens_within(self._news, self._interval_s - self._clock.now_s() % self._interval_s)
            self._news.clear()

    async def publish(self) -> None:
        """Publish events that wait, and telemetry.

        Raises:
            BusUnavailableError: The server is away; events are kept.
        """
        events = list(self._events)
        self._events.clear()
        try:
            if events:
                await self._bus.publish(Feed.EVENTS, events)
        except BusUnavailableError:
            self._events = deque([*events, *self._events], maxlen=MAX_HELD_EVENTS)
            raise
        self.last = self._look()
        await self._bus.publish_telemetry(self.last)
        await self._bus.beat(f"node:{self._name}")
