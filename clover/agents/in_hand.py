"""The requests that a node has taken and not yet answered: which wait here to begin, and for how long."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from clover.bus.port import Bus
from clover.bus.values import Delivery
from clover.errors import BusUnavailableError


class InHand:
    """What one consumer holds.

    Args:
        bus: The deployment.
        consumer: Under whose name they were taken.
    """

    def __init__(self, bus: Bus, consumer: str) -> None:
        self._bus = bus
        self._consumer = consumer
        #: What cannot begin yet, oldest first.
        # Bounded: by what is in hand, which is at most what was asked for: one per idle instance.
        self.waiting: deque[Delivery] = deque()
        self._taken: dict[str, Delivery] = {}
        self._held_since_s: float | None = None
        #: Set while nothing is in hand.
        self.empty = asyncio.Event()
        self.empty.set()

    def __len__(self) -> int:
        return len(self._taken)

    def asked_pct(self) -> list[float | None]:
        """Return the least accuracy, in %, that each of those that wait asks for."""
        return [delivery.request.min_accuracy for delivery in self.waiting]

    def accept(self, deliveries: Iterable[Delivery]) -> None:
        """Take in what was delivered; what is in hand already stays as it is."""
        for delivery in deliveries:
            if delivery.entry_id not in self._taken:
                self._taken[delivery.entry_id] = delivery
                self.waiting.append(delivery)
                self.empty.clear()

    def again(self, delivery: Delivery) -> None:
        """Let one that was in work wait before all others."""
        self._taken[delivery.entry_id] = delivery
        self.waiting.appendleft(delivery)

    def forget(self, delivery: Delivery) -> None:
        """Let go of one that is answered, or no longer ours."""
        self._taken.pop(delivery.entry_id, None)
        if not self._taken:
            self.empty.set()

    def keep_only(self, held: Iterable[Delivery]) -> None:
        """Compare with what the server has for us, which is the truth; what is in work is finished all the same."""
        ours = {delivery.entry_id: delivery for delivery in held}
        for delivery in [one for one in self.waiting if one.entry_id not in ours]:
            # Claimed by another while we were cut off, or gone.
            self.waiting.remove(delivery)
            self.forget(delivery)
        self.accept(ours.values())

    # --- waiting

    def held_s(self) -> float:
        """Return for how long something has been in hand that could not begin; counts from the first call on."""
        now_s = asyncio.get_running_loop().time()
        if self._held_since_s is None:
            self._held_since_s = now_s
        return now_s - self._held_since_s

    def still_waiting(self, held: Iterable[Delivery]) -> None:
        """Note which of those that wait could not begin just now."""
        self.waiting.extend(held)
        if not self.waiting:
            self._held_since_s = None

    async def hand_back(self) -> int:
        """Hand back everything that has not begun: others may have idle instances. Return how many.

        Raises:
            BusUnavailableError: The server is away; they wait on.
        """
        waiting = list(self.waiting)
        # Instances become free while the server is asked; what is being handed back must not begin here as well.
        self.waiting.clear()
        try:
            await self._bus.hand_back(self._consumer, waiting)
        except BaseException:
            self.waiting.extendleft(reversed(waiting))
            raise
        for delivery in waiting:
            self.forget(delivery)
        self._held_since_s = None
        return len(waiting)

    # --- leases

    async def hold_leases(self, lease_s: float) -> None:
        """Say for everything in hand that it is being worked on, three times per lease; until cancelled."""
        while True:
            await asyncio.sleep(lease_s / 3.0)
            if self._taken:
                try:
                    await self._bus.keep_alive(self._consumer, list(self._taken.values()))
                except BusUnavailableError:
                    continue
