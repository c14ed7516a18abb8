"""The request side of a node agent: takes requests from the stream, runs them on instances, writes the replies.

Nothing is taken that cannot begin at once: the agent asks for as many requests as it has idle instances (credits), and
hands back what cannot begin after all. Work that is done is acknowledged by one task in batches; a request stays in the
agent's pending list until its reply is written, so whatever dies, another agent finds it there.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque

import msgspec

from clover.agents.backoff import Backoff
from clover.agents.batches import Batch, Batches, answers_of
from clover.agents.care import Sweeper
from clover.agents.intake import Intake
from clover.agents.left_by_others import LeftByOthers
from clover.agents.lifetime import happens_within
from clover.agents.pool import Instance
from clover.agents.request_parts import RequestCounts, RequestPorts, RequestSettings
from clover.bus.messages import Reply, Request
from clover.bus.port import Completion, Delivery
from clover.core.dispatch import SHARE_PATIENCE_S, Demand
from clover.core.offer import Offer
from clover.core.outcome import Outcome
from clover.core.tiers import accuracy_tiers
from clover.errors import BusUnavailableError
from clover.serving.port import InvalidInputError, OutOfMemoryError, Served, ServingError, WorkerDiedError

_log = logging.getLogger("clover.requests")

#: A request is given up after this many deliveries (its execution seems to kill whoever tries).
MAX_DELIVERIES = 3


class RequestServer:
    """Serves requests on the instances of one node."""

    def __init__(self, ports: RequestPorts, settings: RequestSettings) -> None:
        self._ports = ports
        self._settings = settings
        # Bounded: by what is in hand, which is at most what was asked for: one per idle instance.
        self._waiting: deque[Delivery] = deque()
        self._in_hand: dict[str, Delivery] = {}
        # Bounded: by what is in hand.
        self._done: deque[Completion] = deque()
        self._done_news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._recover = True
        self._held_since_s: float | None = None
        self._intake = Intake(
            ports.bus,
            ports.consumer,
            ports.pool,
            accuracy_tiers(variant.accuracy_pct for variant in ports.application.variants),
            lambda: [delivery.request.min_accuracy for delivery in self._waiting],
        )
        self._batches = Batches(ports, lambda: self.sla_ms)
        self._sweeper = Sweeper(ports.bus, period_s=settings.sweep_s)
        self.epoch = 0
        #: From due time on, as the newest target says; None counts no late answers.
        self.sla_ms: float | None = None
        self.counts = RequestCounts()
        self._left = LeftByOthers(ports.bus, ports.consumer, self._intake, self.counts, lease_s=settings.lease_s)

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
        await self._empty.wait()

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
            group.create_task(self._acknowledge(), name="acknowledge")
            group.create_task(self._hold_leases(), name="leases")
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
        ours = {delivery.entry_id for delivery in held}
        for delivery in [one for one in self._waiting if one.entry_id not in ours]:
            # Claimed by another while we were cut off, or gone; what is in work already is finished all the same.
            self._drop(delivery)
        self._accept(held)

    async def _take_some(self) -> None:
        pool = self._ports.pool
        if self._waiting and (self._stopping.is_set() or pool.live == 0):
            await self._hand_back()
        if self._waiting and self._held_s() >= self._settings.hold_s:
            await self._hand_back()
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
            self._accept(older)
            return
        block_s = self._settings.block_s if most is None else 0.0
        if self._waiting:
            # What is in hand and has to wait for another instance is not to wait for new requests as well.
            block_s = min(block_s, max(0.0, self._settings.hold_s - self._held_s()))
        if (closes_s := self._batches.close_within_s) is not None:
            # What was asked for to join a batch cannot begin any more when that has begun.
            block_s = min(block_s, closes_s)
        taken = await self._intake.pull(offer, block_s, most=most)
        # With nothing new there is time to look for what others have handed back.
        self._accept(taken or await self._left.claim())

    async def _wait_for_an_instance(self) -> None:
        """Wait for the pool to change; what idle instances may not take yet becomes due by the clock alone."""
        pool = self._ports.pool
        ahead = pool.credits > 0 and not self._stopping.is_set()
        patience_s = SHARE_PATIENCE_S if ahead else self._settings.hold_s if self._waiting else None
        pool.changed.clear()
        if not await happens_within(pool.changed, patience_s) and ahead and not self._waiting:
            # Every idle kind was ahead of its share for as long as a request shall wait for another.
            self._accept(await self._intake.pull(self._intake.offer(patient=False), 0.0, most=1))

    def _held_s(self) -> float:
        """Return for how long something has been in hand that could not begin."""
        now_s = asyncio.get_running_loop().time()
        if self._held_since_s is None:
            self._held_since_s = now_s
        return now_s - self._held_since_s

    async def _hand_back(self) -> None:
        """Hand back everything that has not been begun: others may have idle instances."""
        waiting = list(self._waiting)
        # Instances become free while the server is asked; what is being handed back must not begin here as well.
        self._waiting.clear()
        try:
            await self._ports.bus.hand_back(self._ports.consumer, waiting)
        except BaseException:
            self._waiting.extendleft(reversed(waiting))
            raise
        self.counts.handed_back += len(waiting)
        for delivery in waiting:
            self._forget(delivery)
        self._held_since_s = None

    def _drop(self, delivery: Delivery) -> None:
        self._waiting.remove(delivery)
        self._forget(delivery)

    def _forget(self, delivery: Delivery) -> None:
        self._in_hand.pop(delivery.entry_id, None)
        if not self._in_hand:
            self._empty.set()

    def _accept(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.entry_id not in self._in_hand:
                self._in_hand[delivery.entry_id] = delivery
                self._waiting.append(delivery)
                self._empty.clear()

    def _dispatch(self, group: asyncio.TaskGroup) -> None:
        """Give waiting requests to idle instances, oldest first; who asks for less need not wait for who asks more."""
        held: list[Delivery] = []
        hopeless_pct = math.inf
        while self._waiting:
            delivery = self._waiting.popleft()
            if self._settled_at_once(delivery):
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
        self._waiting.extend(held)
        if not held:
            self._held_since_s = None

    def _instance_for(self, request: Request) -> Instance | None:
        waited_s = max(0.0, self._ports.clock.now_ms() - request.due_ms) / 1e3
        return self._ports.pool.choose(Demand(oldest_wait_s=waited_s, min_accuracy_pct=request.min_accuracy))

    def _settled_at_once(self, delivery: Delivery) -> bool:
        request = delivery.request
        if self._ports.clock.now_ms() > request.deadline_ms:
            self._finish(delivery, Outcome.EXPIRED, "the deadline passed before work began")
        elif delivery.times_delivered > MAX_DELIVERIES:
            reason = f"delivered {delivery.times_delivered} times without an answer"
            self._finish(delivery, Outcome.FAILED, reason, dead_reason=reason)
        elif request.application != self._ports.application.name:
            reason = (
                f"application {request.application!r} is not served here, expected {self._ports.application.name!r}"
            )
            self._finish(delivery, Outcome.FAILED, reason, dead_reason=reason)
        elif request.min_accuracy is not None and request.min_accuracy > self._ports.application.largest.accuracy_pct:
            most = self._ports.application.largest.accuracy_pct
            self._finish(delivery, Outcome.FAILED, f"min_accuracy {request.min_accuracy}: expected at most {most}")
        else:
            return False
        return True

    # --- serving

    async def _serve(self, batch: Batch, group: asyncio.TaskGroup) -> None:
        instance, deliveries = batch.instance, batch.deliveries
        epoch = self.epoch
        busy_s, gone = 0.0, False
        account, kind = self._ports.accounts[instance.gpu], instance.kind
        try:
            await self._batches.formed(batch)
            begun_ms = self._ports.clock.now_ms()
            account.begin_work(instance.key, kind.variant, kind.profile, begun_ms / 1e3)
            answers = await answers_of(instance.worker, [delivery.request for delivery in deliveries])
            busy_s = max(answer.service_ms if isinstance(answer, Served) else 0.0 for answer in answers) / 1e3
            # A dead worker must not be given the same request again before its death is noticed elsewhere.
            gone = any(isinstance(answer, WorkerDiedError) for answer in answers)
            # What is tried again comes before the rest, and in its order.
            for delivery, answer in reversed(list(zip(deliveries, answers, strict=True))):
                if isinstance(answer, Served):
                    self._answer(instance, delivery, answer, begun_ms=begun_ms, epoch=epoch)
                else:
                    self._failed(instance, delivery, answer)
        finally:
            account.end_work(instance.key, self._ports.clock.now_s())
            self._ports.pool.end(instance, busy_s, gone=gone, requests=len(deliveries))
        self._dispatch(group)

    def _failed(self, instance: Instance, delivery: Delivery, error: ServingError) -> None:
        if isinstance(error, OutOfMemoryError):
            self._ports.report("worker.out_of_memory", instance.gpu, str(error))
        if isinstance(error, OutOfMemoryError | InvalidInputError):
            self._finish(delivery, Outcome.FAILED, str(error))
        else:
            self._retry(delivery, str(error))

    def _answer(self, instance: Instance, delivery: Delivery, served: Served, *, begun_ms: float, epoch: int) -> None:
        ports = self._ports
        beside = bool(instance.worker.fallback)
        self._count(ports.clock.now_ms() - delivery.request.due_ms)
        ports.accounts[instance.gpu].add_request(instance.kind.variant, served.energy_j, beside=beside)
        reply = Reply(
            id=delivery.request.id,
            outcome=Outcome.OK,
            node=ports.node,
            gpu=instance.gpu,
            profile=instance.kind.profile,
            variant=instance.kind.variant,
            accuracy_pct=ports.application.variant(instance.kind.variant).accuracy_pct,
            epoch=epoch,
            queue_ms=begun_ms - delivery.request.due_ms,
            service_ms=served.service_ms,
            energy_j=served.energy_j,
            energy_source=served.energy_source or ports.energy_source,
            content_type=served.content_type,
            traceparent=delivery.request.traceparent,
            payload=served.payload,
        )
        self._complete(Completion(delivery=delivery, reply=reply))

    def _count(self, latency_ms: float) -> None:
        self.counts.answered += 1
        self.counts.late += self.sla_ms is not None and latency_ms > self.sla_ms

    def _retry(self, delivery: Delivery, reason: str) -> None:
        """Try a request again whose worker died under it, on whichever instance is next."""
        again = msgspec.structs.replace(delivery, times_delivered=delivery.times_delivered + 1)
        if again.times_delivered > MAX_DELIVERIES:
            text = f"{MAX_DELIVERIES} tries, the last: {reason}"
            self._finish(delivery, Outcome.FAILED, text, dead_reason=text)
            return
        self._in_hand[again.entry_id] = again
        self._waiting.appendleft(again)

    def _finish(self, delivery: Delivery, outcome: Outcome, reason: str, *, dead_reason: str = "") -> None:
        request = delivery.request
        if outcome is Outcome.EXPIRED:
            self._count(float("inf"))
        reply = Reply(
            id=request.id,
            outcome=outcome,
            reason=reason,
            node=self._ports.node,
            epoch=self.epoch,
            traceparent=request.traceparent,
        )
        self._complete(Completion(delivery=delivery, reply=reply, dead_reason=dead_reason))

    # --- acknowledging

    def _complete(self, completion: Completion) -> None:
        self._done.append(completion)
        self._done_news.set()

    async def _acknowledge(self) -> None:
        """Write replies, all that are ready in one call; an unknown outcome is repeated, the fence makes that safe."""
        backoff = Backoff(self._ports.rng)
        while True:
            await self._done_news.wait()
            self._done_news.clear()
            batch = list(self._done)
            self._done.clear()
            while batch:
                try:
                    replied = await self._ports.bus.finish(batch)
                    self.counts.suppressed += replied.count(False)
                    break
                except BusUnavailableError:
                    await asyncio.sleep(backoff.next_s())
            backoff.reset()
            for completion in batch:
                self._forget(completion.delivery)

    # --- leases

    async def _hold_leases(self) -> None:
        """Say for everything in hand that it is being worked on, three times per lease."""
        while True:
            await asyncio.sleep(self._settings.lease_s / 3.0)
            if self._in_hand:
                try:
                    await self._ports.bus.keep_alive(self._ports.consumer, list(self._in_hand.values()))
                except BusUnavailableError:
                    continue

    async def _claim(self, group: asyncio.TaskGroup) -> None:
        """Take over what a dead agent left, on a jittered timer that does not depend on traffic."""
        while True:
            await asyncio.sleep(self._settings.lease_s * self._ports.rng.uniform(0.4, 0.6))
            if self._stopping.is_set():
                continue
            try:
                self._accept(await self._left.claim())
            except BusUnavailableError:
                # Some may have become ours without our knowing.
                self._recover = True
                self._ports.pool.changed.set()
                continue
            self._dispatch(group)
