"""What a node agent asks the request streams for: as much as can begin at once, of the tiers that it can answer.

Three things keep an idle instance from taking the next request: its kind is ahead of its share, the node is ahead of
its part of the fleet's requests, or it is not as accurate as the request asks. In the first two cases requests are left
unread, so that others may take them, but never for longer than `SHARE_PATIENCE_S` if they do not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from clover.agents.pool import InstancePool
from clover.bus.port import Bus
from clover.bus.values import Delivery, QueueStatus
from clover.core.dispatch import SHARE_PATIENCE_S
from clover.core.offer import Offer, make_offer
from clover.errors import BusError

_log = logging.getLogger("clover.requests")


class Intake:
    """Takes new requests for one consumer.

    Args:
        bus: The deployment.
        consumer: Who takes them.
        pool: The instances.
        tiers: Accuracies of the application's tiers.
        in_hand: Gives the least accuracies that requests in hand, not begun, ask for.
    """

    def __init__(
        self,
        bus: Bus,
        consumer: str,
        pool: InstancePool,
        tiers: Sequence[float],
        in_hand: Callable[[], Iterable[float | None]],
    ) -> None:
        self._bus = bus
        self._consumer = consumer
        self._pool = pool
        self._tiers = tiers
        self._in_hand = in_hand
        #: Tiers that the pull under way asks for, None if there is none.
        self._asked: frozenset[int] | None = None
        #: Whether what the next pull takes had been left to others, and stayed unread.
        self._left = False
        self._news = asyncio.Event()
        pool.listener = self._pool_changed

    def offer(self, *, patient: bool = True) -> Offer:
        """Return what could begin at once beside what is in hand; not `patient`: also on kinds that are ahead."""
        return make_offer(self._pool.offered(patient=patient), self._tiers, self._in_hand())

    async def pull(self, offer: Offer, block_s: float, *, most: int | None = None) -> list[Delivery]:
        """Take what was offered, at most `most`, waiting for the first."""
        count = offer.count if most is None else min(offer.count, most)
        self._asked = frozenset(offer.tiers)
        left, self._left = self._left, False
        try:
            taken = await self._bus.pull(self._consumer, count=count, block_s=block_s, tiers=offer.tiers)
        finally:
            self._asked = None
        # Whoever asks for an accuracy may have been left because nobody else can answer: that says nothing of the rest.
        if left and any(self._anybody_can(delivery) for delivery in taken):
            self._pool.fair_share.nobody_else(self._pool.begun_under_rule)
        return taken

    def _anybody_can(self, delivery: Delivery) -> bool:
        asked = delivery.request.min_accuracy
        return asked is None or asked <= self._tiers[0]

    async def allowance(self) -> int | None:
        """Return how many requests the node may take at present, None for as many as it can begin.

        Not many while it is ahead of its part of the fleet's requests: what then stays unread for `SHARE_PATIENCE_S`.
        """
        fair = self._pool.fair_share
        if not fair.must_wait(self._pool.begun_under_rule):
            return None
        first = await self._look_at_fleet()
        if not fair.must_wait(self._pool.begun_under_rule):
            return None
        await asyncio.sleep(SHARE_PATIENCE_S)
        second = await self._look_at_fleet()
        if not fair.must_wait(self._pool.begun_under_rule):
            return None
        begun = (second.admitted - second.waiting) - (first.admitted - first.waiting)
        left = max(0, first.waiting - begun)
        self._left = left > 0
        return left

    async def _look_at_fleet(self) -> QueueStatus:
        queue = await self._bus.queue()
        self._pool.fair_share.see_fleet(queue.admitted - queue.waiting, self._pool.begun_under_rule)
        return queue

    # --- waking

    def _pool_changed(self) -> None:
        """End a pull that does not ask for all that could be answered by now."""
        if self._asked is None or len(self._asked) >= len(self._tiers) - 1:
            # Nothing waits, or it asks for every tier that there is.
            return
        if not self.offer().tiers.keys() <= self._asked:
            self._news.set()

    def interrupt(self) -> None:
        """End a pull that waits."""
        self._news.set()

    async def run(self) -> None:
        """Wake the waiting pull whenever that is called for; until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._asked is None:
                continue
            try:
                await self._bus.wake(self._consumer)
            except BusError as error:
                # It returns by itself after a second at most.
                _log.warning("the read that waits could not be ended early: %s", error)
