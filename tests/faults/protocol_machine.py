"""A state machine that does to the bus, in any order, what producers, nodes and controllers do to it when things fail.

It runs on the bus in memory in virtual time. Calls fail before or after they were carried out; nodes die, freeze, come
back late, finish twice; producers ask again. Time passes only so far that living nodes could have answered in time:
before that the machine lets them. In the end the same checker judges that judges real processes.
"""

from __future__ import annotations

import asyncio

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from protocol_world import (
    BOUND,
    CONTROLLERS,
    DEADLINE_S,
    LEASE_S,
    NODES,
    PRODUCER,
    ProtocolWorld,
)
from support import a_plan, a_target

from clover.bus.messages import LedgerCheckpoint, LedgerReading, Reply, Request
from clover.bus.values import Admission, Completion, Delivery
from clover.core.identifiers import uuid7
from clover.core.outcome import Outcome, ProducerOutcome
from clover.sim.faults.checker import Verdict, check
from clover.sim.faults.history import (
    Applied,
    CarbonSeen,
    Fault,
    ReplySeen,
    TotalsSeen,
)

#: Letting the nodes finish everything takes at most this long.
MARGIN_S = 20.0

nodes = st.sampled_from(NODES)
controllers = st.sampled_from(CONTROLLERS)
failures = st.sampled_from(["none", "none", "none", "before", "after"])


