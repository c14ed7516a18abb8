"""The request side of a node agent: takes requests from the stream and gives them to idle instances.

Nothing is taken that cannot begin at once: the agent asks for as many requests as it has idle instances (credits), and
hands back what cannot begin after all (`in_hand`). What becomes of it then is in `executing` and `answering`.
A request stays in the agent's pending list until its reply is written, so whatever dies, another agent finds it there.
"""

from __future__ import annotations

import asyncio
import logging
import math

from clover.agents.answering import Answering
from clover.agents.backoff import Backoff
from clover.agents.batches import Batch, Batches
from clover.agents.care import Sweeper
from clover.agents.executing import Executing
from clover.agents.in_hand import InHand
from clover.agents.instance import Instance
from clover.agents.intake import Intake
from clover.agents.left_by_others import LeftByOthers
from clover.agents.lifetime import happens_within
from clover.agents.request_parts import RequestCounts, RequestPorts, RequestSettings
from clover.bus.messages import Request
from clover.bus.values import Delivery
from clover.core.begin import Taken, ending_at_once
from clover.core.dispatch import SHARE_PATIENCE_S, Demand
from clover.core.offer import Offer
from clover.core.tiers import accuracy_tiers
from clover.errors import BusUnavailableError

_log = logging.getLogger("clover.requests")


