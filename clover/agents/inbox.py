"""What a controller has seen and not yet acted upon: one place per node and kind of event, in which the latest wins.

While a plan is being made (seconds) or the server is away, telemetry goes on coming in. Each event states the whole of
what it is about - a node's GPUs, the rate, the intensity - so an older one about the same is worth nothing any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from clover.core.control import Event, ForeignSeen, NodeSeen, ServiceSeen, Tick

#: Most nodes that are heard of at once; one above is heard when there is room, since each reports every second.
MAX_NODES = 4096


class Inbox:
    """Events in the order in which their subjects first turned up, at most one per subject; a tick after all others.

    Args:
        max_nodes: Most nodes with an event in hand.
    """

    def __init__(self, *, max_nodes: int = MAX_NODES) -> None:
        self._held: dict[str, Event] = {}
        self._nodes = 0
        self._max_nodes = max_nodes
        self._news = asyncio.Event()
        #: Events replaced by a later one of the same subject, and events of nodes beyond the bound.
        self.coalesced = 0
        self.refused = 0

    def __len__(self) -> int:
        """Return how many events wait."""
        return len(self._held)

    def put(self, event: Event) -> None:
        """Take an event in, in place of an earlier one of the same subject."""
        subject = _subject(event)
        held = self._held.get(subject)
        if held is not None:
            self.coalesced += 1
            if isinstance(held, ServiceSeen) and isinstance(event, ServiceSeen):
                # Counts since the last such event: all of them count.
                event = replace(
                    event,
                    answered=held.answered + event.answered,
                    late=held.late + event.late,
                    age_s=max(held.age_s, event.age_s),
                )
        elif isinstance(event, NodeSeen | ForeignSeen):
            if self._nodes >= self._max_nodes:
                self.refused += 1
                return
            self._nodes += 1
        if isinstance(event, Tick):
            # Time passes for what was heard until then: nobody was silent whose news wait here.
            self._held.pop(subject, None)
        self._held[subject] = event
        self._news.set()

    async def get(self) -> Event:
        """Wait for an event and give it out."""
        await self._news.wait()
        event = self._held.pop(next(iter(self._held)))
        self._nodes -= isinstance(event, NodeSeen | ForeignSeen)
        if not self._held:
            self._news.clear()
        return event


def _subject(event: Event) -> str:
    name = type(event).__name__
    return f"node {event.node}" if isinstance(event, NodeSeen | ForeignSeen) else name