class Protocol(ProtocolWorld):
    """Producer, nodes, controllers and a bus between them: what each may do at any time."""

    # --- the producer

    @initialize()
    def start(self) -> None:
        self.do(self.bus.pull("nobody", count=1, block_s=0.0))

    @rule(number=st.integers(1, 4), high=st.booleans())
    def requests_become_due(self, number: int, high: bool) -> None:
        now_ms = self.clock.now_ms()
        for _ in range(number):
            request = Request(
                id=uuid7(now_ms, self.rng),
                application="albert",
                due_ms=now_ms,
                deadline_ms=now_ms + DEADLINE_S * 1e3,
                reply_to=PRODUCER,
                priority="high" if high else "normal",
            )
            self.outstanding.add(request)
            self.to_send.append(request)

    @precondition(lambda self: self.to_send)
    @rule(failure=failures)
    def send(self, failure: str) -> None:
        batch = [request for request in self.to_send if self.outstanding.has(request.id)]
        if not batch:
            return
        answers = self.with_failure(failure, self.bus.admit(batch, bound=BOUND))
        self.sample()
        if answers is None:
            return
        self.to_send.clear()
        for request, answer in zip(batch, answers, strict=True):
            if answer is Admission.FULL:
                self.end(request.id, ProducerOutcome.OVERLOADED, "full")

    @precondition(lambda self: self.outstanding.count > len(self.to_send))
    @rule(failure=failures)
    def send_again(self, failure: str) -> None:
        """Ask again for all that has no outcome: ids are known, nothing happens twice."""
        waiting = [r for r in self.outstanding.requests() if r not in self.to_send]
        if waiting:
            self.with_failure(failure, self.bus.admit(waiting, bound=BOUND))

    @precondition(lambda self: self.outstanding.count > len(self.to_send))
    @rule(failure=failures)
    def read_replies(self, failure: str) -> None:
        answer = self.with_failure(failure, self.bus.replies(PRODUCER, self.cursor, block_s=0.0))
        if answer is None:
            return
        replies, self.cursor = answer
        for reply in replies:
            record = self.outstanding.reply(reply, self.clock.now_ms(), sla_p95_ms=1000.0)
            if record is not None:
                self.record(record.id, record.outcome, record.reason)

    # --- nodes

    @rule(node=nodes, count=st.integers(1, 5), failure=failures)
    def pull(self, node: str, count: int, failure: str) -> None:
        self.hold(node, self.with_failure(failure, self.bus.pull(self.name(node), count=count, block_s=0.0)))

    @rule(node=nodes, count=st.integers(1, 5))
    def pull_cut_off(self, node: str, count: int) -> None:
        """A blocked pull is cancelled in the moment in which something may arrive."""

        async def cut() -> None:
            pulling = asyncio.ensure_future(self.bus.pull(self.name(node), count=count, block_s=1.0))
            await asyncio.sleep(0)
            if self.to_send:
                await self.bus.admit(self.to_send[:1], bound=BOUND)
            pulling.cancel()
            await asyncio.gather(pulling, return_exceptions=True)

        self.do(cut())

    @rule(node=nodes, failure=failures)
    def read_own_pending(self, node: str, failure: str) -> None:
        self.hold(node, self.with_failure(failure, self.bus.own_pending(self.name(node))))

    @precondition(lambda self: self.busy_nodes())
    @rule(node=nodes, most=st.integers(1, 4), failure=failures)
    def finish(self, node: str, most: int, failure: str) -> None:
        """Reply to some of what is in hand; what was not heard of is repeated later."""
        node = self.with_something_in_hand(node)
        completions = [self.completion(one) for one in list(self.hands[node].values())[:most]]
        if completions and self.with_failure(failure, self.bus.finish(completions)) is not None:
            self.finished += completions
            for completion in completions:
                del self.hands[node][completion.delivery.entry_id]

    def completion(self, delivery: Delivery) -> Completion:
        late = self.clock.now_ms() > delivery.request.deadline_ms
        outcome = Outcome.EXPIRED if late else Outcome.OK
        return Completion(delivery=delivery, reply=Reply(id=delivery.request.id, outcome=outcome, node="n"))

    @precondition(lambda self: self.finished)
    @rule(failure=failures)
    def finish_again(self, failure: str) -> None:
        """Deliveries come twice and in another order: replies of old are tried again."""
        again = self.rng.sample(self.finished, min(3, len(self.finished)))
        if again:
            self.with_failure(failure, self.bus.finish(again))

    @precondition(lambda self: self.busy_nodes())
    @rule(node=nodes, failure=failures)
    def keep_alive(self, node: str, failure: str) -> None:
        node = self.with_something_in_hand(node)
        self.with_failure(failure, self.bus.keep_alive(self.name(node), list(self.hands[node].values())))

    @rule(node=nodes, count=st.integers(1, 5), failure=failures)
    def claim(self, node: str, count: int, failure: str) -> None:
        claimed = self.with_failure(failure, self.bus.claim(self.name(node), min_idle_s=LEASE_S, count=count))
        self.hold(node, claimed.deliveries if claimed else None)

    @precondition(lambda self: self.busy_nodes())
    @rule(node=nodes, most=st.integers(1, 4), failure=failures)
    def hand_back(self, node: str, most: int, failure: str) -> None:
        """Give up some of what is in hand; if nobody knows whether that worked, it stays in hand."""
        node = self.with_something_in_hand(node)
        some = list(self.hands[node].values())[:most]

        async def give_up() -> bool:
            await self.bus.hand_back(self.name(node), some)
            return True

        if some and self.with_failure(failure, give_up()):
            for delivery in some:
                del self.hands[node][delivery.entry_id]

    @rule(node=nodes, failure=failures)
    def leave(self, node: str, failure: str) -> None:
        """Stop in order, or die in the attempt."""
        self.with_failure(failure, self.bus.leave(self.name(node)))
        self.die(node)

    @rule(failure=failures)
    def sweep_overdue(self, failure: str) -> None:
        self.with_failure(failure, self.bus.sweep(grace_s=0.5))

    @rule(idle_s=st.floats(0.0, 30.0), failure=failures)
    def reap(self, idle_s: float, failure: str) -> None:
        self.with_failure(failure, self.bus.reap(idle_s=idle_s))

    @precondition(lambda self: self.outstanding.count > len(self.to_send))
    @rule(failure=failures)
    def ask_what_is_known(self, failure: str) -> None:
        """What was admitted is remembered at least until its deadline has passed."""
        asked = [one for one in self.outstanding.requests() if one not in self.to_send]
        known = self.with_failure(failure, self.bus.known([one.id for one in asked]))
        assert known is None or all(known)

    @rule(node=nodes)
    def die(self, node: str) -> None:
        """Kill -9; the next life has another consumer name."""
        self.hands[node].clear()
        self.boots[node] += 1

    # --- controllers, carbon

    @rule(holder=controllers, failure=failures)
    def take_lease(self, holder: str, failure: str) -> None:
        self.with_failure(failure, self.bus.acquire_lease(holder, ttl_s=LEASE_S))

    @rule(holder=controllers)
    def give_lease_back(self, holder: str) -> None:
        self.do(self.bus.release_lease(holder))

    @rule(holder=controllers, failure=failures)
    def publish_plan(self, holder: str, failure: str) -> None:
        """Whoever believes to hold the lease acts."""
        self.with_failure(failure, self.bus.publish_plan(holder, a_plan(), [a_target(node) for node in NODES]))

    @rule(holder=controllers, failure=failures)
    def act(self, holder: str, failure: str) -> None:
        """Take the lease and act at once, as far as that is given."""
        if self.with_failure("none", self.bus.acquire_lease(holder, ttl_s=LEASE_S)):
            self.publish_plan(holder, failure)
            self.give_lease_back(holder)

    @rule(node=nodes)
    def follow_target(self, node: str) -> None:
        life = self.name(node)
        target = self.do(self.real.next_target(node, after_epoch=self.epochs.get(life, 0), block_s=0.0))
        if target is not None:
            self.epochs[life] = target.epoch
            self.history.write([Applied(at_ms=self.clock.now_ms(), node=life, epoch=target.epoch)])

    @rule(used_j=st.floats(0.0, 10.0), failure=failures)
    def publish_ledger(self, used_j: float, failure: str) -> None:
        """A monitor goes on from the checkpoint, whether or not it heard that the last one was written."""
        saved = self.do(self.real.checkpoint())
        energy_j = (saved.ledger.energy_j if saved else 0.0) + used_j
        reading = LedgerReading(at_ms=self.clock.now_ms(), energy_j=energy_j, footprint_g=energy_j / 2, by_cause_j={})
        saved = LedgerCheckpoint(
            ledger=reading, trace_started_ms=0.0, telemetry_cursor="0", counters={}, counters_at_ms={}
        )
        self.with_failure(failure, self.bus.publish_carbon([reading], saved))
        now = self.do(self.real.carbon_now()).get("ledger")
        if isinstance(now, LedgerReading):
            at_ms = self.clock.now_ms()
            self.history.write([TotalsSeen(at_ms=at_ms, energy_j=now.energy_j, footprint_g=now.footprint_g)])

    # --- time

    @rule(seconds=st.floats(0.01, 8.0))
    def time_passes(self, seconds: float) -> None:
        oldest_ms = self.outstanding.oldest_deadline_ms()
        if oldest_ms is not None and oldest_ms - self.clock.now_ms() < (seconds + MARGIN_S) * 1e3:
            self.let_the_nodes_work()
        self.do(asyncio.sleep(seconds))
        self.sweep()

    def let_the_nodes_work(self) -> None:
        """Living nodes re-read what is theirs, claim what the dead left, take what is new, and reply."""
        while self.outstanding.count:
            before = self.outstanding.count
            self.send("none")
            self.read_replies("none")
            self.do(asyncio.sleep(LEASE_S + 0.1))
            for node in NODES:
                self.read_own_pending(node, "none")
                self.claim(node, 1000, "none")
                self.pull(node, 1000, "none")
                self.finish(node, 1000, "none")
            self.read_replies("none")
            if self.outstanding.count == before:
                return  # something is lost: the sweep will find it

    def teardown(self) -> None:
        try:
            self.let_the_nodes_work()
            self.do(asyncio.sleep(DEADLINE_S + 10.0))
            self.sweep()
            verdict = self.verdict()
            assert verdict.kept, str(verdict)
        finally:
            self.loop.close()

    def verdict(self) -> Verdict:
        """Put down the final state and judge."""
        for node in NODES:
            self.read_own_pending(node, "none")
        replies, _ = self.do(self.real.replies(PRODUCER, "0", block_s=0.0))
        at_ms = self.clock.now_ms()
        self.history.write([ReplySeen(at_ms=at_ms, id=r.id, by="observer", outcome=r.outcome) for r in replies])
        self.history.write(
            [
                Fault(at_ms=0.0, until_ms=at_ms, kind="A", name="machine"),
                CarbonSeen(at_ms=at_ms, to_ms=at_ms, status="trace", source="machine", fallback_level=0),
            ]
        )
        self.sample(final=True)
        return check(self.history.records)