class RequestServer:
    """Serves requests on the instances of one node."""

    def __init__(self, ports: RequestPorts, settings: RequestSettings) -> None:
        self._ports = ports
        self._settings = settings
        self._stopping = asyncio.Event()
        self._recover = True
        self.counts = RequestCounts()
        self._in_hand = InHand(ports.bus, ports.consumer)
        self._answering = Answering(ports, self.counts, self._in_hand.forget)
        self._intake = Intake(
            ports.bus,
            ports.consumer,
            ports.pool,
            accuracy_tiers(variant.accuracy_pct for variant in ports.application.variants),
            self._in_hand.asked_pct,
        )
        self._batches = Batches(ports, lambda: self._answering.sla_ms)
        self._executing = Executing(ports, self._batches, self._answering, self._in_hand.again)
        self._sweeper = Sweeper(ports.bus, period_s=settings.sweep_s)
        self._left = LeftByOthers(ports.bus, ports.consumer, self._intake, self.counts, lease_s=settings.lease_s)
        #: Of the newest target that fits this node.
        self.epoch = 0

    def follow(self, epoch: int, sla_ms: float | None) -> None:
        """Take in what the newest target says of requests: its epoch, and the SLA from due time on (None: none)."""
        self.epoch = epoch
        self._answering.sla_ms = sla_ms

    @property
    def in_flight(self) -> int:
        """Requests taken and not yet acknowledged."""
        return len(self._in_hand)

    def stop_taking(self) -> None:
        """Take nothing new from now on; what has been taken is finished."""
        self._stopping.set()
        self._ports.pool.changed.set()
        self._intake.interrupt()

    async def drained(self) -> None:
        """Wait until everything that was taken has been replied to."""
        await self._in_hand.empty.wait()

    async def leave(self) -> None:
        """Say goodbye when nothing runs any more: what is still ours is handed back and can be claimed at once."""
        try:
            self.counts.handed_back += await self._ports.bus.leave(self._ports.consumer)
        except BusUnavailableError:
            _log.warning("%s could not say goodbye; its leases run out by themselves", self._ports.consumer)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweeper.run(), name="sweep")
            group.create_task(self._answering.run(), name="answer")
            group.create_task(self._in_hand.hold_leases(self._settings.lease_s), name="leases")
            group.create_task(self._claim(group), name="claim")
            group.create_task(self._take(group), name="take")
            group.create_task(self._intake.run(), name="intake")

    # --- taking

    async def _take(self, group: asyncio.TaskGroup) -> None:
        backoff = Backoff(self._ports.rng)
        while True:
            try:
                if self._recover:
                    await self._reread()
                self._dispatch(group)
                await self._take_some()
                backoff.reset()
            except BusUnavailableError:
                # A call that failed may have delivered entries that never arrived here: they are in our pending list.
                self._recover = True
                await asyncio.sleep(backoff.next_s())

    async def _reread(self) -> None:
        """Compare what is in hand with what the server has for us, which is the truth."""
        self._recover = False
        try:
            held = await self._ports.bus.own_pending(self._ports.consumer)
        except BusUnavailableError:
            self._recover = True
            raise
        self._in_hand.keep_only(held)

    async def _take_some(self) -> None:
        pool = self._ports.pool
        in_hand = self._in_hand
        if in_hand.waiting and (self._stopping.is_set() or pool.live == 0):
            self.counts.handed_back += await in_hand.hand_back()
        if in_hand.waiting and in_hand.held_s() >= self._settings.hold_s:
            self.counts.handed_back += await in_hand.hand_back()
        if not self._stopping.is_set() and (offer := self._intake.offer()).count:
            await self._take_new(offer)
        else:
            await self._wait_for_an_instance()

    async def _take_new(self, offer: Offer) -> None:
        most = None
        if self._ports.pool.must_wait:
            most = await self._intake.allowance()
            offer = self._intake.offer()
        if most == 0 or not offer.count:
            return
        if older := await self._left.look():
            self._in_hand.accept(older)
            return
        block_s = self._settings.block_s if most is None else 0.0
        if self._in_hand.waiting:
            # What is in hand and has to wait for another instance is not to wait for new requests as well.
            block_s = min(block_s, max(0.0, self._settings.hold_s - self._in_hand.held_s()))
        if (closes_s := self._batches.close_within_s) is not None:
            # What was asked for to join a batch cannot begin any more when that has begun.
            block_s = min(block_s, closes_s)
        taken = await self._intake.pull(offer, block_s, most=most)
        # With nothing new there is time to look for what others have handed back.
        self._in_hand.accept(taken or await self._left.claim())

    async def _wait_for_an_instance(self) -> None:
        """Wait for the pool to change; what idle instances may not take yet becomes due by the clock alone."""
        pool = self._ports.pool
        ahead = pool.credits > 0 and not self._stopping.is_set()
        patience_s = SHARE_PATIENCE_S if ahead else self._settings.hold_s if self._in_hand.waiting else None
        pool.changed.clear()
        if not await happens_within(pool.changed, patience_s) and ahead and not self._in_hand.waiting:
            # Every idle kind was ahead of its share for as long as a request shall wait for another.
            self._in_hand.accept(await self._intake.pull(self._intake.offer(patient=False), 0.0, most=1))

    def _dispatch(self, group: asyncio.TaskGroup) -> None:
        """Give waiting requests to idle instances, oldest first; who asks for less need not wait for who asks more."""
        held: list[Delivery] = []
        hopeless_pct = math.inf
        waiting = self._in_hand.waiting
        while waiting:
            delivery = waiting.popleft()
            if self._ended_at_once(delivery):
                continue
            asked_pct = -math.inf if delivery.request.min_accuracy is None else delivery.request.min_accuracy
            instance = self._instance_for(delivery.request) if asked_pct < hopeless_pct else None
            if instance is None and self._batches.join(delivery):
                continue
            if instance is None:
                # Whoever came later and asks for no less gets none either.
                hopeless_pct = min(hopeless_pct, asked_pct)
                held.append(delivery)
                continue
            group.create_task(self._serve(self._batches.open(instance, delivery), group))
        self._in_hand.still_waiting(held)

    def _instance_for(self, request: Request) -> Instance | None:
        waited_s = max(0.0, self._ports.clock.now_ms() - request.due_ms) / 1e3
        return self._ports.pool.choose(Demand(oldest_wait_s=waited_s, min_accuracy_pct=request.min_accuracy))

    def _ended_at_once(self, delivery: Delivery) -> bool:
        request = delivery.request
        taken = Taken(
            application=request.application,
            deadline_ms=request.deadline_ms,
            times_delivered=delivery.times_delivered,
            min_accuracy_pct=request.min_accuracy,
        )
        ending = ending_at_once(taken, self._ports.application, self._ports.clock.now_ms())
        if ending is not None:
            self._answering.end(delivery, ending, epoch=self.epoch)
        return ending is not None

    async def _serve(self, batch: Batch, group: asyncio.TaskGroup) -> None:
        await self._executing.serve(batch, epoch=self.epoch)
        self._dispatch(group)

    # --- what others left

    async def _claim(self, group: asyncio.TaskGroup) -> None:
        """Take over what a dead agent left, on a jittered timer that does not depend on traffic."""
        while True:
            await asyncio.sleep(self._settings.lease_s * self._ports.rng.uniform(0.4, 0.6))
            if self._stopping.is_set():
                continue
            try:
                self._in_hand.accept(await self._left.claim())
            except BusUnavailableError:
                # Some may have become ours without our knowing.
                self._recover = True
                self._ports.pool.changed.set()
                continue
            self._dispatch(group)
